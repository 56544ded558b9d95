"""Files and directories that are there whole or not at all, and still are after a power failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import uuid4

from tacit.models.errors import InputError


def write_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write `data` to `path`, replacing what was there in one step; see `write_pieces`."""
    write_pieces(path, (data,), private=private)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], *, private: bool = False) -> None:
    """Write `pieces` to `path`, one after the other, replacing what was there in one step.

    Args:
        path: the file.
        pieces: what it holds afterwards; an error that one of them raises leaves the earlier file, too.
        private: nobody but its owner may read it.

    Raises:
        OSError: it cannot be written; the earlier file is still there, and nothing else is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        _write_and_flush(temporary, pieces, private)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def write_directory(path: Path, files: Mapping[str, bytes], *, private: bool = False) -> None:
    """Write a new directory of these files, by name.

    Args:
        path: the directory.
        files: what each of its files holds.
        private: nobody but its owner may enter it, or read a file in it.

    Raises:
        InputError: there is something at `path` already that is no empty directory.
        OSError: it cannot be written; nothing is left behind.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise InputError("is there already", where=str(path), right="a new directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.mkdir(mode=0o700 if private else 0o777)
        for name, data in files.items():
            _write_and_flush(temporary / name, (data,), private)
        flush_directory(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_directory(path.parent)


def _write_and_flush(path: Path, pieces: Iterable[bytes | memoryview], private: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def flush_directory(path: Path) -> None:
    """Have the disk know which files are in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
