"""What a recipe's promise will cost and leave, before anything is spent: the numbers of `tacit privacy plan`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from dp_accounting import NeighboringRelation, dp_event

from tacit.models.noise import NoisePlan, noise_plan
from tacit.models.recipe import Recipe
from tacit.models.spending import BUDGET_KEY, MECHANISM_WORDS, granted_budget, ledger_event, run_budget
from tacit.privacy.accounting import Cost, cost, repeated
from tacit.privacy.calibration import last_round, with_spare
from tacit.privacy.errors import PrivacyError
from tacit.privacy.filters import RenyiFilter
from tacit.privacy.terms import Observer, Place, RecordNoise, Sampling, Unit
from tacit.simulations.signal_to_noise import HOPELESS, Signal, expected_signal

TARGETS = (1.0, 2.0, 4.0, 8.0)
# Points of the curve: Renyi bounds take a millisecond each, privacy loss distributions a second or two.
MOST_POINTS, MOST_SLOW_POINTS = 30, 6
# Above it, one client (or example) may change a probability more than twenty-thousandfold.
LARGEST_EPSILON = 10.0
OBSERVER_WORDS: dict[Observer, str] = {
    "coordinator": "the coordinator",
    "fellow_clients": "fellow clients",
    "outsiders": "outsiders",
}
RUN = "the run's own ledger"


@dataclass(frozen=True)
class AfterRounds:
    """The epsilon of so many rounds against each observer, in each of which only the fewest survive; may be infinite.

    Attributes:
        rounds: how many were released.
        coordinator: against the coordinator and its colluders.
        fellow_clients: against another client.
        outsiders: against readers of the models.
    """

    rounds: int
    coordinator: float
    fellow_clients: float
    outsiders: float

    def against(self, observer: Observer) -> float:
        """Return the epsilon against one observer."""
        epsilon: float = getattr(self, observer)
        return epsilon


@dataclass(frozen=True)
class TargetNoise:
    """The least noise that keeps a target, and what it leaves of the updates; None where there is none, with why."""

    epsilon: float
    noise_multiplier: float | None
    signal: Signal | None
    impossible_because: str = ""


@dataclass(frozen=True)
class BudgetEnd:
    """When the stop rule ends a run, from a ledger of which nothing is spent.

    Attributes:
        granted_by: whose budget pays.
        epsilon: what it grants.
        last_round: the last round that it pays for if only the fewest survive each time.
        last_round_if_all_survive: the last one if nobody ever drops out.
        epsilon_for_all_rounds: what a budget for all rounds and a tenth to spare must grant.
    """

    granted_by: str
    epsilon: float
    last_round: int
    last_round_if_all_survive: int
    epsilon_for_all_rounds: float


@dataclass(frozen=True)
class PrivacyPlan:
    """All that can be told of a recipe's promise without training.

    Attributes:
        recipe: its name.
        unit: who is protected.
        place: where the noise is made.
        mechanism: the noise in words.
        hypothetical: whether the noise is that of a larger cohort than there is.
        noise_cohort: the size of that cohort; 0 for the real one.
        clients: how many the federation has.
        cohort: how many a round asks, or expects to ask.
        min_survivors: U_min.
        colluders: c.
        parameters: the size of the model.
        parameters_are_exact: whether it has no more than these.
        l2_clip: what an update, or an example's gradient, is clipped to; at first, if it adapts.
        clip_adapts: whether it does.
        delta: what the epsilons are stated at.
        noise_multiplier: standard deviation of the noise that counts, over the sensitivity.
        target_epsilon: what the noise was calibrated for; None if the recipe gives the noise.
        target_against: whom the target, or else the main number, is against.
        rounds: of the recipe.
        horizon: for how many participations of one client the noise is calibrated; it takes part in no more.
        last_round_by_participation: the last round of fixed cohorts before clients have taken part as often as they
            may; None for poisson cohorts.
        sampling: "fixed" or "poisson" cohorts.
        sampling_rate: the probability that a client is asked.
        amplified_because: empty, or why outsiders get a better number.
        accountant: what computes the epsilons: privacy loss distributions, or Renyi's where there are none.
        by_round: epsilons after some numbers of rounds, to the last with the spare ones.
        after_all_rounds: those after the recipe's rounds if nobody ever drops out.
        budget: when the budget ends.
        signal: the expected signal-to-noise ratio of a round.
        targets: the noise that other targets need.
        warnings: what should be changed before anything is spent.
    """

    recipe: str
    unit: Unit
    place: Place
    mechanism: str
    hypothetical: bool
    noise_cohort: int
    clients: int
    cohort: int
    min_survivors: int
    colluders: int
    parameters: int
    parameters_are_exact: bool
    l2_clip: float
    clip_adapts: bool
    delta: float
    noise_multiplier: float
    target_epsilon: float | None
    target_against: Observer
    rounds: int
    horizon: int
    last_round_by_participation: int | None
    sampling: str
    sampling_rate: float
    amplified_because: str
    accountant: str
    by_round: tuple[AfterRounds, ...]
    after_all_rounds: AfterRounds
    budget: BudgetEnd
    signal: Signal
    targets: tuple[TargetNoise, ...]
    warnings: tuple[str, ...]


def privacy_plan(
    recipe: Recipe,
    parameters: int,
    clients: int,
    *,
    parameters_are_exact: bool = True,
    examples: float = 0.0,
    targets: Sequence[float] | None = None,
) -> PrivacyPlan:
    """Return the plan of a recipe that makes a promise.

    Args:
        recipe: says the promise.
        parameters: the size of the model's vector.
        clients: how many the federation has.
        parameters_are_exact: whether the model is known to have no more than `parameters`.
        examples: how many examples a client has in the middle; unit "example" expects batches by it, or by
            `training.batch_size` if it is 0.
        targets: epsilons to give the noise for; `TARGETS` unless told otherwise, or none but the recipe's own where
            finding the noise for one takes ten seconds, as it does for sampled events.

    Raises:
        InputError: the budget does not pay for one round, or is too large to mean anything.
        PrivacyError: no noise keeps the promise, or too few clients would be left whose noise counts.
    """
    cohort = min(recipe.training.cohort or clients, clients)
    plan = noise_plan(recipe, parameters, cohort, clients)
    terms, rounds = plan.terms, recipe.training.rounds
    costs = _Costs(plan)
    last = with_spare(rounds)
    accountant = costs.cost("fellow_clients", 1, None).accountant
    budget = _budget_end(recipe, plan)
    kept = (rounds, plan.horizon, budget.last_round)
    points = rounds_to_show(last, MOST_POINTS if accountant == "rdp" else MOST_SLOW_POINTS, kept)
    batch = (terms.noise.sample_rate * examples if isinstance(terms.noise, RecordNoise) else 0.0) or float(
        recipe.training.batch_size
    )
    signal = expected_signal(plan, parameters, batch)
    wanted = targets if targets is not None else () if costs.sampled else TARGETS
    central = terms.place == "central"
    fixed = recipe.training.sampling == "fixed"
    found = PrivacyPlan(
        recipe=recipe.name,
        unit=terms.unit,
        place=terms.place,
        mechanism=MECHANISM_WORDS[terms.unit, terms.place],
        hypothetical=bool(plan.noise_cohort),
        noise_cohort=plan.noise_cohort,
        clients=clients,
        cohort=cohort,
        min_survivors=plan.min_survivors,
        colluders=plan.colluders,
        parameters=parameters,
        parameters_are_exact=parameters_are_exact,
        l2_clip=plan.l2_clip,
        clip_adapts=plan.adapts,
        delta=terms.delta,
        noise_multiplier=plan.noise_multiplier,
        target_epsilon=recipe.privacy.epsilon,
        target_against="outsiders" if central else "coordinator",
        rounds=rounds,
        horizon=plan.horizon,
        last_round_by_participation=clients * plan.horizon // cohort if fixed else None,
        sampling=recipe.training.sampling,
        sampling_rate=cohort / clients,
        amplified_because=(
            f"poisson cohorts from secret entropy, in which a client is with probability {terms.sampling.rate:g}"
            if costs.amplified
            else ""
        ),
        accountant=accountant,
        by_round=tuple(costs.after(count, None) for count in points),
        after_all_rounds=costs.after(rounds, plan.cohort),
        budget=budget,
        signal=signal,
        targets=tuple(
            _target(recipe, parameters, cohort, clients, epsilon, batch) for epsilon in _with_own(wanted, recipe)
        ),
        warnings=(),
    )
    return replace(found, warnings=tuple(_warnings(found)))


def rounds_to_show(last: int, most: int, kept: Sequence[int] = ()) -> tuple[int, ...]:
    """Return about `most` numbers of rounds from 1 to `last`, evenly spread, with those of `kept` that are among them.

    Args:
        last: the last one.
        most: how many at most, beside the ones that are kept.
        kept: rounds to show in any case.
    """
    spread = {round(1 + index * (last - 1) / max(1, most - 1)) for index in range(most)}
    return tuple(sorted(spread | {1, last} | {one for one in kept if 1 <= one <= last}))


@dataclass(frozen=True)
class _Costs:
    """What equal rounds cost: `spending.spent_costs` for rounds that all have as many survivors, curve by curve."""

    plan: NoisePlan

    @property
    def sampled(self) -> bool:
        """Say whether an event is the sampling of another one."""
        return self.amplified or self.plan.terms.unit == "example"

    @property
    def amplified(self) -> bool:
        """Say whether the sampling of cohorts counts against outsiders."""
        terms = self.plan.terms
        return terms.unit == "client" and not terms.sampling.not_amplified_because()

    def after(self, rounds: int, survivors: int | None) -> AfterRounds:
        """Return the epsilons after so many rounds with so many survivors, None for the fewest."""
        return AfterRounds(
            rounds,
            self.cost("coordinator", rounds, survivors).epsilon,
            self.cost("fellow_clients", rounds, survivors).epsilon,
            self.cost("outsiders", rounds, survivors).epsilon,
        )

    def cost(self, observer: Observer, rounds: int, survivors: int | None) -> Cost:
        """Return what they cost against an observer: no more of them than one client takes part in, unless sampled."""
        plan = self.plan
        delta, adjacency = plan.terms.delta, plan.terms.adjacency
        unsampled = replace(plan, terms=replace(plan.terms, sampling=Sampling()))
        known = _repeated_cost(unsampled.event(observer, survivors), min(rounds, plan.horizon), delta, adjacency)
        if observer != "outsiders" or not self.amplified:
            return known
        aborted = rounds * plan.terms.sampling.abort_probability
        sampled = _repeated_cost(plan.event(observer, survivors), rounds, delta, adjacency, aborted)
        return min(sampled, known, key=lambda either: either.epsilon)


@lru_cache(maxsize=1024)
def _repeated_cost(
    event: dp_event.DpEvent, count: int, delta: float, adjacency: NeighboringRelation, aborted: float = 0.0
) -> Cost:
    return cost(repeated(event, count), delta, adjacency, aborted)


def _budget_end(recipe: Recipe, plan: NoisePlan) -> BudgetEnd:
    granted, rounds = recipe.population.epsilon_budget, with_spare(recipe.training.rounds)
    own = run_budget(plan, rounds)
    budget = own if granted is None else granted_budget(granted, plan, rounds)
    fewest = ledger_event(plan)
    last = last_round(fewest, budget)
    best = _last_of_full_rounds(fewest, ledger_event(plan, plan.cohort), budget, last)
    return BudgetEnd(RUN if granted is None else BUDGET_KEY, budget.epsilon, last, best, own.epsilon)


def _last_of_full_rounds(
    reserved: dp_event.DpEvent, spent: dp_event.DpEvent, budget: RenyiFilter, at_least: int
) -> int:
    """Return the last round that is paid for when each is reserved at its highest cost and spent at its lowest."""
    last = last_round(spent, budget)
    while last > at_least and not budget.fits([repeated(spent, last - 1), reserved]):
        last -= 1
    return last


def _target(
    recipe: Recipe, parameters: int, cohort: int, clients: int, epsilon: float, batch_size: float
) -> TargetNoise:
    asked = recipe.privacy.model_copy(update={"epsilon": epsilon, "noise_multiplier": None})
    try:
        plan = noise_plan(recipe.model_copy(update={"privacy": asked}), parameters, cohort, clients)
    except PrivacyError as error:
        return TargetNoise(epsilon, None, None, str(error))
    return TargetNoise(epsilon, plan.noise_multiplier, expected_signal(plan, parameters, batch_size))


def _with_own(targets: Sequence[float], recipe: Recipe) -> list[float]:
    return sorted({*targets, *([recipe.privacy.epsilon] if recipe.privacy.epsilon else [])})


def _warnings(plan: PrivacyPlan) -> list[str]:
    said, whole = [], plan.by_round[-1].against(plan.target_against)
    if plan.hypothetical:
        said.append(
            f"HYPOTHETICAL: the noise is that of a cohort of {plan.noise_cohort}, there are {plan.cohort}; no"
            " federation of this size has this promise, and such a model is never promoted"
        )
    if not plan.parameters_are_exact:
        said.append(
            f"the model has at least {plan.parameters:,} parameters; how many categories make more of them is only"
            " known from everybody's rows, so that the signal is at most what is said here"
        )
    if plan.signal.hopeless:
        said.append(
            f"the noise drowns the signal: a round's updates are at most {plan.signal.aligned:.2g} times as long as the"
            f" noise; try more clients, a larger epsilon or a smaller model{_what_would_do(plan)}"
        )
    if whole > LARGEST_EPSILON:
        size = f"e^{_up(whole)}" if math.isfinite(whole) else "anything"
        said.append(
            f"epsilon {_up(whole)} is hardly a promise: it lets one {plan.unit} change a probability by a factor of"
            f" {size}; try more noise or fewer rounds"
        )
    if plan.budget.last_round < plan.rounds:
        said.append(
            f"the budget ends after round {plan.budget.last_round} of {plan.rounds};"
            f" all of them need {BUDGET_KEY} = {_up(plan.budget.epsilon_for_all_rounds)}"
        )
    if plan.last_round_by_participation is not None and plan.last_round_by_participation < plan.rounds:
        said.append(
            f"clients may take part {plan.horizon} times each, so that the run ends after round"
            f" {plan.last_round_by_participation} of {plan.rounds} at the latest; try a larger"
            " privacy.max_participations or a smaller training.cohort"
        )
    return said


def _what_would_do(plan: PrivacyPlan) -> str:
    """Return by how much, as far as the other numbers stay: the ratio falls as the root of the model's size."""
    short = HOPELESS / plan.signal.aligned
    if plan.hypothetical or plan.unit == "example":
        return ""
    # Noise that everybody adds in full grows with the cohort, noise that is shared or made once does not.
    more = plan.cohort * (short**2 if plan.place == "local" else short)
    fewer = int(plan.parameters / short**2)
    return f" (about {math.ceil(more):,} clients a round, or at most {fewer:,} parameters, would reach {HOPELESS:g})"


def _up(epsilon: float) -> str:
    """Return an epsilon rounded up: a promise must not sound stronger than it is."""
    return f"{math.ceil(epsilon * 100) / 100:g}" if math.isfinite(epsilon) else "without bound"
