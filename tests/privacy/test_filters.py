"""The stop rule: never later than any accountant would have it, and not much earlier."""

from __future__ import annotations

import math

import pytest
from dp_accounting import NeighboringRelation, dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.accounting import ORDERS, cost, repeated
from tacit.privacy.errors import PrivacyError
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.filters import RenyiFilter, Spending, renyi_filter

ZERO_OUT = NeighboringRelation.REPLACE_SPECIAL


def gaussian(noise_multiplier: float) -> dp_event.DpEvent:
    return dp_event.GaussianDpEvent(noise_multiplier)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-6), (8.0, 1e-5), (20.0, 1e-7)])
def test_the_order_lets_more_gaussian_noise_through_than_any_other(epsilon: float, delta: float) -> None:
    chosen = renyi_filter(epsilon, delta)
    usable = 0.99 * delta
    for order in ORDERS:
        limit = epsilon - math.log(1 - 1 / order) + math.log(usable * order) / (order - 1)
        assert limit / order <= chosen.limit / chosen.order + 1e-12


@given(st.lists(st.floats(1.0, 50.0), min_size=1, max_size=12), st.floats(0.5, 10.0))
@settings(deadline=None, max_examples=25)
def test_whatever_the_filter_lets_through_is_within_its_epsilon(noises: list[float], epsilon: float) -> None:
    stop_rule = renyi_filter(epsilon, 1e-5)
    let_through: list[dp_event.DpEvent] = []
    for noise in noises:
        if stop_rule.fits([*let_through, gaussian(noise)]):
            let_through.append(gaussian(noise))
    assert cost(dp_event.ComposedDpEvent(let_through), 1e-5).epsilon <= epsilon


def test_the_filter_wastes_little_against_accounting_at_all_orders() -> None:
    stop_rule = renyi_filter(8.0, 1e-5)
    event = SkellamDpEvent(500.0, 20_000.0, (10 * 500.0) ** 2)
    rounds = 0
    while stop_rule.fits([repeated(event, rounds + 1)]):
        rounds += 1
    assert cost(repeated(event, rounds), 1e-5).epsilon <= 8.0 < cost(repeated(event, rounds + 2), 1e-5).epsilon


def test_the_epsilon_of_a_full_budget_is_the_budget() -> None:
    stop_rule = renyi_filter(3.0, 1e-5)
    assert stop_rule.epsilon_of(Spending()) == 0.0
    assert stop_rule.epsilon_of(Spending(stop_rule.limit)) == pytest.approx(3.0)
    assert stop_rule.allows(Spending(stop_rule.limit))
    assert not stop_rule.allows(Spending(stop_rule.limit * (1 + 1e-9)))


def test_samplers_that_err_too_much_use_the_budget_up() -> None:
    stop_rule = renyi_filter(3.0, 1e-5)
    afforded = 0.01 * 1e-5 / (1 + math.exp(3.0))
    assert stop_rule.allows(Spending(0.0, afforded * 0.999))
    assert not stop_rule.allows(Spending(0.0, afforded * 1.001))
    assert stop_rule.epsilon_of(Spending(stop_rule.limit, 1e-3)) == math.inf


def test_no_noise_at_all_is_never_let_through() -> None:
    assert not renyi_filter(1e6, 1e-5).fits([dp_event.NonPrivateDpEvent()])


@pytest.mark.parametrize(
    ("epsilon", "delta", "order"),
    [(0.0, 1e-5, 4), (math.inf, 1e-5, 4), (1.0, 0.0, 4), (1.0, 1.0, 4), (1.0, 1e-5, 1), (1.0, 1e-5, 2)],
)
def test_a_budget_that_could_let_nothing_through_is_refused(epsilon: float, delta: float, order: int) -> None:
    with pytest.raises(PrivacyError):
        RenyiFilter(epsilon, delta, order, ZERO_OUT)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (1e-6, 1e-12), (math.nan, 1e-5), (1.0, 2.0)])
def test_an_epsilon_too_small_for_its_delta_has_no_filter(epsilon: float, delta: float) -> None:
    with pytest.raises(PrivacyError):
        renyi_filter(epsilon, delta)
