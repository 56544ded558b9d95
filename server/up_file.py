"""What a coordinator that is up says about itself in its directory: `up.json`, for whoever looks and cannot ask it.

The file is believed only while its writer holds the directory's lock: one that SIGKILL left behind says nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tacit.models.errors import InputError
from tacit.server.coordinator_lock import holder

_LOG = logging.getLogger(__name__)
UP_FILE = "up.json"
EVERY_SECONDS = 2.0
LARGEST = 16 << 20  # bytes


class Client(BaseModel):
    """Whether a member is there, and when it last asked this coordinator for anything; None if it never did."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    online: bool
    seen: datetime | None


class Up(BaseModel):
    """A coordinator that is up.

    Attributes:
        pid: the number of its process.
        started_at: when it began.
        url: where it listens.
        version: Tacit's.
        insecure: whether it does without TLS.
        metrics: where its figures are to be had; empty for nowhere.
        clients: who was let in, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started_at: datetime
    url: str
    version: str
    insecure: bool
    metrics: str
    clients: Mapping[str, Client]


def read_up(directory: Path) -> Up | None:
    """Return what the coordinator of a directory says, None while none is up, or while it has not said anything yet.

    Raises:
        InputError: a file of the directory cannot be read.
    """
    found = holder(directory)
    if found is None:
        return None
    path = directory / UP_FILE
    try:
        with path.open("rb") as file:
            up = Up.model_validate_json(file.read(LARGEST))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except ValidationError:
        raise InputError("is not what this version of Tacit writes", where=str(path)) from None
    # Until it has written its own, what stands there is an earlier one's.
    return up if up.pid == found.pid else None


def forget_up(directory: Path) -> None:
    """Take away what an earlier coordinator has left; for whoever has just got the directory's lock."""
    (directory / UP_FILE).unlink(missing_ok=True)


class Beacon:
    """Writes `up.json` every few seconds when something has changed, and takes it away in the end; a context.

    Whoever makes one holds the directory's lock.

    Args:
        directory: the coordinator's.
        describe: says how things stand; called from the beacon's own thread.
        every_seconds: how often.
    """

    def __init__(self, directory: Path, describe: Callable[[], Up], every_seconds: float = EVERY_SECONDS) -> None:
        """Write nothing yet."""
        self._path = directory / UP_FILE
        self._describe = describe
        self._every = every_seconds
        self._written = b""
        self._trouble = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beacon", daemon=True)

    def __enter__(self) -> Self:
        """Write the file for the first time, and go on."""
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the file away."""
        self._ended.set()
        self._thread.join()
        forget_up(self._path.parent)

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self._write()

    def _write(self) -> None:
        try:
            content = self._describe().model_dump_json(indent=2).encode() + b"\n"
            if content != self._written or not self._path.exists():
                _replace(self._path, content)
                self._written = content
            self._trouble = ""
        except Exception as error:  # noqa: BLE001 - a full disk must not end what it only tells about
            if self._trouble != type(error).__name__:
                _LOG.warning("%s cannot be written (%s)", UP_FILE, type(error).__name__)
            self._trouble = type(error).__name__


def _replace(path: Path, content: bytes) -> None:
    # Not flushed to the disk: after a power failure nobody holds the lock, and the file says nothing. One name for the
    # temporary file, as there is one writer: SIGKILL leaves at most one behind.
    temporary = path.with_name(f".{path.name}.tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(content)
    os.replace(temporary, path)
