"""Lines: what was appended is there, in order, for the one process that holds it, and nothing half-written ever is."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.client.lines import FileLines, Lines, MemoryLines, StorageError, is_in_use, read_lines
from tacit.models.errors import InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "lines"


@pytest.fixture(params=["file", "memory"])
def lines(request: pytest.FixtureRequest, path: Path) -> Lines:
    return FileLines(path) if request.param == "file" else MemoryLines()


def full_disk(monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    """Let `os.write` take so many bytes, and find the disk full at the next."""
    write = os.write

    def short(file: int, data: bytes) -> int:
        nonlocal written
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part, written = data[:written], 0
        return write(file, part)

    monkeypatch.setattr(os, "write", short)


def broken_disk(file: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


# Every implementation -------------------------------------------------------------------------------------------------


def test_what_was_appended_is_read_in_its_order(lines: Lines) -> None:
    assert lines.read() == []
    for line in (b"one", b"two", b"one"):
        lines.append(line)
    assert lines.read() == [b"one", b"two", b"one"]


@pytest.mark.parametrize("line", [b"", b"\n", b"two\nlines", b"ended\n"])
def test_what_would_not_come_back_as_one_line_is_refused(lines: Lines, line: bytes) -> None:
    with pytest.raises(ValueError, match="a line"):
        lines.append(line)
    assert lines.read() == []


def test_a_list_that_was_read_is_the_readers_own(lines: Lines) -> None:
    lines.append(b"one")
    lines.read().clear()
    assert lines.read() == [b"one"]


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_file_holds_its_lines_when_it_is_opened_again(path: Path) -> None:
    first = FileLines(path)
    first.append(b"one")
    first.close()
    again = FileLines(path)
    again.append(b"two")
    assert again.read() == [b"one", b"two"] == read_lines(path)
    assert path.read_bytes() == b"one\ntwo\n"


def test_only_the_owner_may_read_a_file_and_enter_its_directory(path: Path) -> None:
    before = os.umask(0)
    try:
        FileLines(path).append(b"one")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o666])
def test_a_file_that_others_may_use_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    FileLines(path).close()
    path.chmod(mode)
    with pytest.raises(InputError, match="open to other users; close it with chmod 600"):
        FileLines(path)
    path.chmod(0o600)
    FileLines(path)


def test_a_directory_that_others_may_enter_is_refused_with_the_remedy(path: Path) -> None:
    path.parent.mkdir(mode=0o750)
    path.parent.chmod(0o750)
    with pytest.raises(InputError, match="open to other users; close it with chmod 700"):
        FileLines(path)


def test_a_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileLines(path).close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InputError, match="belongs to another user"):
        FileLines(path)


def test_a_disk_that_cannot_be_read_or_flushed_is_no_place_for_lines(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = FileLines(path)
    lines.append(b"one")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", lambda file, size, offset: broken_disk(file))
        with pytest.raises(StorageError, match="cannot be read"):
            lines.read()
    lines.close()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken_disk)
        with pytest.raises(InputError, match="cannot be used"):
            FileLines(path)
    assert FileLines(path).read() == [b"one"]  # and the lock was given back


def test_neither_a_link_nor_a_directory_nor_a_pipe_is_opened(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    (path.parent / "real").touch(0o600)
    path.symlink_to("real")
    with pytest.raises(InputError, match="cannot be opened"):
        FileLines(path)
    with pytest.raises(InputError, match="cannot be opened"):
        FileLines(path.parent)
    os.mkfifo(path.parent / "pipe", 0o600)
    with pytest.raises(InputError, match="is no file"):
        FileLines(path.parent / "pipe")


def test_a_second_writer_is_refused_until_the_first_closes(path: Path) -> None:
    first = FileLines(path)
    with pytest.raises(InputError, match="is in use; stop the agent that is running"):
        FileLines(path)
    first.append(b"one")
    first.close()
    FileLines(path).append(b"two")
    assert read_lines(path) == [b"one", b"two"]


def test_a_file_that_nobody_holds_any_more_is_free(path: Path) -> None:
    FileLines(path).append(b"one")  # dropped at once
    assert FileLines(path).read() == [b"one"]


def test_a_second_process_cannot_open_it(path: Path) -> None:
    held = FileLines(path)
    script = (
        "import sys, pathlib\n"
        "from tacit.client.lines import FileLines\n"
        "from tacit.models.errors import InputError\n"
        "try:\n    FileLines(pathlib.Path(sys.argv[1]))\n"
        "except InputError as error:\n    sys.exit(str(error))\n"
    )
    other = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert other.returncode == 1 and "is in use" in other.stderr
    held.append(b"one")
    held.close()
    free = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert free.returncode == 0, free.stderr


def test_a_process_that_inherited_the_file_does_not_write_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = FileLines(path)
    monkeypatch.setattr(os, "getpid", lambda: -1)  # what a fork would see: another number, and the same open file
    with pytest.raises(StorageError, match="belongs to the process that opened it"):
        held.append(b"one")
    assert read_lines(path) == []


def test_a_closed_file_takes_nothing(path: Path) -> None:
    lines = FileLines(path)
    lines.close()
    for use in (lines.read, lambda: lines.append(b"one"), lines.read):
        with pytest.raises(StorageError, match="is closed"):
            use()


@given(st.lists(st.binary(min_size=1, max_size=9).filter(lambda line: b"\n" not in line), max_size=4), st.data())
@settings(deadline=None, max_examples=40)
def test_a_line_that_a_crash_tore_is_cut_off_and_none_before_it(
    tmp_path_factory: pytest.TempPathFactory, kept: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "lines"
    whole = b"".join(line + b"\n" for line in kept)
    torn = data.draw(st.binary(max_size=9).filter(lambda line: b"\n" not in line))
    path.touch(0o600)
    path.write_bytes(whole + torn)
    assert read_lines(path) == kept  # a reader without the lock changes nothing
    lines = FileLines(path)
    assert lines.read() == kept and path.read_bytes() == whole
    lines.append(b"next")
    assert lines.read() == [*kept, b"next"]


@pytest.mark.parametrize("written", range(4))
def test_a_full_disk_leaves_the_lines_as_they_were(path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    lines = FileLines(path)
    lines.append(b"one")
    with monkeypatch.context() as patched:
        full_disk(patched, written)
        with pytest.raises(StorageError, match="No space left on device"):
            lines.append(b"two")
        assert path.read_bytes() == b"one\n"
    assert lines.read() == [b"one"]
    lines.append(b"three")  # there is room again
    assert lines.read() == [b"one", b"three"]


def test_a_write_in_pieces_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:2]))
    lines = FileLines(path)
    lines.append(b"seven bytes")
    assert path.read_bytes() == b"seven bytes\n"


def test_half_a_line_that_cannot_be_taken_back_stops_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = FileLines(path)
    lines.append(b"one")
    with monkeypatch.context() as patched:
        full_disk(patched, 2)
        patched.setattr(os, "ftruncate", lambda file, size: broken_disk(file))
        with pytest.raises(StorageError, match="holds half a line"):
            lines.append(b"two")
    with pytest.raises(StorageError, match="open it again"):
        lines.append(b"three")
    lines.close()
    assert FileLines(path).read() == [b"one"]


def test_after_a_flush_that_failed_nothing_more_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = FileLines(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", broken_disk)
        with pytest.raises(StorageError, match="cannot be flushed"):
            lines.append(b"one")
    for use in (lambda: lines.append(b"two"), lines.read):
        with pytest.raises(StorageError, match="open it again"):
            use()
    lines.close()
    assert FileLines(path).read() in ([], [b"one"])  # whichever reached the disk; nobody was promised either


def test_whatever_interrupts_an_append_stops_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    lines = FileLines(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lines.append(b"one")
    with pytest.raises(StorageError):
        lines.append(b"two")


def cut(path: Path) -> None:
    path.write_bytes(b"")


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more\n")


@pytest.mark.parametrize("meddle", [cut, grown, Path.unlink])
def test_a_file_that_somebody_else_changed_is_not_written(path: Path, meddle: Callable[[Path], None]) -> None:
    lines = FileLines(path)
    lines.append(b"one")
    meddle(path)
    for _ in range(2):
        with pytest.raises(StorageError, match="changed or removed by somebody else|open it again"):
            lines.append(b"two")


def test_a_new_file_is_flushed_with_its_name_and_every_line_with_its_bytes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def noted(file: int) -> None:
        flushed.append("directory" if stat.S_ISDIR(os.fstat(file).st_mode) else path.read_bytes().decode())
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    lines = FileLines(path)
    assert flushed == ["directory", "directory"]  # the directory's own name, and the file's
    lines.append(b"one")
    lines.append(b"two")
    assert flushed[2:] == ["one\n", "one\ntwo\n"]


def test_reading_a_file_that_is_not_there_finds_no_line(path: Path) -> None:
    assert read_lines(path) == []
    with pytest.raises(InputError, match="cannot be read"):
        read_lines(path.parent.parent)


def test_whoever_only_looks_whether_they_are_in_use_keeps_nobody_from_writing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileLines(path).close()
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("tacit.client.lines.time.sleep", lambda seconds: os.close(looking))  # it has seen enough
    lines = FileLines(path)
    assert is_in_use(path)
    lines.close()
