"""A federation of five wards as processes: a coordinator and its agents, each with a directory of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from tacit.__main__ import run as tacit
from tacit.client.directory import AgentDirectory, init
from tacit.client.register import new_data_set
from tacit.models.recipe import load_recipe
from tacit.server.coordinator_directory import DEFAULT_METRICS, CoordinatorDirectory, create
from tacit.server.membership import invite
from tacit.server.run_queue import enqueue
from tacit.server.store import open_store
from tacit.server.up_file import read_up
from tacit.simulations.simulation import Simulation, simulate

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .federation import PATIENCE_SECONDS, write_rows  # noqa: TID252 - tests are no package that could be named
from .federation import POLICY as FEDERATION_POLICY  # noqa: TID252 - tests are no package that could be named
from .wire_proxy import Ends  # noqa: TID252 - tests are no package that could be named

NAMES = tuple(f"ward-{at}.csv" for at in range(5))  # as a simulation names clients by their files
SEED = 11
COMMANDS = Path(__file__).with_name("seeded_commands.py")
POLICY = FEDERATION_POLICY.replace("promised_epsilon_total = 20.0", "promised_epsilon_total = 30.0")
RECIPE = """
name = "ward"
seed = {seed}
[task]
kind = "tabular-classification"
[data]
source = "csv:{rows}"
test = "csv:{public}"
label = "y"
[population]
partition = "by-file"
[training]
rounds = {rounds}
learning_rate = 0.1
deadline_seconds = 300
device = "cpu"
engine = "plain"
[evaluation]
validation = 0.0
[privacy]
unit = "client"
noise_multiplier = 2.0
[secure_aggregation]
min_cohort = 4
dropout = 0.2
colluding = 0.0
"""


def until(what: Callable[[], bool], seconds: float = PATIENCE_SECONDS, why: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"it did not happen in time {why()}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Running:
    """A process that is nobody's child here."""

    pid: int

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.alive:
            os.kill(self.pid, number)


