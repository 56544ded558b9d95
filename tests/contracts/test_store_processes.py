"""A process that is killed leaves nothing half-applied, and two that write at once do not get in each other's way."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tacit.server.store import (
    NewModelVersion,
    NewRun,
    Participation,
    RoundAlreadyCommitted,
    RoundRecord,
    Store,
    open_store,
)

PRELUDE = """
import json, sys, time
from dataclasses import replace
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session
from tacit.server.store import *

url = sys.argv[1]

def say(word):
    print(word, flush=True)

def round_of(number):
    members = tuple(Participation(f"client-{i}", "reported") for i in range(50))
    return RoundRecord(number, 0, "committed", 1.0, {"loss": 1 / number, "accuracy": 0.5}, members)
"""


def round_of(number: int) -> RoundRecord:
    members = tuple(Participation(f"client-{i}", "reported") for i in range(50))
    return RoundRecord(number, 0, "committed", 1.0, {"loss": 1 / number, "accuracy": 0.5}, members)


@contextmanager
def process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script that imports the store; it is killed at the end, if it has not been by then."""
    command = [sys.executable, "-c", PRELUDE + script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.fixture
def run_url(shared_url: str) -> str:
    with open_store(shared_url) as store:
        store.create_run(NewRun("run-1", "fashion", "image-classification", "", "a" * 64, "runs/run-1"))
    return shared_url


HOLD_BEFORE_COMMIT = """
store = open_store(url)

@event.listens_for(Session, "before_commit")
def hold(session):
    session.flush()
    # Only at the last commit, so that an earlier one, if there were any, would be found afterwards.
    if session.scalar(text("SELECT count(*) FROM model_versions")):
        say("written, not committed")
        time.sleep(600)

store.commit_round("run-1", round_of(1), model=NewModelVersion("m", "c" * 64, "run-1", 1))
"""


def test_a_kill_between_begin_and_commit_leaves_nothing(run_url: str) -> None:
    with process(HOLD_BEFORE_COMMIT, run_url) as child:
        assert said(child) == "written, not committed"
        child.kill()
        child.wait()
        with open_store(run_url) as store:
            assert store.rounds("run-1") == []
            assert store.list_models() == []
            assert [entry.action for entry in store.audit()] == ["run.create"]
            model = NewModelVersion("m", "c" * 64, "run-1", 1)
            assert store.commit_round("run-1", round_of(1), model=model) == 1, "the round can be committed after all"
            assert store.rounds("run-1") == [round_of(1)]


COMMIT_FOR_EVER = """
store = open_store(url)
last = store.last_committed_round("run-1")
number = last.number if last else 0
while True:
    number += 1
    store.commit_round("run-1", round_of(number))
    say(number)
"""


def test_kills_at_any_moment_lose_no_round_that_was_announced_and_apply_none_twice(run_url: str) -> None:
    announced = 0
    for rounds_before_the_kill in (1, 4, 9):
        with process(COMMIT_FOR_EVER, run_url) as child:
            for _ in range(rounds_before_the_kill):
                announced = int(said(child))
            child.kill()
            assert child.stdout is not None
            # Some more may have been committed and said before the signal arrived.
            announced = max([announced, *map(int, child.stdout.read().split())])
        with open_store(run_url) as store:
            found = store.rounds("run-1")
            # One more than was announced can be there: committed, and killed before it could say so.
            assert len(found) in (announced, announced + 1)
            assert found == [round_of(number) for number in range(1, len(found) + 1)]
            with pytest.raises(RoundAlreadyCommitted):
                store.commit_round("run-1", round_of(len(found)))


HOLD_WHILE_MIGRATING = """
created = 0

@event.listens_for(Engine, "after_cursor_execute")
def hold(connection, cursor, statement, *_):
    global created
    created += statement.lstrip().startswith("CREATE")
    if created == int(sys.argv[2]):
        say("in the middle of the migration")
        time.sleep(600)

open_store(url)
"""


@pytest.mark.parametrize("statement", [1, 2, 7])
def test_a_kill_while_tables_are_made_leaves_an_empty_database(shared_url: str, statement: int) -> None:
    with process(HOLD_WHILE_MIGRATING, shared_url, str(statement)) as child:
        assert said(child) == "in the middle of the migration"
        child.kill()
        child.wait()
        with open_store(shared_url) as store:
            assert store.list_runs() == []


COMPETE = """
store = open_store(url)
me = sys.stdin.readline().strip()
won = []
for number in range(1, 21):
    try:
        store.commit_round("run-1", replace(round_of(number), extra={"by": me}))
        won.append(number)
    except RoundAlreadyCommitted:
        pass
    store.add_model_version(NewModelVersion("m", f"{number:032x}" + me * 32, None, None))
    store.add_model_version(NewModelVersion("m", f"{number:064x}", None, None))
say(json.dumps(won))
"""


def test_of_two_processes_that_commit_the_same_round_one_wins(run_url: str) -> None:
    with process(COMPETE, run_url) as first, process(COMPETE, run_url) as second:
        won = {}
        for name, child in (("a", first), ("b", second)):
            assert child.stdin is not None
            child.stdin.write(f"{name}\n")
            child.stdin.flush()
        for name, child in (("a", first), ("b", second)):
            won[name] = json.loads(said(child))
            assert child.wait() == 0
    assert sorted(won["a"] + won["b"]) == list(range(1, 21))
    with open_store(run_url) as store:
        check_winners(store, won)
        versions = store.list_versions("m")
        # Twenty digests of each process's own, and twenty that both gave.
        assert [one.version for one in versions] == list(range(1, 61))
        assert len({one.digest for one in versions}) == 60
        registered = [entry for entry in store.audit(None) if entry.action == "model.register"]
        assert len(registered) == 60


def check_winners(store: Store, won: dict[str, list[int]]) -> None:
    for found in store.rounds("run-1"):
        assert found.number in won[found.extra["by"]]
        assert found.participation == round_of(found.number).participation


def test_processes_that_start_together_make_the_tables_once(shared_url: str) -> None:
    script = "sys.stdin.readline(); open_store(url); say('ready')"
    with process(script, shared_url) as first, process(script, shared_url) as second:
        for child in (first, second):
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        assert [said(first), said(second)] == ["ready", "ready"]
        assert (first.wait(), second.wait()) == (0, 0)


HOLD_WITH_A_RECORD = """
store = open_store(url)

@event.listens_for(Session, "before_commit")
def hold(session):
    session.flush()
    say("written, not committed")
    time.sleep(600)

store.commit_round("run-1", round_of(1), ledger=[LedgerLine("hospitals", "client", 2, b"spent")])
"""

COMPETE_FOR_RECORDS = """
store = open_store(url)
sys.stdin.readline()
won = []
for counter in range(2, 22):
    try:
        store.append_ledger("hospitals", "client", counter, b"reserved")
        won.append(counter)
    except LedgerConflict:
        pass
say(json.dumps(won))
"""


@pytest.fixture
def ledger_url(shared_url: str) -> str:
    with open_store(shared_url) as store:
        store.create_run(NewRun("run-1", "fashion", "image-classification", "", "a" * 64, "runs/run-1"))
        store.open_ledger("hospitals", "client", bytes(32), b"opened")
    return shared_url


def test_a_kill_between_the_record_and_the_commit_leaves_neither_round_nor_spending(ledger_url: str) -> None:
    with process(HOLD_WITH_A_RECORD, ledger_url) as child:
        assert said(child) == "written, not committed"
        child.kill()
        child.wait()
    with open_store(ledger_url) as store:
        assert store.rounds("run-1") == []
        assert store.ledger_lines("hospitals", "client") == [b"opened"]


def test_of_two_processes_that_append_the_same_record_one_wins(ledger_url: str) -> None:
    with process(COMPETE_FOR_RECORDS, ledger_url) as first, process(COMPETE_FOR_RECORDS, ledger_url) as second:
        for child in (first, second):
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        won = [*json.loads(said(first)), *json.loads(said(second))]
        assert (first.wait(), second.wait()) == (0, 0)
    with open_store(ledger_url) as store:
        # Whoever was overtaken goes on behind the other, so the numbers have neither gaps nor doubles.
        assert sorted(won) == list(range(2, 22))
        assert len(store.ledger_lines("hospitals", "client")) == 21
