"""The integer grid of distributed noise: how large a rounded contribution can be, and rounding that keeps to it.

A contribution is a vector of blocks, block `b` clipped to `C_b` in L2 and multiplied by `s_b`. Rounding to integers can
make it longer; what the noise must cover is the length of the integers, so that is bounded, checked and accounted
(Kairouz, Liu, Steinke 2021, "The distributed discrete Gaussian mechanism"; Agarwal, Kairouz, Liu 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import LocalProtocolError, PrivacyError
from tacit.privacy.skellam import Words

ROUNDING_BIAS: Final = math.exp(-0.5)
"""Beta: at most this share of roundings is refused and drawn again."""

_MAX_ATTEMPTS: Final = 200  # beta^200 is below 2^-144
_CHUNK: Final = 1 << 16


@dataclass(frozen=True)
class IntegerBound:
    """What every integer contribution `v` of shape `(dimension,)` satisfies: `sum v^2 <= l2_squared`.

    The L1 norm follows: `|v|_1 <= |v|_2 sqrt(dimension)`, and `|v|_1 <= |v|_2^2` because the entries are integers.
    """

    dimension: int
    l2_squared: int

    def __post_init__(self) -> None:
        """Refuse a bound that no vector or every vector satisfies."""
        if self.dimension < 1 or self.l2_squared < 1:
            raise PrivacyError(
                f"an integer bound needs a dimension and a squared length of at least 1, "
                f"not {self.dimension} and {self.l2_squared}"
            )

    @property
    def l2(self) -> float:
        """Return D2, the L2 sensitivity in integer units under zero-out adjacency."""
        return math.sqrt(self.l2_squared)

    @property
    def l1(self) -> float:
        """Return D1 = D2 min(sqrt(dimension), D2), the L1 sensitivity in integer units under zero-out adjacency."""
        return self.l2 * min(math.sqrt(self.dimension), self.l2)

    def holds_for(self, values: NDArray[np.int64]) -> bool:
        """Say whether `values` has the right shape and keeps to the bound; the sum is exact, whatever the values."""
        return values.shape == (self.dimension,) and sum_of_squares_at_most(values, self.l2_squared)


def integer_bound(l2_clips: Sequence[float], scales: Sequence[float], dimension: int) -> IntegerBound:
    """Return the bound for blocks clipped to `l2_clips` and scaled by `scales`, `dimension` coordinates in all.

    With `S^2 = sum (s_b C_b)^2`: `D2 = min(S + sqrt d, sqrt(S^2 + d/4 + sqrt(2 ln(1/beta)) (S + sqrt(d)/2)))` at
    `beta = e^-1/2`. The first always holds; stochastic rounding exceeds the second with a probability of at most beta,
    and is then drawn again (Kairouz, Liu, Steinke 2021). Both may be rounded as floats are, because the integers are
    checked against the very number that is accounted.

    Raises:
        PrivacyError: no blocks, blocks and scales that do not match, or a clip or scale that is not positive.
    """
    if not l2_clips or len(l2_clips) != len(scales):
        raise PrivacyError(f"each block has a clip and a scale: {len(l2_clips)} clips, {len(scales)} scales")
    if not all(0.0 < number < math.inf for number in (*l2_clips, *scales)):
        raise PrivacyError("clips and scales are positive and finite")
    length = math.hypot(*(scale * clip for scale, clip in zip(scales, l2_clips, strict=True)))
    root = math.sqrt(dimension)
    always = (length + root) ** 2
    likely = length**2 + dimension / 4 + math.sqrt(2 * math.log(1 / ROUNDING_BIAS)) * (length + root / 2)
    return IntegerBound(dimension, math.floor(min(always, likely)))


def fine_enough_length(dimension: int, overhead: float = 0.01) -> float:
    """Return the smallest scaled length L at which rounding adds at most `overhead` to the sensitivity.

    Solves `L^2 + d/4 + L + sqrt(d)/2 = (1 + overhead)^2 L^2`; an L2 clip C then wants the scale `L / C`. A finer grid
    costs bits and buys nothing: noise grows with the grid.

    Raises:
        PrivacyError: the dimension is below 1 or the overhead is not positive.
    """
    if dimension < 1 or not overhead > 0.0:
        raise PrivacyError("a grid is for at least one coordinate and a positive overhead")
    spare = (1.0 + overhead) ** 2 - 1.0
    constant = dimension / 4.0 + math.sqrt(dimension) / 2.0
    return (1.0 + math.sqrt(1.0 + 4.0 * spare * constant)) / (2.0 * spare)


def round_within(scaled: NDArray[np.floating], bound: IntegerBound, words: Words) -> NDArray[np.int64]:
    """Round `scaled`, shape `(dimension,)`, to integers stochastically, again and again until the bound holds.

    Each coordinate becomes `floor(x + u)` with `u` uniform on `[0, 1)`: unbiased by itself. Conditioning on the bound
    moves the mean by at most `sqrt(dimension) beta / (1 - beta)` in L2, because no coordinate moves by more than one.
    The guarantee rests on the integers alone: whatever the input and the words, what is returned keeps to `bound`.

    Raises:
        LocalProtocolError: the shape is wrong, a value is not finite, or no rounding keeps to the bound, which means
            that the input was not clipped and scaled as the bound assumes.
    """
    if scaled.shape != (bound.dimension,):
        raise LocalProtocolError(f"the bound is for {bound.dimension} coordinates, the vector has shape {scaled.shape}")
    if not np.isfinite(scaled).all():
        raise LocalProtocolError("a contribution has a value that is not finite")
    if np.abs(scaled).max() > bound.l2 + 1.0:
        raise LocalProtocolError("a contribution is longer than it was clipped to")
    for _ in range(_MAX_ATTEMPTS):
        values = _round_once(scaled, words)
        if bound.holds_for(values):
            return values
    raise LocalProtocolError("a contribution is longer than it was clipped to: no rounding keeps to the bound")


def sum_of_squares_at_most(values: NDArray[np.int64], limit: int) -> bool:
    """Say whether `sum v^2 <= limit`, in exact arithmetic that no entry can overflow."""
    if not values.size:
        return limit >= 0
    largest = max(int(values.max()), -int(values.min()))
    if largest**2 > limit:
        return False
    # One piece's sum stays below 2^63, because no entry is larger than `largest`.
    piece = max(1, min(_CHUNK, ((1 << 63) - 1) // max(1, largest**2)))
    if largest**2 >= 1 << 63:
        return sum(int(value) ** 2 for value in values) <= limit
    return sum(int(np.dot(part, part)) for part in np.split(values, range(piece, values.size, piece))) <= limit


def _round_once(scaled: NDArray[np.floating], words: Words) -> NDArray[np.int64]:
    values = np.empty(scaled.size, dtype=np.int64)
    for start in range(0, scaled.size, _CHUNK):
        part = scaled[start : start + _CHUNK]
        uniform = (words.words64(part.size) >> np.uint64(11)) * 2.0**-53
        uniform += part
        values[start : start + part.size] = np.floor(uniform, out=uniform)
    return values