class Commands:
    """Starts Tacit's commands as processes, with known draws and everything imported once."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(COMMANDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def start(self, seed: int, log: Path, *words: str, notes: Path | None = None, odd: str = "") -> Running:
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {"seed": seed, "words": words, "log": str(log), "notes": str(notes or ""), "odd": odd}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return Running(int(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE_SECONDS / 2)


@dataclass
class Wards:
    """Where everything is, and what runs.

    Attributes:
        path: an empty directory.
        commands: starts the processes.
        rounds: of the recipe.
        through: the port that the agents know the coordinator by; its own unless there is a line between them.
        policies: of the agents that have another one than `POLICY`.
        names: the agents.
        overrides: of the recipe.
        write: writes the rows of one, given how many and who: 0, 1, ... and 99 for the coordinator's sample.
        file: the name of an agent's file.
        data: what an agent calls its data set.
        notes: where agents write down what nobody may see; see `seeded_commands.write_down`.
    """

    path: Path
    commands: Commands
    rounds: int = 3
    port: int = field(default_factory=free_port)
    through: int = 0
    policies: Mapping[str, str] = field(default_factory=dict)
    names: Sequence[str] = NAMES
    overrides: Sequence[str] = ()
    write: Callable[[Path, int, int], None] = write_rows
    file: Callable[[str], str] = str
    data: str = "patients"
    notes: Path | None = None
    agents: dict[str, Running] = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = self.path / "rows"
        rows.mkdir()
        self.owners: dict[str, AgentDirectory] = {}
        for at, name in enumerate(self.names):
            self.write(rows / self.file(name), 40 + 7 * at, at)
            directory = init(self.path / name, name)
            directory = directory.add_data(
                self.data, new_data_set(f"csv:{rows / self.file(name)}", label="y"), os.environ
            )
            self.owners[name] = directory.write_policy(self.policies.get(name, POLICY))
        self.write(self.path / "public.csv", 60, 99)
        self.recipe = self.path / "ward.toml"
        text = RECIPE.format(seed=SEED, rows=rows, public=self.path / "public.csv", rounds=self.rounds)
        self.recipe.write_text(text)
        self.hub = self._hub()

    def _hub(self) -> CoordinatorDirectory:
        made = create(self.path / "hub", datetime.now(UTC), federation="wards", port=self.through or self.port)
        settings = made.path / "coordinator.toml"
        text = settings.read_text().replace(f"\nport = {self.through}\n", f"\nport = {self.port}\n")
        settings.write_text(text.replace(f'metrics = "{DEFAULT_METRICS}"', 'metrics = ""'))  # one port for all tests
        return made

    @property
    def ends(self) -> Ends:
        """Return what a line that listens in needs."""
        return Ends(self.hub.server_certificate, self.hub.server_key, self.hub.path / "ca.pem")

    @property
    def log(self) -> str:
        """Return what the coordinator has said."""
        path = self.path / "coordinator.log"
        return path.read_text() if path.exists() else ""

    def said(self, name: str) -> str:
        """Return what an agent has said."""
        path = self.path / name / "log"
        return path.read_text() if path.exists() else ""

    def up(self) -> Running:
        """Start the coordinator and return when it listens."""
        before = self.log.count("listening on")
        process = self._start(self.path / "coordinator.log", "coordinator", "up", "--dir", str(self.hub.path))
        until(lambda: self.log.count("listening on") > before or not process.alive, why=lambda: self.log)
        assert process.alive, self.log
        return process

    def enrol(self) -> None:
        """Enrol everybody at the coordinator that is up."""
        with open_store(self.hub.db) as store:
            for name in self.names:
                invitation = invite(
                    store, url=f"https://127.0.0.1:{self.through or self.port}", ca_der=self.hub.ca_der, name=name,
                    organisation="", organisation_key=None, expires_at=int(time.time()) + 3600, actor="a test",
                )  # fmt: skip
                assert tacit(["agent", "enrol", "--dir", str(self.path / name), "--token", invitation.text()]) == 0

    def join(self, *names: str, odd: str = "") -> None:
        """Start agents, everybody if none is named; see `seeded_commands.be_odd`."""
        for name in names or self.names:
            directory = self.path / name
            self.agents[name] = self._start(directory / "log", "agent", "start", "--dir", str(directory), odd=odd)

    def begin(self) -> None:
        """Let the recipe wait for its turn."""
        enqueue(self.hub.path, load_recipe(self.recipe, self.overrides), datetime.now(UTC))

    def finish(self) -> str:
        """Wait for the run's end and return its name."""
        until(lambda: "model       ward version 1" in self.log or "was not trained" in self.log, why=lambda: self.log)
        assert "was not trained" not in self.log, self.log
        (record,) = self.runs()
        assert record.status == "finished"
        return str(record.run)

    def runs(self) -> Any:
        with open_store(self.hub.db, create=False) as store:
            return store.list_runs(None)

    def online(self) -> set[str]:
        """Return who is there, as the coordinator that is up has said last."""
        up = read_up(self.hub.path)
        return {name for name, one in up.clients.items() if one.online} if up is not None else set()

    def members(self) -> Any:
        with open_store(self.hub.db, create=False) as store:
            return store.list_clients()

    def attempts(self, run: str) -> Any:
        with open_store(self.hub.db, create=False) as store:
            return store.rounds(run)

    def model(self, run: str) -> dict[str, Any]:
        """Return the tensors of a run's model."""
        return tensors(self.hub.path / "runs" / run)

    def account(self, name: str) -> list[dict[str, Any]]:
        """Return an agent's account."""
        return [json.loads(line) for line in self.owners[name].account_lines()]

    def simulated(self, run: str) -> Simulation:
        """Return the simulation of the same recipe over the same rows, with the same draws, as a run of that name."""
        return simulate(
            self.recipe, self.overrides, out=self.path / "simulated" / run, db=str(self.path / "simulated.db"),
            models=self.path / "simulated-models", key=self.path / "simulated.key", reproducible_noise=True, threads=1,
        )  # fmt: skip

    def close(self) -> None:
        """End what runs."""
        for process in self.running:
            process.kill(signal.SIGTERM)
        for process in self.running:
            try:
                until(lambda process=process: not process.alive, PATIENCE_SECONDS / 2)
            finally:
                process.kill()

    def _start(self, log: Path, *words: str, odd: str = "") -> Running:
        process = self.commands.start(SEED, log, *words, notes=self.notes, odd=odd)
        self.running.append(process)
        return process


def tensors(directory: Path) -> dict[str, Any]:
    """Return the tensors of the model in a run's directory."""
    (file,) = (directory / "model").glob("*.safetensors")
    return dict(load_file(file))


def is_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two models agree in every bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )
