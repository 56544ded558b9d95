"""Files are there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.models.durable import write_directory, write_file, write_pieces
from tacit.models.errors import InputError


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"first")
    write_file(path, b"second")
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_file(path, b"first")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"second")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_no_half_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_directory(tmp_path / "new", {"a": b"1", "b": b"2"})
    assert os.listdir(tmp_path) == []


def test_every_file_and_both_directories_are_flushed_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(descriptor: int) -> None:
        events.append("flush " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split(".")[-1])
        fsync(descriptor)

    def recorded_rename(source: Path, target: Path) -> None:
        events.append("rename")
        rename(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    write_directory(tmp_path / "new", {"a": b"1", "b": b"2"})
    assert events == ["flush a", "flush b", "flush tmp", "rename", f"flush {tmp_path.name}"]


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_directory(tmp_path / "empty", {"a": b"1"})
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "link"):
        with pytest.raises(InputError, match="is there already; a new directory"):
            write_directory(tmp_path / name, {"a": b"2"})
    assert (tmp_path / "empty" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_what_is_private_is_so_from_the_first_byte_whatever_the_process_masks(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_directory(tmp_path / "made", {"key": b"secret"}, private=True)
        write_file(tmp_path / "made" / "key", b"another", private=True)
        write_file(tmp_path / "public", b"")
    finally:
        os.umask(before)
    made = tmp_path / "made"
    assert [path.stat().st_mode & 0o777 for path in (made, made / "key")] == [0o700, 0o600]
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o666 & ~mask


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_pieces_are_written_one_after_the_other_and_one_that_fails_leaves_the_earlier_file(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half of"
        raise ValueError("the rest is missing")

    path = tmp_path / "kept"
    write_pieces(path, iter([b"one ", memoryview(b"two")]), private=True)
    assert path.read_bytes() == b"one two" and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ValueError, match="missing"):
        write_pieces(path, broken())
    assert path.read_bytes() == b"one two" and list(tmp_path.iterdir()) == [path]
