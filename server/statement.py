"""The privacy statement of a run: what was promised about whom, in numbers and in one plain sentence."""

from __future__ import annotations

import math
from typing import Any

from tacit.models.noise import noise_plan, spent_cost
from tacit.models.recipe import Recipe
from tacit.server.checkpoints import RunState

NOT_COVERED = (
    "who took part, who dropped out and how long it took",
    "the number of survivors of each round",
    "selection on and metrics of the public validation and test rows",
    "statistics of tabular columns, which are exact sums over all clients",
    "several clients that hold data of the same person: what they add up to",
)


def privacy_statement(recipe: Recipe, state: RunState) -> dict[str, Any]:
    """Return what was promised; without a mechanism that is nothing, and it says so."""
    aggregation = {
        "enabled": recipe.secure_aggregation.enabled,
        "mode": recipe.secure_aggregation.mode if recipe.secure_aggregation.enabled else None,
    }
    nothing: dict[str, Any] = {
        "unit": recipe.privacy.unit,
        "epsilon": None,
        "epsilon_fellow_clients": None,
        "epsilon_outsiders": None,
        "delta": None,
        "noise_multiplier": None,
        "clip": None,
        "accountant": None,
        "hypothetical": False,
        "secure_aggregation": aggregation,
    }
    seen = _seen(recipe)
    if recipe.privacy.unit == "none":
        sentence = f"Nothing bounds what this model says about the data it was trained on, and {seen}."
        return nothing | {"sentence": sentence}
    return nothing | _client_level(recipe, state, seen)


def _seen(recipe: Recipe) -> str:
    if not recipe.secure_aggregation.enabled:
        return "the coordinator saw every single update; only the rows themselves stayed where they were"
    if recipe.secure_aggregation.mode == "elided":
        return (
            "masks were left out, as only a simulation may: the same integers were added up in the open, and nothing"
            " hid a single update"
        )
    return f"the coordinator saw updates only as sums over at least {recipe.secure_aggregation.min_cohort} clients"


def _client_level(recipe: Recipe, state: RunState, seen: str) -> dict[str, Any]:
    parameters = state.vector.size
    coordinator = spent_cost(recipe, parameters, state.spent)
    fellow = spent_cost(recipe, parameters, state.spent, fellow_client=True)
    largest = max((one.cohort for one in state.spent), default=0)
    if not largest:
        return {"sentence": f"No update of any client was released, and {seen}."}
    plan = noise_plan(recipe, parameters, largest)
    if not math.isfinite(coordinator.epsilon):
        return {"sentence": f"So little noise was added that it bounds nothing, and {seen}."}
    epsilon = math.ceil(coordinator.epsilon * 1000) / 1000
    return {
        "epsilon": coordinator.epsilon,
        "epsilon_fellow_clients": fellow.epsilon,
        "epsilon_outsiders": coordinator.epsilon,
        "delta": coordinator.delta,
        "noise_multiplier": plan.noise_multiplier,
        "clip": plan.l2_clip,
        "accountant": coordinator.accountant,
        "mechanism": "distributed Skellam noise on the integer grid",
        "adjacency": "one client's contribution becomes zero; its noise and the number of survivors stay",
        "participations": len(state.spent),
        "calibrated_for": plan.horizon,
        "colluders": plan.colluders,
        "min_survivors": plan.min_survivors,
        "assumptions": [
            f"at least all but {plan.colluders} of the clients that were summed added their noise, and the rest may"
            " collude with the coordinator",
            "clients clip honestly; masks hide whether they do",
            "simulated clients: this is what a federation with these settings would promise",
        ],
        "not_covered": list(NOT_COVERED),
        "sentence": (
            f"Whether any one client took part changes the probability of anything the coordinator or a reader of the"
            f" model can see by a factor of at most e^{epsilon:g}, except with probability {coordinator.delta:g}; and"
            f" {seen}."
        ),
    }
