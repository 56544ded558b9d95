"""Whatever can happen to a federation that nobody watches, at random: `python -m tests.end_to_end.chaos --seed 7`.

One coordinator, five agents and a database, each the real command in a process of its own, started again whenever it
ends. In every round something happens: a process is killed, lines are cut or slow, a disk is full. What and when
follows from the seed; where that strikes does not, because processes are as fast as they are. Nobody does anything by
hand. In the end the books are checked, and what happened is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tacit.client.directory import AgentDirectory, init
from tacit.client.enrolled import ENROLMENT, write_enrolled
from tacit.client.enrolment import enrol
from tacit.client.register import new_data_set
from tacit.server.coordinator_directory import CoordinatorDirectory, create
from tacit.server.membership import invite
from tacit.server.registry import Registry
from tacit.server.store import RunRecord, Store, open_store
from tacit.server.store.errors import StoreUnavailable

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from ..private_postgresql import PrivatePostgresql, programs  # noqa: TID252 - tests are no package that could be named
from .chaos_books import Books, Commitment, commitments
from .federation import PATIENCE_SECONDS, POLICY, write_rows
from .kept_up import Supervisor, until
from .mishaps import KINDS, NAMES, ON_SMALL_DISK, Mishap, kills, mishaps
from .small_disk import SmallDisk, small_disks
from .wire_proxy import Wire

DISKS_KIB = {"agent": 1024, "hub": 16 * 1024}
LINE_SECONDS = 0.06  # how slow the lines are at best, so that a round lasts long enough to be struck in every phase
SLOW_SECONDS = 0.6
RECIPE = """
name = "ward"
[task]
kind = "tabular-classification"
[data]
source = "csv:public.csv"
test = "csv:{public}"
label = "y"
[population]
clients = {clients}
ledger = "wards"
epsilon_budget = 20.0
[training]
rounds = {rounds}
learning_rate = 0.1
deadline_seconds = 10
quorum = 0.6
[evaluation]
validation = 0.3
[privacy]
unit = "client"
noise_multiplier = 4.0
max_participations = {most}
[secure_aggregation]
min_cohort = 3
colluding = 0.0
"""


@dataclass
class Figures:
    """What a chaotic run came to."""

    seed: int
    database: str
    disks: str
    mishaps: dict[str, int] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    ends_by_themselves: dict[str, list[int]] = field(default_factory=dict)  # exit codes
    seconds: float = 0.0
    seconds_to_set_up: float = 0.0
    books: Books = field(default_factory=Books)

    def shown(self) -> dict[str, Any]:
        """Return them as plain values, flat."""
        values = dict(vars(self))
        return {**{name: value for name, value in values.items() if name != "books"}, **vars(self.books)}


@dataclass
class Federation:
    """One coordinator, its agents and its database, and the ways between them.

    Attributes:
        path: the folder that all of it is in.
        hub: the coordinator's directory.
        agents: the agents' directories.
        wires: the agents' lines, each its own.
        store: the coordinator's database, read from beside it.
        supervisor: keeps the processes up.
        disks: small disks, by whose they are; empty where there are none.
        database: the coordinator's, where that is a server.
    """

    path: Path
    hub: CoordinatorDirectory
    agents: dict[str, Path]
    wires: dict[str, Wire]
    store: Store
    supervisor: Supervisor
    disks: dict[str, SmallDisk]
    database: PrivatePostgresql | None

    def run(self) -> RunRecord | None:
        """Return the one run, None before there is one.

        Raises:
            StoreUnavailable: the database is not there now.
        """
        return next(iter(self.store.list_runs(None)), None)

    def strike(self, one: Mishap) -> None:
        """Let a mishap happen; those that last do so until `ease`."""
        supervisor = self.supervisor
        match one.kind:
            case "coordinator killed":
                supervisor.kill("coordinator")
            case "database killed":
                assert self.database is not None, "nobody kills a database that is a file"
                self.database.kill()
            case "agent killed":
                for name in one.agents:
                    supervisor.kill(name)
            case "everything killed":
                for name in ("coordinator", *NAMES):
                    supervisor.kill(name)
                if self.database is not None:
                    self.database.kill()
            case "lines cut":
                for name in one.agents:
                    self.wires[name].open = False
                    self.wires[name].cut()
            case "lines slow":
                for name in one.agents:
                    self.wires[name].delay_seconds = SLOW_SECONDS
            case "agent's disk full":
                self.disks["agent"].fill()
            case "coordinator's disk full":
                self.disks["hub"].fill()

    def ease(self, one: Mishap) -> None:
        """Let what a mishap did be over, as far as it is over by itself."""
        match one.kind:
            case "lines cut" | "lines slow":
                for name in one.agents:
                    self.wires[name].open, self.wires[name].delay_seconds = True, LINE_SECONDS
            case "database killed" | "everything killed":
                if self.database is not None:
                    self.database.start()
            case "agent's disk full":
                self.disks["agent"].empty()
            case "coordinator's disk full":
                self.disks["hub"].empty()


def set_up(path: Path, stack: ExitStack, database: PrivatePostgresql | None, sizes_kib: dict[str, int]) -> Federation:
    """Make a federation and bring it up; it waits for a recipe then."""
    supervisor = stack.enter_context(Supervisor(path))
    disks = stack.enter_context(small_disks(path / "disks", sizes_kib))
    hub = (disks["hub"].path if disks else path) / "hub"
    # What is not put to the test is done here, as the commands do it: each of them would take seconds to start.
    opened = create(
        hub, datetime.now(UTC), federation="wards", port=free_port(), db=database.url if database else "tacit.db"
    )
    store = stack.enter_context(open_store(opened.db))
    supervisor.keep_up("coordinator", "coordinator", "up", "--dir", str(hub))
    wires = {name: stack.enter_context(Wire(opened.settings.port)) for name in NAMES}
    agents = {name: (disks["agent"].path if disks and name == ON_SMALL_DISK else path) / name for name in NAMES}
    for at, (name, agent) in enumerate(agents.items()):
        rows = path / f"{name}.csv"
        write_rows(rows, 60, seed=at)
        directory = init(agent, name).add_data("patients", new_data_set(f"csv:{rows}", label="y"), os.environ)
        directory.write_policy(POLICY.replace("min_cohort = 4", "min_cohort = 3"))
    until(lambda: "listening on" in supervisor.log("coordinator"), PATIENCE_SECONDS, "the coordinator listens")
    for name, agent in agents.items():
        url = f"https://127.0.0.1:{wires[name].port}"
        invitation = invite(
            store, url=url, ca_der=opened.ca_der, name=name, expires_at=int(time.time()) + 3600, actor="chaos"
        )
        write_enrolled(agent / ENROLMENT, enrol(invitation, AgentDirectory.open(agent).identity))
        wires[name].delay_seconds = LINE_SECONDS
        supervisor.keep_up(name, "agent", "start", "--dir", str(agent))
    return Federation(path, opened, agents, wires, store, supervisor, disks, database)


def play(federation: Federation, waiting: list[Mishap], seconds: float) -> tuple[RunRecord, dict[int, Commitment]]:
    """Let mishaps happen to a run until it has ended, and return it with all that was seen committed.

    Those that there was no time for are left in the list.

    Raises:
        TimeoutError: it has not ended in time.
        RuntimeError: it was given up.
    """
    seen: dict[int, Commitment] = {}
    lasting: list[tuple[float, Mishap]] = []
    strikes_at = None
    deadline = time.monotonic() + seconds
    queue = federation.hub.path / "queue"
    while True:
        now = time.monotonic()
        for until_, one in list(lasting):
            if now >= until_:
                federation.ease(one)
                lasting.remove((until_, one))
        run = None
        with suppress(StoreUnavailable):
            if (run := federation.run()) is not None:
                for number, known in commitments(federation.store.rounds(run.run)).items():
                    if seen.setdefault(number, known) != known:
                        raise RuntimeError(f"round {number} was committed, and is not what it was")
        if run is not None and run.status == "finished" and not lasting:
            return run, seen
        if (run is not None and run.status == "failed") or list(queue.glob("*.failed")):
            raise RuntimeError(f"the run was given up: {run.reason if run else ''}")
        if waiting and run is not None and max(seen, default=-1) >= waiting[0].round - 1:
            strikes_at = now + waiting[0].after_seconds if strikes_at is None else strikes_at
            if now >= strikes_at:
                one, strikes_at = waiting.pop(0), None
                print(f"{now - deadline + seconds:6.1f} s  round {one.round:2}: {one.kind} {' '.join(one.agents)}")
                federation.strike(one)
                lasting.append((now + one.seconds, one))
        if now > deadline:
            raise TimeoutError(f"after {seconds:g} s {len(seen)} rounds are committed")
        time.sleep(0.05)


def chaos(
    path: Path,
    *,
    rounds: int,
    seconds: float,
    seed: int,
    kinds: Sequence[str] = KINDS,
    each: int = 1,
    server: bool = True,
) -> Figures:
    """Run it all in an empty folder.

    Args:
        path: the folder.
        rounds: of the recipe.
        seconds: in which the run must end.
        seed: of what happens when.
        kinds: what may happen.
        each: how much of it in each round.
        server: use PostgreSQL, where it is installed; otherwise the database is a file in the coordinator's directory.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        database = _database(stack) if server else None
        federation = set_up(path, stack, database, DISKS_KIB if any("disk" in kind for kind in kinds) else {})
        can = {
            "database killed": database is not None,
            "agent's disk full": bool(federation.disks),
            "coordinator's disk full": bool(federation.disks),
        }
        coming = mishaps(rounds, seed, [kind for kind in kinds if can.get(kind, True)], each)
        figures = Figures(
            seed,
            "PostgreSQL" if database else "SQLite, as PostgreSQL is not installed" if server else "SQLite",
            "small"
            if federation.disks
            else "as large as they are, as none can be mounted here, or none is to be filled",
        )
        write_rows(path / "public.csv", 60, seed=99)
        recipe = RECIPE.format(public=path / "public.csv", clients=len(NAMES), rounds=rounds, most=3 * rounds)
        (path / "ward.toml").write_text(recipe)
        start = [sys.executable, "-m", "tacit", "coordinator", "start", "ward.toml", "--dir", str(federation.hub.path)]
        subprocess.run(start, cwd=path, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
        figures.seconds_to_set_up = round(time.monotonic() - began, 1)
        began = time.monotonic()
        waiting = list(coming)
        run, seen = play(federation, waiting, seconds)
        figures.seconds = round(time.monotonic() - began, 1)
        struck = [one for one in coming if one not in waiting]
        figures.mishaps, figures.kills = dict(Counter(one.kind for one in struck)), kills(struck, server=bool(database))
        supervisor = federation.supervisor
        figures.starts = dict(supervisor.starts)
        figures.ends_by_themselves = {name: list(codes) for name, codes in supervisor.codes.items()}
        for name in ("coordinator", *NAMES):
            code = supervisor.stop(name)
            figures.books.expect(code == 0, f"{name} ended with {code}")
        registry = Registry(federation.store, federation.hub.models)
        ledger, spent = figures.books.check_hub(federation.store, registry, run, seen, rounds, "client")
        full = figures.mishaps.get("agent's disk full", 0)
        deaths = {name: figures.starts[name] - 1 + full * (name == ON_SMALL_DISK) for name in NAMES}
        figures.books.check_agents(federation.agents, ledger, run, spent, deaths)
    return figures


def _database(stack: ExitStack) -> PrivatePostgresql | None:
    """Return a database of our own; None where PostgreSQL or its driver is not installed."""
    if programs() is None or importlib.util.find_spec("psycopg") is None:
        return None
    database = PrivatePostgresql()
    stack.callback(database.close)
    return database


def main() -> None:
    """Run, and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=600.0, help="in which the run must end")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 16))
    parser.add_argument("--each", type=int, default=1, help="mishaps in each round")
    parser.add_argument("--kinds", nargs="+", choices=sorted(set(KINDS)), default=KINDS, metavar="KIND")
    parser.add_argument("--sqlite", action="store_true", help="keep the database in a file, on the disk that is filled")
    parser.add_argument("--keep", type=Path, help="an empty folder to leave everything in")
    given = parser.parse_args()
    print(f"seed {given.seed}")
    with tempfile.TemporaryDirectory() as folder:
        figures = chaos(
            given.keep or Path(folder),
            rounds=given.rounds,
            seconds=given.seconds,
            seed=given.seed,
            kinds=given.kinds,
            each=given.each,
            server=not given.sqlite,
        )
    print(json.dumps(figures.shown(), indent=2))
    sys.exit(bool(figures.books.faults))


if __name__ == "__main__":
    main()
