"""When to stop: a privacy filter at one Renyi order, sound however the events were chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from dp_accounting import NeighboringRelation, dp_event

from tacit.privacy.accounting import ERROR_SHARE, ORDERS, RenyiAccountant
from tacit.privacy.errors import PrivacyError


@dataclass(frozen=True)
class RenyiFilter:
    """Lets events through while their Renyi divergences at one order add up to at most `limit`.

    Guarantee: whatever was let through is `(epsilon, delta)`-differentially private, even if each event was chosen
    after seeing what the ones before released (Feldman and Zrnic 2021; Lecuyer 2021). That would not hold if the order
    were chosen afterwards, so it is fixed here, before anything is spent. By Canonne, Kamath, Steinke 2020, proposition
    12, `limit = epsilon - ln(1 - 1/a) + ln(delta a) / (a - 1)`; a hundredth of delta pays for inexact samplers.

    Attributes:
        epsilon: what may be spent in all.
        delta: the delta that it holds at.
        order: the Renyi order a.
        adjacency: what the guarantee is against.
    """

    epsilon: float
    delta: float
    order: int
    adjacency: NeighboringRelation

    def __post_init__(self) -> None:
        """Refuse a budget that could let nothing through."""
        if not (0.0 < self.epsilon < math.inf and 0.0 < self.delta < 1.0):
            raise PrivacyError(f"a budget has a positive epsilon and a delta within (0, 1), not {self}")
        if type(self.order) is not int or self.order < 2:
            raise PrivacyError(f"a budget's Renyi order is a whole number of at least 2, not {self.order!r}")
        if self.limit <= 0.0:
            raise PrivacyError(f"order {self.order} leaves nothing of epsilon {self.epsilon:g} at {self.delta:g}")

    @property
    def limit(self) -> float:
        """Return what the divergences may add up to."""
        return _limit(self.epsilon, self.delta, self.order)

    def spent(self, events: Iterable[dp_event.DpEvent]) -> Spending:
        """Return what the events add up to.

        Raises:
            PrivacyError: an event is unknown, senseless or unsupported.
        """
        return sum((_cost(self, event) for event in events), Spending())

    def allows(self, spending: Spending) -> bool:
        """Say whether this much may be spent in all."""
        return spending.divergence <= self.limit and self.vouches_for(spending)

    def vouches_for(self, spending: Spending) -> bool:
        """Say whether delta pays for what the samplers erred, which costs `1 + e^epsilon` times as much.

        It is the epsilon that was granted that counts, however little of it is spent: the promise is about that one.
        """
        errors = (1.0 + math.exp(min(700.0, self.epsilon))) * spending.total_variation
        return errors <= ERROR_SHARE * self.delta

    def fits(self, events: Iterable[dp_event.DpEvent]) -> bool:
        """Say whether the events may be spent from an untouched budget."""
        return self.allows(self.spent(events))

    def epsilon_of(self, spending: Spending) -> float:
        """Return the epsilon that this much spending amounts to at this order; infinite if the samplers erred more."""
        if spending.divergence == 0.0 and spending.total_variation == 0.0:
            return 0.0
        epsilon = max(0.0, spending.divergence + self.epsilon - self.limit)
        errors = (1.0 + math.exp(min(700.0, epsilon))) * spending.total_variation
        return epsilon if errors <= ERROR_SHARE * self.delta else math.inf


@dataclass(frozen=True)
class Spending:
    """What events cost at the filter's order: their divergence, and how inexact their samplers were."""

    divergence: float = 0.0
    total_variation: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        """Add up two costs."""
        return Spending(self.divergence + other.divergence, self.total_variation + other.total_variation)


def renyi_filter(
    epsilon: float, delta: float, adjacency: NeighboringRelation = NeighboringRelation.REPLACE_SPECIAL
) -> RenyiFilter:
    """Create a budget's filter at the order that lets the most Gaussian noise through: it maximises `limit / order`.

    Raises:
        PrivacyError: no order leaves anything, or epsilon or delta are out of range.
    """
    if not (0.0 < epsilon < math.inf and 0.0 < delta < 1.0):
        raise PrivacyError(f"a budget has a positive epsilon and a delta within (0, 1), not {epsilon!r} and {delta!r}")
    order = max((int(order) for order in ORDERS), key=lambda order: _limit(epsilon, delta, order) / order)
    return RenyiFilter(epsilon, delta, order, adjacency)


def largest_epsilon(spending: Spending, delta: float) -> float:
    """Return the largest budget whose delta pays for what the samplers erred; infinite where they did not."""
    if not spending.total_variation:
        return math.inf
    return math.log(max(1.0, ERROR_SHARE * delta / spending.total_variation - 1.0))


def _cost(budget: RenyiFilter, event: dp_event.DpEvent) -> Spending:
    try:
        return _known_cost(budget.adjacency, budget.order, event)
    except TypeError:  # an event that holds a list cannot be looked up
        return _known_cost.__wrapped__(budget.adjacency, budget.order, event)


@lru_cache(maxsize=4096)
def _known_cost(adjacency: NeighboringRelation, order: int, event: dp_event.DpEvent) -> Spending:
    """Return one event's cost at an order: the rounds of a run are much alike, and every record asks twice."""
    accountant = RenyiAccountant(adjacency, (float(order),)).compose(event)
    return Spending(float(accountant.spent[0]), accountant.total_variation)


def _limit(epsilon: float, delta: float, order: int) -> float:
    usable = delta * (1.0 - ERROR_SHARE)
    return epsilon - math.log1p(-1.0 / order) + math.log(usable * order) / (order - 1)
