"""A data set's ledger on disk: no crash, refusal or new row makes it forget what was spent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import NeighboringRelation, dp_event
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tacit.client.ledger import Budgets, DatasetLedger, ledger_names, newest_anchor, signer_of, verifier_of
from tacit.client.lines import FileLines, Lines, MemoryLines, StorageError
from tacit.models.errors import InputError
from tacit.privacy.errors import BudgetExceeded, PrivacyError
from tacit.privacy.filters import renyi_filter
from tacit.privacy.identity import Identity
from tacit.privacy.ledger import Anchor, LedgerBroken
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.records import COLUMN_OF, Column, Entry, Key, NoiseBy, read_record
from tacit.privacy.terms import Unit

OWNER = Identity.generate(SeededRandomness(bytes(32)), "owner")
STRANGER = Identity.generate(SeededRandomness(bytes(32)), "stranger")
BUDGETS: Budgets = {"assured": renyi_filter(8.0, 1e-5), "promised": renyi_filter(4.0, 1e-5)}


def entry(round_number: int = 1, noise: float = 20.0, noise_by: NoiseBy = "own", run: str = "run-1") -> Entry:
    event = dp_event.GaussianDpEvent(noise)
    return Entry(run, round_number, 0, bytes(32), "Gaussian", event, 1e-5, noise_by)


def opened(
    lines: Lines, anchors: Lines, dataset: str = "wards", unit: Unit = "client", budgets: Budgets = BUDGETS
) -> DatasetLedger:
    return DatasetLedger(dataset, unit, lines, anchors, signer_of(OWNER), verifier_of(OWNER.public_key), budgets)


class Disk(list[bytes]):
    """What is on disk of one sequence of lines, through all crashes."""


class CrashingLines:
    """Lines over a disk; the process dies at the append that `die` names, before or after its bytes are durable."""

    def __init__(self, disk: Disk, die: list[str | None]) -> None:
        self.disk, self.die, self.dead = disk, die, False

    def read(self) -> list[bytes]:
        return list(self.disk)

    def append(self, line: bytes) -> None:
        how = self.die.pop(0) if self.die else None
        if self.dead:
            raise StorageError("open it again")
        if how == "full":
            raise StorageError("no space left")
        self.dead = how is not None
        if how != "before":
            self.disk.append(line)
        if how is not None:
            raise StorageError("the process died")

    def close(self) -> None:
        pass


# One step after the other ---------------------------------------------------------------------------------------------


def test_a_new_ledger_grants_what_the_policy_grants_and_says_so_in_its_first_record() -> None:
    lines = MemoryLines()
    ledger = opened(lines, MemoryLines())
    first = read_record(lines.read()[0])
    assert first.subject == "wards" and first.unit == "client" and ledger.state.opening.budgets == BUDGETS
    assert ledger.unanchored == 1


def test_a_participation_is_on_disk_before_its_head_goes_out() -> None:
    lines = MemoryLines()
    ledger = opened(lines, MemoryLines())
    head = ledger.reserve([entry(noise_by="own"), entry(noise_by="promised")])
    assert head == ledger.state.anchor and head.counter == 3 == len(lines.read())
    again = opened(lines, MemoryLines())
    assert again.state == ledger.state
    assert all(again.state.committed(column).divergence > 0 for column in BUDGETS)


def test_what_was_spent_or_given_back_is_so_when_the_ledger_is_opened_again() -> None:
    lines = MemoryLines()
    ledger = opened(lines, MemoryLines())
    ledger.reserve([entry(1), entry(2), entry(3)])
    ledger.spend(entry(1).key)
    ledger.spend(entry(2).key, dp_event.GaussianDpEvent(40.0))
    ledger.void(entry(3).key)
    again = opened(lines, MemoryLines())
    assert again.state == ledger.state and again.events_of("run-1") == ledger.events_of("run-1")
    assert ledger.events_of("run-1") == {"assured": (dp_event.GaussianDpEvent(20.0), dp_event.GaussianDpEvent(40.0))}
    assert ledger.events_of("run-2") == {}


def test_nothing_to_reserve_still_has_a_head_to_be_countersigned() -> None:
    ledger = opened(MemoryLines(), MemoryLines())
    assert ledger.reserve([]) == ledger.state.anchor == Anchor(1, ledger.state.head)


def test_a_participation_that_one_column_refuses_leaves_no_trace_in_the_other() -> None:
    lines = MemoryLines()
    ledger = opened(lines, MemoryLines())
    refused = [entry(), entry(noise=0.5, noise_by="promised")]
    assert not ledger.allows(refused) and ledger.allows(refused[:1])
    with pytest.raises(BudgetExceeded) as refusal:
        ledger.reserve(refused)
    assert len(lines.read()) == 1 and not ledger.state.waiting and ledger.events_of("run-1") == {}
    assert "wards" not in str(refusal.value)  # a coordinator gets to read it


def test_participations_that_fit_one_by_one_and_not_together_are_not_allowed_together() -> None:
    ledger = opened(MemoryLines(), MemoryLines())
    halves = [entry(1, noise=0.75), entry(2, noise=0.75)]
    assert all(ledger.allows([half]) for half in halves) and not ledger.allows(halves)
    with pytest.raises(BudgetExceeded):
        ledger.reserve(halves)
    ledger.reserve(halves[:1])
    assert not ledger.allows(halves[1:])


def test_a_column_that_the_policy_grants_nothing_is_refused_without_a_word_about_the_data() -> None:
    ledger = opened(MemoryLines(), MemoryLines(), budgets={"assured": renyi_filter(8.0, 1e-5)})
    assert not ledger.allows([entry(noise_by="promised")])
    with pytest.raises(PrivacyError, match="^nothing is granted to promised noise$"):
        ledger.reserve([entry(noise_by="promised")])


def test_a_later_reservation_that_cannot_be_written_gives_the_earlier_ones_back() -> None:
    disk, die = Disk(), [None, None, "full"]
    ledger = opened(CrashingLines(disk, die), MemoryLines())
    with pytest.raises(StorageError):
        ledger.reserve([entry(1), entry(2)])
    assert [read_record(line).state for line in disk] == ["opened", "reserved", "void"]
    assert ledger.state.committed("assured").divergence == 0 and ledger.events_of("run-1") == {}
    assert opened(CrashingLines(disk, []), MemoryLines()).state == ledger.state


def test_a_reservation_that_cannot_be_given_back_counts_as_spent() -> None:
    disk, die = Disk(), [None, None, "full", "full"]
    ledger = opened(CrashingLines(disk, die), MemoryLines())
    with pytest.raises(StorageError):
        ledger.reserve([entry(1), entry(2)])
    assert ledger.state.committed("assured").divergence > 0
    assert opened(CrashingLines(disk, []), MemoryLines()).state == ledger.state


@pytest.mark.parametrize("step", ["spend", "void"])
def test_a_settlement_that_cannot_be_written_leaves_the_reservation(step: str) -> None:
    disk, die = Disk(), [None, None, "full"]
    ledger = opened(CrashingLines(disk, die), MemoryLines())
    ledger.reserve([entry()])
    before = ledger.state
    with pytest.raises(StorageError):
        getattr(ledger, step)(entry().key)
    assert ledger.state is before and entry().key in ledger.state.waiting
    getattr(ledger, step)(entry().key)  # there is room again


# Budgets --------------------------------------------------------------------------------------------------------------


def test_nothing_is_opened_where_nothing_is_granted() -> None:
    lines = MemoryLines()
    with pytest.raises(InputError, match="no privacy budget; grant one in the policy"):
        opened(lines, MemoryLines(), budgets={})
    assert lines.read() == []


def test_a_policy_that_grants_more_later_does_not_widen_a_budget() -> None:
    lines = MemoryLines()
    opened(lines, MemoryLines())
    later = opened(lines, MemoryLines(), budgets={"assured": renyi_filter(100.0, 1e-3)})
    assert later.state.opening.budgets == BUDGETS and len(lines.read()) == 1


def test_a_new_row_in_the_data_does_not_reset_the_budget(tmp_path: Path) -> None:
    data = tmp_path / "wards.csv"
    data.write_text("age,label\n50,1\n")
    records, anchors = (tmp_path / name for name in ledger_names("wards", "client"))
    before = opened(FileLines(records), FileLines(anchors))
    before.reserve([entry()])
    spent = before.state
    del before
    data.write_text(data.read_text() + "51,0\n")
    assert (tmp_path / ledger_names("wards", "client")[0], tmp_path / ledger_names("wards", "client")[1]) == (
        records,
        anchors,
    )
    assert opened(FileLines(records), FileLines(anchors)).state == spent


def test_every_data_set_and_unit_has_files_of_its_own() -> None:
    names = [
        name
        for dataset in ("wards", "wards.client")
        for unit in ("client", "example")
        for name in names_of(dataset, unit)
    ]
    assert len(set(names)) == 8


def names_of(dataset: str, unit: Any) -> tuple[str, str]:
    return ledger_names(dataset, unit)


@pytest.mark.parametrize("dataset", ["", "../wards", "a/b", ".hidden", "x" * 65, "a\n"])
def test_a_name_that_could_leave_the_directory_is_refused(dataset: str) -> None:
    with pytest.raises(ValueError, match="a name has"):
        ledger_names(dataset, "client")


def test_the_ledger_of_another_data_set_unit_or_owner_is_refused() -> None:
    lines = MemoryLines()
    opened(lines, MemoryLines())
    with pytest.raises(LedgerBroken, match="opens the ledger of 'wards', unit client"):
        opened(lines, MemoryLines(), dataset="beds")
    with pytest.raises(LedgerBroken, match="opens the ledger of 'wards', unit client"):
        opened(lines, MemoryLines(), unit="example")
    with pytest.raises(LedgerBroken, match="not signed by the owner"):
        DatasetLedger(
            "wards", "client", lines, MemoryLines(), signer_of(STRANGER), verifier_of(STRANGER.public_key), BUDGETS
        )


def test_examples_and_clients_have_budgets_of_their_own_adjacency() -> None:
    removed = {"assured": renyi_filter(3.0, 1e-5, NeighboringRelation.ADD_OR_REMOVE_ONE)}
    ledger = opened(MemoryLines(), MemoryLines(), unit="example", budgets=removed)
    assert ledger.allows([entry()])
    with pytest.raises(PrivacyError, match="against"):
        opened(MemoryLines(), MemoryLines(), unit="example")


# Anchors --------------------------------------------------------------------------------------------------------------


def anchored() -> tuple[MemoryLines, MemoryLines, DatasetLedger]:
    lines, anchors = MemoryLines(), MemoryLines()
    ledger = opened(lines, anchors)
    for round_number in range(1, 4):
        head = ledger.reserve([entry(round_number)])
        ledger.spend(entry(round_number).key)
        ledger.countersigned(head)
    return lines, anchors, ledger


def copy(lines: Sequence[bytes]) -> MemoryLines:
    copied = MemoryLines()
    for line in lines:
        copied.append(line)
    return copied


def test_a_head_that_came_back_is_kept_and_what_is_newer_is_counted() -> None:
    lines, anchors, ledger = anchored()
    assert len(lines.read()) == 7 and ledger.unanchored == 1  # the last round was spent after its head had left
    again = opened(lines, anchors)
    assert again.unanchored == 1
    again.countersigned(again.state.anchor)
    assert again.unanchored == 0 == opened(lines, anchors).unanchored


@pytest.mark.parametrize("kept", range(6))
def test_records_cut_off_behind_the_head_that_came_back_are_missed(kept: int) -> None:
    lines, anchors, _ = anchored()
    with pytest.raises(LedgerBroken, match="before what was countersigned"):
        opened(copy(lines.read()[:kept]), anchors)


def test_what_nobody_countersigned_can_be_cut_and_is_why_it_is_counted() -> None:
    lines, anchors, ledger = anchored()
    assert opened(copy(lines.read()[:6]), anchors).unanchored == 0 < ledger.unanchored


def test_a_ledger_that_was_rolled_back_and_carried_on_is_refused() -> None:
    lines, anchors, _ = anchored()
    rolled_back = copy(lines.read()[:3])
    other = opened(rolled_back, MemoryLines())
    other.reserve([entry(number) for number in range(10, 16)])
    with pytest.raises(LedgerBroken, match="not the record that was countersigned"):
        opened(rolled_back, anchors)


def test_a_head_of_another_ledger_raises_an_alarm_and_is_not_kept() -> None:
    lines, anchors, ledger = anchored()
    for head in (Anchor(99, bytes(32)), Anchor(7, bytes(32)), Anchor(1, ledger.state.head)):
        with pytest.raises(LedgerBroken, match="not the record that was countersigned"):
            ledger.countersigned(head)
    assert opened(lines, anchors).unanchored == 1


def test_an_older_head_or_the_same_one_again_changes_nothing() -> None:
    lines, anchors, ledger = anchored()
    before = anchors.read()
    for line in before:
        values = json.loads(line)
        ledger.countersigned(Anchor(values["counter"], bytes.fromhex(values["head"])))
    assert anchors.read() == before and newest_anchor(before) == Anchor(
        6, bytes.fromhex(json.loads(before[-1])["head"])
    )


@pytest.mark.parametrize(
    "line",
    [
        b"null",
        b"{}",
        b'{"counter":1}',
        b'{"counter":1,"head":"00"}',
        b'{"counter":true,"head":"%s"}' % (b"0" * 64),
        b"x",
    ],
)
def test_an_anchor_that_cannot_be_read_stops_everything(line: bytes) -> None:
    lines, anchors, _ = anchored()
    with pytest.raises(LedgerBroken, match="what was countersigned"):
        opened(lines, copy([*anchors.read(), line]))


def test_anchors_that_changed_places_stop_everything() -> None:
    lines, anchors, _ = anchored()
    with pytest.raises(LedgerBroken, match="out of order"):
        opened(lines, copy(anchors.read()[::-1]))


def test_a_head_that_could_not_be_kept_is_not_taken_for_kept() -> None:
    lines = MemoryLines()
    ledger = opened(lines, CrashingLines(Disk(), ["full"]))
    with pytest.raises(StorageError):
        ledger.countersigned(ledger.state.anchor)
    assert ledger.unanchored == 1
    ledger.countersigned(ledger.state.anchor)
    assert ledger.unanchored == 0


# Whatever happens, in whatever order ----------------------------------------------------------------------------------

ends = st.sampled_from([None, None, None, "before", "after", "full"])
rounds = st.integers(1, 6)
noises = st.sampled_from([10.0, 20.0, 40.0])
makers = st.sampled_from(["own", "pinned", "promised"])


class LedgerThroughCrashes(RuleBasedStateMachine):
    """A ledger whose process may die at any append, against a model of what is certain."""

    @initialize()
    def start(self) -> None:
        self.records, self.anchors = Disk(), Disk()
        self.die: list[str | None] = []
        self.reserved: dict[Key, Entry] = {}  # what was reported, or may have happened
        self.certain: dict[Key, float] = {}  # what a reported reservation or spend costs at the very least
        self.spent: set[Key] = set()
        self.counter = 0
        self.gone: dict[Column, float] = {"assured": 0.0, "promised": 0.0}
        self.open()

    def open(self) -> None:
        self.lines = CrashingLines(self.records, self.die)
        self.kept_heads = CrashingLines(self.anchors, self.die)
        self.ledger = opened(self.lines, self.kept_heads)

    def do(self, step: Any, *ends: str | None) -> bool:
        """Take a step with these ends of its appends, and say whether it was reported as done."""
        self.die[:] = ends
        try:
            step()
            done = True
        except (StorageError, PrivacyError):
            done = False
        self.die.clear()
        if self.lines.dead or self.kept_heads.dead:
            self.open()
        return done

    def cost(self, wanted: Entry) -> float:
        return BUDGETS[COLUMN_OF[wanted.noise_by]].spent([wanted.event]).divergence

    @rule(
        round_number=rounds, noise=noises, makers=st.lists(makers, min_size=1, max_size=2), ends=st.tuples(ends, ends)
    )
    def reserve(
        self, round_number: int, noise: float, makers: list[NoiseBy], ends: tuple[str | None, str | None]
    ) -> None:
        wanted = [entry(round_number, noise, maker) for maker in makers]
        new = [one for one in wanted if one.key not in self.reserved]
        if self.do(lambda: self.ledger.reserve(wanted), *ends):
            assert len(new) == len(wanted)
            self.certain |= {one.key: self.cost(one) for one in wanted}
        for one in new:  # it may be there in any case, and then counts
            if one.key in self.ledger.state.waiting or one.key in self.ledger.state.settled:
                self.reserved[one.key] = one

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), end=ends, cheaper=st.booleans())
    def spend(self, data: st.DataObject, end: str | None, cheaper: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.reserved)))
        less = replace(self.reserved[key], event=dp_event.GaussianDpEvent(80.0))
        waited = key in self.ledger.state.waiting
        if waited and cheaper:
            self.certain[key] = self.cost(less)
        if self.do(lambda: self.ledger.spend(key, less.event if cheaper else None), end):
            assert waited
            self.certain[key] = self.cost(less if cheaper else self.reserved[key])
            self.spent.add(key)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), end=ends)
    def void(self, data: st.DataObject, end: str | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.reserved)))
        waited = key in self.ledger.state.waiting
        if self.do(lambda: self.ledger.void(key), end):
            assert waited
        if waited:  # nothing left, so it may be there or not
            self.certain.pop(key, None)

    @rule(back=st.integers(0, 3), end=ends)
    def countersign(self, back: int, end: str | None) -> None:
        counter = max(1, self.ledger.state.counter - back)
        head = opened(copy(self.records[:counter]), MemoryLines()).state.anchor
        if self.do(lambda: self.ledger.countersigned(head), end):
            assert self.ledger.unanchored <= self.ledger.state.counter - counter

    @rule()
    def reopen(self) -> None:
        before, events, unanchored = self.ledger.state, self.ledger.events_of("run-1"), self.ledger.unanchored
        self.open()
        assert (self.ledger.state, self.ledger.events_of("run-1")) == (before, events)
        assert self.ledger.unanchored == unanchored

    @rule(lost=st.integers(1, 9))
    def truncate(self, lost: int) -> None:
        """An end that was cut off is found as far as anything in it was countersigned."""
        lost = min(lost, len(self.records))
        shorter = copy(self.records[:-lost])
        if lost > self.ledger.unanchored:
            with pytest.raises(LedgerBroken):
                opened(shorter, copy(self.anchors))

    @invariant()
    def no_total_goes_down_and_no_spend_is_lost(self) -> None:
        state = self.ledger.state
        assert state.counter >= self.counter
        self.counter = state.counter
        assert self.spent <= state.settled
        for column, budget in BUDGETS.items():
            spent, committed = state.spent(column).divergence, state.committed(column).divergence
            assert spent >= self.gone[column]
            self.gone[column] = spent
            least = sum(cost for key, cost in self.certain.items() if key[3] == column)
            assert budget.limit >= committed >= least * (1 - 1e-9)
            assert spent >= (1 - 1e-9) * sum(self.certain[key] for key in self.spent if key[3] == column)
            run = self.ledger.events_of("run-1").get(column, ())
            assert budget.spent(run).divergence == pytest.approx(committed)


LedgerThroughCrashes.TestCase.settings = settings(deadline=None, max_examples=80, stateful_step_count=25)
TestLedgerThroughCrashes = LedgerThroughCrashes.TestCase
