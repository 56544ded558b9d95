"""The journal: what an agent answered, sent and spent is known to it whenever and however it is started again."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event

from tacit.client.audit import AuditBroken
from tacit.client.journal import AgentJournal, JournalBroken, Signed, read_ledger
from tacit.client.ledger import Budgets
from tacit.client.lines import StorageError
from tacit.models.errors import InputError
from tacit.privacy.filters import renyi_filter
from tacit.privacy.identity import Identity
from tacit.privacy.ledger import LedgerBroken
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.records import Entry
from tacit.privacy.secagg.policy import Journal, MemoryJournal

OWNER = Identity.generate(SeededRandomness(bytes(32)), "owner")
BUDGETS: Budgets = {"assured": renyi_filter(8.0, 1e-5)}


def entry(round_number: int = 1, run: str = "run-1") -> Entry:
    return Entry(run, round_number, 0, bytes(32), "Gaussian", dp_event.GaussianDpEvent(20.0), 1e-5, "own")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "agent"


@pytest.fixture(params=["file", "memory", "secagg's own"])
def journal(request: pytest.FixtureRequest, directory: Path) -> Iterator[Journal]:
    if request.param == "secagg's own":
        yield MemoryJournal()
    elif request.param == "memory":
        yield AgentJournal.in_memory(OWNER)
    else:
        with AgentJournal.open(directory, OWNER) as opened:
            yield opened


# Every journal of the protocol ----------------------------------------------------------------------------------------


def test_an_attempt_is_answered_once_and_none_before_it_ever_after(journal: Journal) -> None:
    assert not journal.answered("run-1", 0, 0)
    journal.record_answer("run-1", 3, 1)
    for round_number, attempt in ((3, 1), (3, 0), (2, 9), (0, 0)):
        assert journal.answered("run-1", round_number, attempt)
    for round_number, attempt in ((3, 2), (4, 0)):
        assert not journal.answered("run-1", round_number, attempt)
    assert not journal.answered("run-2", 0, 0)


def test_a_round_is_contributed_to_once_in_whatever_attempt(journal: Journal) -> None:
    assert not journal.contributed("run-1", 0)
    journal.record_contribution("run-1", 0)
    assert journal.contributed("run-1", 0) and not journal.contributed("run-1", 1)
    journal.record_contribution("run-1", 4)
    assert journal.contributed("run-1", 3) and not journal.contributed("run-1", 5)
    assert not journal.contributed("run-2", 0)


# The agent's ----------------------------------------------------------------------------------------------------------


def test_a_journal_that_is_opened_again_knows_what_it_knew(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER) as first:
        first.record_answer("run-1", 2, 0)
        first.record_contribution("run-1", 2)
        first.record_survivors("run-1", 2, 0, b"\x07" * 32, 9)
        first.record_answer("run-2", 0, 1)
        first.audit.append("paused")
        first.ledger("wards", "client", BUDGETS).reserve([entry()])
        state = first.ledger("wards", "client", BUDGETS).state
    with AgentJournal.open(directory, OWNER) as again:
        assert again.answered("run-1", 2, 0) and again.contributed("run-1", 2)
        assert again.answered("run-2", 0, 1) and not again.contributed("run-2", 0)
        assert again.signed("run-1") == Signed(2, 0, b"\x07" * 32, 9) and again.signed("run-2") is None
        assert [noted.kind for noted in again.audit.entries()] == ["paused"]
        assert again.ledger("wards", "client", BUDGETS).state == state


def test_participations_are_training_rounds_that_an_input_left_for(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER) as journal:
        assert journal.participations("run-1") == 0
        journal.record_contribution("run-1", 0)  # the preparation
        assert journal.participations("run-1") == 0
        for round_number in (1, 2, 5):
            journal.record_contribution("run-1", round_number)
        journal.record_contribution("run-2", 1)
        assert (journal.participations("run-1"), journal.participations("run-2")) == (3, 1)
    with AgentJournal.open(directory, OWNER) as again:
        assert (again.participations("run-1"), again.participations("run-2")) == (3, 1)


def test_all_runs_and_coordinators_share_the_ledger_of_a_data_set(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER) as journal:
        ledger = journal.ledger("wards", "client", BUDGETS)
        ledger.reserve([entry(run="run-1")])
        journal.ledger("wards", "client", BUDGETS).reserve([entry(run="run-2")])
        assert journal.ledger("wards", "client", BUDGETS) is ledger
        one = BUDGETS["assured"].spent([entry().event]).divergence
        assert ledger.state.committed("assured").divergence == pytest.approx(2 * one)
        assert journal.ledger("beds", "client", BUDGETS).state.committed("assured").divergence == 0


def test_a_second_agent_on_the_directory_is_refused(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER):
        with pytest.raises(InputError, match="is in use"):
            AgentJournal.open(directory, OWNER)
    with AgentJournal.open(directory, OWNER):
        pass


def test_a_journal_that_could_not_be_opened_holds_nothing_back(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER) as journal:
        journal.audit.append("paused")
    account = (directory / "audit.jsonl").read_bytes()
    (directory / "audit.jsonl").write_bytes(account.replace(b'"counter":1', b'"counter":2'))
    with pytest.raises(AuditBroken) as refusal:
        AgentJournal.open(directory, OWNER)
    (directory / "audit.jsonl").write_bytes(account)
    with AgentJournal.open(directory, OWNER):
        assert refusal.value.counter == 1


def test_a_closed_journal_records_nothing(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER) as journal:
        ledger = journal.ledger("wards", "client", BUDGETS)
    with pytest.raises(StorageError):
        journal.record_answer("run-1", 1, 0)
    with pytest.raises(StorageError):
        ledger.reserve([entry()])
    assert not journal.answered("run-1", 1, 0) and not ledger.state.waiting


@pytest.mark.parametrize("what", ["rounds", "account", "ledger"])
def test_a_journal_is_usable_until_a_line_could_not_be_flushed_and_again_when_it_is_opened_anew(
    what: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with AgentJournal.open(directory, OWNER) as opened:
        ledger = opened.ledger("wards", "client", BUDGETS)
        assert opened.usable
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            with pytest.raises(StorageError):
                if what == "rounds":
                    opened.record_answer("run-1", 1, 0)
                elif what == "account":
                    opened.audit.append("paused")
                else:
                    ledger.reserve([entry(1)])
        assert not opened.usable
    with AgentJournal.open(directory, OWNER) as again:
        again.record_answer("run-1", 2, 0)
        assert again.usable


def test_everything_on_disk_is_the_owners_alone(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER) as journal:
        journal.ledger("wards", "client", BUDGETS)
    kept = sorted(directory.rglob("*"))
    assert [path.relative_to(directory).as_posix() for path in kept] == [
        "audit.jsonl",
        "ledgers",
        "ledgers/wards.client.anchors",
        "ledgers/wards.client.ledger",
        "rounds.jsonl",
    ]
    for path in (directory, *kept):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_key_is_never_written(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER) as journal:
        journal.ledger("wards", "client", BUDGETS).reserve([entry()])
    secret = OWNER.secret_bytes()
    for path in directory.rglob("*.*"):
        assert secret not in path.read_bytes() and secret.hex().encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "line",
    [
        b"null",
        b"[]",
        b'["answer","run-1",1]',
        b'["answer","run-1",1,"0"]',
        b'["answer",7,1,0]',
        b'["answer",["run"],1,0]',
        b'["contribution","run-1",true]',
        b'["contribution","run-1",1.5]',
        b'["survivors","run-1",1,0,"zz",5]',
        b'["forgotten","run-1",1,0]',
        b"[" * 100_000,
    ],
)
def test_a_line_that_no_agent_wrote_stops_everything(directory: Path, line: bytes) -> None:
    AgentJournal.open(directory, OWNER).close()
    (directory / "rounds.jsonl").write_bytes(line + b"\n")
    with pytest.raises(JournalBroken, match="line 1 of the journal"):
        AgentJournal.open(directory, OWNER)


def test_a_ledger_is_looked_at_while_its_agent_writes_it(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER) as journal:
        ledger = journal.ledger("wards", "client", BUDGETS)
        ledger.countersigned(ledger.reserve([entry()]))
        ledger.spend(entry().key)
        seen = read_ledger(directory, "wards", "client", OWNER.public_key)
        assert (seen.ledger, seen.unanchored) == (ledger.state, 1)
    with pytest.raises(LedgerBroken, match="there are none"):
        read_ledger(directory, "beds", "client", OWNER.public_key)


def test_a_ledger_that_lost_its_records_but_not_its_anchors_is_not_begun_again(directory: Path) -> None:
    with AgentJournal.open(directory, OWNER) as journal:
        ledger = journal.ledger("wards", "client", BUDGETS)
        ledger.countersigned(ledger.reserve([entry()]))
    (directory / "ledgers" / "wards.client.ledger").unlink()
    with AgentJournal.open(directory, OWNER) as journal:
        with pytest.raises(LedgerBroken, match="before what was countersigned"):
            journal.ledger("wards", "client", BUDGETS)


def test_a_long_life_in_memory_is_as_quick_at_its_end_as_at_its_beginning() -> None:
    def calls_of(first: int, after: int) -> int:
        """Return how many functions were called meanwhile: of what a machine is slow at it knows nothing."""
        calls = 0

        def counted(frame: Any, event: str, function: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(counted)
        try:
            for number in range(first, after):
                thin = replace(entry(number), event=dp_event.GaussianDpEvent(500.0))
                head = ledger.reserve([thin])
                ledger.spend(thin.key)
                ledger.countersigned(head)
        finally:
            sys.setprofile(before)
        return calls

    ledger = AgentJournal.in_memory(OWNER).ledger("wards", "client", BUDGETS)
    beginning = calls_of(1, 101)
    calls_of(101, 901)
    assert 0 < calls_of(901, 1001) < 1.5 * beginning
    assert ledger.state.counter == 2001 and ledger.unanchored == 1


# Killed at every flush ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("killed_journal.py")
    process = subprocess.run([sys.executable, script, directory], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_whatever_was_durable_when_an_agent_was_killed_is_there_when_it_comes_back(lives: list[dict[str, Any]]) -> None:
    assert not lives[-1]["killed"] and sum(life["killed"] for life in lives) == len(lives) - 2 > 50
    for life in lives:
        reported = {(what, number) for what, number, *_ in ([*report, 0] for report in life["reported"])}
        with AgentJournal.open(Path(life["directory"]), OWNER) as journal:
            ledger = journal.ledger("wards", "client", BUDGETS)
            known = {noted.details["round"] for noted in journal.audit.entries()}
            signed = journal.signed("run-1")
            for what, number in reported:
                key = entry(number).key
                match what:
                    case "answered":
                        assert journal.answered("run-1", number, 0)
                    case "reserved":
                        assert key in ledger.state.waiting or key in ledger.state.settled
                    case "contributed":
                        assert journal.contributed("run-1", number) and journal.participations("run-1") >= number
                    case "signed":
                        assert signed is not None and signed.round >= number
                    case "spent":
                        assert key in ledger.state.settled
                    case "noted":
                        assert number in known
            anchored = max((report[2] for report in life["reported"] if report[0] == "countersigned"), default=0)
            assert ledger.unanchored <= ledger.state.counter - anchored


def test_what_is_there_is_at_most_one_step_more_than_was_durable(lives: list[dict[str, Any]]) -> None:
    for life in lives:
        directory = Path(life["directory"])
        kept = [line for path in directory.rglob("*.*") for line in path.read_bytes().splitlines()]
        steps = [report for report in life["reported"] if report[0] != "opened"]
        opening = 1  # the ledger's first record
        assert len(steps) <= len(kept) <= len(steps) + opening + 1


def test_an_agent_that_was_killed_takes_part_again_and_reuses_nothing(lives: list[dict[str, Any]]) -> None:
    for life in lives:
        with AgentJournal.open(Path(life["directory"]), OWNER) as journal:
            ledger = journal.ledger("wards", "client", BUDGETS)
            before = ledger.state.committed("assured").divergence
            head = ledger.reserve([entry(9)])
            journal.record_answer("run-1", 9, 0)
            journal.record_contribution("run-1", 9)
            ledger.countersigned(head)
            assert ledger.state.committed("assured").divergence > before
            assert ledger.unanchored == 0
