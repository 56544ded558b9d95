"""The recipes that come with the package: each says what it is, can be read anywhere, and trains."""

import math
import tomllib
from pathlib import Path

import pytest

from tacit.models.recipe import read_recipe
from tacit.server.store import open_store
from tacit.simulations import simulate
from tacit.simulations.recipes import BUNDLED

TEXTS = {
    entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
    for entry in BUNDLED.iterdir()
    if entry.name.endswith(".toml")
}
SELF_CONTAINED = sorted(name for name, text in TEXTS.items() if "${" not in text)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_bundled_recipe_is_named_as_its_file_and_begins_with_what_it_is(name: str) -> None:
    assert TEXTS[name].startswith("# ")
    assert read_recipe(name, bundled=BUNDLED).name == name


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_bundled_recipe_reads_data_from_the_environment_or_from_a_package(name: str) -> None:
    source = tomllib.loads(TEXTS[name])["data"]["source"]
    assert source.startswith(("sklearn:", "synthetic:")) or ":${TACIT_DATA}/" in source


@pytest.mark.parametrize("name", SELF_CONTAINED)
def test_a_bundled_recipe_trains(name: str, tmp_path: Path) -> None:
    db = str(tmp_path / "tacit.db")
    finished = simulate(
        name,
        ["training.rounds=2"],
        out=tmp_path / "run",
        db=db,
        models=tmp_path / "models",
        on_round=lambda report: None,
    )
    assert finished.summary["rounds_completed"] == 2
    assert finished.metrics
    assert all(map(math.isfinite, finished.metrics.values()))
    assert finished.report.is_file()
    with open_store(db, create=False) as store:
        assert [model.name for model in store.list_models()] == [name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "at_least"),
    [("wine", "accuracy", 0.9), ("breast_cancer", "accuracy", 0.94), ("diabetes", "r2", 0.3)],
)
def test_a_small_recipe_learns_what_it_is_about(name: str, metric: str, at_least: float, tmp_path: Path) -> None:
    finished = simulate(name, out=tmp_path / "run", db=str(tmp_path / "tacit.db"), models=tmp_path / "models")
    assert finished.metrics[metric] >= at_least
