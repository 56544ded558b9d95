"""Draws from the symmetric Skellam distribution that are exact to a stated error of less than 2^-100 each.

`Sk(mu)` is the difference of two Poisson variables of mean `mu / 2`: it has mean 0, variance `mu` and
`P[X = k] = exp(-mu) I_|k|(mu)` with the modified Bessel function `I`. The sum of independent `Sk(a)` and `Sk(b)` is
`Sk(a + b)`, which is why clients can share the noise of a sum (Agarwal, Kairouz, Liu 2021).

A draw compares a uniform 128-bit integer with a table of `floor(2^128 P[X <= k])`. The first 64 bits decide unless they
equal an entry's upper half, and only then is a second word read. Almost every first word falls into a cell, given by
its leading bits, that one outcome fills alone: a guide table answers those, and a binary search the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import PrivacyError

MAX_VARIANCE: Final = float(1 << 34)  # sigma 131,072: the table takes 60 MB and 3 s; a smaller scale does the same

_CUT_BITS: Final = 150  # the table ends where a single outcome has less than 2^-150
_WORK_BITS: Final = 200  # size of the smallest number of the recurrence
_UNDECIDED: Final = np.int32(-(1 << 31))
_CHUNK: Final = 1 << 16  # 512 KiB of words: hides the call, stays near the cache


class Words(Protocol):
    """A source of independent 64-bit words, such as `tacit.privacy.randomness.Keystream`."""

    def words64(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` words, each uniform on `[0, 2^64)`."""
        ...


class SkellamSampler:
    """Draws from `Sk(variance)`.

    Guarantee: with uniform words every draw is within `total_variation` of `Sk(variance)` in total variation, tails
    included. `d` draws that an `(epsilon, delta)` claim rests on cost it `(1 + e^epsilon) d total_variation` in delta.
    The words come from AES-256 in counter mode; beyond this bound the claim is as good as that cipher.

    The number of draws that need the binary search depends on the draws, so the running time of one call does too: it
    shows how many draws of a whole vector fell near a boundary, never which. The table has no other secret.

    Edge cases: a tiny variance gives mostly zeros, exactly as often as it should; a draw never exceeds `reach`.

    Args:
        variance: the variance `mu` in squared integer units, in `(0, MAX_VARIANCE]`.

    Raises:
        PrivacyError: the variance is not in that range.
    """

    def __init__(self, variance: float) -> None:
        """Build the table: about 1 ms at sigma 30, 60 ms at sigma 3000."""
        _check(variance)
        self.variance = float(variance)
        self.total_variation = draw_error(self.variance)
        self.reach = _reach(self.variance)
        halves = [divmod(entry, 1 << 64) for entry in _cumulative(self.variance, self.reach)]
        self._upper = np.array([upper for upper, _ in halves], dtype=np.uint64)
        self._lower = np.array([lower for _, lower in halves], dtype=np.uint64)
        self._shift, self._guide = _guide(self._upper, self.reach, self.variance)

    def draw(self, words: Words, count: int) -> NDArray[np.int64]:
        """Draw `count` independent values, shape `(count,)`; the words that are read are used up."""
        values = np.empty(count, dtype=np.int64)
        for start in range(0, count, _CHUNK):
            stop = min(start + _CHUNK, count)
            values[start:stop] = self._draw_chunk(words, stop - start)
        return values

    def _draw_chunk(self, words: Words, count: int) -> NDArray[np.int32]:
        first = words.words64(count)
        values = self._guide.take((first >> self._shift).view(np.int64))
        open_draws = np.flatnonzero(values == _UNDECIDED)
        if len(open_draws):
            searched = first[open_draws]
            passed = np.searchsorted(self._upper, searched, side="right")
            before = np.searchsorted(self._upper, searched, side="left")
            for tie in np.flatnonzero(passed != before):
                second = words.words64(1)
                span = slice(before[tie], passed[tie])
                passed[tie] = before[tie] + np.searchsorted(self._lower[span], second[0], side="right")
            values[open_draws] = passed - self.reach
        return values


@lru_cache(maxsize=8)
def skellam_sampler(variance: float) -> SkellamSampler:
    """Return the sampler of this variance; the last eight tables are kept, as the clients of a round share one."""
    return SkellamSampler(variance)


def draw_error(variance: float) -> float:
    """Return a bound on the total variation distance between one draw and `Sk(variance)`.

    It adds what the rounding of the table to 128 bits moves (at most 2^-128 an outcome), what the cut tails hold and
    what ending the recurrence there disturbs (see `_cumulative`), and the recurrence's own rounding.
    """
    _check(variance)
    reach = _reach(variance)
    return (2 * reach + 2) * (2.0**-128 + 2.0 * math.exp(_log_tail(variance, reach + 1)) + 2.0**-160)


def noise_bound(variance: float, coordinates: int, log2_failure: float = -40.0) -> int:
    """Return an `x` that none of `coordinates` draws of `Sk(variance)` exceeds in size but with 2^log2_failure.

    Chernoff: `P[|X| >= k] <= 2 exp(mu (cosh t - 1) - k t)` at `t = asinh(k / mu)`, and a union bound.
    """
    if coordinates < 1:
        raise PrivacyError(f"a noise bound is over at least one coordinate, not {coordinates}")
    return _first_below(variance, log2_failure * math.log(2.0) - math.log(2.0 * coordinates))


def _check(variance: float) -> None:
    if not 0.0 < variance <= MAX_VARIANCE:
        raise PrivacyError(f"a Skellam variance is in (0, 2^34] squared integer units, not {variance!r}")


def _log_tail(variance: float, k: int) -> float:
    """Return Chernoff's bound on `ln P[X >= k]`, written so that it does not cancel for `k` far below the variance."""
    ratio = k / variance
    return k * (ratio / (math.hypot(1.0, ratio) + 1.0) - math.asinh(ratio))


def _first_below(variance: float, log_probability: float) -> int:
    """Return the smallest `k >= 1` whose Chernoff bound is below `log_probability`."""
    high = 1
    while _log_tail(variance, high) >= log_probability:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if _log_tail(variance, middle) < log_probability:
            high = middle
        else:
            low = middle
    return high


def _reach(variance: float) -> int:
    return _first_below(variance, -_CUT_BITS * math.log(2.0))


def _cumulative(variance: float, reach: int) -> Iterator[int]:
    """Yield `floor(2^128 P[X <= k])` for `k` from `-reach` to `reach - 1`, in exact integers.

    Miller's algorithm: `I_(k-1) = I_(k+1) + (2 k / mu) I_k` run downwards from `f_(M+1) = 0`, `f_M = 2^200`, and
    normalised by `f_0 + 2 sum f_k`, as probabilities sum to one. The start adds `p_(M+1) K_k / K_(M+1) <= p_(M+1)` to
    outcome `k` (`K` grows with its order), so the error is below `2 (M + 1) p_(M+1)` in all. All terms are positive, so
    a rounding at `k` moves what follows by a factor of at most `1 + 1 / f_(k-1)`; `f_(k-1) >= f_(k+1)` keeps every term
    above `2^200 min(1, 2 M / mu) > 2^180`, and `M` roundings stay below 2^-160.
    """
    numerator, denominator = variance.as_integer_ratio()
    weights = [0] * (reach + 2)
    weights[reach] = 1 << _WORK_BITS
    for k in range(reach, 0, -1):
        weights[k - 1] = weights[k + 1] + weights[k] * (2 * k * denominator) // numerator
    total = weights[0] + 2 * sum(weights[1:])
    below = 0
    for k in range(-reach, reach):
        below += weights[abs(k)]
        yield (below << 128) // total


def _guide(upper: NDArray[np.uint64], reach: int, variance: float) -> tuple[np.uint64, NDArray[np.int32]]:
    """Return a shift and, for each value of a word's leading bits, the one outcome possible or `_UNDECIDED`."""
    bits = min(20, max(12, 10 + math.ceil(math.log2(variance) / 2)))
    shift = np.uint64(64 - bits)
    first = np.arange(1 << bits, dtype=np.uint64) << shift
    last = first + np.uint64((1 << (64 - bits)) - 1)
    lowest = np.searchsorted(upper, first, side="left")  # "left": a word equal to an entry is a tie, never decided here
    highest = np.searchsorted(upper, last, side="right")
    return shift, np.where(lowest == highest, lowest - reach, _UNDECIDED).astype(np.int32)
