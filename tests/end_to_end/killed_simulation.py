"""A process of its own for `test_private_resume`: simulations that are killed at a durable write, and resumed.

Arguments: a directory, which clients there are ("forgetful", or "owned" with journals on disk), and kill points such as
`12-before`. Prints a line of JSON for each: its directory, and for each of its lives how it ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.engine.default import DefaultDialect

from tacit.client.agent import Agent
from tacit.client.journal import AgentJournal
from tacit.models.messages import Instruction, Reply
from tacit.privacy.identity import Identity
from tacit.simulations import plots, report, simulation
from tacit.simulations.enrolment import enrol
from tacit.simulations.simulation import simulate

LEAVING = ("contribute", "mask", "train")
OFTEN = 4


def die_at(count: int, when: str) -> None:
    """Have this process killed at its durable write of that number: a flush of a file, or a commit."""
    writes = 0

    def deadly(write: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == count and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            done = write(*arguments)
            if writes == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return counted

    os.fsync = deadly(os.fsync)
    DefaultDialect.do_commit = deadly(DefaultDialect.do_commit)  # type: ignore[method-assign]


def tell_what_leaves(log: Path) -> None:
    """Write down what is about to leave an agent, by its digest, before it does."""
    handle = Agent.handle

    def told(self: Agent, instruction: Instruction) -> Reply:
        reply = handle(self, instruction)
        if instruction.action in LEAVING and instruction.round and reply.outcome == "ok":
            digest = hashlib.sha256(b"".join(array.tobytes() for _, array in sorted(reply.arrays.items()))).hexdigest()
            key = [instruction.run, instruction.round, instruction.attempt, self.client]
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(file, json.dumps([*key, digest]).encode() + b"\n")
            os.close(file)
        return reply

    Agent.handle = told  # type: ignore[method-assign]


def keep_journals(directory: Path) -> None:
    """Give every simulated client a journal that outlives the process, and note its public key."""

    def journal_of(client: str, identity: Identity) -> AgentJournal:
        journal = AgentJournal.open(directory / client, identity, now=lambda: 0.0)
        (directory / client / "public.key").write_bytes(identity.public_key)
        return journal

    simulation.enrol = lambda *given: enrol(*given, journal_of)  # type: ignore[attr-defined]


def live(directory: Path, owned: bool) -> None:
    """Begin the run of a directory, or go on with it."""
    os.chdir(directory)
    torch.set_num_threads(1)
    plots.write_plots = report.write_report = lambda path: None  # type: ignore[assignment]
    if owned:
        keep_journals(directory / "clients")
    tell_what_leaves(directory / "left.jsonl")
    begun = (directory / "tacit.db").exists() and run_is_known(directory)
    simulate(Path("recipe.toml"), out=Path("run"), db="tacit.db", models=Path("models"), key=Path("key"), resume=begun)


def run_is_known(directory: Path) -> bool:
    """Say whether the run got as far as being resumable; what a kill left of one that did not is put away."""
    from tacit.server.store import open_store

    with open_store("tacit.db") as store:
        known = bool(store.list_runs(None))
    if not known and Path("run").exists():
        Path("run").rename(f"run-never-begun-{len(os.listdir())}")
    return known


def one_life(directory: Path, owned: bool, count: int, when: str) -> str:
    """Fork a life, and return how it ended: "killed", "finished" or what went wrong."""
    child = os.fork()
    if not child:
        code = 1
        try:
            if count:
                die_at(count, when)
            live(directory, owned)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return "finished" if os.WEXITSTATUS(status) == 0 else "failed"


def main() -> None:
    """Kill a simulation at each of the given points once, or four times, and resume it to its end."""
    root, clients, *points = sys.argv[1:]
    recipe, rows = (Path(root) / name for name in ("recipe.toml", "rows.csv"))
    for point in points:
        directory = Path(root) / point
        directory.mkdir()
        for file in (recipe, rows):
            (directory / file.name).write_bytes(file.read_bytes())
        number, when, *often = point.split("-")
        ends = [one_life(directory, clients == "owned", int(number), when)]
        snapshot(directory)
        while ends[-1] == "killed":
            ends.append(
                one_life(directory, clients == "owned", int(number) if often and len(ends) < OFTEN else 0, when)
            )
        print(json.dumps({"directory": str(directory), "ends": ends}), flush=True)


def snapshot(directory: Path) -> None:
    """Keep what the first life left in the database, as the resumed one finds it."""
    import sqlite3

    if (directory / "tacit.db").exists():
        with sqlite3.connect(directory / "tacit.db") as found, sqlite3.connect(directory / "killed.db") as copy:
            found.backup(copy)


if __name__ == "__main__":
    main()
