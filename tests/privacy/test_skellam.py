"""The sampler against probabilities from two independent libraries, bit by bit and in bulk."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from tacit.privacy.errors import PrivacyError
from tacit.privacy.randomness import Keystream
from tacit.privacy.skellam import MAX_VARIANCE, SkellamSampler, draw_error, noise_bound, skellam_sampler


class Scripted:
    """Words that a test chose, in the order in which the sampler asks for them."""

    def __init__(self, words: list[int]) -> None:
        self.words = words

    def words64(self, count: int) -> NDArray[np.uint64]:
        taken, self.words = self.words[:count], self.words[count:]
        return np.array(taken, dtype=np.uint64)


def distribution_function(variance: float, k: int) -> int:
    """`2^128 P[X <= k]` by Bessel functions at 60 digits, the tails summed up to where nothing is left."""
    with mpmath.workdps(60):
        mu = mpmath.mpf(variance)
        lowest = -int(40 * math.sqrt(variance)) - 60
        below = mpmath.fsum(mpmath.exp(-mu) * mpmath.besseli(abs(j), mu) for j in range(lowest, k + 1))
        return int(mpmath.floor(below * mpmath.mpf(2) ** 128))


@pytest.mark.parametrize("variance", [0.25, 1.7, 9.0])
@pytest.mark.parametrize("k", [-12, -3, -1, 0, 1, 5])
def test_the_table_decides_at_the_exact_boundary_to_the_hundredth_bit_and_reads_a_second_word_for_it(
    variance: float, k: int
) -> None:
    sampler = SkellamSampler(variance)
    boundary = distribution_function(variance, k)
    margin = 1 << 28  # 128 bits less the 100 that are asked for
    below, above = divmod(boundary - margin, 1 << 64), divmod(boundary + margin, 1 << 64)
    # The first word alone cannot tell: both sides share it, so a script of one word a draw would be used up too early.
    assert below[0] == above[0]
    assert sampler.draw(Scripted([below[0], below[1]]), 1).tolist() == [k]
    assert sampler.draw(Scripted([above[0], above[1]]), 1).tolist() == [k + 1]


def test_several_ties_in_one_call_each_take_a_word_of_their_own() -> None:
    sampler = SkellamSampler(9.0)
    ties = [
        divmod(distribution_function(9.0, k) + side * (1 << 28), 1 << 64) for k, side in ((-2, -1), (0, 1), (4, -1))
    ]
    script = [upper for upper, _ in ties] + [lower for _, lower in ties]
    assert sampler.draw(Scripted(script), 3).tolist() == [-2, 1, 4]


def test_the_ends_of_the_range_of_words_are_the_ends_of_the_tails() -> None:
    sampler = SkellamSampler(9.0)
    assert sampler.draw(Scripted([0, 0]), 1)[0] < -13 * 3
    assert sampler.draw(Scripted([2**64 - 1, 2**64 - 1]), 1)[0] > 13 * 3
    assert sampler.reach > 13 * 3


@pytest.mark.parametrize("sigma", [1.0, 3.0, 30.0, 300.0, 3000.0])
def test_a_million_draws_fit_the_distribution_and_its_variance(sigma: float) -> None:
    count = 1_000_000
    draws = SkellamSampler(sigma**2).draw(Keystream(bytes([int(sigma) % 251]) * 32), count)
    assert 0.9931 <= float(np.mean(draws.astype(float) ** 2)) / sigma**2 <= 1.0069  # five sigma around one
    assert abs(float(draws.mean())) < 5 * sigma / math.sqrt(count)
    reach = math.ceil(6 * sigma)
    width = max(1, round(sigma / 10))
    edges = np.arange(-reach, reach + width, width)  # bin i holds edges[i] <= k < edges[i + 1]
    probabilities = np.add.reduceat(
        special.ive(np.abs(np.arange(edges[0], edges[-1])), sigma**2), edges[:-1] - edges[0]
    )
    kept = probabilities * count >= 10
    observed = np.histogram(draws, edges)[0][kept]
    rest = count - observed.sum()
    expected = probabilities[kept] * count
    statistic = float(((observed - expected) ** 2 / expected).sum()) + (rest - (count - expected.sum())) ** 2 / max(
        1.0, count - expected.sum()
    )
    freedom = int(kept.sum())
    assert freedom >= 10
    assert stats.chi2.sf(statistic, freedom) > 1e-5


def test_a_chi_square_of_this_size_notices_one_percent_too_little_noise() -> None:
    count, sigma = 1_000_000, 30.0
    draws = SkellamSampler((0.99 * sigma) ** 2).draw(Keystream(bytes(32)), count)
    assert not 0.9931 <= float(np.mean(draws.astype(float) ** 2)) / sigma**2 <= 1.0069


def test_the_same_key_repeats_the_noise_and_another_key_is_uncorrelated() -> None:
    sampler, count = skellam_sampler(900.0), 1_000_000
    first, again, other = (sampler.draw(Keystream(bytes([key]) * 32), count) for key in (1, 1, 2))
    assert np.array_equal(first, again)
    assert abs(float(np.corrcoef(first, other)[0, 1])) < 5 / math.sqrt(count)


def test_how_draws_are_cut_into_calls_does_not_change_them() -> None:
    sampler, stream = skellam_sampler(900.0), Keystream(bytes(32))
    pieces = [sampler.draw(stream, size) for size in (1, 65_535, 65_537, 0, 9)]
    whole = sampler.draw(Keystream(bytes(32)), sum(len(piece) for piece in pieces))
    assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 3000.0, 100_000.0])
def test_the_stated_error_is_small_enough_for_every_delta_that_matters(sigma: float) -> None:
    error = draw_error(sigma**2)
    draws = 1_000 * 10_000_000  # clients times coordinates
    assert error < 2.0**-100
    assert (1 + math.exp(8.0)) * draws * error < 1e-9 / 100


def test_the_stated_error_counts_at_least_the_rounding_of_every_outcome() -> None:
    sampler = SkellamSampler(9.0)
    assert sampler.total_variation >= (2 * sampler.reach) * 2.0**-128


@pytest.mark.parametrize("variance", [0.25, 9.0, 900.0])
@pytest.mark.parametrize("log2_failure", [-10.0, -40.0])
def test_the_noise_bound_holds_and_is_not_far_from_the_exact_quantile(variance: float, log2_failure: float) -> None:
    coordinates = 1000
    bound = noise_bound(variance, coordinates, log2_failure)

    def failure(x: int) -> float:
        outcomes = np.arange(x + 1, x + 400)
        return float(2 * coordinates * special.ive(outcomes, variance).sum())

    assert failure(bound) <= 2.0**log2_failure
    assert failure(math.floor(0.88 * bound) - 2) > 2.0**log2_failure


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf, 2 * MAX_VARIANCE])
def test_a_variance_without_a_table_is_refused(variance: float) -> None:
    with pytest.raises(PrivacyError, match="Skellam variance"):
        SkellamSampler(variance)
    with pytest.raises(PrivacyError, match="Skellam variance"):
        draw_error(variance)


def test_a_tiny_variance_is_nearly_always_zero() -> None:
    draws = SkellamSampler(1e-4).draw(Keystream(bytes(32)), 100_000)
    assert set(np.unique(draws)) <= {-1, 0, 1}
    assert 0 < np.count_nonzero(draws) < 40  # ten are expected
