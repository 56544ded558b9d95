"""The key of whoever signs on this machine: ledgers and privacy statements; a file that only its owner can read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tacit.models.key_file import kept_identity, read_identity
from tacit.privacy.identity import Identity

__all__ = ["key_file", "local_identity", "read_identity"]

KEY_VARIABLE = "TACIT_KEY"
DEFAULT_KEY_FILE = "tacit.key"


def key_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the key is: the file that `TACIT_KEY` names, else `tacit.key` in the working directory."""
    return Path(environment.get(KEY_VARIABLE) or DEFAULT_KEY_FILE)


def local_identity(path: Path) -> Identity:
    """Return the identity of a key file, which is made at first need.

    Raises:
        InputError: the file cannot be made or read, others can read it, or it holds no key.
    """
    return kept_identity(path, "local")
