"""The agent's account as the page follows it: checked from its first entry, and then each entry as it is added.

Nothing is taken from the agent: the file is read beside it, and no lock is held. All of it is read anew now and then,
because a change within what was read already would not show otherwise.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tacit.client.audit import AuditBroken, Noted, next_entry
from tacit.client.lines import Rewritten, Tail
from tacit.client.page.story import Story
from tacit.models.errors import InputError
from tacit.privacy.ledger import Anchor

READ_ANEW = 3600.0  # seconds
READ_ANEW_BROKEN = 30.0  # seconds, until which the owner may have put the file back


@dataclass(frozen=True)
class Standing:
    """Whether the account is what was written.

    Attributes:
        head: the number of entries and the hash of the last; None while there is none.
        begun: when it was last checked from the first entry, in seconds since 1970.
        broken: what is wrong with it; empty if nothing is.
    """

    head: Anchor | None
    begun: float
    broken: str = ""


class Account:
    """One agent's account; to be used by one thread at a time.

    Args:
        path: the account's file.
        now: seconds since 1970.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Read nothing yet."""
        self._path, self._now = path, now
        self.story = Story()
        self.standing = Standing(None, -READ_ANEW)
        self._tail = Tail(path)
        self._known: Anchor | None = None

    def refresh(self) -> None:
        """Read what was added, or all of it where that is due; what is wrong with it is in `standing`."""
        old = self._now() - self.standing.begun
        if old >= (READ_ANEW_BROKEN if self.standing.broken else READ_ANEW) or old < 0:
            self._read_anew()
        elif not self.standing.broken:
            self._read_on(self.standing.begun)

    def newest(self, before: int, most: int) -> list[tuple[int, Noted]]:
        """Return messages that left, newest first, each with its number from 1.

        Args:
            before: the number that the first one is below.
            most: how many at most.

        Raises:
            InputError: the account cannot be read.
        """
        places = self.story.places
        end = min(max(before - 1, 0), len(places))
        found: list[tuple[int, Noted]] = []
        if not end:
            return found
        try:
            with self._path.open("rb") as file:
                for at in range(end - 1, max(end - most, 0) - 1, -1):
                    file.seek(places[at])
                    values = json.loads(file.readline())
                    found.append((at + 1, Noted(values["counter"], values["at"], values["kind"], values["details"])))
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=str(self._path)) from None
        except (KeyError, TypeError, ValueError, RecursionError):
            raise InputError("is not what was read before", where=str(self._path)) from None
        return found

    def _read_anew(self) -> None:
        self.story, self._tail = Story(), Tail(self._path)
        self.standing = Standing(None, self._now())
        self._read_on(self.standing.begun)

    def _read_on(self, begun: float) -> None:
        head, known = self.standing.head, self._known
        try:
            for place, line in self._tail.read():
                noted, head = next_entry(line, head)
                if known and head.counter == known.counter and not hmac.compare_digest(head.head, known.head):
                    raise AuditBroken(head.counter, "is not the one that this page has read before")
                self.story.add(noted, place)
            if known and (head is None or head.counter < known.counter):
                raise AuditBroken(head.counter + 1 if head else 1, "has gone, with all behind it")
        except Rewritten:
            self._read_anew()  # which compares it with what is known
            return
        except (AuditBroken, InputError) as error:
            self.standing = Standing(head, begun, str(error))
            return
        self._known = head
        self.standing = Standing(head, begun)
