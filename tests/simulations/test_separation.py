"""Nobody but a client's agent sees its rows, and nothing ever sees the rows of two clients together.

Every feature column of a whole simulation is replaced by one that knows which rows it holds and notes who reads it. It
is no array: what it does not offer cannot be called, so no reading goes unnoticed. Labels are plain: a simulation
divides the data by them, and says so.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tacit.models.data.rows import Column, Findings, Rows, Schema, Source
from tacit.models.features import statistics
from tacit.simulations import federation as federation_module
from tacit.simulations.simulation import Simulation, simulate

COUNT = 200
SCHEMA = Schema((Column("age", "numeric"), Column("income", "numeric"), Column("job", "categorical")), "y", ("n", "y"))


@dataclass(frozen=True)
class Reading:
    """Somebody looked at values: what was called, which rows it could see, and Tacit's modules, innermost first."""

    call: str
    rows: frozenset[int]
    modules: tuple[str, ...]


@dataclass
class Log:
    readings: list[Reading] = field(default_factory=list)
    takings: list[Reading] = field(default_factory=list)

    def note(self, into: list[Reading], call: str, rows: np.ndarray) -> None:
        modules, frame = [], sys._getframe(2)
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            if name.startswith("tacit.") and (not modules or modules[-1] != name):
                modules.append(name)
            frame = frame.f_back  # type: ignore[assignment]
        into.append(Reading(call, frozenset(rows.tolist()), tuple(modules)))


class WatchedColumn:
    """A column that knows its rows; its shape and type are public, everything else is noted."""

    def __init__(self, values: np.ndarray, rows: np.ndarray, log: Log) -> None:
        self._values, self._rows, self._log = values, rows, log
        self.dtype, self.shape, self.ndim = values.dtype, values.shape, values.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> "WatchedColumn":
        index = np.asarray(index)
        taken = WatchedColumn(self._values[index], self._rows[index], self._log)
        self._log.note(self._log.takings, "take", taken._rows)
        return taken

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._log.note(self._log.readings, "array", self._rows)
        return np.array(self._values, dtype=dtype)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        for one in inputs:
            if isinstance(one, WatchedColumn):
                one._log.note(one._log.readings, function.__name__, one._rows)
        plain = [one._values if isinstance(one, WatchedColumn) else one for one in inputs]
        return getattr(function, method)(*plain, **options)

    def __invert__(self) -> Any:
        return ~np.asarray(self)

    def sum(self, **options: Any) -> Any:
        self._log.note(self._log.readings, "sum", self._rows)
        return self._values.sum(**options)

    def tolist(self) -> list[Any]:
        self._log.note(self._log.readings, "tolist", self._rows)
        return self._values.tolist()


def watched_source(log: Log) -> Source:
    rng = np.random.default_rng(4)
    age, income = rng.normal(50, 20, COUNT), rng.normal(3, 1, COUNT)
    job = np.array(["nurse", "clerk", ""], dtype=object)[rng.integers(0, 3, COUNT)]
    labels = (age / 20 - income + rng.normal(size=COUNT) > -0.5).astype(np.int64)
    columns = {
        name: WatchedColumn(values, np.arange(COUNT), log)
        for name, values in {"age": age, "income": income, "job": job}.items()
    }
    return Source(SCHEMA, Rows(columns, labels), None, Findings(COUNT, 3, {"n": 100, "y": 100}))  # type: ignore[arg-type]


@dataclass
class Watched:
    log: Log
    owners: dict[int, str]
    finished: Simulation

    def owners_of(self, reading: Reading) -> set[str]:
        return {self.owners.get(row, "nobody") for row in reading.rows}

    def wrong(self) -> list[Reading]:
        """Return readings of several owners' rows, and those of a client's rows by somebody else than its agent."""
        found = []
        for reading in self.log.readings:
            owners = self.owners_of(reading)
            if len(owners) > 1 or (owners != {"nobody"} and not by_an_agent(reading)):
                found.append(reading)
        return found


def by_an_agent(reading: Reading) -> bool:
    """Return whether between the values and the agent there is nothing but the models' code."""
    agent = next((i for i, name in enumerate(reading.modules) if name.startswith("tacit.client.")), None)
    return agent is not None and all(name.startswith("tacit.models.") for name in reading.modules[:agent])


