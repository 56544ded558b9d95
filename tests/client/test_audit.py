"""The agent's account: nothing is altered, dropped or reordered in it unseen, and no data get into it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.audit import KINDS, LONGEST_TEXT, AuditBroken, AuditLog, verify_audit
from tacit.client.lines import MemoryLines, StorageError
from tacit.models.errors import InputError
from tacit.privacy.ledger import Anchor


def clock() -> Iterator[float]:
    return iter(float(second) for second in range(1_700_000_000, 1_700_001_000))


def written() -> tuple[MemoryLines, AuditLog]:
    lines, seconds = MemoryLines(), clock()
    log = AuditLog(lines, lambda: next(seconds))
    log.append("offer-accepted", run="run-1", round=1, attempt=0, offer=bytes(32))
    log.append("ledger-reserved", dataset="wards", unit="client", counter=2, epsilon=0.5)
    log.append("message-left", action="mask", digest=b"\x01" * 32, size=4096)
    log.append("offer-refused", run="run-2", code="noise-multiplier", reason="0.3 is below our 0.5")
    log.append("paused")
    return lines, log


def copy(lines: list[bytes]) -> MemoryLines:
    copied = MemoryLines()
    for line in lines:
        copied.append(line)
    return copied


def test_an_entry_says_what_happened_and_when_by_the_agents_clock() -> None:
    _, log = written()
    entries = log.entries()
    assert [entry.counter for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[3].kind == "offer-refused" and entries[3].details["code"] == "noise-multiplier"
    assert entries[2].details == {"action": "mask", "digest": "01" * 32, "size": 4096}
    assert [entry.at - 1_700_000_000 for entry in entries] == [0, 1, 2, 3, 4]


def test_an_account_goes_on_where_it_ended() -> None:
    lines, log = written()
    again = AuditLog(copy(lines.read()), lambda: 0.0)
    assert again.head == log.head
    again.append("resumed")
    assert [entry.kind for entry in again.entries()][-2:] == ["paused", "resumed"]
    again.verify(log.head)  # it has grown since, and is the same up to there


def test_an_empty_account_has_no_head() -> None:
    log = AuditLog(MemoryLines(), lambda: 0.0)
    assert log.head is None and log.entries() == ()
    log.verify()


@given(st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    lines, log = written()
    kept = lines.read()
    at = data.draw(st.integers(0, len(kept) - 1))
    place = data.draw(st.integers(0, len(kept[at]) - 1))
    changed = bytearray(kept[at])
    changed[place] ^= data.draw(st.integers(1, 255))
    kept[at] = bytes(changed)
    with pytest.raises(AuditBroken):
        verify_audit(kept, log.head)


def test_dropped_and_reordered_entries_are_found() -> None:
    lines, log = written()
    kept = lines.read()
    for first in range(len(kept)):
        with pytest.raises(AuditBroken):
            verify_audit(kept[:first] + kept[first + 1 :], log.head)
        for second in range(first):
            swapped = list(kept)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            with pytest.raises(AuditBroken):
                verify_audit(swapped)


def test_an_end_that_was_cut_off_is_found_by_a_head_that_was_kept_elsewhere() -> None:
    lines, log = written()
    cut = AuditLog(copy(lines.read()[:3]), lambda: 0.0)
    cut.verify()
    with pytest.raises(AuditBroken, match="audit entry 4: missing"):
        cut.verify(log.head)
    for _ in range(4):
        cut.append("paused")
    with pytest.raises(AuditBroken, match="audit entry 5: not the entry"):
        cut.verify(log.head)


def test_what_changed_behind_the_agents_back_is_found_by_its_own_head() -> None:
    lines, log = written()
    lines._lines.pop()
    with pytest.raises(AuditBroken, match="missing"):
        log.verify()
    with pytest.raises(AuditBroken, match="missing"):
        log.entries()


def test_a_broken_account_is_not_opened() -> None:
    lines, _ = written()
    with pytest.raises(AuditBroken, match="audit entry 2"):
        AuditLog(copy(lines.read()[:1] + lines.read()[2:]), lambda: 0.0)


@pytest.mark.parametrize("line", [b"null", b"{}", b"[1]", b"\xff", b"[" * 100_000, b"1"])
def test_a_line_that_no_agent_wrote_is_refused(line: bytes) -> None:
    with pytest.raises(AuditBroken, match="audit entry 1: is none that was written here"):
        verify_audit([line])


def test_an_entry_in_another_spelling_is_refused() -> None:
    line = written()[0].read()[0]
    with pytest.raises(AuditBroken, match="none that was written here"):
        verify_audit([json.dumps(json.loads(line)).encode()])


def test_a_kind_that_nobody_knows_is_refused_with_the_nearest_known_one() -> None:
    lines, log = written()
    before = lines.read()
    with pytest.raises(
        InputError, match="unknown kind of audit entry 'offer-acepted'; the nearest is 'offer-accepted'"
    ):
        log.append("offer-acepted")
    assert lines.read() == before


@pytest.mark.parametrize("detail", [math.nan, math.inf, [1.0, 2.0], {"row": 1}, object()])
def test_tables_and_numbers_that_are_none_have_no_place_in_an_entry(detail: object) -> None:
    lines, log = written()
    before = lines.read()
    with pytest.raises(ValueError, match="the detail 'reason' is neither text nor a finite number"):
        log.append("offer-refused", reason=detail)  # type: ignore[arg-type]
    assert lines.read() == before
    log.append("paused")
    log.verify()


@pytest.mark.parametrize(
    "text", ["x" * (LONGEST_TEXT + 1), "\n" * LONGEST_TEXT, "two\nlines", "\ud800", "\x1b[2J", "naïve"]
)
def test_no_text_of_a_coordinators_keeps_an_entry_from_being_written(text: str) -> None:
    lines, log = written()
    log.append("offer-refused", run=text)
    shown = AuditLog(copy(lines.read()), lambda: 0.0).entries()[-1].details["run"]
    assert isinstance(shown, str) and shown.isprintable() and len(shown) <= LONGEST_TEXT
    assert shown.startswith("x") or shown in (text, ascii(text)[:LONGEST_TEXT])


def test_an_entry_that_could_not_be_written_is_not_part_of_the_chain() -> None:
    class Full(MemoryLines):
        full = False

        def append(self, line: bytes) -> None:
            if self.full:
                raise StorageError("no space left")
            super().append(line)

    lines = Full()
    log = AuditLog(lines, lambda: 0.0)
    log.append("paused")
    lines.full = True
    with pytest.raises(StorageError):
        log.append("resumed")
    lines.full = False
    log.append("left")
    assert [entry.kind for entry in log.entries()] == ["paused", "left"]


def test_every_kind_can_be_written() -> None:
    log = AuditLog(MemoryLines(), lambda: 0.0)
    for kind in KINDS:
        log.append(kind)
    assert [entry.kind for entry in log.entries()] == list(KINDS)
    assert log.head is not None and log.head == Anchor(len(KINDS), log.head.head)
