"""The three files of a model, and the one digest over them; what they mean is for `tacit.models.checkpoint`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tacit.models.errors import InputError

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def digest_of(directory: Path | str) -> str:
    """Return the SHA-256 (hex) over one line `<sha256 of the file>  <name>` for each of the three files, by name.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    return files_digest(read_files(Path(directory)))


def read_files(directory: Path) -> dict[str, bytes]:
    """Return the three files by name, read once: what is checked is what is used, whatever happens to them meanwhile.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    return {name: read_file(directory / name) for name in (CARD, CONFIG, WEIGHTS)}


def read_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None


def files_digest(files: Mapping[str, bytes]) -> str:
    """Return the digest of files by name; see `digest_of`."""
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
