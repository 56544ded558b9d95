"""The accuracy that the bundled recipes promise, reached through the command that a person would type."""

import json
import os
from collections.abc import Iterator

import pytest
import torch

from .conftest import Tacit

needs_data = pytest.mark.skipif("TACIT_DATA" not in os.environ, reason="TACIT_DATA does not name the data's directory")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Give torch the number of threads back that it had: a run sets its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def metrics(tacit: Tacit, recipe: str, *settings: str) -> dict[str, float]:
    """Run a bundled recipe and return the test metrics of its final model."""
    options = [word for setting in settings for word in ("--set", setting)]
    outcome = tacit("simulate", recipe, "--format", "json", *options)
    assert outcome.code == 0, outcome.err
    found: dict[str, float] = json.loads(outcome.out)["metrics"]
    return found


# Without masks the sums are the same to the last bit, and there in a third of the time.
@pytest.mark.parametrize("mode", ["elided", pytest.param("real", marks=pytest.mark.slow)])
def test_fifty_owners_of_digits_learn_to_read_them(tacit: Tacit, mode: str) -> None:
    assert metrics(tacit, "demo", f"secure_aggregation.mode={mode}")["accuracy"] >= 0.88


def test_without_a_promise_they_learn_better(tacit: Tacit) -> None:
    settings = ["secure_aggregation.mode=elided", "privacy.unit=none"]
    assert metrics(tacit, "demo", *settings)["accuracy"] >= 0.92


@needs_data
@pytest.mark.slow
def test_employers_of_adults_learn_who_earns_more(tacit: Tacit) -> None:
    reached = metrics(tacit, "adult")
    assert reached["accuracy"] >= 0.845
    assert reached["auroc"] >= 0.90


@needs_data
@pytest.mark.slow
def test_ten_owners_of_unequal_wardrobes_learn_fashion(tacit: Tacit) -> None:
    assert metrics(tacit, "fashion")["accuracy"] >= 0.88


@needs_data
@pytest.mark.slow
def test_ten_owners_of_equal_wardrobes_learn_fashion_better(tacit: Tacit) -> None:
    assert metrics(tacit, "fashion", 'population.partition="iid"')["accuracy"] >= 0.89
