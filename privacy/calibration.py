"""From a target back to the noise, and what a plan can be told before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dp_accounting import NeighboringRelation, dp_event
from scipy import optimize

from tacit.privacy.accounting import Cost, RenyiAccountant, cost, repeated
from tacit.privacy.errors import PrivacyError
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.filters import RenyiFilter
from tacit.privacy.grid import IntegerBound
from tacit.privacy.mechanisms import skellam_event
from tacit.privacy.skellam import MAX_VARIANCE

_SMALLEST, _LARGEST = 2.0**-10, 2.0**30


def smallest_noise(
    event_of: Callable[[float], dp_event.DpEvent],
    epsilon: float,
    delta: float,
    adjacency: NeighboringRelation = NeighboringRelation.REPLACE_SPECIAL,
    tolerance: float = 1e-6,
    largest: float = _LARGEST,
) -> float:
    """Return the smallest noise multiplier whose event costs at most `epsilon` at `delta`.

    Args:
        event_of: the event of all that will be released at a noise multiplier z; its cost must fall as z grows.
        epsilon: the target.
        delta: the delta that it is stated at.
        adjacency: what the target is against.
        tolerance: how far, relatively, the result may lie above the smallest; it never lies below.
        largest: the largest multiplier that can be drawn, such as that of a sampler's range.

    Raises:
        PrivacyError: the target is not positive and finite, or no noise reaches it.
    """
    if not 0.0 < epsilon < math.inf:
        raise PrivacyError(f"a target epsilon is positive and finite, not {epsilon!r}")

    def coarse(noise: float) -> float:
        return RenyiAccountant(adjacency).compose(event_of(noise)).get_epsilon(delta)

    def fine(noise: float) -> float:
        return cost(event_of(noise), delta, adjacency).epsilon

    # Loss distributions take a second each: they begin where the Renyi bound, never far above them, has led.
    found = _root(coarse, epsilon, start=1.0, step=2.0, tolerance=tolerance, largest=largest)
    if cost(event_of(found), delta, adjacency).accountant == "rdp":
        return found
    return _root(fine, epsilon, start=found, step=1.15, tolerance=tolerance, largest=largest)


def _root(
    epsilon_of: Callable[[float], float],
    epsilon: float,
    *,
    start: float,
    step: float,
    tolerance: float,
    largest: float,
) -> float:
    """Return the smallest noise at which a falling `epsilon_of` is at most `epsilon`, from its safe side."""

    def excess(log_noise: float) -> float:
        spent = epsilon_of(math.exp(log_noise))
        return min(1e6, math.log(max(spent, 1e-12) / epsilon)) if spent < math.inf else 1e6

    low = high = math.log(min(start, largest))
    while excess(high) > 0.0:
        if high >= math.log(largest):
            raise PrivacyError(f"no noise reaches epsilon {epsilon:g}")
        low, high = high, min(high + math.log(step), math.log(largest))
    while low == high or excess(low) <= 0.0:
        low, high = low - math.log(step), min(high, low)
        if low < math.log(_SMALLEST):
            return _SMALLEST  # less noise than this is no noise, and still within the target
    found = float(optimize.brentq(excess, low, high, xtol=tolerance / 4.0))
    while excess(found) > 0.0:  # the root is known to a quarter of the tolerance: step to its safe side
        found = min(found + tolerance / 4.0, high)
    return math.exp(found)


def skellam_variance(
    bound: IntegerBound,
    rounds: int,
    epsilon: float,
    delta: float,
    adjacency: NeighboringRelation = NeighboringRelation.REPLACE_SPECIAL,
) -> float:
    """Return the least variance that must count in every one of `rounds` sums for `epsilon` at `delta` in all.

    In squared integer units, for one share; `mechanisms.local_variance` splits it among the clients that must survive.
    """
    # Rounded down, so that its square is within the sampler's range too.
    largest = (1.0 - 1e-9) * math.sqrt(MAX_VARIANCE) / bound.l2
    noise = smallest_noise(lambda z: _skellam_rounds(bound, z, rounds), epsilon, delta, adjacency, largest=largest)
    return (bound.l2 * noise) ** 2


def smallest_noise_within(
    event_of: Callable[[float], dp_event.DpEvent], budget: RenyiFilter, tolerance: float = 1e-6
) -> float:
    """Return the smallest noise multiplier whose event a budget's stop rule lets through from the first to the last.

    The stop rule works at one order, so it asks for at least as much noise as `smallest_noise` does; a run that must
    not be stopped early is calibrated with this.

    Raises:
        PrivacyError: no noise is let through.
    """
    low = high = 1.0
    while not budget.fits([event_of(high)]):
        low, high = high, 2.0 * high
        if high > _LARGEST:
            raise PrivacyError(f"no noise stays within epsilon {budget.epsilon:g} at delta {budget.delta:g}")
    while low == high or budget.fits([event_of(low)]):
        low, high = low / 2.0, min(high, low)
        if low < _SMALLEST:
            return _SMALLEST
    while high / low > 1.0 + tolerance:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if budget.fits([event_of(middle)]) else (middle, high)
    return high


def with_spare(participations: int) -> int:
    """Return how many participations to calibrate for, so that one in ten may be lost to aborted rounds."""
    if participations < 1:
        raise PrivacyError(f"at least one participation is calibrated for, not {participations}")
    return participations + -(-participations // 10)


def epsilon_by_round(
    event: dp_event.DpEvent,
    rounds: Sequence[int],
    delta: float,
    adjacency: NeighboringRelation = NeighboringRelation.REPLACE_SPECIAL,
) -> tuple[Cost, ...]:
    """Return the cost after each of the given numbers of rounds, all like `event`."""
    return tuple(cost(repeated(event, count), delta, adjacency) for count in rounds)


def last_round(event: dp_event.DpEvent, budget: RenyiFilter, at_most: int = 1 << 20) -> int:
    """Return how many rounds like `event` a budget's stop rule lets through, from nothing spent; at most `at_most`."""
    low, high = 0, 1
    while high <= at_most and budget.fits([repeated(event, high)]):
        low, high = high, 2 * high
    high = min(high, at_most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if budget.fits([repeated(event, middle)]) else (low, middle)
    return low


def signal_to_noise(
    *, update_l2: float, survivors: int, dimension: int, noise_variance: float, alignment: float = 1.0
) -> float:
    """Return the expected length of a round's summed updates over that of its noise.

    Below about one tenth a round moves the model by noise; many rounds average it away only as their square root.

    Args:
        update_l2: the length of one client's update, at most its clip (on the grid: times its scale).
        survivors: how many clients are summed.
        dimension: coordinates that carry noise.
        noise_variance: variance of the summed noise in each, all survivors' shares; rounding adds at most 1/4 a client.
        alignment: how much of their length the updates share: 1 if they are equal, `1 / sqrt(survivors)` if they are
            orthogonal.

    Raises:
        PrivacyError: a number that must be positive is not.
    """
    if min(update_l2, survivors, dimension, noise_variance, alignment) <= 0:
        raise PrivacyError("a signal-to-noise ratio is of positive numbers")
    return alignment * survivors * update_l2 / math.sqrt(dimension * noise_variance)


def _skellam_rounds(bound: IntegerBound, noise_multiplier: float, rounds: int) -> dp_event.DpEvent:
    event: SkellamDpEvent = skellam_event(bound, (noise_multiplier * bound.l2) ** 2, 1)
    return repeated(event, rounds)
