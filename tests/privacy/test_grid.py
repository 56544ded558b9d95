"""Rounding to the integer grid: the bound holds whatever comes in, and costs no more than it must."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.privacy.errors import LocalProtocolError, PrivacyError
from tacit.privacy.grid import IntegerBound, fine_enough_length, integer_bound, round_within, sum_of_squares_at_most
from tacit.privacy.randomness import Keystream


def scaled_vector(dimension: int, length: float, seed: int = 0) -> NDArray[np.float64]:
    vector = np.random.default_rng(seed).normal(size=dimension)
    return vector * (length / np.linalg.norm(vector))


class CountingWords:
    def __init__(self, key: int = 0) -> None:
        self.stream, self.taken = Keystream(bytes([key]) * 32), 0

    def words64(self, count: int) -> NDArray[np.uint64]:
        self.taken += count
        return self.stream.words64(count)


def test_the_bound_is_the_formula_of_the_paper() -> None:
    # S = 30 * 2, d = 100, beta = e^-1/2: sqrt(2 ln(1/beta)) = 1
    assert integer_bound([2.0], [30.0], 100).l2_squared == 60**2 + 25 + (60 + 5)


@given(st.floats(1.0, 1e5), st.integers(1, 10**8))
def test_the_bound_is_never_above_the_one_that_holds_without_drawing_again(length: float, dimension: int) -> None:
    assert integer_bound([length], [1.0], dimension).l2_squared <= (length + math.sqrt(dimension)) ** 2


@given(st.integers(1, 10**8), st.floats(0.001, 0.5))
def test_a_grid_is_as_coarse_as_the_overhead_allows_and_no_coarser(dimension: int, overhead: float) -> None:
    length = fine_enough_length(dimension, overhead)
    assert integer_bound([length], [1.0], dimension).l2 <= (1 + overhead) * length * (1 + 1e-9)
    coarser = 0.98 * length
    assert integer_bound([coarser], [1.0], dimension).l2_squared + 1 > ((1 + overhead) * coarser) ** 2


def test_a_million_coordinates_want_a_length_of_a_few_thousand_grid_steps() -> None:
    assert fine_enough_length(1_000_000) == pytest.approx(3555, abs=5)
    for dimension, overhead in ((0, 0.01), (10, 0.0), (10, math.nan)):
        with pytest.raises(PrivacyError):
            fine_enough_length(dimension, overhead)


def test_a_grid_too_coarse_for_anything_but_zero_is_refused() -> None:
    with pytest.raises(PrivacyError, match="at least 1"):
        integer_bound([1.0], [0.1], 1)


def test_blocks_add_up_as_the_sides_of_a_right_angle_do() -> None:
    assert integer_bound([2.0, 0.5], [30.0, 160.0], 100) == integer_bound([100.0], [1.0], 100)


def test_the_l1_sensitivity_is_the_smaller_of_its_two_bounds() -> None:
    assert IntegerBound(100, 400).l1 == 200.0  # 20 sqrt(100)
    assert IntegerBound(10_000, 400).l1 == pytest.approx(400.0)  # integers: |v| <= v^2


@given(st.integers(1, 200), st.floats(1.0, 1e4), st.integers(0, 2**32 - 1))
def test_whatever_is_rounded_keeps_to_the_bound(dimension: int, length: float, seed: int) -> None:
    bound = integer_bound([1.0], [length], dimension)
    rounded = round_within(
        scaled_vector(dimension, length * 0.999999, seed), bound, Keystream(seed.to_bytes(32, "big"))
    )
    assert int(sum(int(value) ** 2 for value in rounded)) <= bound.l2_squared
    assert int(np.abs(rounded).sum()) <= bound.l1 * (1 + 1e-12)


def test_rounding_goes_to_a_neighbour_and_is_right_on_average() -> None:
    vector = scaled_vector(50, 200.0)
    bound = integer_bound([1.0], [200.0], 50)
    stream = Keystream(bytes(32))
    rounded = np.array([round_within(vector, bound, stream) for _ in range(4000)])
    assert np.all((rounded == np.floor(vector)) | (rounded == np.floor(vector) + 1))
    # five standard errors of a Bernoulli mean, plus the bias that conditioning is allowed
    error = np.linalg.norm(rounded.mean(axis=0) - vector)
    assert error < 5 * math.sqrt(50 * 0.25 / 4000) + 0.05


def test_at_least_the_promised_share_of_roundings_is_kept_even_for_the_longest_vector() -> None:
    kept = 0
    bound = integer_bound([1.0], [100.0], 400)
    for seed in range(400):
        words = CountingWords(seed % 256)
        round_within(scaled_vector(400, 100.0, seed), bound, words)
        kept += words.taken == 400
    assert kept / 400 >= 1 - math.exp(-0.5)


def test_a_vector_longer_than_its_clip_is_never_rounded_within() -> None:
    bound = integer_bound([1.0], [100.0], 16)
    for vector in (scaled_vector(16, 140.0), np.r_[1000.0, np.zeros(15)]):
        with pytest.raises(LocalProtocolError, match="longer than it was clipped to"):
            round_within(vector, bound, Keystream(bytes(32)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_before_rounding(bad: float) -> None:
    words = CountingWords()
    with pytest.raises(LocalProtocolError, match="not finite"):
        round_within(np.array([1.0, bad]), integer_bound([1.0], [100.0], 2), words)
    assert words.taken == 0


def test_a_vector_of_another_shape_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="3 coordinates"):
        round_within(np.zeros(2), integer_bound([1.0], [1.0], 3), Keystream(bytes(32)))


@pytest.mark.parametrize(
    ("clips", "scales"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [math.nan]), ([math.inf], [1.0])]
)
def test_blocks_without_a_sensible_clip_and_scale_are_refused(clips: list[float], scales: list[float]) -> None:
    with pytest.raises(PrivacyError):
        integer_bound(clips, scales, 10)


@given(st.lists(st.integers(-(2**62), 2**62), max_size=40), st.integers(0, 2**130))
def test_sums_of_squares_are_exact_where_64_bits_would_overflow(values: list[int], limit: int) -> None:
    array = np.array(values, dtype=np.int64)
    assert sum_of_squares_at_most(array, limit) == (sum(value**2 for value in values) <= limit)


def test_the_sum_of_squares_is_compared_exactly_at_the_limit() -> None:
    values = np.full(200_000, 3_000_000, dtype=np.int64)
    total = 200_000 * 3_000_000**2
    assert sum_of_squares_at_most(values, total)
    assert not sum_of_squares_at_most(values, total - 1)
    assert not sum_of_squares_at_most(np.array([-(2**63)], dtype=np.int64), 2**126 - 1)
