"""Which process is the coordinator of a directory: one at a time, for as long as it holds the lock on a file there.

The kernel takes the lock back when its process ends, however it ends: after SIGKILL nothing is to be cleaned up, and
nothing that was left behind is believed. Who holds it stands in the file, and counts only while it is held.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tacit.models.errors import InputError

LOCK = "up.lock"
TRIES, PAUSE_SECONDS = 5, 0.1  # whoever only looks has the lock for a moment
SETTLE_SECONDS = 0.02
LONGEST = 400  # bytes


@dataclass(frozen=True)
class Holder:
    """The process that is the coordinator of a directory.

    Attributes:
        pid: its number, in its own place.
        place: the machine, and the container on it, that the number means something in.
    """

    pid: int
    place: str

    @property
    def is_here(self) -> bool:
        """Return whether its number means the same process to us."""
        return self.place == this_place()


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Be the coordinator of a directory for as long as the block lasts.

    Raises:
        InputError: another process is, or the file cannot be used.
    """
    descriptor = _opened(directory / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        if not _locked(descriptor, TRIES):
            if (other := holder(directory)) is None:
                raise InputError("is being backed up", where=str(directory), right="try again when that is done")
            raise InputError(
                f"a coordinator is up in it already (pid {other.pid})",
                where=str(directory),
                right="`tacit coordinator stop` ends it",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {this_place()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextmanager
def kept_down(directory: Path) -> Iterator[bool]:
    """Let nobody become the coordinator of a directory while the block lasts; False if somebody is already.

    Raises:
        InputError: the file cannot be used.
    """
    descriptor = _opened(directory / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        # Shared, so that whoever only looks finds nobody.
        yield _locked(descriptor, TRIES, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def holder(directory: Path) -> Holder | None:
    """Return the process that is the coordinator of a directory, None while nobody is.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        descriptor = _opened(directory / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        for _ in range(TRIES):
            if _locked(descriptor, 1, fcntl.LOCK_SH):
                return None
            found = _read(descriptor)
            # Whoever takes the lock writes its number at once: what stands there a little later is no earlier one's.
            time.sleep(SETTLE_SECONDS)
            if found is not None and _read(descriptor) == found and not _locked(descriptor, 1, fcntl.LOCK_SH):
                return found
    finally:
        os.close(descriptor)
    raise InputError("says nothing that can be read", where=str(directory / LOCK), right="try again")


def this_place() -> str:
    """Return what makes a process number mean something: this machine, and on it this container."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux, so no containers either
        space = ""
    return f"{socket.gethostname()} {space}".strip()


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"cannot be used ({error.strerror})", where=str(path)) from None


def _locked(descriptor: int, tries: int, kind: int = fcntl.LOCK_EX) -> bool:
    for left in range(tries, 0, -1):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if left > 1:
                time.sleep(PAUSE_SECONDS)
        else:
            return True
    return False


def _read(descriptor: int) -> Holder | None:
    number, _, place = os.pread(descriptor, LONGEST, 0).decode("utf-8", "replace").strip().partition(" ")
    return Holder(int(number), place) if number.isdigit() and place else None
