"""Whether the owner has paused the agent: a file that is there or not, so that it outlives every process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tacit.client.audit import AuditLog
from tacit.models.durable import flush_directory, write_file
from tacit.models.errors import InputError

PAUSED, RESUMED = "paused", "resumed"


class Pause:
    """The owner's pause, in one file.

    The command that sets it may not write to the account while an agent runs, which holds it open. So the account is
    brought up to date by whoever has it, and says `paused` once however often that is done.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """Remember the file."""
        self._path = path

    def __call__(self) -> bool:
        """Say whether the agent is paused; where that cannot be known, it is."""
        try:
            self._path.lstat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def set(self, paused: bool) -> bool:
        """Pause the agent, or let it go on, and say whether that changed anything; on disk when this returns.

        Raises:
            InputError: the file cannot be made or removed.
        """
        if self() == paused:
            return False
        try:
            if paused:
                write_file(self._path, b"", private=True)
            else:
                self._path.unlink(missing_ok=True)
                flush_directory(self._path.parent)
        except OSError as error:
            what = f"cannot be {'made' if paused else 'removed'} ({error.strerror})"
            raise InputError(what, where=str(self._path)) from None
        return True

    def noted_in(self, audit: AuditLog) -> Callable[[], bool]:
        """Bring the account up to date, and return what says whether the agent is paused and keeps it so.

        Raises:
            StorageError: the account cannot be written; so does what is returned.
        """
        known = next((noted.kind for noted in reversed(audit.entries()) if noted.kind in (PAUSED, RESUMED)), RESUMED)

        def paused() -> bool:
            nonlocal known
            now = PAUSED if self() else RESUMED
            if now != known:
                audit.append(now)
                known = now
            return now == PAUSED

        paused()
        return paused