Watcher = Callable[..., Watched]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Watcher]:
    threads = torch.get_num_threads()

    def run(*overrides: str) -> Watched:
        log, owners = Log(), dict[int, str]()

        class Noted(federation_module.SimulatedHoldings):
            def __init__(self, train: Rows, part: np.ndarray, test: Rows | None, test_part: np.ndarray) -> None:
                super().__init__(train, part, test, test_part)
                kept = test_part.tolist() if test is train else []
                owners.update(dict.fromkeys(part.tolist() + kept, f"client {len(set(owners.values()))}"))

        # They read the run directory alone and take most of the time.
        monkeypatch.setattr("tacit.simulations.plots.write_plots", lambda directory: None)
        monkeypatch.setattr("tacit.simulations.report.write_report", lambda directory: None)
        monkeypatch.setattr(federation_module, "SimulatedHoldings", Noted)
        monkeypatch.setattr(federation_module, "open_source", lambda *args, **options: watched_source(log))
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            'name = "watched"\nseed = 1\n[task]\nkind = "tabular-classification"\n[data]\nsource = "s:"\n'
            'label = "y"\ntest = "split"\n[training]\nrounds = 2\ndevice = "cpu"\n'
        )
        finished = simulate(
            recipe, overrides, out=tmp_path / "run", db=f"sqlite:///{tmp_path}/db", models=tmp_path / "m", threads=1
        )
        return Watched(log, owners, finished)

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "overrides",
    [
        ["population.clients=8", "data.test=split"],
        ["population.clients=8", "data.test=split", "secure_aggregation.enabled=false"],
        ["population.clients=6", "data.test=per-client", "population.partition=dirichlet", "population.alpha=5.0"],
        ["population.clients=6", "population.partition=shards", "training.cohort=5", "model.name=mlp"],
    ],
    ids=["masked", "plain", "per-client test", "shards"],
)
def test_no_code_sees_the_rows_of_two_clients_and_only_its_agent_those_of_one(
    watch: Watcher, overrides: list[str]
) -> None:
    watched = watch(*overrides)
    assert watched.finished.summary["rounds_completed"] == 2
    assert watched.wrong() == []
    # Rows are only ever picked out for one owner, too.
    assert [taking for taking in watched.log.takings if len(watched.owners_of(taking)) > 1] == []
    # The watch was not idle: every client's rows were read, and those of nobody for the central tests.
    read = [watched.owners_of(reading) for reading in watched.log.readings]
    assert {name for names in read for name in names} >= set(watched.owners.values())
    by_server = [r for r in watched.log.readings if any(name.startswith("tacit.server.") for name in r.modules)]
    assert by_server


def test_a_partition_by_column_sees_that_column_and_no_other(watch: Watcher) -> None:
    watched = watch("population.partition=by-column", "population.column=job", "secure_aggregation.enabled=false")
    together = [taking for taking in watched.log.takings if len(watched.owners_of(taking)) > 1]
    assert len(together) == 1 and together[0].modules[0] == "tacit.simulations.population"
    wrong = watched.wrong()
    assert wrong and {reading.modules[:2] for reading in wrong} == {
        ("tacit.models.data.classes", "tacit.simulations.population")
    }


def test_pooled_statistics_would_have_been_noticed() -> None:
    log = Log()
    rows = watched_source(log).train
    statistics(rows, SCHEMA)
    seen = Watched(log, {row: f"client {row % 2}" for row in range(COUNT)}, finished=None)  # type: ignore[arg-type]
    assert {reading.call for reading in seen.wrong()} >= {"isnan", "square", "tolist"}
    assert all(len(seen.owners_of(reading)) == 2 for reading in seen.wrong())


def test_a_server_that_looks_at_one_clients_rows_would_have_been_noticed() -> None:
    reading = Reading("sum", frozenset({1, 3}), ("tacit.models.statistics", "tacit.server.run", "tacit.client.agent"))
    seen = Watched(Log([reading]), {1: "client 0", 3: "client 0"}, finished=None)  # type: ignore[arg-type]
    assert seen.wrong() == [reading]
