"""Mechanisms: the value has the noise that the event claims, and refuses what the claim would not cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from scipy import stats

from tacit.privacy.errors import LocalProtocolError, PrivacyError
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.grid import IntegerBound, integer_bound, round_within
from tacit.privacy.mechanisms import (
    central_gaussian,
    honest_shares,
    local_gaussian,
    local_variance,
    skellam_event,
    skellam_share,
    standard_normals,
)
from tacit.privacy.randomness import Keystream, SeededRandomness, SystemRandomness

BOUND = IntegerBound(dimension=50_000, l2_squared=10_000)


def test_the_noise_of_all_survivors_adds_up_to_what_is_accounted_and_no_more_counts() -> None:
    survivors, colluders, target = 22, 2, 400.0
    share = local_variance(target, min_survivors=20, colluders=colluders)
    source = SeededRandomness(bytes(32))
    values = np.zeros(BOUND.dimension, dtype=np.int64)
    total = np.zeros(BOUND.dimension, dtype=np.int64)
    for client in range(survivors):
        shares = honest_shares(survivors, colluders)
        noised, event = skellam_share(values, BOUND, share, shares, Keystream(source.key("noise", client)))
        if client >= colluders:  # the colluders subtract their own
            total += noised
    assert event.variance == pytest.approx(400.0 * 20 / 18)
    error = 5 * math.sqrt(2 / BOUND.dimension)
    assert float(np.mean(total.astype(float) ** 2)) == pytest.approx(event.variance, rel=error)


def test_a_drop_out_down_to_the_least_number_of_survivors_leaves_the_target() -> None:
    share = local_variance(400.0, min_survivors=20, colluders=2)
    assert skellam_event(BOUND, share, honest_shares(20, 2)).variance == pytest.approx(400.0)


def test_the_event_carries_the_sensitivities_of_the_bound_and_the_error_of_every_draw() -> None:
    event = skellam_event(BOUND, 9.0, 4)
    assert (event.l2_sensitivity, event.l1_sensitivity, event.variance) == (100.0, 10_000.0, 36.0)
    assert 0 < event.total_variation == 4 * skellam_event(BOUND, 9.0, 1).total_variation < 1e-28


def test_the_share_hides_nothing_of_the_sum_it_is_unbiased() -> None:
    bound = integer_bound([1.0], [100.0], 4)
    values = np.array([50, -50, 0, 7])
    stream = Keystream(bytes(32))
    mean = np.mean([skellam_share(values, bound, 25.0, 1, stream)[0] for _ in range(4000)], axis=0)
    assert mean == pytest.approx(values, abs=5 * 5 / math.sqrt(4000))


def test_a_contribution_longer_than_its_bound_gets_no_noise_that_could_seem_to_protect_it() -> None:
    bound = IntegerBound(dimension=2, l2_squared=25)
    assert skellam_share(np.array([3, 4]), bound, 9.0, 1, Keystream(bytes(32)))[1].l2_sensitivity == 5.0
    for values in (np.array([3, 5]), np.array([1, 1, 1]), np.array([2**62, 2**62])):
        with pytest.raises(LocalProtocolError, match="longer than its bound"):
            skellam_share(values, bound, 9.0, 1, Keystream(bytes(32)))


@pytest.mark.parametrize(("survivors", "colluders"), [(3, 3), (2, 5), (5, -1), (0, 0)])
def test_noise_that_nobody_honest_makes_is_refused(survivors: int, colluders: int) -> None:
    with pytest.raises(PrivacyError, match="no noise that counts"):
        honest_shares(survivors, colluders)


def test_no_share_that_counts_is_no_event() -> None:
    with pytest.raises(PrivacyError, match="at least one share"):
        skellam_event(BOUND, 9.0, 0)


def test_central_noise_has_the_deviation_that_its_event_claims() -> None:
    total = np.full(1_000_000, 3.0)
    noised, event = central_gaussian(total, l2_clip=2.0, noise_multiplier=1.5, words=Keystream(bytes(32)))
    assert event == dp_event.GaussianDpEvent(1.5)
    assert 0.9931 <= float(np.var(noised - total)) / 9.0 <= 1.0069
    assert float(noised.mean()) == pytest.approx(3.0, abs=5 * 3 / 1000)


def test_the_normals_are_normal_and_finite_at_both_ends_of_the_words() -> None:
    draws = standard_normals(Keystream(bytes(32)), 200_000)
    assert stats.kstest(draws, "norm").pvalue > 1e-4

    class Ends:
        def words64(self, count: int) -> np.ndarray:
            return np.resize(np.array([0, 2**64 - 1], dtype=np.uint64), count)

    assert np.isfinite(standard_normals(Ends(), 4)).all()


def test_local_noise_clips_first() -> None:
    update = np.full(10_000, 7.0)
    noised, event = local_gaussian(update, l2_clip=1.0, noise_multiplier=0.5, words=Keystream(bytes(32)))
    assert event == dp_event.GaussianDpEvent(0.5)
    assert float(noised.mean()) == pytest.approx(1.0 / 100, abs=5 * 0.5 / 100)


@pytest.mark.parametrize(("clip", "noise"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)])
def test_noise_of_no_or_every_size_is_refused(clip: float, noise: float) -> None:
    with pytest.raises(PrivacyError):
        central_gaussian(np.zeros(3), clip, noise, Keystream(bytes(32)))


def test_a_sum_that_is_not_finite_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        central_gaussian(np.array([math.nan]), 1.0, 1.0, Keystream(bytes(32)))


def test_two_clients_with_system_entropy_never_share_noise() -> None:
    values = np.zeros(BOUND.dimension, dtype=np.int64)
    first, second = (
        skellam_share(values, BOUND, 100.0, 1, Keystream(SystemRandomness().key("noise", 0)))[0] for _ in range(2)
    )
    assert abs(float(np.corrcoef(first, second)[0, 1])) < 7 / math.sqrt(BOUND.dimension)  # drawn anew in each run


def test_the_whole_path_from_update_to_noised_integers_keeps_to_its_event() -> None:
    bound = integer_bound([1.0, 0.5], [200.0, 100.0], 1001)
    update = np.random.default_rng(0).normal(size=1000)
    scaled = np.append(update / np.linalg.norm(update) * 200.0, 50.0)
    rounded = round_within(scaled, bound, Keystream(bytes(32)))
    noised, event = skellam_share(rounded, bound, 16.0, 3, Keystream(bytes([1]) * 32))
    assert isinstance(event, SkellamDpEvent)
    assert np.linalg.norm(rounded) <= event.l2_sensitivity
    assert 0 < np.abs(noised - rounded).max() < 4 * 8
