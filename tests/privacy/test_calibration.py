"""Calibration: the noise that is found meets its target, and a little less would not."""

from __future__ import annotations

import math

import pytest
from dp_accounting import NeighboringRelation, dp_event

from tacit.privacy.accounting import cost, repeated
from tacit.privacy.calibration import (
    epsilon_by_round,
    last_round,
    signal_to_noise,
    skellam_variance,
    smallest_noise,
    smallest_noise_within,
    with_spare,
)
from tacit.privacy.errors import PrivacyError
from tacit.privacy.filters import renyi_filter
from tacit.privacy.grid import integer_bound
from tacit.privacy.mechanisms import honest_shares, local_variance, skellam_event

RECORDS = NeighboringRelation.ADD_OR_REMOVE_ONE
BOUND = integer_bound([1.0], [500.0], 1000)


def sampled(noise_multiplier: float) -> dp_event.DpEvent:
    return repeated(dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(noise_multiplier)), 100)


def test_the_published_noise_for_epsilon_one_comes_out() -> None:
    assert smallest_noise(dp_event.GaussianDpEvent, 1.0, 1e-5, RECORDS) == pytest.approx(3.7306, abs=1e-4)


def test_the_published_noise_for_a_hundred_sampled_steps_comes_out_and_is_on_the_safe_side() -> None:
    noise = smallest_noise(sampled, 3.0, 1e-5, RECORDS, tolerance=1e-5)
    assert noise == pytest.approx(1.67465, abs=2e-5)
    assert cost(sampled(noise), 1e-5, RECORDS).epsilon <= 3.0


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("rounds", [1, 22])
def test_skellam_noise_meets_its_target_and_a_thousandth_less_does_not(epsilon: float, rounds: int) -> None:
    variance = skellam_variance(BOUND, rounds, epsilon, 1e-5)
    assert cost(repeated(skellam_event(BOUND, variance, 1), rounds), 1e-5).epsilon <= epsilon
    assert cost(repeated(skellam_event(BOUND, variance * 0.998, 1), rounds), 1e-5).epsilon > epsilon


def test_the_shares_of_the_fewest_survivors_reach_the_calibrated_noise() -> None:
    target = skellam_variance(BOUND, with_spare(20), 8.0, 1e-5)
    share = local_variance(target, min_survivors=40, colluders=5)
    event = repeated(skellam_event(BOUND, share, honest_shares(40, 5)), 22)
    assert cost(event, 1e-5).epsilon == pytest.approx(8.0, rel=1e-4)


def test_noise_that_costs_nothing_worth_having_is_as_small_as_it_gets() -> None:
    assert smallest_noise(lambda z: dp_event.GaussianDpEvent(1e9 * z), 1.0, 1e-5) == 2.0**-10


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_a_target_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(PrivacyError, match="target epsilon"):
        smallest_noise(dp_event.GaussianDpEvent, epsilon, 1e-5)


def test_a_target_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(PrivacyError, match="no noise reaches"):
        smallest_noise(lambda _: dp_event.NonPrivateDpEvent(), 1.0, 1e-5)
    with pytest.raises(PrivacyError, match="no noise stays"):
        smallest_noise_within(lambda _: dp_event.NonPrivateDpEvent(), renyi_filter(1.0, 1e-5))


def test_noise_for_a_stop_rule_is_let_through_to_the_end_and_a_little_less_is_not() -> None:
    stop_rule = renyi_filter(3.0, 1e-5, RECORDS)
    noise = smallest_noise_within(sampled, stop_rule)
    assert stop_rule.fits([sampled(noise)])
    assert not stop_rule.fits([sampled(noise * 0.9999)])
    assert noise >= 1.67465  # one fixed order is never cheaper than the tightest accountant


def test_one_participation_in_ten_is_spare() -> None:
    assert [with_spare(count) for count in (1, 9, 10, 11, 20, 50)] == [2, 10, 11, 13, 22, 55]
    with pytest.raises(PrivacyError):
        with_spare(0)


def test_epsilon_grows_round_by_round_to_the_target() -> None:
    event = skellam_event(BOUND, skellam_variance(BOUND, 20, 8.0, 1e-5), 1)
    by_round = epsilon_by_round(event, range(1, 21), 1e-5)
    epsilons = [spent.epsilon for spent in by_round]
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] == pytest.approx(8.0, rel=1e-4)


@pytest.mark.parametrize("rounds", [1, 7, 64, 100])
def test_the_last_round_is_the_last_that_the_stop_rule_lets_through(rounds: int) -> None:
    stop_rule = renyi_filter(8.0, 1e-5)
    noise = smallest_noise_within(lambda z: repeated(dp_event.GaussianDpEvent(z), rounds), stop_rule)
    event = dp_event.GaussianDpEvent(noise)
    assert last_round(event, stop_rule) == rounds
    assert stop_rule.fits([repeated(event, rounds)]) and not stop_rule.fits([repeated(event, rounds + 1)])


def test_a_round_beyond_the_budget_never_begins_and_a_free_one_goes_on() -> None:
    stop_rule = renyi_filter(1.0, 1e-5)
    assert last_round(dp_event.GaussianDpEvent(0.5), stop_rule) == 0
    assert last_round(dp_event.NoOpDpEvent(), stop_rule, at_most=1000) == 1000


def test_the_signal_to_noise_ratio_is_length_over_length() -> None:
    # 100 equal updates of length 2 sum to 200; noise of variance 25 in 400 coordinates has length 100
    assert signal_to_noise(update_l2=2.0, survivors=100, dimension=400, noise_variance=25.0) == pytest.approx(2.0)
    orthogonal = signal_to_noise(update_l2=2.0, survivors=100, dimension=400, noise_variance=25.0, alignment=0.1)
    assert orthogonal == pytest.approx(0.2)
    with pytest.raises(PrivacyError):
        signal_to_noise(update_l2=2.0, survivors=0, dimension=400, noise_variance=25.0)


def test_the_plan_sees_that_a_small_cohort_drowns_a_large_model() -> None:
    # a 26,000-parameter network, 20 clients, epsilon 8 over 20 rounds against the coordinator: at chance
    bound = integer_bound([1.0], [1000.0], 26_000)
    variance = skellam_variance(bound, with_spare(20), 8.0, 1e-5) * 20 / 18
    drowned = signal_to_noise(
        update_l2=1000.0, survivors=20, dimension=26_000, noise_variance=variance, alignment=1 / math.sqrt(20)
    )
    assert drowned < 0.01
    # 50 clients and the 650 parameters of a logistic model: ten times above it, and it learns
    small = integer_bound([1.0], [1000.0], 650)
    learns = signal_to_noise(
        update_l2=1000.0,
        survivors=50,
        dimension=650,
        noise_variance=skellam_variance(small, with_spare(20), 8.0, 1e-5) * 50 / 45,
        alignment=0.5,
    )
    assert learns > 0.1
