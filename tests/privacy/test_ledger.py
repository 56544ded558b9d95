"""The ledger: totals that never fall, and records that nobody can alter, drop, reorder, cut or roll back unseen."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dp_accounting import NeighboringRelation, dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.errors import BudgetExceeded, BudgetTooLarge, PrivacyError
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.filters import renyi_filter
from tacit.privacy.ledger import Anchor, Ledger, LedgerBroken, open_ledger, verify
from tacit.privacy.records import Entry, NoiseBy, Opening, read_record, record_hash

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OPENING = Opening("client", "dataset-7", {"assured": renyi_filter(8.0, 1e-5), "promised": renyi_filter(2.0, 1e-5)})
STATES = {"reserved", "spent", "void"}


def is_signed(signature: bytes, message: bytes) -> bool:
    try:
        KEY.public_key().verify(signature, message)
    except InvalidSignature:
        return False
    return True


def entry(
    round_number: int = 1, event: dp_event.DpEvent | None = None, noise_by: NoiseBy = "own", attempt: int = 0
) -> Entry:
    event = event or SkellamDpEvent(100.0, 1000.0, (10 * 100.0) ** 2, 1e-30)
    return Entry("run-1", round_number, attempt, bytes(32), "distributed Skellam", event, 1e-5, noise_by)


class Disk:
    """A ledger and its lines, stored as they come; what a crash leaves behind."""

    def __init__(self, opening: Opening = OPENING) -> None:
        self.ledger, line = open_ledger(opening, KEY.sign)
        self.lines = [line]

    def do(self, step: Callable[[Ledger], tuple[Ledger, bytes]]) -> None:
        self.ledger, line = step(self.ledger)
        self.lines.append(line)

    def reserve(self, wanted: Entry) -> None:
        self.do(lambda ledger: ledger.reserve(wanted, KEY.sign))

    def spend(self, wanted: Entry, event: dp_event.DpEvent | None = None) -> None:
        self.do(lambda ledger: ledger.spend(wanted.key, KEY.sign, event))

    def void(self, wanted: Entry) -> None:
        self.do(lambda ledger: ledger.void(wanted.key, KEY.sign))

    def crash(self) -> None:
        self.ledger = verify(self.lines, is_signed, self.ledger.anchor).ledger


def busy_disk() -> Disk:
    disk = Disk()
    for round_number in range(1, 5):
        disk.reserve(entry(round_number))
        if round_number == 2:
            disk.void(entry(2))
        elif round_number < 4:
            disk.spend(entry(round_number))
    return disk


# Reserve, spend, void -------------------------------------------------------------------------------------------------


def test_a_reservation_counts_at_once_and_stays_when_it_is_spent() -> None:
    disk = Disk()
    disk.reserve(entry())
    reserved = disk.ledger.committed("assured")
    assert reserved.divergence > 0 == disk.ledger.spent("assured").divergence
    disk.spend(entry())
    assert disk.ledger.committed("assured") == reserved == disk.ledger.spent("assured")


def test_what_one_run_used_is_told_apart_and_runs_add_up() -> None:
    disk = Disk()
    other = dataclasses.replace(entry(), run="run-2")
    for wanted in (entry(1), entry(2), other):
        disk.reserve(wanted)
    disk.spend(entry(1))
    disk.spend(other)
    first, second = (disk.ledger.committed("assured", run).divergence for run in ("run-1", "run-2"))
    assert first == pytest.approx(2 * second)
    assert disk.ledger.committed("assured").divergence == pytest.approx(first + second)
    assert disk.ledger.spent("assured", "run-1").divergence == second
    assert 0.0 == disk.ledger.epsilon_committed("assured", "run-3") < disk.ledger.epsilon_committed("assured", "run-2")


def test_a_reservation_that_nothing_came_of_is_given_back() -> None:
    disk = Disk()
    disk.reserve(entry())
    disk.void(entry())
    assert disk.ledger.committed("assured").divergence == 0 == disk.ledger.epsilon_committed("assured")


def test_the_noise_of_more_survivors_than_needed_is_spent_cheaper() -> None:
    disk = Disk()
    disk.reserve(entry())
    disk.spend(entry(), SkellamDpEvent(100.0, 1000.0, (11 * 100.0) ** 2, 1.1e-30))
    cheaper = Disk()
    cheaper.reserve(entry())
    assert disk.ledger.committed("assured").divergence < cheaper.ledger.committed("assured").divergence


def test_spending_more_than_was_reserved_is_refused() -> None:
    disk = Disk()
    disk.reserve(entry())
    with pytest.raises(PrivacyError, match="more than was reserved"):
        disk.spend(entry(), SkellamDpEvent(100.0, 1000.0, (9 * 100.0) ** 2, 1e-30))
    assert disk.ledger.waiting and len(disk.lines) == 2


def test_nothing_is_settled_twice_or_without_a_reservation() -> None:
    disk = Disk()
    with pytest.raises(PrivacyError, match="nothing is reserved"):
        disk.spend(entry())
    disk.reserve(entry())
    with pytest.raises(PrivacyError, match="reserved before"):
        disk.reserve(entry())
    disk.spend(entry())
    for again in (disk.spend, disk.void):
        with pytest.raises(PrivacyError, match="nothing is reserved"):
            again(entry())
    with pytest.raises(PrivacyError, match="reserved before"):
        disk.reserve(entry())
    disk.reserve(entry(attempt=1))


def test_a_budget_is_too_large_for_a_sampler_that_errs_and_says_how_large_it_may_be() -> None:
    event = SkellamDpEvent(100.0, 1000.0, 1e6, 1e-25)
    budgets = {
        epsilon: Disk(Opening("client", "wards", {"assured": renyi_filter(epsilon, 1e-5)})) for epsilon in (40, 100)
    }
    budgets[40].reserve(entry(event=event))
    with pytest.raises(BudgetTooLarge, match="privacy budget of wards: noise is not drawn exactly enough") as refusal:
        budgets[100].reserve(entry(event=event))
    # (1 + e^epsilon) 1e-25 is at most a hundredth of delta.
    assert refusal.value.budget == 100.0 and refusal.value.most == pytest.approx(math.log(1e-7 / 1e-25))
    assert not budgets[100].ledger.waiting


def test_an_exhausted_budget_refuses_and_says_how_far_it_would_have_gone() -> None:
    disk, round_number = Disk(), 0
    with pytest.raises(BudgetExceeded) as refusal:
        for round_number in range(1, 10_000):  # noqa: B007
            disk.reserve(entry(round_number))
            disk.spend(entry(round_number))
    assert refusal.value.budget == 8.0 < refusal.value.requested
    assert disk.ledger.epsilon_committed("assured") <= 8.0
    assert not disk.ledger.allows(entry(round_number))
    assert round_number > 20
    assert disk.ledger.allows(entry(round_number, dp_event.GaussianDpEvent(1e4)))  # a cheaper one may still fit


def test_promised_noise_has_a_budget_of_its_own_and_without_one_is_refused() -> None:
    disk = Disk()
    for noise_by in ("own", "promised"):
        disk.reserve(entry(noise_by=noise_by))
    assert disk.ledger.epsilon_committed("assured") == pytest.approx(
        disk.ledger.opening.budgets["assured"].epsilon_of(disk.ledger.committed("assured"))
    )
    strict = Disk(Opening("client", "dataset-7", {"assured": renyi_filter(8.0, 1e-5)}))
    assert not strict.ledger.allows(entry(noise_by="promised"))
    with pytest.raises(PrivacyError, match="grants nothing to promised"):
        strict.reserve(entry(noise_by="promised"))
    strict.reserve(entry(noise_by="pinned"))


def test_a_coordinator_that_promises_noise_it_does_not_make_gains_nothing_on_the_assured_column() -> None:
    disk = Disk()
    disk.reserve(entry(noise_by="promised", event=dp_event.GaussianDpEvent(50.0)))
    assert disk.ledger.committed("assured").divergence == 0
    with pytest.raises(BudgetExceeded):
        disk.reserve(entry(noise_by="own", event=dp_event.NonPrivateDpEvent()))


def test_a_budget_is_against_the_adjacency_of_its_unit() -> None:
    for unit, adjacency in (
        ("client", NeighboringRelation.ADD_OR_REMOVE_ONE),
        ("example", NeighboringRelation.REPLACE_SPECIAL),
    ):
        with pytest.raises(PrivacyError, match="against"):
            open_ledger(Opening(unit, "x", {"assured": renyi_filter(1.0, 1e-5, adjacency)}), KEY.sign)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"offer": b"short"}, {"round": -1}, {"attempt": 1.0}, {"delta": math.nan}])
def test_an_entry_that_could_not_be_read_back_is_never_written(change: dict[str, Any]) -> None:
    disk = Disk()
    with pytest.raises((PrivacyError, ValueError)):
        disk.reserve(dataclasses.replace(entry(), **change))
    assert len(disk.lines) == 1 and not disk.ledger.waiting


moves = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "spend", "spend cheaper", "void", "crash"]),
        st.integers(0, 5),
        st.sampled_from(["own", "pinned", "promised"]),
        st.floats(5.0, 60.0),
    ),
    max_size=25,
)


@given(moves)
@settings(deadline=None, max_examples=60)
def test_no_sequence_of_steps_and_crashes_makes_a_total_go_down(steps: list[tuple[str, int, NoiseBy, float]]) -> None:
    disk = Disk()
    left: dict[Any, float] = {}  # what really left, by key, at what it cost
    for what, round_number, noise_by, noise in steps:
        wanted = entry(round_number, dp_event.GaussianDpEvent(noise), noise_by)
        before = disk.ledger
        try:
            if what == "reserve":
                disk.reserve(wanted)
            elif what == "spend":
                disk.spend(wanted)
            elif what == "spend cheaper":
                disk.spend(wanted, dp_event.GaussianDpEvent(120.0))
            elif what == "void":
                disk.void(wanted)
            else:
                disk.crash()
                assert disk.ledger == before
        except PrivacyError:
            assert disk.ledger is before  # a refused step changes nothing
        for column in ("assured", "promised"):
            budget = OPENING.budgets[column]
            assert disk.ledger.spent(column).divergence >= before.spent(column).divergence
            assert disk.ledger.committed(column).divergence >= disk.ledger.spent(column).divergence
            assert disk.ledger.committed(column).divergence <= budget.limit
            if what != "void" and what != "spend cheaper":
                assert disk.ledger.committed(column).divergence >= before.committed(column).divergence * (1 - 1e-12)
        if what.startswith("spend") and disk.ledger is not before:
            left[wanted.key] = 1.0
    assert set(left) <= disk.ledger.settled


# The chain ------------------------------------------------------------------------------------------------------------


def test_the_records_prove_the_ledger_and_count_what_nobody_has_countersigned() -> None:
    disk = busy_disk()
    verified = verify(disk.lines, is_signed)
    assert verified.ledger == disk.ledger and verified.unanchored == len(disk.lines) == 8
    assert verify(disk.lines, is_signed, Anchor(5, record_hash(disk.lines[4]))).unanchored == 3
    assert verify(disk.lines, is_signed, disk.ledger.anchor).unanchored == 0


def test_any_changed_byte_is_found() -> None:
    lines = busy_disk().lines
    for number in range(len(lines)):
        for place in range(0, len(lines[number]), 7):
            changed = bytearray(lines[number])
            changed[place] ^= 1
            with pytest.raises(LedgerBroken) as broken:
                verify([*lines[:number], bytes(changed), *lines[number + 1 :]], is_signed)
            assert broken.value.counter in (number + 1, number + 2)


def test_any_dropped_record_is_found_but_the_last_only_by_its_anchor() -> None:
    disk = busy_disk()
    for number in range(len(disk.lines)):
        rest = disk.lines[:number] + disk.lines[number + 1 :]
        with pytest.raises(LedgerBroken):
            verify(rest, is_signed, disk.ledger.anchor)
    cut = verify(disk.lines[:-1], is_signed)
    assert cut.unanchored == len(disk.lines) - 1  # stated as what it is: vouched for by nobody


def test_any_two_records_that_changed_places_are_found() -> None:
    lines = busy_disk().lines
    for first in range(len(lines)):
        for second in range(first):
            swapped = list(lines)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            with pytest.raises(LedgerBroken):
                verify(swapped, is_signed)


@pytest.mark.parametrize("kept", [0, 1, 3, 7])
def test_an_end_cut_off_behind_the_countersigned_head_is_found(kept: int) -> None:
    disk = busy_disk()
    with pytest.raises(LedgerBroken, match="before what was countersigned"):
        verify(disk.lines[:kept], is_signed, disk.ledger.anchor)


def test_a_ledger_rolled_back_and_carried_on_differently_is_found() -> None:
    disk = busy_disk()
    anchor = disk.ledger.anchor
    other = Disk()
    other.lines = disk.lines[:4]
    other.ledger = verify(other.lines, is_signed).ledger
    for round_number in range(50, 56):
        other.reserve(entry(round_number))
    verify(other.lines, is_signed)  # by itself it is a ledger
    with pytest.raises(LedgerBroken, match="not the record that was countersigned"):
        verify(other.lines, is_signed, anchor)


def test_a_chain_that_somebody_else_signed_is_refused_at_its_first_record() -> None:
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(32))
    ledger, line = open_ledger(OPENING, stranger.sign)
    with pytest.raises(LedgerBroken, match="record 1: not signed by the owner"):
        verify([line, ledger.reserve(entry(), stranger.sign)[1]], is_signed)


def test_a_signed_record_that_breaks_the_rules_is_refused_all_the_same() -> None:
    # The owner's key signs a void of something that was spent: a correct chain of an impossible history.
    disk = Disk()
    disk.reserve(entry())
    waiting = disk.ledger
    disk.spend(entry())
    void = read_record(waiting.void(entry().key, KEY.sign)[1])
    forged = dataclasses.replace(void, counter=disk.ledger.counter + 1, previous=disk.ledger.head)
    forged = dataclasses.replace(forged, signature=KEY.sign(forged.message()))
    with pytest.raises(LedgerBroken, match="record 4: nothing is reserved"):
        verify([*disk.lines, forged.to_bytes()], is_signed)


def test_a_record_of_another_ledger_of_the_same_owner_does_not_fit() -> None:
    disk, other = Disk(), Disk(dataclasses.replace(OPENING, subject="dataset-8"))
    record = read_record(other.ledger.reserve(entry(), KEY.sign)[1])
    moved = dataclasses.replace(record, previous=disk.ledger.head)
    moved = dataclasses.replace(moved, signature=KEY.sign(moved.message()))
    with pytest.raises(LedgerBroken, match="another ledger"):
        verify([*disk.lines, moved.to_bytes()], is_signed)


def test_a_second_opening_never_resets_a_budget() -> None:
    disk = Disk()
    record = read_record(disk.lines[0])
    again = dataclasses.replace(record, counter=2, previous=disk.ledger.head)
    again = dataclasses.replace(again, signature=KEY.sign(again.message()))
    with pytest.raises(LedgerBroken, match="opened once"):
        verify([*disk.lines, again.to_bytes()], is_signed)


def test_nothing_is_no_ledger() -> None:
    with pytest.raises(LedgerBroken, match="record 1"):
        verify([], is_signed)


def test_an_anchor_holds_something() -> None:
    for counter, head in ((0, bytes(32)), (1, b"")):
        with pytest.raises(PrivacyError):
            Anchor(counter, head)


# The bytes of a record ------------------------------------------------------------------------------------------------


def test_a_record_is_one_line_that_says_what_the_statement_needs() -> None:
    line = busy_disk().lines[1]
    fields = json.loads(line)
    assert b"\n" not in line
    assert {"unit", "subject", "run", "round", "attempt", "offer", "mechanism", "event", "delta"} < fields.keys()
    assert {"noise_by", "state", "previous", "signature", "counter"} < fields.keys()
    assert fields["state"] in STATES


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_record_survives_its_bytes(number: int) -> None:
    line = busy_disk().lines[number]
    assert read_record(line).to_bytes() == line


def respelled(fields: dict[str, Any]) -> list[bytes]:
    compact = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return [
        json.dumps(fields, sort_keys=True).encode(),
        json.dumps(dict(reversed(fields.items())), separators=(",", ":")).encode(),
        compact.replace(b'"run-1"', b'"\\u0072un-1"'),
        compact.replace(b'"round":1', b'"round":1.0'),
        compact.replace(b'"round":1', b'"round":true'),
        compact.replace(b'"round":1', b'"round":1,"round":1'),
        compact.replace(b'"offer":"00', b'"offer":" 00'),
        compact[:-1] + b',"note":1}',
        compact + b"\n",
        b"[" * 100_000,
        b"\xff",
        b"",
        b"null",
    ]


def test_only_the_canonical_spelling_is_a_record() -> None:
    fields = json.loads(busy_disk().lines[1])
    for spelling in respelled(fields):
        with pytest.raises(PrivacyError):
            read_record(spelling)


@pytest.mark.parametrize("missing", ["counter", "previous", "unit", "state", "event", "noise_by", "signature", "delta"])
def test_a_record_with_a_field_missing_is_refused(missing: str) -> None:
    fields = json.loads(busy_disk().lines[1])
    del fields[missing]
    with pytest.raises(PrivacyError):
        read_record(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
