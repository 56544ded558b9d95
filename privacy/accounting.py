"""What a sequence of events costs: epsilon at a delta, by the tightest accountant that supports them all.

dp-accounting is the engine: privacy loss distributions where every event has one, Renyi differential privacy where
distributed Skellam noise takes part. Events add up whatever was released in between, chosen adaptively or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
from dp_accounting import NeighboringRelation, dp_event, pld, rdp
from dp_accounting.privacy_accountant import PrivacyAccountant
from numpy.typing import NDArray
from scipy import special

from tacit.privacy.errors import PrivacyError
from tacit.privacy.events import SkellamDpEvent, check_event, event_record, read_event
from tacit.privacy.terms import OBSERVERS, Observer, Sampling, Terms

ORDERS: Final[tuple[float, ...]] = (
    *(float(order) for order in range(2, 65)),
    *(float(order) for order in (72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024)),
)
"""Orders of Renyi divergence: whole numbers from 2, where every bound used here holds as it stands."""

ERROR_SHARE: Final = 0.01
"""The share of delta that pays for samplers that are not exactly what their events say."""

_PLD_CEILING: Final = 50.0  # beyond it a loss distribution's grid outgrows memory, and any epsilon means nothing
_PLD_MOST_SAMPLED: Final = 1_000_000  # sampled events; each is rounded to the grid, which outgrows memory with more


@dataclass(frozen=True)
class Cost:
    """An `(epsilon, delta)` guarantee and who computed it.

    Attributes:
        epsilon: infinite if nothing is guaranteed.
        delta: the delta that it holds at.
        accountant: "pld", or "rdp" with the order that was best.
        order: the Renyi order, None for "pld".
    """

    epsilon: float
    delta: float
    accountant: Literal["pld", "rdp"]
    order: float | None = None


def skellam_rdp(event: SkellamDpEvent, orders: Sequence[float], replace_one: bool = False) -> NDArray[np.float64]:
    """Return the Renyi divergence bounds of one Skellam release, shape `(orders,)`.

    `a D2^2 / (2 mu) + min(((2a - 1) D2^2 + 6 D1) / (4 mu^2), 3 D1 / (2 mu))` for whole orders a (Agarwal, Kairouz, Liu
    2021). Divergence grows with the order, so the bound of the next whole order, at least 2, serves one in between.
    No noise is infinite; a sensitivity of zero costs nothing. `replace_one` doubles both sensitivities.
    """
    if event.l2_sensitivity == 0.0:
        return np.zeros(len(orders))
    if event.variance == 0.0:
        return np.full(len(orders), math.inf)
    reach = 2.0 if replace_one else 1.0
    squared, first = (reach * event.l2_sensitivity) ** 2, reach * event.l1_sensitivity
    whole = np.maximum(np.ceil(np.asarray(orders, dtype=np.float64)), 2.0)
    gaussian = whole * squared / (2 * event.variance)
    tail = ((2 * whole - 1) * squared + 6 * first) / (4 * event.variance**2)
    return gaussian + np.minimum(tail, 3 * first / (2 * event.variance))


@lru_cache(maxsize=256)
def sampled_skellam_rdp(event: SkellamDpEvent, rate: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return Renyi divergence bounds of a Poisson-sampled Skellam release, shape `(orders,)`.

    Zhu and Wang 2019, the upper bound for arbitrary mechanisms, with `e(l)` the unsampled bound of order l:
    `ln((1-q)^(a-1) (a q - q + 1) + C(a,2) q^2 (1-q)^(a-2) exp(e(2))
    + 3 sum_(l=3..a) C(a,l) q^l (1-q)^(a-l) exp((l-1) e(l))) / (a-1)`; the form without the factor 3 holds for Gaussian
    noise only. Never worse than unsampled, because Renyi divergence is quasi-convex.
    """
    unsampled = skellam_rdp(event, orders)
    if rate == 0.0:
        return np.zeros(len(orders))
    if rate == 1.0 or not np.isfinite(unsampled).all():
        return unsampled
    amplified = [_zhu_wang(event, rate, max(2, math.ceil(order))) for order in orders]
    return np.minimum(amplified, unsampled)


def _zhu_wang(event: SkellamDpEvent, rate: float, order: int) -> float:
    inner = np.arange(2, order + 1, dtype=np.float64)
    binomial = special.gammaln(order + 1) - special.gammaln(inner + 1) - special.gammaln(order - inner + 1)
    terms = binomial + inner * math.log(rate) + (order - inner) * math.log1p(-rate)
    terms += (inner - 1) * skellam_rdp(event, inner.tolist())
    terms[1:] += math.log(3.0)
    first = (order - 1) * math.log1p(-rate) + math.log1p((order - 1) * rate)
    return max(0.0, float(special.logsumexp(np.append(terms, first)))) / (order - 1)


