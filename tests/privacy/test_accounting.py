"""Epsilon against closed forms, numerical integration and two other accountants."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import attr
import mpmath
import numpy as np
import pytest
from dp_accounting import NeighboringRelation, dp_event, pld
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, special, stats

from tacit.privacy.accounting import (
    ERROR_SHARE,
    ORDERS,
    RenyiAccountant,
    cost,
    in_sequence,
    profile,
    repeated,
    sampled_skellam_rdp,
    skellam_rdp,
)
from tacit.privacy.errors import PrivacyError
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.grid import IntegerBound
from tacit.privacy.mechanisms import skellam_event

RECORDS = NeighboringRelation.ADD_OR_REMOVE_ONE
ZERO_OUT = NeighboringRelation.REPLACE_SPECIAL
REPLACE = NeighboringRelation.REPLACE_ONE
DELTA = 1e-5


def gaussian(noise_multiplier: float, rate: float = 1.0, steps: int = 1) -> dp_event.DpEvent:
    step: dp_event.DpEvent = dp_event.GaussianDpEvent(noise_multiplier)
    return repeated(step if rate == 1.0 else dp_event.PoissonSampledDpEvent(rate, step), steps)


def renyi(event: dp_event.DpEvent, delta: float = DELTA) -> float:
    return RenyiAccountant(RECORDS).compose(event).get_epsilon(delta)


def prv(noise_multiplier: float, rate: float, steps: int, delta: float = DELTA) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it chooses its domain by a Renyi bound that may end at its largest order
        return float(accountant.get_epsilon(delta))


# The numbers that must come out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "epsilon"),
    [
        (1.0, 1.0, 1, 4.3772),
        (4.0, 1.0, 16, 4.3772),
        (3.7306, 1.0, 1, 1.0),
        (4.0, 0.01, 10_000, 0.9470),
        (1.1, 256 / 60_000, 14_040, 2.3796),
        (0.7, 256 / 60_000, 10_530, 5.6351),
        (1.67465, 0.1, 100, 3.0),
    ],
)
def test_the_published_epsilons_come_out(noise: float, rate: float, steps: int, epsilon: float) -> None:
    spent = cost(gaussian(noise, rate, steps), DELTA, RECORDS)
    assert spent.accountant == "pld"
    assert spent.epsilon == pytest.approx(epsilon, abs=1e-4)


def test_the_three_accountants_differ_as_published() -> None:
    event = gaussian(4.0, 0.01, 10_000)
    assert renyi(event) == pytest.approx(1.0355, abs=1e-4)
    assert cost(event, DELTA, RECORDS).epsilon == pytest.approx(0.9470, abs=1e-4)
    assert prv(4.0, 0.01, 10_000) == pytest.approx(0.9569, abs=1e-4)


@pytest.mark.parametrize(
    ("rate", "steps", "noise"),
    [
        (0.004, 1000, 0.7),
        (0.02, 100, 0.7),
        (0.02, 1000, 1.0),
        (0.1, 10, 1.0),
        (0.1, 100, 1.0),
        (0.1, 100, 2.0),
        (0.1, 1000, 5.0),
        (0.3, 1, 1.0),
        (0.3, 10, 2.0),
        (0.3, 100, 5.0),
    ],
)
def test_loss_distributions_prv_and_renyi_bracket_each_other(rate: float, steps: int, noise: float) -> None:
    event = gaussian(noise, rate, steps)
    tight = cost(event, DELTA, RECORDS).epsilon
    assert 0.2 <= tight <= 10  # the range that is claimed
    other = prv(noise, rate, steps)
    assert tight <= other <= tight + 0.011
    assert other <= renyi(event) + 0.011


# Delta derived again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("adjacency", [RECORDS, ZERO_OUT])
def test_the_gaussian_epsilon_solves_its_closed_form(noise: float, steps: int, adjacency: NeighboringRelation) -> None:
    # Balle and Wang 2018: delta = Phi(m/2 - eps/m) - e^eps Phi(-m/2 - eps/m), m = sqrt(steps) / z
    distance = math.sqrt(steps) / noise

    def excess(epsilon: float) -> float:
        above = stats.norm.logcdf(distance / 2 - epsilon / distance)
        return float(np.exp(above) - np.exp(epsilon + stats.norm.logcdf(-distance / 2 - epsilon / distance)) - DELTA)

    exact = optimize.brentq(excess, 0.0, 200.0)
    spent = cost(gaussian(noise, 1.0, steps), DELTA, adjacency).epsilon
    assert exact <= spent + 1e-9
    assert spent == pytest.approx(exact, abs=1e-3)


def hockey_stick(rate: float, noise: float, epsilon: float, removed: bool) -> float:
    """Delta of two steps of the sampled Gaussian, by integrating both outputs over a square."""
    axis, width = np.linspace(-12 * noise, 1 + 12 * noise, 3001, retstep=True)
    without = stats.norm.pdf(axis, 0, noise)
    with_it = (1 - rate) * without + rate * stats.norm.pdf(axis, 1, noise)
    first, second = (with_it, without) if removed else (without, with_it)
    difference = np.outer(first, first)
    difference -= math.exp(epsilon) * np.outer(second, second)
    return float(np.maximum(difference, 0.0).sum() * width**2)


@pytest.mark.parametrize(("rate", "noise"), [(0.1, 1.0), (0.3, 2.0), (0.02, 0.8)])
def test_the_sampled_epsilon_agrees_with_integration_over_two_steps(rate: float, noise: float) -> None:
    spent = cost(gaussian(noise, rate, 2), DELTA, RECORDS).epsilon

    def worse(epsilon: float) -> float:
        return max(hockey_stick(rate, noise, epsilon, removed) for removed in (True, False))

    assert worse(spent) <= DELTA * 1.002
    assert worse(spent - 0.01) > DELTA


# Skellam --------------------------------------------------------------------------------------------------------------


def log_probabilities(variance: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return outcomes out to 20 sigma and their log-probabilities, by scaled Bessel functions."""
    reach = math.ceil(20 * math.sqrt(variance)) + 30
    half = np.log(special.ive(np.arange(reach + 1), variance))
    return np.arange(-reach, reach + 1), np.concatenate([half[:0:-1], half])


