"""Where an agent's page is served and the key to it, in a private file that is locked for as long as it is."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tacit.client.lines import check_private
from tacit.client.page.door import KEY_BYTES, link_token
from tacit.models.errors import InputError

PAGE = "page"  # in the agent's directory
_MOST_BYTES = 1024


class AlreadyServed(InputError):
    """Another process serves the page of this agent."""


class Served:
    """The file, held by whoever serves the page.

    Args:
        path: the file.

    Raises:
        AlreadyServed: the page is served already.
        InputError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        """Take the file; it names no page yet."""
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise InputError(f"cannot be made ({error.strerror})", where=str(path)) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise AlreadyServed(
                "is served already", where=f"the page of {path.parent}", right="tacit agent page shows a link to it"
            ) from None
        try:
            check_private(os.fstat(self._file), path, stat.S_ISREG, "file", "600")
            os.ftruncate(self._file, 0)
        except BaseException:
            os.close(self._file)
            raise

    def tell(self, address: str, key: bytes) -> None:
        """Write down where the page is."""
        os.pwrite(self._file, json.dumps({"address": address, "key": key.hex()}).encode(), 0)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Empty the file, whose key opens nothing any more, and let it go."""
        os.ftruncate(self._file, 0)
        os.close(self._file)


def link_to(path: Path, now: Callable[[], float] = time.time) -> str | None:
    """Return a link that opens the page once, if one is served.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None  # whoever wrote it has gone
    except OSError:
        content = os.read(file, _MOST_BYTES)
    finally:
        os.close(file)
    try:
        values = json.loads(content)
        address, key = values["address"], bytes.fromhex(values["key"])
    except (KeyError, TypeError, ValueError):
        return None  # it is being written
    return link(address, key, now()) if len(key) == KEY_BYTES else None


def link(address: str, key: bytes, now: float) -> str:
    """Return a link that opens the page at an address once."""
    return f"{address}/open?with={link_token(key, now)}"
