"""Files and directories that are there whole or not at all, and still are after a power failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from tacit.models.errors import InputError


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing what was there in one step.

    Raises:
        OSError: it cannot be written; the earlier file is still there, and nothing else is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        _write_and_flush(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_directory(path.parent)


def write_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new directory of these files, by name.

    Raises:
        InputError: there is something at `path` already that is no empty directory.
        OSError: it cannot be written; nothing is left behind.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise InputError("is there already", where=str(path), right="a new directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.mkdir()
        for name, data in files.items():
            _write_and_flush(temporary / name, data)
        _flush_directory(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_directory(path.parent)


def _write_and_flush(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
