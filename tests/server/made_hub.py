"""A coordinator that has finished a run, is in the middle of another, and has a recipe that waits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tacit.models.checkpoint import Artifact, write_artifact
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.features import fit
from tacit.models.recipe import parse_recipe
from tacit.models.statistics import statistics
from tacit.models.vector import layout_of, read_vector
from tacit.models.zoo.architecture import Architecture
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.filters import renyi_filter
from tacit.privacy.records import Entry
from tacit.server.backup import back_up
from tacit.server.checkpoints import Checkpoints, RunState
from tacit.server.coordinator_directory import CoordinatorDirectory, create, open_directory
from tacit.server.membership import invite
from tacit.server.population_ledger import PopulationLedger
from tacit.server.recorder import StoreRecorder
from tacit.server.registry import Registry
from tacit.server.reports import RoundReport
from tacit.server.restoring import Restored, restore
from tacit.server.run_queue import enqueue
from tacit.server.store import NewRun, Store, open_store

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=5)
RECIPE = parse_recipe(
    """
    name = "ward"
    task.kind = "tabular-classification"
    data.source = "csv:rows.csv"
    population.clients = 5
    privacy = { unit = "client", noise_multiplier = 1.5 }
    """
)


def artifact(path: Path, seed: int) -> Path:
    schema = Schema((Column("length", "numeric"),), "kind", ("short", "long"))
    rows = Rows({"length": np.arange(4.0)}, np.array([0, 0, 1, 1]))
    features = fit(schema, statistics(rows, schema))
    architecture = Architecture("mlp", "", features.input_shape, 2, {"hidden": [4]})
    model = architecture.build(seed)
    layout = layout_of(model)
    write_artifact(
        path,
        Artifact(architecture, layout, read_vector(model, layout), features, "tabular-classification"),
        "# Kinds\n",
    )
    return path


def begin(store: Store, directory: Path, name: str) -> StoreRecorder:
    path = directory / "runs" / name
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text(RECIPE.to_toml())
    store.create_run(NewRun(name, "ward", "tabular-classification", RECIPE.to_toml(), RECIPE.digest, str(path)))
    return StoreRecorder(store, name, Checkpoints(path / "checkpoints"))


def state(number: int) -> RunState:
    return RunState(number, b"{}", np.full(50, number, np.float32), best_round=number - number % 4)


def entry(number: int) -> Entry:
    event = SkellamDpEvent(100.0, 1000.0, 1e6, 1e-30)
    return Entry("second", number, 0, bytes(32), "Skellam", event, 1e-5, "own")


def ledger_of(directory: CoordinatorDirectory, store: Store) -> PopulationLedger:
    budgets = {"assured": renyi_filter(8.0, 1e-5)}
    return PopulationLedger.open(store, "wards", "client", budgets, directory.coordinator)


def make_hub(path: Path, artifacts: Path, now: datetime = NOW, **settings: str) -> CoordinatorDirectory:
    """Make a coordinator that has finished a run and is in the middle of another, with a third that waits."""
    directory = create(path, now, federation="wards", **settings)  # type: ignore[arg-type]
    with open_store(directory.db) as store:
        begin(store, path, "first")
        registry = Registry(store, directory.models)
        for seed in (1, 2):
            registry.register(artifact(artifacts / str(seed), seed), "ward", "first", 3, {"accuracy": 0.5}, {})
        registry.promote("ward", 2, "champion")
        store.finish_run("first", {"metrics": {"accuracy": 0.5}})
        recorder, ledger = begin(store, path, "second"), ledger_of(directory, store)
        for number in range(6):
            if number:
                ledger.reserve(entry(number))
                line = ledger.settle(entry(number).key)
            recorder.commit(RoundReport(number, 0, True, "", 1.0, ()), state(number), [line] if number else [])
            if number:
                ledger.committed(line)
        ledger.reserve(entry(6))
        invite(store, url=directory.settings.url, ca_der=directory.ca_der, name="north", expires_at=2**31, actor="test")
    enqueue(path, RECIPE, now)
    return directory


def rows(directory: CoordinatorDirectory) -> dict[str, object]:
    """Return what the store says."""
    with open_store(directory.db, create=False) as store:
        return {
            "runs": [(run.run, run.status, run.rounds_committed) for run in store.list_runs()],
            "rounds": {run.run: store.rounds(run.run) for run in store.list_runs()},
            "versions": store.list_versions("ward"),
            "champion": store.alias("ward", "champion"),
            "ledger": store.ledger_lines("wards", "client"),
            "open": [one.name for one in store.list_invitations() if one.revoked_at is None],
        }


def contents(path: Path) -> dict[str, bytes]:
    moving = ("tacit.db", "up.lock")
    found = (one for one in path.rglob("*") if one.is_file() and not one.name.startswith(moving))
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in found}


def restored(hub: CoordinatorDirectory, path: Path, **options: object) -> tuple[Restored, CoordinatorDirectory]:
    file = path.with_suffix(".backup")
    if not file.exists():
        back_up(hub, file, NOW)
    found = restore(file, path, LATER, **options)  # type: ignore[arg-type]
    return found, open_directory(path, LATER)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)
