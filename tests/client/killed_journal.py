"""A process of its own for `test_journal`: agents that are killed at every flush, before it and after it.

Prints a line of JSON for each: its directory, whether it was killed, and what was reported to it as durable.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from dp_accounting import dp_event

from tacit.client.journal import AgentJournal
from tacit.privacy.filters import renyi_filter
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.records import Entry

OWNER = Identity.generate(SeededRandomness(bytes(32)), "owner")
BUDGETS = {"assured": renyi_filter(8.0, 1e-5)}


def entry(round_number: int) -> Entry:
    event = dp_event.GaussianDpEvent(20.0)
    return Entry("run-1", round_number, 0, bytes(32), "Gaussian", event, 1e-5, "own")


def live(directory: Path, report: Callable[..., None]) -> None:
    """Take part in three rounds, and report each thing once it is durable."""
    journal = AgentJournal.open(directory, OWNER, now=lambda: 0.0)
    ledger = journal.ledger("wards", "client", BUDGETS)
    report("opened")
    for number in range(1, 4):
        journal.record_answer("run-1", number, 0)
        report("answered", number)
        head = ledger.reserve([entry(number)])
        report("reserved", number, head.counter)
        journal.record_contribution("run-1", number)
        report("contributed", number)
        journal.record_survivors("run-1", number, 0, bytes([number] * 32), 5)
        report("signed", number)
        ledger.spend(entry(number).key)
        report("spent", number)
        ledger.countersigned(head)
        report("countersigned", number, head.counter)
        journal.audit.append("receipt-accepted", run="run-1", round=number)
        report("noted", number)


def die_at(count: int, when: str) -> None:
    """Have this process killed at its flush of that number."""
    fsync = os.fsync
    flushes = 0

    def counted(file: int) -> None:
        nonlocal flushes
        flushes += 1
        if flushes == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)
        if flushes == count:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = counted


def one(directory: Path, count: int, when: str) -> bool:
    """Fork an agent, and say whether it was killed."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        die_at(count, when)
        live(directory, lambda *what: os.write(writable, json.dumps(what).encode() + b"\n"))
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        reported = [json.loads(line) for line in pipe]
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    print(json.dumps({"directory": str(directory), "killed": killed, "reported": reported}), flush=True)
    return killed


def main() -> None:
    """Kill agents at their first flush, their second, and so on until one outlives its life."""
    count, killed = 0, True
    while killed:
        count += 1
        for when in ("before", "after"):
            killed = one(Path(sys.argv[1]) / f"{count}-{when}", count, when)


if __name__ == "__main__":
    main()
