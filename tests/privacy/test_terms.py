"""Terms: which combinations protect anybody, and what each observer gets to see."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from dp_accounting import NeighboringRelation, dp_event

from tacit.privacy.accounting import cost, costs_by_observer, replacement_costs_by_observer
from tacit.privacy.errors import PrivacyError
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.grid import IntegerBound
from tacit.privacy.terms import OBSERVERS, Cohort, GaussianNoise, GridNoise, RecordNoise, Sampling, Terms

BOUND = IntegerBound(dimension=1000, l2_squared=10_000)
SECRET_POISSON = Sampling(
    "poisson", 0.05, secret_entropy=True, fixed_denominator=True, sizes_unpublished=True, everyone_waited_for=True
)
DISTRIBUTED = Terms("client", "distributed", GridNoise(BOUND, 4000.0), 1e-5, 1.0, Cohort(20, 2))
CENTRAL = Terms("client", "central", GaussianNoise(2.0), 1e-5, 1.0, Cohort(20, 2))
LOCAL = Terms("client", "local", GaussianNoise(2.0), 1e-5, 1.0, Cohort(20, 2))
RECORDS = Terms("example", "local", RecordNoise(1.1, 0.01, 50), 1e-5, 1.0, Cohort(20, 2))


def variance(event: dp_event.DpEvent) -> float:
    assert isinstance(event, SkellamDpEvent)
    return event.variance


@pytest.mark.parametrize(
    ("unit", "place", "noise"),
    [
        ("example", "distributed", GridNoise(BOUND, 1.0)),
        ("example", "central", GaussianNoise(1.0)),
        ("client", "distributed", GaussianNoise(1.0)),
        ("client", "central", GridNoise(BOUND, 1.0)),
        ("client", "local", RecordNoise(1.0, 0.1, 1)),
        ("example", "local", GaussianNoise(1.0)),
        ("none", "local", GaussianNoise(1.0)),
        ("client", "elsewhere", GaussianNoise(1.0)),
    ],
)
def test_what_protects_nobody_is_refused_with_a_reason(unit: Any, place: Any, noise: Any) -> None:
    with pytest.raises(PrivacyError, match=r"unit|noise"):
        Terms(unit, place, noise, 1e-5, 1.0, Cohort(20))


def test_the_refusal_of_record_noise_elsewhere_says_what_to_choose() -> None:
    with pytest.raises(PrivacyError, match="choose noise local, or unit client"):
        Terms("example", "central", GaussianNoise(1.0), 1e-5, 1.0, Cohort(20))


@pytest.mark.parametrize("change", [{"delta": 0.0}, {"delta": 1.0}, {"l2_clip": 0.0}, {"l2_clip": math.inf}])
def test_a_delta_or_clip_without_meaning_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(PrivacyError):
        dataclasses.replace(CENTRAL, **change)


@pytest.mark.parametrize(("survivors", "colluders"), [(1, 0), (3, 2), (5, -1)])
def test_a_cohort_that_singles_a_client_out_is_refused(survivors: int, colluders: int) -> None:
    with pytest.raises(PrivacyError, match="single a client out"):
        Cohort(survivors, colluders)


def test_the_adjacency_follows_the_unit() -> None:
    assert DISTRIBUTED.adjacency is NeighboringRelation.REPLACE_SPECIAL
    assert RECORDS.adjacency is NeighboringRelation.ADD_OR_REMOVE_ONE


def test_distributed_noise_counts_the_survivors_less_the_colluders() -> None:
    assert variance(DISTRIBUTED.event_against("coordinator")) == 18 * 4000.0
    assert variance(DISTRIBUTED.event_against("coordinator", 25)) == 23 * 4000.0


def test_more_drop_outs_never_look_better() -> None:
    epsilons = [cost(DISTRIBUTED.event_against("coordinator", alive), 1e-5).epsilon for alive in range(20, 30)]
    assert epsilons == sorted(epsilons, reverse=True)


def test_too_few_survivors_are_never_accounted() -> None:
    with pytest.raises(PrivacyError, match="fewer than the 20"):
        DISTRIBUTED.event_against("coordinator", 19)


def test_a_fellow_client_knows_its_own_share_of_the_noise() -> None:
    alone = dataclasses.replace(DISTRIBUTED, cohort=Cohort(20, 0))
    assert variance(alone.event_against("coordinator")) == 20 * 4000.0
    assert variance(alone.event_against("fellow_clients")) == 19 * 4000.0
    assert variance(DISTRIBUTED.event_against("fellow_clients")) == 18 * 4000.0  # it may be one of the colluders


def test_central_noise_is_worth_nothing_against_the_coordinator() -> None:
    costs = costs_by_observer(CENTRAL, [20] * 3)
    assert costs["coordinator"].epsilon == math.inf
    assert costs["fellow_clients"].epsilon == costs["outsiders"].epsilon < 10


def test_local_noise_counts_the_same_against_everybody_whatever_the_cohort() -> None:
    grid = dataclasses.replace(LOCAL, noise=GridNoise(BOUND, 4000.0))
    for terms in (LOCAL, grid):
        assert len({terms.event_against(observer, alive) for observer in OBSERVERS for alive in (20, 30)}) == 1
    assert variance(grid.event_against("coordinator")) == 4000.0


def test_record_noise_is_amplified_by_the_clients_own_sampling_and_never_by_the_cohorts() -> None:
    sampled = dataclasses.replace(RECORDS, sampling=SECRET_POISSON)
    for observer in OBSERVERS:
        assert sampled.event_against(observer) == RECORDS.noise.event()  # type: ignore[union-attr]
    assert costs_by_observer(RECORDS, [20])["coordinator"].epsilon < cost(dp_event.GaussianDpEvent(1.1), 1e-5).epsilon


@pytest.mark.parametrize("terms", [DISTRIBUTED, CENTRAL])
def test_sampling_helps_against_outsiders_only(terms: Terms) -> None:
    plain, sampled = (
        costs_by_observer(dataclasses.replace(terms, sampling=sampling), [20] * 10)
        for sampling in (Sampling(), SECRET_POISSON)
    )
    assert sampled["coordinator"] == plain["coordinator"]
    assert sampled["fellow_clients"] == plain["fellow_clients"]
    assert sampled["outsiders"].epsilon < 0.5 * plain["outsiders"].epsilon


@pytest.mark.parametrize(
    "flaw",
    [
        {"kind": "fixed"},
        {"secret_entropy": False},
        {"fixed_denominator": False},
        {"sizes_unpublished": False},
        {"everyone_waited_for": False},
    ],
)
def test_one_broken_condition_is_enough_to_lose_amplification(flaw: dict[str, Any]) -> None:
    sampling = dataclasses.replace(SECRET_POISSON, **flaw)
    assert len(sampling.not_amplified_because()) == 1
    terms = dataclasses.replace(DISTRIBUTED, sampling=sampling)
    assert isinstance(terms.event_against("outsiders"), SkellamDpEvent)


def test_sampling_claims_nothing_by_default() -> None:
    assert Sampling().not_amplified_because()
    assert len(Sampling("poisson", 0.1).not_amplified_because()) == 4


def test_the_chance_of_an_abort_is_taken_off_delta() -> None:
    def outsiders(abort: float) -> float:
        sampling = dataclasses.replace(SECRET_POISSON, abort_probability=abort)
        return costs_by_observer(dataclasses.replace(DISTRIBUTED, sampling=sampling), [20] * 10)["outsiders"].epsilon

    event = dataclasses.replace(DISTRIBUTED, sampling=SECRET_POISSON).event_against("outsiders")
    assert outsiders(5e-7) == cost(dp_event.SelfComposedDpEvent(event, 10), 5e-6).epsilon > outsiders(0.0)
    unsampled = costs_by_observer(DISTRIBUTED, [20] * 10)["outsiders"].epsilon
    assert outsiders(2e-6) == unsampled  # nothing of delta is left for sampling: what holds without it still holds


def test_replacement_is_twice_the_sensitivity() -> None:
    halved = cost(dp_event.GaussianDpEvent(1.0), 1e-5).epsilon
    assert replacement_costs_by_observer(LOCAL, [20])["coordinator"].epsilon == pytest.approx(halved, abs=1e-3)
    zero_out, replacement = costs_by_observer(DISTRIBUTED, [20]), replacement_costs_by_observer(DISTRIBUTED, [20])
    for observer in OBSERVERS:
        assert replacement[observer].epsilon > 1.8 * zero_out[observer].epsilon


@pytest.mark.parametrize(("rate", "abort"), [(0.0, 0.0), (1.1, 0.0), (0.5, -0.1), (0.5, 1.1)])
def test_probabilities_outside_of_their_range_are_refused(rate: float, abort: float) -> None:
    with pytest.raises(PrivacyError):
        Sampling("poisson", rate, abort_probability=abort)


@pytest.mark.parametrize(("rate", "steps"), [(0.0, 1), (1.5, 1), (0.1, 0)])
def test_dp_sgd_without_steps_or_a_rate_is_refused(rate: float, steps: int) -> None:
    with pytest.raises(PrivacyError):
        RecordNoise(1.0, rate, steps)
