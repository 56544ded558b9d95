"""What masks cost in accuracy: nothing that anybody could measure, on images and on targets of any size."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tacit.models.recipe import parse_recipe
from tacit.simulations import simulate

pytestmark = pytest.mark.slow

DIGITS = """
name = "digits"
seed = 1
task.kind = "image-classification"
data.source = "sklearn:digits"
population.clients = 10
population.partition = "dirichlet"
model.name = "mlp"
training.rounds = 8
training.local_epochs = 2
training.learning_rate = 0.1
"""
TARGETS = """
name = "targets"
seed = 1
task.kind = "tabular-regression"
data.source = "csv:rows.csv"
data.label = "y"
population.clients = 8
model.name = "mlp"
training.rounds = 15
training.local_epochs = 3
"""


def metrics(text: str, masked: bool) -> dict[str, float]:
    recipe = parse_recipe(text, [f"secure_aggregation.enabled={str(masked).lower()}"])
    return dict(simulate(recipe, out=Path(f"runs/{recipe.name}-{masked}")).metrics)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TACIT_DB", raising=False)


def test_digits_are_told_apart_as_well_with_masks_as_without() -> None:
    plain, masked = (metrics(DIGITS, on) for on in (False, True))
    assert plain["accuracy"] > 0.9
    assert masked["accuracy"] == pytest.approx(plain["accuracy"], abs=0.003)  # one picture of 359
    assert masked["loss"] == pytest.approx(plain["loss"], rel=1e-4)


@pytest.mark.parametrize("unit", [1e6, 1e-6])
def test_targets_and_columns_of_any_size_are_learned_as_well_with_masks_as_without(unit: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 4))
    targets = unit * (3 + rows @ [1, 2, -1, 0.5] + 0.1 * rng.normal(size=600))
    with Path("rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "d", "y"])
        writer.writerows(np.column_stack([rows * [1, 1e-7, 1e5, 1], targets]).tolist())
    plain, masked = (metrics(TARGETS, on) for on in (False, True))
    assert plain["r2"] > 0.98
    assert masked["r2"] == pytest.approx(plain["r2"], abs=1e-4)
    assert masked["rmse"] == pytest.approx(plain["rmse"], rel=1e-3)