@pytest.mark.parametrize("variance", [0.5, 9.0, 100.0])
def test_what_the_next_tests_call_exact_agrees_with_thirty_digits(variance: float) -> None:
    outcomes, log_p = log_probabilities(variance)
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-13)
    with mpmath.workdps(30):
        for place in (0, len(outcomes) // 3, len(outcomes) // 2):
            exact = mpmath.log(mpmath.besseli(abs(int(outcomes[place])), variance)) - variance
            assert log_p[place] == pytest.approx(float(exact), rel=1e-12)


def exact_renyi(variance: float, shift: int, order: float) -> float:
    """Return the Renyi divergence of `Sk(variance)` shifted by `shift` from the unshifted one."""
    _, log_p = log_probabilities(variance)
    shifted, plain = log_p[:-shift], log_p[shift:]
    return float(np.logaddexp.reduce(order * shifted + (1 - order) * plain)) / (order - 1)


def exact_epsilon(variance: float, shift: int, delta: float) -> float:
    _, log_p = log_probabilities(variance)
    p, q = np.exp(log_p[:-shift]), np.exp(log_p[shift:])

    def excess(epsilon: float) -> float:
        return float(np.maximum(0.0, p - math.exp(epsilon) * q).sum()) - delta

    return optimize.brentq(excess, 0.0, 100.0) if excess(0.0) > 0 else 0.0


def one_dimensional(shift: int, variance: float) -> SkellamDpEvent:
    return SkellamDpEvent(float(shift), float(shift), variance)


@pytest.mark.parametrize("variance", [0.5, 2.0, 10.0, 100.0, 900.0])
@pytest.mark.parametrize("shift", [1, 2, 5, 20])
def test_the_accounted_divergence_is_never_below_the_exact_one(variance: float, shift: int) -> None:
    orders = (2.0, 3.0, 4.0, 8.0, 16.0, 32.0)
    bound = skellam_rdp(one_dimensional(shift, variance), orders)
    exact = [exact_renyi(variance, shift, order) for order in orders]
    assert np.all(bound >= np.array(exact) * (1 - 1e-9))


def test_the_bound_is_close_where_the_noise_is_wide() -> None:
    assert skellam_rdp(one_dimensional(20, 900.0), (4.0,))[0] == pytest.approx(exact_renyi(900.0, 20, 4.0), rel=0.05)


@pytest.mark.parametrize("shift", [1, 5, 20])
@pytest.mark.parametrize("survivors", [20, 22, 30])
@pytest.mark.parametrize("rounds", [1, 9])
def test_the_accounted_epsilon_is_never_below_the_exact_one_drop_outs_included(
    shift: int, survivors: int, rounds: int
) -> None:
    share, colluders = 0.6 * shift**2, 2
    event = skellam_event(IntegerBound(1, shift**2), share, survivors - colluders)
    accounted = cost(repeated(event, rounds), DELTA).epsilon
    # what the survivors' noise really hides, the colluders' subtracted; the rounds' sum is one way to attack them all
    exact = exact_epsilon(rounds * (survivors - colluders) * share, rounds * shift, DELTA)
    assert accounted >= exact > 0.1
    # and the test would notice if two drop-outs were counted as noise
    if rounds == 1:
        wrong = skellam_event(IntegerBound(1, shift**2), share, 3 * survivors)
        assert cost(wrong, DELTA).epsilon < exact


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("variance", [4.0, 100.0])
@pytest.mark.parametrize("shift", [1, 5])
def test_the_amplified_divergence_is_never_below_that_of_the_exact_mixture(
    rate: float, variance: float, shift: int
) -> None:
    orders = (2.0, 3.0, 5.0, 10.0)
    bound = sampled_skellam_rdp(one_dimensional(shift, variance), rate, orders)
    _, log_p = log_probabilities(variance)
    absent = log_p[shift:]
    mixed = np.logaddexp(math.log1p(-rate) + absent, math.log(rate) + log_p[:-shift])
    for first, second in ((mixed, absent), (absent, mixed)):
        exact = [np.logaddexp.reduce(order * first + (1 - order) * second) / (order - 1) for order in orders]
        assert np.all(bound >= np.array(exact) - 1e-12)


def test_zhu_and_wangs_bound_at_order_two_is_the_exact_formula() -> None:
    event, rate = one_dimensional(5, 100.0), 0.1
    unsampled = skellam_rdp(event, (2.0,))[0]
    # E[((1-q) + q p/p0)^2] = 1 + q^2 (exp(e(2)) - 1)
    assert sampled_skellam_rdp(event, rate, (2.0,))[0] == pytest.approx(math.log1p(rate**2 * math.expm1(unsampled)))


def test_zhu_and_wangs_bound_matches_its_sum_written_out() -> None:
    event, rate, order = one_dimensional(5, 100.0), 0.1, 6
    e = {inner: skellam_rdp(event, (float(inner),))[0] for inner in range(2, order + 1)}
    total = (1 - rate) ** (order - 1) * (order * rate - rate + 1)
    total += math.comb(order, 2) * rate**2 * (1 - rate) ** (order - 2) * math.exp(e[2])
    for inner in range(3, order + 1):
        weight = math.comb(order, inner) * (1 - rate) ** (order - inner) * rate**inner
        total += 3 * weight * math.exp((inner - 1) * e[inner])
    assert sampled_skellam_rdp(event, rate, (float(order),))[0] == pytest.approx(
        min(e[order], math.log(total) / (order - 1))
    )


@given(st.floats(0.001, 1.0), st.floats(0.5, 30.0))
@settings(deadline=None, max_examples=30)
def test_sampling_never_costs_more_than_taking_part(rate: float, noise: float) -> None:
    event = SkellamDpEvent(100.0, 1000.0, (100.0 * noise) ** 2)
    plain = skellam_rdp(event, ORDERS)
    assert np.all(sampled_skellam_rdp(event, rate, ORDERS) <= plain)


def test_the_ends_of_sampling_are_nothing_and_everything() -> None:
    event = one_dimensional(5, 100.0)
    assert np.all(sampled_skellam_rdp(event, 0.0, ORDERS) == 0)
    assert np.array_equal(sampled_skellam_rdp(event, 1.0, ORDERS), skellam_rdp(event, ORDERS))


def test_no_noise_is_infinite_and_no_contribution_is_free() -> None:
    assert np.all(np.isinf(skellam_rdp(SkellamDpEvent(1.0, 1.0, 0.0), ORDERS)))
    assert np.all(skellam_rdp(SkellamDpEvent(0.0, 0.0, 0.0), ORDERS) == 0)


def test_an_order_in_between_takes_the_next_whole_one() -> None:
    event = one_dimensional(2, 10.0)
    assert np.array_equal(skellam_rdp(event, (1.5, 2.0, 2.5)), skellam_rdp(event, (2.0, 2.0, 3.0)))


def test_replacement_doubles_skellam_sensitivities_and_is_not_amplified() -> None:
    event, doubled = SkellamDpEvent(10.0, 50.0, 2500.0), SkellamDpEvent(20.0, 100.0, 2500.0)
    assert cost(event, DELTA, REPLACE).epsilon == cost(doubled, DELTA, ZERO_OUT).epsilon
    assert cost(dp_event.PoissonSampledDpEvent(0.1, event), DELTA, REPLACE) == cost(event, DELTA, REPLACE)


def test_replacement_of_a_gaussian_contribution_halves_its_noise_multiplier() -> None:
    mixed = in_sequence([dp_event.GaussianDpEvent(4.0), one_dimensional(1, 100.0)])
    halved = in_sequence([dp_event.GaussianDpEvent(2.0), one_dimensional(2, 100.0)])
    assert cost(mixed, DELTA, REPLACE).epsilon == pytest.approx(cost(halved, DELTA, ZERO_OUT).epsilon)


# Samplers that err ------------------------------------------------------------------------------------------------


def test_a_samplers_error_is_paid_out_of_delta() -> None:
    exact = SkellamDpEvent(1.0, 1.0, 4.0)
    erring = attr.evolve(exact, total_variation=1e-12)
    assert cost(erring, DELTA).epsilon == cost(exact, DELTA * (1 - ERROR_SHARE)).epsilon > cost(exact, DELTA).epsilon
    accountant = RenyiAccountant().compose(erring, 3)
    assert accountant.total_variation == pytest.approx(3e-12)
    plain = RenyiAccountant().compose(exact, 3)
    assert accountant.get_delta(2.0) == pytest.approx(plain.get_delta(2.0) + (1 + math.exp(2.0)) * 3e-12)


def test_a_sampler_that_errs_more_than_delta_affords_guarantees_nothing() -> None:
    assert cost(SkellamDpEvent(1.0, 1.0, 4.0, total_variation=1e-7), DELTA).epsilon == math.inf
    assert cost(repeated(SkellamDpEvent(1.0, 1.0, 4.0, total_variation=1e-9), 100), DELTA).epsilon == math.inf


# The accountant's contract ----------------------------------------------------------------------------------------


ACCOUNTANTS: list[Callable[[], RenyiAccountant | pld.PLDAccountant]] = [
    lambda: RenyiAccountant(RECORDS),
    lambda: pld.PLDAccountant(RECORDS),
]


@pytest.mark.parametrize("fresh", ACCOUNTANTS)
def test_composition_does_not_depend_on_order_or_grouping(fresh: Callable[[], RenyiAccountant]) -> None:
    first, second = gaussian(2.0, 0.1), gaussian(3.0)
    ways = [
        fresh().compose(first, 5).compose(second, 2),
        fresh().compose(second).compose(first, 5).compose(second),
        fresh().compose(in_sequence([first] * 5 + [second] * 2)),
        fresh().compose(repeated(first, 5)).compose(dp_event.ComposedDpEvent([second, second])),
    ]
    epsilons = [way.get_epsilon(DELTA) for way in ways]
    assert epsilons == pytest.approx([epsilons[0]] * 4, abs=2e-3)


@pytest.mark.parametrize("fresh", ACCOUNTANTS)
def test_more_releases_never_cost_less_and_no_noise_is_infinite(fresh: Callable[[], RenyiAccountant]) -> None:
    accountant, spent = fresh(), [0.0]
    for _ in range(5):
        spent.append(accountant.compose(gaussian(3.0)).get_epsilon(DELTA))
    assert spent == sorted(spent) and len(set(spent)) == 6
    assert accountant.compose(dp_event.NonPrivateDpEvent()).get_epsilon(DELTA) == math.inf


@attr.s(frozen=True)
class HopefulDpEvent(dp_event.DpEvent):
    """An event that nobody here knows."""


def test_an_unknown_event_is_refused_by_name_and_nothing_of_its_company_is_added() -> None:
    accountant = RenyiAccountant().compose(dp_event.GaussianDpEvent(1.0))
    before = accountant.spent
    for event in (
        HopefulDpEvent(),
        dp_event.ComposedDpEvent([dp_event.GaussianDpEvent(1.0), HopefulDpEvent()]),
        dp_event.ComposedDpEvent([dp_event.GaussianDpEvent(1.0), dp_event.GaussianDpEvent(-1.0)]),
    ):
        with pytest.raises(PrivacyError, match=r"HopefulDpEvent|GaussianDpEvent: noise_multiplier"):
            accountant.compose(event)
    with pytest.raises(PrivacyError, match="HopefulDpEvent"):
        cost(HopefulDpEvent(), DELTA)
    assert np.array_equal(accountant.spent, before)


def test_a_known_event_in_an_unsupported_place_is_refused_before_anything_is_added() -> None:
    sampled_twice = dp_event.PoissonSampledDpEvent(0.1, gaussian(1.0, 0.1))
    accountant = RenyiAccountant()
    with pytest.raises(PrivacyError, match="PoissonSampledDpEvent of SelfComposedDpEvent of PoissonSampledDpEvent"):
        accountant.compose(dp_event.ComposedDpEvent([one_dimensional(1, 4.0), sampled_twice]))
    assert not accountant.spent.any()


def test_loss_distributions_are_used_exactly_where_every_event_has_one() -> None:
    skellam = one_dimensional(1, 4.0)
    assert cost(gaussian(1.0), DELTA).accountant == "pld"
    assert cost(skellam, DELTA).accountant == "rdp"
    mixed = cost(in_sequence([gaussian(1.0), skellam]), DELTA)
    assert mixed.accountant == "rdp" and mixed.order in ORDERS


def test_a_promise_too_weak_to_matter_is_not_computed_finely() -> None:
    weak = cost(gaussian(0.01), DELTA)
    assert weak.accountant == "rdp" and weak.epsilon > 4000


def test_the_profile_is_the_cost_at_every_delta() -> None:
    points = profile(gaussian(2.0), (1e-7, 1e-6, 1e-5), RECORDS)
    assert [point.delta for point in points] == [1e-7, 1e-6, 1e-5]
    assert points[0].epsilon > points[1].epsilon > points[2].epsilon == cost(gaussian(2.0), 1e-5, RECORDS).epsilon


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_says_nothing_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta"):
        cost(gaussian(1.0), delta)


def test_equal_neighbours_in_a_sequence_are_counted_instead_of_copied() -> None:
    event = in_sequence([gaussian(1.0)] * 1000 + [gaussian(2.0)])
    assert len(event.events) == 2 and event.events[0].count == 1000
