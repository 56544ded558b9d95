"""What the rounds of a run have cost, or will: against each observer, and as entries of a ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from dp_accounting import NeighboringRelation, dp_event

from tacit.models.errors import InputError
from tacit.models.noise import NoisePlan, noise_plan
from tacit.models.recipe import Recipe
from tacit.privacy.accounting import Cost, cost, in_sequence, repeated
from tacit.privacy.calibration import with_spare
from tacit.privacy.errors import PrivacyError
from tacit.privacy.filters import RenyiFilter, largest_epsilon, renyi_filter
from tacit.privacy.records import Entry, NoiseBy
from tacit.privacy.terms import OBSERVERS, Observer, Sampling

BUDGET_KEY = "population.epsilon_budget"
MECHANISM_WORDS = {
    ("client", "distributed"): "distributed Skellam noise on the integer grid",
    ("client", "central"): "Gaussian noise, added to each sum by the coordinator",
    ("client", "local"): "noise in every client's own update",
    ("example", "local"): "DP-SGD at every client",
}


@dataclass(frozen=True)
class Spent:
    """One round whose inputs left: how many it was offered to, and how many were summed (U_min if nobody was)."""

    cohort: int
    survivors: int


@dataclass(frozen=True)
class Costs:
    """The numbers of a statement: what rounds cost against each observer, and what replacing a unit would."""

    by_observer: dict[Observer, Cost]
    replacement: dict[Observer, Cost]
    participations: int


def spent_costs(
    recipe: Recipe,
    parameters: int,
    clients: int,
    rounds: Sequence[Spent],
    delta: float | None = None,
    *,
    taken: int = 0,
    drawn: int = 0,
) -> Costs:
    """Return what rounds cost the client, or the example, that they cost most.

    Whoever knows who took part counts at most as many rounds as one client can have been in; readers of the models
    alone, where sampling counts, all of them at the rate at which a client was drawn.

    Args:
        recipe: says the promise.
        parameters: the size of the model's vector.
        clients: how many the federation has.
        rounds: what was released.
        delta: what the epsilons are stated at; the recipe's unless told otherwise.
        taken: how often the client took part that did so most often, as far as is known; more than it should, counts.
        drawn: how many cohorts were drawn, where that is more than the rounds: one of chance may have been too small.

    Raises:
        PrivacyError: a round had fewer survivors than its promise allows.
    """
    plans = [(noise_plan(recipe, parameters, one.cohort, clients), one.survivors) for one in rounds]
    most = max(taken, with_spare(recipe.privacy.max_participations or recipe.training.rounds))
    drawn = max(drawn, len(plans))
    usual, replaced = ({o: _observed(plans, o, most, drawn, one, delta) for o in OBSERVERS} for one in (False, True))
    return Costs(usual, replaced, min(len(plans), most))


def _observed(
    plans: Sequence[tuple[NoisePlan, int]],
    observer: Observer,
    most: int,
    drawn: int,
    replacement: bool,
    delta: float | None,
) -> Cost:
    if not plans:
        return Cost(0.0, delta or 0.0, "rdp")
    terms = plans[0][0].terms
    adjacency = NeighboringRelation.REPLACE_ONE if replacement else terms.adjacency
    stated = delta or terms.delta
    unamplified = cost(
        _worst(
            [replace(plan, terms=replace(plan.terms, sampling=Sampling())) for plan, _ in plans],
            [survivors for _, survivors in plans],
            observer,
            most,
            adjacency,
            stated,
        ),
        stated,
        adjacency,
    )
    if observer != "outsiders" or terms.unit != "client" or terms.sampling.not_amplified_because():
        return unamplified
    event = in_sequence([plan.event(observer, survivors) for plan, survivors in plans])
    aborted = drawn * terms.sampling.abort_probability
    return min(cost(event, stated, adjacency, aborted), unamplified, key=lambda either: either.epsilon)


def _worst(
    plans: Sequence[NoisePlan],
    survivors: Sequence[int],
    observer: Observer,
    most: int,
    adjacency: NeighboringRelation,
    delta: float,
) -> dp_event.DpEvent:
    """Return the event of the rounds that cost most, as many as one client can have taken part in."""
    events = [plan.event(observer, count) for plan, count in zip(plans, survivors, strict=True)]
    if len(events) > most:
        alone = {id(event): cost(event, delta, adjacency).epsilon for event in events}
        events = sorted(events, key=lambda event: -alone[id(event)])[:most]
    return in_sequence(events)


def entry(plan: NoisePlan, run: str, round_number: int, attempt: int, offer: bytes, noise_by: NoiseBy) -> Entry:
    """Return what one participation reserves in a ledger: its cost at the fewest survivors, never amplified.

    Noise that the coordinator makes is worth nothing against it, so what is entered then is the cost against everybody
    else; the column that it stands in says whose word it rests on.
    """
    terms = plan.terms
    return Entry(
        run,
        round_number,
        attempt,
        offer,
        MECHANISM_WORDS[terms.unit, terms.place],
        ledger_event(plan),
        terms.delta,
        noise_by,
    )


def ledger_event(plan: NoisePlan, survivors: int | None = None) -> dp_event.DpEvent:
    """Return what one round costs in a ledger, at the fewest survivors unless told how many there were."""
    observer: Observer = "fellow_clients" if plan.terms.place == "central" else "coordinator"
    return plan.event(observer, survivors)


def granted_budget(granted: float, plan: NoisePlan, rounds: int) -> RenyiFilter:
    """Return the stop rule of what a recipe grants a ledger.

    Raises:
        InputError: it would not let one round through: the round costs more, or the budget is larger than anything that
            noise which is drawn on a computer could vouch for.
    """
    check_grant(granted, plan, rounds)
    budget = _filter(granted, plan)
    if budget is None or not budget.fits([ledger_event(plan)]):
        raise InputError(
            f"{granted:g} does not pay for one round, which costs {_rounded_up(run_budget(plan, 1).epsilon)}",
            where=BUDGET_KEY,
            right=f"{_rounded_up(run_budget(plan, rounds).epsilon)} for all rounds",
        )
    return budget


def check_grant(granted: float, plan: NoisePlan, rounds: int) -> None:
    """Refuse a budget that is so large that it would not let one round through.

    A draw of noise is exact but for less than 2^-100. What all draws of a round err together weakens a promise by
    `1 + e^epsilon` times as much, and a hundredth of delta is set aside for that.

    Raises:
        InputError: with the largest budget that pays for so many rounds.
    """
    budget, event = _filter(granted, plan), ledger_event(plan)
    if budget is not None and not budget.vouches_for(budget.spent([event])):
        most = largest_epsilon(budget.spent([repeated(event, rounds)]), budget.delta)
        raise InputError(
            f"{granted:g} is more than noise can vouch for: by how much draws that are not exact to the last bit weaken"
            " a promise grows with e^epsilon",
            where=BUDGET_KEY,
            right=f"at most {math.floor(most * 100) / 100:g}",
        )


def _filter(granted: float, plan: NoisePlan) -> RenyiFilter | None:
    """Return the stop rule of a budget; None where no order leaves anything of an epsilon this small."""
    try:
        return renyi_filter(granted, plan.terms.delta, plan.terms.adjacency)
    except PrivacyError:
        return None


def _rounded_up(epsilon: float) -> str:
    """Return an epsilon with two digits that promise no more than it does."""
    return f"{math.ceil(epsilon * 100) / 100:g}"


@lru_cache(maxsize=64)
def run_budget(plan: NoisePlan, rounds: int) -> RenyiFilter:
    """Return the smallest budget whose stop rule lets so many rounds at the fewest survivors through.

    Raises:
        PrivacyError: no budget does: the noise is too little to mean anything.
    """
    terms, event = plan.terms, repeated(ledger_event(plan), rounds)
    epsilon = cost(event, terms.delta, terms.adjacency).epsilon
    if not math.isfinite(epsilon):
        raise PrivacyError("so little noise that no budget could pay for it")
    epsilon = max(1.01 * epsilon, 1e-3)
    for _ in range(200):
        try:
            budget = renyi_filter(epsilon, terms.delta, terms.adjacency)
            if budget.fits([event]):
                return budget
        except PrivacyError:
            pass  # no order leaves anything of an epsilon this small
        epsilon *= 1.02
    raise PrivacyError("no budget could pay for so little noise")
