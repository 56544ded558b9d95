"""Statements of runs that started from an earlier model."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tacit.server.lineage import with_lineage
from tacit.server.store.records import ModelVersion

STATEMENT: dict[str, Any] = {
    "unit": "client",
    "epsilon": 2.0,
    "epsilon_fellow_clients": 2.5,
    "epsilon_outsiders": 1.0,
    "delta": 1e-5,
    "hypothetical": False,
    "reproducible_noise": False,
    "sentence": "A promise.",
}


def earlier(privacy: dict[str, Any]) -> ModelVersion:
    return ModelVersion(
        name="m", version=3, digest="ab" * 32, run="r", round=1, metrics={}, details={"privacy": privacy}, files={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def test_what_two_runs_cost_whoever_was_in_both_adds_up() -> None:
    said = with_lineage(STATEMENT, earlier(STATEMENT | {"epsilon": 3.0}))
    assert said["epsilon"] == 5.0 and said["epsilon_outsiders"] == 2.0 and said["delta"] == pytest.approx(2e-5)
    assert said["alone"] == {
        "epsilon": 2.0,
        "epsilon_fellow_clients": 2.5,
        "epsilon_outsiders": 1.0,
        "delta": 1e-5,
    }
    assert "It started from m@3: epsilon is 5 at delta 2e-05" in said["sentence"]
    assert said["started_from"]["model"] == "m@3"


def test_a_number_that_either_lacks_is_no_number() -> None:
    said = with_lineage(STATEMENT, earlier(STATEMENT | {"epsilon": None}))
    assert said["epsilon"] is None and said["epsilon_outsiders"] == 2.0
    assert "epsilon is 2 at" in said["sentence"]


@pytest.mark.parametrize(
    "before",
    [{}, {"unit": "none"}, STATEMENT | {"unit": "example"}, STATEMENT | {"reproducible_noise": True}],
)
def test_a_model_that_promised_nothing_like_it_is_named_and_not_added(before: dict[str, Any]) -> None:
    said = with_lineage(STATEMENT, earlier(before))
    assert said["epsilon"] == 2.0 and "does not cover" in said["sentence"]


def test_what_was_hypothetical_stays_so() -> None:
    assert with_lineage(STATEMENT, earlier(STATEMENT | {"hypothetical": True}))["hypothetical"] is True


def test_without_a_promise_the_origin_is_named_all_the_same() -> None:
    said = with_lineage(STATEMENT | {"unit": "none"}, earlier(STATEMENT))
    assert said["started_from"]["epsilon"] == 2.0 and said["sentence"] == "A promise."