class RenyiAccountant(rdp.RdpAccountant):  # type: ignore[misc]  # dp-accounting has no types
    """dp-accounting's Renyi accountant, with distributed Skellam noise and the errors of its samplers.

    `compose` checks the whole event before it changes anything and refuses what it does not know by name. If the noise
    that was really drawn is within `eta` of what the events say, delta grows by `(1 + e^epsilon) eta`; that must stay
    within `ERROR_SHARE` of delta, which is set aside for it. Under REPLACE_ONE sensitivities double, and sampling does
    not amplify: replacing a sampled client is at most as bad as replacing one that surely takes part.
    """

    def __init__(
        self,
        neighboring_relation: NeighboringRelation = NeighboringRelation.REPLACE_SPECIAL,
        orders: Sequence[float] = ORDERS,
    ) -> None:
        """Start with nothing spent at any order."""
        super().__init__(list(orders), neighboring_relation)
        self._grid = tuple(float(order) for order in orders)
        self._total_variation = 0.0

    @property
    def spent(self) -> NDArray[np.float64]:
        """Return the Renyi divergence spent so far, shape `(orders,)`."""
        return np.array(self._rdp, dtype=np.float64)

    @property
    def total_variation(self) -> float:
        """Return how far the noise drawn so far may be from what its events say."""
        return self._total_variation

    def compose(self, event: dp_event.DpEvent, count: int = 1) -> RenyiAccountant:
        """Add `count` applications of an event.

        Raises:
            PrivacyError: the event or one within it is unknown, senseless or unsupported; nothing was added.
        """
        check_event(event)
        if count < 0:
            raise PrivacyError(f"an event is added a number of times, not {count}")
        if problem := self._maybe_compose(event, count, False):
            raise PrivacyError(f"unsupported {_names(problem.invalid_event)}")
        super().compose(event, count)
        return self

    def _maybe_compose(self, event: dp_event.DpEvent, count: int, do_compose: bool) -> Any:
        replace_one = self.neighboring_relation is NeighboringRelation.REPLACE_ONE
        match event:
            case SkellamDpEvent():
                if do_compose:
                    self._rdp += count * skellam_rdp(event, self._grid, replace_one)
                    self._total_variation += count * event.total_variation
                return None
            case dp_event.PoissonSampledDpEvent() if replace_one:
                return self._maybe_compose(event.event, count, do_compose)
            case dp_event.PoissonSampledDpEvent(event=SkellamDpEvent()):
                if do_compose:
                    self._rdp += count * sampled_skellam_rdp(event.event, event.sampling_probability, self._grid)
                    self._total_variation += count * event.event.total_variation
                return None
            case dp_event.GaussianDpEvent() if replace_one:
                halved = dp_event.GaussianDpEvent(event.noise_multiplier / 2.0)
                return super()._maybe_compose(halved, count, do_compose)
        return super()._maybe_compose(event, count, do_compose)

    def get_epsilon_and_optimal_order(self, target_delta: float) -> tuple[float, float]:
        """Return epsilon at `target_delta`, with the samplers' errors paid for, and the order that gave it."""
        if not self._total_variation:
            epsilon, order = super().get_epsilon_and_optimal_order(target_delta)
            return float(epsilon), float(order)
        epsilon, order = super().get_epsilon_and_optimal_order(target_delta * (1.0 - ERROR_SHARE))
        if (1.0 + math.exp(min(700.0, epsilon))) * self._total_variation > target_delta * ERROR_SHARE:
            return math.inf, float(order)
        return float(epsilon), float(order)

    def get_epsilon(self, target_delta: float) -> float:
        """Return epsilon at `target_delta`, with the samplers' errors paid for."""
        return self.get_epsilon_and_optimal_order(target_delta)[0]

    def get_delta(self, target_epsilon: float) -> float:
        """Return delta at `target_epsilon`, with the samplers' errors paid for."""
        error = (1.0 + math.exp(min(700.0, target_epsilon))) * self._total_variation
        return min(1.0, float(super().get_delta(target_epsilon)) + error)


