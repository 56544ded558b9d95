"""The privacy statement of a run: what was promised about whom, in numbers and in one plain sentence."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from tacit.models.noise import NoisePlan, noise_plan, place_of
from tacit.models.plan import decode_plan
from tacit.models.preparation import has_public_features
from tacit.models.recipe import Recipe
from tacit.models.spending import MECHANISM_WORDS, Costs, spent_costs
from tacit.privacy.accounting import Cost
from tacit.privacy.secagg.graph import REGULAR, SIGMA, graph_of
from tacit.server.checkpoints import RunState
from tacit.server.environment import code_digest
from tacit.server.masking import aggregation_facts

PROFILE_DELTAS = (1e-4, 1e-5, 1e-6, 1e-8)

# Of the statement, what `privacy.json` alone holds: the summary has it elsewhere, or is no place for it.
STATEMENT_ALONE = frozenset(
    {"sentence", "secure_aggregation", "utility", "signed_by", "signature", "trust", "released", "code", "simulated"}
    | {"recipe_sha256", "weights_sha256", "audit", "profile", "replacement", "sampling", "randomness", "target"}
    | {"floating_point", "adaptive_clipping", "population_ledger", "started_from", "alone"}
    | {"evaluated", "rows_evaluated"}
)

MEASURED_ELSEWHERE = (
    "selection on and metrics of the public validation and test rows, and metrics of the clients' own test rows"
)
NOT_COVERED = (
    "who took part, who dropped out or refused, and how long it took",
    "the number of survivors of each round",
    MEASURED_ELSEWHERE,
    "several clients that hold data of the same person: what they cost adds up",
)


@dataclass(frozen=True)
class Circumstances:
    """What a statement says about a run beside its recipe and its rounds.

    Attributes:
        clients: how many the federation had.
        simulated: whether one process was all of them.
        reproducible_noise: whether noise followed from the recipe's seed, so that anybody can subtract it.
    """

    clients: int
    simulated: bool = True
    reproducible_noise: bool = False


def privacy_statement(recipe: Recipe, state: RunState, about: Circumstances) -> dict[str, Any]:
    """Return what was promised; without a mechanism that is nothing, and it says so."""
    facts = aggregation_facts(recipe, about.clients)
    common: dict[str, Any] = {
        "unit": recipe.privacy.unit,
        "epsilon": None,
        "epsilon_fellow_clients": None,
        "epsilon_outsiders": None,
        "delta": None,
        "noise_multiplier": None,
        "clip": None,
        "accountant": None,
        "profile": [],
        "hypothetical": bool(recipe.privacy.noise_cohort),
        "reproducible_noise": about.reproducible_noise,
        "trust": _trust(recipe, facts),
        "released": "the model, and by that every round's mean update",
        "secure_aggregation": facts,
        "code": code_digest(),
        "recipe_sha256": recipe.digest,
        "weights_sha256": hashlib.sha256(state.vector.tobytes()).hexdigest(),
        "simulated": about.simulated,
    }
    seen = seen_by_coordinator(recipe)
    if recipe.privacy.unit == "none":
        sentence = f"Nothing bounds what this model says about the data it was trained on, and {seen}."
        return common | {"sentence": sentence}
    if not state.spent:
        return common | {"sentence": f"No {summed(recipe)} of any client was released, and {seen}."}
    return common | _promise(recipe, state, about, seen)


def _statistics(recipe: Recipe, state: RunState) -> list[str]:
    """Return what the preparation asked of the clients without any noise, if it did."""
    if recipe.model.init or has_public_features(decode_plan(state.plan).schema):
        return []
    masked = recipe.secure_aggregation.enabled and recipe.secure_aggregation.mode == "real"
    how = "which are exact sums over all clients" if masked else "exact and seen client by client"
    return [f"the statistics of columns and labels that the features follow from, {how}"]


def summed(recipe: Recipe) -> str:
    """Return what one client adds to a round, in a word."""
    if not recipe.evaluation.only:
        return "update"
    return "count" if recipe.privacy.unit == "none" else "share"


def seen_by_coordinator(recipe: Recipe) -> str:
    """Say in half a sentence what the coordinator saw of what clients sent."""
    what = summed(recipe)
    settings, promised = recipe.secure_aggregation, recipe.privacy.unit != "none"
    if not settings.enabled:
        single = f"every single protected {what}" if promised else f"every single {what}"
        return f"the coordinator saw {single}; only the rows themselves stayed where they were"
    if settings.mode == "elided":
        return (
            "masks were left out, as only a simulation may: the same integers were added up in the open, nothing hid a"
            f" single {what}, and the numbers are those of the same run with masks"
        )
    return f"the coordinator saw {what}s only as sums over at least {settings.min_cohort} clients"


def _trust(recipe: Recipe, facts: dict[str, Any]) -> dict[str, str]:
    """Return, hop by hop, what somebody must be trusted with."""
    place = place_of(recipe.privacy) if recipe.privacy.unit != "none" else None
    settings = recipe.secure_aggregation
    if not settings.enabled:
        to_coordinator = "the coordinator sees each client's update"
    elif settings.mode == "elided":
        to_coordinator = "a simulation without masks: nothing hides one client's update"
    else:
        to_coordinator = f"{summed(recipe)}s are masked, against the {facts['adversary']}: only sums can be seen"
    noise = {
        None: "nobody adds noise: what is released says what it says",
        "distributed": "the other clients, but for the colluders, to add their share of the noise",
        "central": "the coordinator to add the noise, and to forget the sum without it",
        "local": "nobody: each client's own noise protects it",
    }[place]
    to_readers = "figures only" if recipe.evaluation.only else "models only"
    return {"client to coordinator": to_coordinator, "noise": noise, "coordinator to readers": to_readers}


def _promise(recipe: Recipe, state: RunState, about: Circumstances, seen: str) -> dict[str, Any]:
    parameters, clients = state.vector.size, about.clients
    costs = _costs(recipe, state, clients)
    plan = noise_plan(recipe, parameters, _public_cohort(recipe, state, clients), clients, l2_clip=state.l2_clip)
    terms, usual = plan.terms, costs.by_observer
    finite = [one for one in usual.values() if math.isfinite(one.epsilon)]
    sampling = terms.sampling
    promise: dict[str, Any] = {
        "noise": terms.place,
        "mechanism": MECHANISM_WORDS[terms.unit, terms.place],
        "delta": _delta(plan, state),
        "noise_multiplier": plan.noise_multiplier,
        "clip": plan.l2_clip,
        "adaptive_clipping": (
            f"the clip follows the median of the clients' norms; the noised count of those below it is part of the"
            f" vector, and of every number here; it ended at {plan.l2_clip:.4g}"
            if plan.adapts
            else None
        ),
        "adjacency": (
            "one client's contribution becomes zero; its noise and the number of survivors stay"
            if terms.unit == "client"
            else "one record of one client is added or removed"
        ),
        "accountant": usual["outsiders" if terms.place == "central" else "coordinator"].accountant if finite else None,
        "participations": costs.participations,
        "calibrated_for": plan.horizon,
        "colluders": plan.colluders,
        "min_survivors": plan.min_survivors,
        "noise_cohort": plan.noise_cohort or None,
        "sampling": {
            "cohorts": recipe.training.sampling,
            "rate": sampling.rate,
            "counted_against_outsiders": terms.unit == "client" and not sampling.not_amplified_because(),
            "not_counted_because": _not_amplified(recipe, plan),
            "records": f"each enters a batch by itself with probability {recipe.privacy.sample_rate:g}"
            if recipe.privacy.sample_rate
            else None,
        },
        "randomness": "noise, rounding, masks and cohorts from the recipe's seed: anybody can subtract them"
        if about.reproducible_noise
        else "noise, rounding, masks and cohorts from the operating system's entropy, through AES-256 in counter mode",
        "floating_point": "integers on a grid, checked against the bound that is accounted"
        if plan.share_variance
        else "noise in float64 from several 52-bit uniforms each; no proof covers its last bits",
        "assumptions": _assumptions(plan, about),
        "not_covered": [*_not_covered(recipe), *_statistics(recipe, state)],
        "audit": "the code that adds the noise is attacked with a canary over thousands of rounds in Tacit's own tests;"
        " this run was not",
    }
    if about.reproducible_noise:
        return promise | {"sentence": f"The noise can be repeated and subtracted: nothing is promised, and {seen}."}
    if not finite:
        return promise | {"sentence": f"So little noise was added that it bounds nothing, and {seen}."}
    sentence = _sentence(recipe, plan, costs, _delta(plan, state), seen)
    for released in _statistics(recipe, state):
        sentence += f" Not covered: {released}."
    return promise | _numbers(recipe, state, costs, about) | {"sentence": sentence}


def _numbers(recipe: Recipe, state: RunState, costs: Costs, about: Circumstances) -> dict[str, Any]:
    usual = {observer: _epsilon(one) for observer, one in costs.by_observer.items()}
    return {
        "epsilon": usual["coordinator"],
        "epsilon_fellow_clients": usual["fellow_clients"],
        "epsilon_outsiders": usual["outsiders"],
        "replacement": {observer: _epsilon(one) for observer, one in costs.replacement.items()},
        "profile": privacy_profile(recipe, state, about.clients),
        "target": {"epsilon": recipe.privacy.epsilon, "against": recipe.privacy.epsilon_against or "coordinator"}
        if recipe.privacy.epsilon
        else None,
    }


def privacy_profile(recipe: Recipe, state: RunState, clients: int) -> list[dict[str, float | None]]:
    """Return the epsilons of the same rounds at other deltas."""
    rows = []
    for delta in PROFILE_DELTAS:
        costs = _costs(recipe, state, clients, delta).by_observer
        row: dict[str, float | None] = {"delta": delta}
        row |= {observer: _epsilon(one) for observer, one in costs.items()}
        rows.append(row)
    return rows


def _costs(recipe: Recipe, state: RunState, clients: int, delta: float | None = None) -> Costs:
    taken, drawn = max(state.taken.values(), default=0), recipe.training.rounds
    return spent_costs(recipe, state.vector.size, clients, state.spent, delta, taken=taken, drawn=drawn)


def _public_cohort(recipe: Recipe, state: RunState, clients: int) -> int:
    """Return the cohort that thresholds are stated for: the expected one where nobody may know how many were drawn."""
    if recipe.training.sampling == "poisson" and place_of(recipe.privacy) == "central":
        return min(recipe.training.cohort or clients, clients)
    return max(one.cohort for one in state.spent)


def _epsilon(one: Cost) -> float | None:
    return one.epsilon if math.isfinite(one.epsilon) else None


def _not_amplified(recipe: Recipe, plan: NoisePlan) -> list[str]:
    if recipe.training.sampling == "poisson" and plan.terms.place != "central" and plan.terms.unit == "client":
        return ["the variance of noise that clients make tells how many of them took part"]
    return list(plan.terms.sampling.not_amplified_because())


def _assumptions(plan: NoisePlan, about: Circumstances) -> list[str]:
    said = []
    if plan.terms.place == "distributed":
        said.append(
            f"at least all but {plan.colluders} of the clients that were summed added their noise, and the rest may"
            " collude with the coordinator"
        )
    if plan.terms.place == "central":
        said.append("the coordinator adds the noise it says it adds, and divides by the number it says it divides by")
    if plan.terms.sampling.kind == "poisson":
        said.append("readers learn neither who was in a cohort nor how many were: rounds.* stay with the coordinator")
    said.append(
        "clients clip honestly; masks hide whether they do"
        if plan.terms.unit == "client"
        else "a client clips and noises its own records' gradients: for them nobody else need be trusted"
    )
    if plan.noise_cohort:
        said.append(
            f"HYPOTHETICAL: the noise is that of a cohort of {plan.noise_cohort}, the run's was {plan.cohort}; no"
            " federation of this size has this promise"
        )
    if about.simulated:
        said.append("simulated clients: this is what a federation with these settings would promise")
    return said


def _not_covered(recipe: Recipe) -> list[str]:
    return [one for one in NOT_COVERED if one != MEASURED_ELSEWHERE or not recipe.evaluation.only]


def _delta(plan: NoisePlan, state: RunState) -> float:
    """Return the delta of a promise: where it rests on masks over a regular graph, each round's graph may be weak."""
    if plan.layout is None or plan.terms.place != "distributed" or graph_of(plan.cohort) != REGULAR:
        return plan.terms.delta
    return plan.terms.delta + len(state.spent) * 2.0**-SIGMA


def _sentence(recipe: Recipe, plan: NoisePlan, costs: Costs, delta: float, seen: str) -> str:
    place, unit = plan.terms.place, plan.terms.unit
    cost = costs.by_observer["outsiders" if place == "central" else "coordinator"]
    epsilon = math.ceil(cost.epsilon * 1000) / 1000
    factor = f"by a factor of at most e^{epsilon:g}, except with probability {delta:g}"
    reader = "a reader of the figures" if recipe.evaluation.only else "a reader of the model"
    seeing = reader if place == "central" else f"the coordinator or {reader}"
    whom = f"anything {seeing} can see of the {summed(recipe)}s"
    what = (
        f"Whether any one client's {summed(recipe)} counted or was zero"
        if unit == "client"
        else "Whether any one record of a client was there"
    )
    central = " The coordinator, who makes the noise, is bounded by nothing." if place == "central" else ""
    doubt = f"HYPOTHETICAL, as if {plan.noise_cohort} clients took part in every round: " if plan.noise_cohort else ""
    return f"{doubt}{what} changes the probability of {whom} {factor}; and {seen}.{central}"
