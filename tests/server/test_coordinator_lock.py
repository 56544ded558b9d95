"""One process at a time is a directory's coordinator, and nothing that an earlier one left is believed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from tacit.models.errors import InputError
from tacit.server.coordinator_lock import LOCK, Holder, held, holder, this_place
from tacit.server.up_file import UP_FILE, Beacon, Client, Up, forget_up, read_up

from ..settle import HANGS_SECONDS, settle  # noqa: TID252 - tests are no package that could be named

HOLDING = """
import sys, time
from pathlib import Path
from tacit.server.coordinator_lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
UP = Up(
    pid=os.getpid(),
    started_at=datetime(2026, 3, 14, tzinfo=UTC),
    url="https://127.0.0.1:9092",
    version="0",
    insecure=False,
    metrics="",
    clients={
        "north": Client(online=True, seen=datetime(2026, 3, 15, tzinfo=UTC)),
        "south": Client(online=False, seen=None),
    },
)


@contextmanager
def other_process(directory: Path) -> "Iterator[subprocess.Popen[str]]":
    """A process that holds the directory's lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=HANGS_SECONDS)


def test_nobody_holds_a_lock_that_was_never_taken(tmp_path: Path) -> None:
    assert holder(tmp_path) is None and not list(tmp_path.iterdir())


def test_a_second_coordinator_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    with other_process(tmp_path) as first:
        assert holder(tmp_path) == Holder(first.pid, this_place()) and Holder(first.pid, this_place()).is_here
        with pytest.raises(InputError, match=rf"up in it already \(pid {first.pid}\)"), held(tmp_path):
            pass
    with held(tmp_path):
        assert holder(tmp_path) == Holder(os.getpid(), this_place())
    assert holder(tmp_path) is None


def test_sigkill_lets_go_of_the_lock_whatever_stands_in_the_file(tmp_path: Path) -> None:
    with other_process(tmp_path) as first:
        first.kill()
        first.wait(timeout=HANGS_SECONDS)
        assert (tmp_path / LOCK).read_text().startswith(f"{first.pid} ")
        assert holder(tmp_path) is None
        with held(tmp_path):
            assert holder(tmp_path) == Holder(os.getpid(), this_place())


def test_a_number_from_another_machine_or_container_means_nothing_here() -> None:
    assert not Holder(os.getpid(), "elsewhere pid:[1]").is_here


def test_a_lock_that_is_a_link_or_says_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="cannot be used"), held(tmp_path):
        pass
    (tmp_path / LOCK).unlink()
    with held(tmp_path):
        (tmp_path / LOCK).write_text("")
        with pytest.raises(InputError, match="says nothing that can be read"):
            holder(tmp_path)


# up.json


def test_what_a_coordinator_says_is_there_while_it_is_up_and_not_after(tmp_path: Path) -> None:
    with held(tmp_path):
        with Beacon(tmp_path, lambda: UP):
            assert read_up(tmp_path) == UP
            assert (tmp_path / UP_FILE).stat().st_mode & 0o777 == 0o600
        assert read_up(tmp_path) is None and not (tmp_path / UP_FILE).exists()


def test_what_sigkill_left_behind_is_never_believed(tmp_path: Path) -> None:
    (tmp_path / UP_FILE).write_text(UP.model_dump_json())
    assert read_up(tmp_path) is None
    with other_process(tmp_path):  # the next one is up and has not said anything yet
        assert read_up(tmp_path) is None
    with held(tmp_path):
        forget_up(tmp_path)
        assert read_up(tmp_path) is None


def test_it_is_written_again_when_something_has_changed_and_only_then(tmp_path: Path) -> None:
    state, described = UP, 0

    def describe() -> Up:
        nonlocal described
        described += 1
        return state

    with held(tmp_path), Beacon(tmp_path, describe, every_seconds=0.005):
        before = (tmp_path / UP_FILE).stat()
        settle(lambda: described > 5)
        assert (tmp_path / UP_FILE).stat().st_ino == before.st_ino
        state = UP.model_copy(update={"insecure": True})
        settle(lambda: (found := read_up(tmp_path)) is not None and found.insecure)


def test_a_description_that_fails_does_not_end_the_beacon(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls = count()

    def describe() -> Up:
        call = next(calls)
        if call in (1, 2, 3):
            raise OSError(28, "No space left on device")
        return UP.model_copy(update={"url": f"https://127.0.0.1:{call}"})

    with held(tmp_path), Beacon(tmp_path, describe, every_seconds=0.005):
        first = read_up(tmp_path)
        settle(lambda: read_up(tmp_path) != first)
    assert len([one for one in caplog.records if "cannot be written" in one.message]) == 1


def test_a_file_of_another_version_is_told(tmp_path: Path) -> None:
    with held(tmp_path):
        (tmp_path / UP_FILE).write_text("{}")
        with pytest.raises(InputError, match="not what this version"):
            read_up(tmp_path)