def cost(
    event: dp_event.DpEvent,
    delta: float,
    adjacency: NeighboringRelation = NeighboringRelation.REPLACE_SPECIAL,
    aborted: float = 0.0,
) -> Cost:
    """Return epsilon at `delta` of an event: by privacy loss distribution if all of it has one, else by Renyi.

    A Renyi epsilon above 50, or of more than a million sampled events, is returned as it is: finer accounting of a
    promise that weak, or of so many, costs gigabytes.

    Args:
        event: what was released; compose many with `repeated` and `in_sequence`.
        delta: the delta of the statement.
        adjacency: zero-out for clients, add-or-remove for records, or replacement.
        aborted: probability that sampling failed somewhere, to be taken off delta first.

    Raises:
        PrivacyError: delta is not within (0, 1), or the event is unknown or senseless.
    """
    if not 0.0 < delta < 1.0:
        raise PrivacyError(f"delta is within (0, 1), not {delta!r}")
    # Loss distributions take a second each, and a statement asks for the same ones again and again.
    return _cost(json.dumps(event_record(event), sort_keys=True), delta, adjacency, aborted)


@lru_cache(maxsize=1024)
def _cost(record: str, delta: float, adjacency: NeighboringRelation, aborted: float) -> Cost:
    event = read_event(json.loads(record))
    remaining = delta - aborted
    if remaining <= 0.0:
        return Cost(math.inf, delta, "rdp", None)
    epsilon, order = RenyiAccountant(adjacency).compose(event).get_epsilon_and_optimal_order(remaining)
    finer: PrivacyAccountant = pld.PLDAccountant(adjacency)
    if epsilon > _PLD_CEILING or _sampled(event) > _PLD_MOST_SAMPLED or not finer.supports(event):
        return Cost(epsilon, delta, "rdp", order)
    return Cost(float(finer.compose(event).get_epsilon(remaining)), delta, "pld")


def profile(event: dp_event.DpEvent, deltas: Sequence[float], adjacency: NeighboringRelation) -> tuple[Cost, ...]:
    """Return the privacy profile: the cost of one event at each of `deltas`."""
    return tuple(cost(event, delta, adjacency) for delta in deltas)


def repeated(event: dp_event.DpEvent, count: int) -> dp_event.DpEvent:
    """Return the event of `count` adaptive repetitions."""
    return dp_event.SelfComposedDpEvent(event, count)


def in_sequence(events: Sequence[dp_event.DpEvent]) -> dp_event.DpEvent:
    """Return the event of several in a row, equal neighbours counted instead of copied."""
    runs: list[tuple[dp_event.DpEvent, int]] = []
    for event in events:
        if runs and runs[-1][0] == event:
            runs[-1] = (event, runs[-1][1] + 1)
        else:
            runs.append((event, 1))
    return dp_event.ComposedDpEvent([repeated(event, count) for event, count in runs])


def costs_by_observer(terms: Terms, survivors: Sequence[int]) -> dict[Observer, Cost]:
    """Return the three numbers of a statement, for rounds with these numbers of survivors, zero-out or add-or-remove.

    Raises:
        PrivacyError: a round had fewer survivors than its terms allow.
    """
    return {observer: _observed(terms, survivors, observer, terms.adjacency) for observer in OBSERVERS}


def replacement_costs_by_observer(terms: Terms, survivors: Sequence[int]) -> dict[Observer, Cost]:
    """Return the same three numbers for replacing one unit by another instead of by nothing: twice the sensitivity.

    Raises:
        PrivacyError: a round had fewer survivors than its terms allow.
    """
    return {observer: _observed(terms, survivors, observer, NeighboringRelation.REPLACE_ONE) for observer in OBSERVERS}


def _observed(terms: Terms, survivors: Sequence[int], observer: Observer, adjacency: NeighboringRelation) -> Cost:
    event = in_sequence([terms.event_against(observer, survived) for survived in survivors])
    if observer != "outsiders" or terms.unit != "client" or terms.sampling.not_amplified_because():
        return cost(event, terms.delta, adjacency)
    aborted = len(survivors) * terms.sampling.abort_probability
    without = _observed(replace(terms, sampling=Sampling()), survivors, observer, adjacency)
    return min(cost(event, terms.delta, adjacency, aborted), without, key=lambda either: either.epsilon)


def _sampled(event: dp_event.DpEvent) -> int:
    """Return how many sampled events an event consists of."""
    match event:
        case dp_event.SelfComposedDpEvent():
            return int(event.count) * _sampled(event.event)
        case dp_event.ComposedDpEvent():
            return sum(map(_sampled, event.events))
        case dp_event.PoissonSampledDpEvent():
            return 1
    return 0


def _names(event: dp_event.DpEvent) -> str:
    """Return the names of an event and of what it wraps, for an error."""
    inner = getattr(event, "event", None)
    return f"{type(event).__name__} of {_names(inner)}" if inner is not None else type(event).__name__
