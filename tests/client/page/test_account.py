"""The account as the page follows it: every entry once, as it comes, and nothing that was changed passes for whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tacit.client.audit import AuditLog
from tacit.client.lines import FileLines, MemoryLines, Rewritten, Tail
from tacit.client.page.account import READ_ANEW, READ_ANEW_BROKEN, Account

from .owned import answered, asked


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Kept:
    """An account on disk, and a page that follows it."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.path = folder / "audit.jsonl"
        folder.chmod(0o700)
        self.lines = FileLines(self.path)
        self.log = AuditLog(self.lines, self.clock)
        self.page = Account(self.path, self.clock)

    def refreshed(self) -> Account:
        self.page.refresh()
        return self.page


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_an_agent_that_has_done_nothing_has_a_whole_account(tmp_path: Path) -> None:
    page = Account(tmp_path / "audit.jsonl", Clock())
    page.refresh()
    assert (page.standing.head, page.standing.broken, page.story.entries) == (None, "", 0)


def test_what_is_added_is_read_while_the_agent_has_the_account_open(kept: Kept) -> None:
    assert kept.refreshed().story.entries == 0
    for number in range(1, 4):
        kept.log.append("offer-accepted", **asked("run-1", number, "triage"))
        answered(kept.log, "run-1", number)
        page = kept.refreshed()
        assert page.standing.head == kept.log.head and page.standing.broken == ""
        assert page.story.runs["run-1"].given == number
        assert len(page.story.places) == 5 * number


def test_only_what_is_new_is_read(kept: Kept) -> None:
    kept.log.append("paused")
    kept.refreshed()
    kept.log.append("resumed")
    assert [line for _, line in kept.page._tail.read()] == kept.lines.read()[1:]


def test_half_a_line_waits_for_its_other_half(kept: Kept) -> None:
    kept.log.append("paused")
    whole = kept.path.read_bytes()
    with kept.path.open("ab") as file:
        file.write(b'{"at":')
    assert kept.refreshed().story.entries == 1
    kept.path.write_bytes(whole)
    assert kept.refreshed().standing.broken == ""


def test_an_altered_entry_shows_once_all_is_read_anew(kept: Kept) -> None:
    for kind in ("paused", "resumed", "paused"):
        kept.log.append(kind)
    assert kept.refreshed().standing.broken == ""
    content = kept.path.read_bytes()
    kept.path.write_bytes(content.replace(b"resumed", b"resumeD", 1))
    kept.clock.seconds += READ_ANEW
    page = kept.refreshed()
    assert page.standing.broken.startswith("audit entry 3: ")
    kept.path.write_bytes(content)
    kept.clock.seconds += READ_ANEW_BROKEN
    assert kept.refreshed().standing.broken == ""


def test_an_entry_that_does_not_follow_shows_at_once(kept: Kept) -> None:
    kept.log.append("paused")
    kept.refreshed()
    other = MemoryLines()
    AuditLog(other, kept.clock).append("resumed")
    with kept.path.open("ab") as file:
        file.write(other.read()[0] + b"\n")
    page = kept.refreshed()
    assert page.standing.broken == "audit entry 2: does not follow the one before it"
    assert page.story.entries == 1 and page.standing.head == kept.log.head


def test_an_end_that_was_cut_off_shows_to_a_page_that_knew_it(kept: Kept) -> None:
    kept.log.append("paused")
    shorter = kept.path.read_bytes()
    kept.log.append("resumed")
    kept.refreshed()
    kept.path.write_bytes(shorter)
    assert kept.refreshed().standing.broken == "audit entry 2: has gone, with all behind it"


def test_an_account_that_was_written_anew_shows_even_if_it_is_longer(kept: Kept) -> None:
    kept.log.append("paused")
    kept.refreshed()
    other = MemoryLines()
    log = AuditLog(other, lambda: 5.0)
    log.append("paused")
    log.append("resumed")
    kept.path.unlink()
    kept.path.write_bytes(b"".join(line + b"\n" for line in other.read()))
    assert "is not the one that this page has read before" in kept.refreshed().standing.broken


def test_an_account_that_has_gone_shows(kept: Kept) -> None:
    kept.log.append("paused")
    kept.refreshed()
    kept.path.unlink()
    assert kept.refreshed().standing.broken == "audit entry 1: has gone, with all behind it"


def test_the_same_account_in_another_file_is_whole(kept: Kept) -> None:
    kept.log.append("paused")
    kept.refreshed()
    content = kept.path.read_bytes()
    kept.path.unlink()
    (kept.path.parent / "copy").write_bytes(content)
    (kept.path.parent / "copy").rename(kept.path)
    assert kept.refreshed().standing.broken == ""


def test_messages_are_found_again_newest_first_in_pages(kept: Kept) -> None:
    kept.log.append("paused")
    for number in range(1, 4):
        answered(kept.log, "run-1", number)
    page = kept.refreshed()
    first = page.newest(16, 6)
    assert [number for number, _ in first] == [15, 14, 13, 12, 11, 10]
    assert [noted.details["what"] for _, noted in first] == ["unmask", "sign", "mask", "share", "advertise", "unmask"]
    assert [number for number, _ in page.newest(4, 6)] == [3, 2, 1]
    assert page.newest(1, 6) == page.newest(0, 6) == []
    assert [number for number, _ in page.newest(10**9, 2)] == [15, 14]


def test_a_tail_gives_each_line_once_and_says_when_its_file_is_another(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    tail = Tail(path)
    assert list(tail.read()) == []
    path.write_bytes(b"one\ntwo\nthr")
    assert list(tail.read()) == [(0, b"one"), (4, b"two")]
    path.write_bytes(b"one\ntwo\nthree\n")
    assert list(tail.read()) == [(8, b"three")]
    assert list(tail.read()) == []
    path.write_bytes(b"one\n")
    with pytest.raises(Rewritten):
        list(tail.read())


def test_lines_that_were_not_taken_from_a_tail_are_given_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n")
    tail = Tail(path)
    assert next(tail.read()) == (0, b"one")
    assert list(tail.read()) == [(4, b"two")]
