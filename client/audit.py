"""The agent's own account of what was asked of it and what left: a chain of lines to which nothing is added unseen.

An entry says what happened and when, and never holds data, a secret or a message itself: messages stand in it by their
digest. The chain shows entries that were altered, dropped or reordered. That its end was cut off or rewritten shows
only to whoever knows the head, which is why it can be taken elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from tacit.client.lines import Lines
from tacit.models.messages import canonical_json
from tacit.models.spelling import unknown
from tacit.privacy.errors import PrivacyError
from tacit.privacy.ledger import Anchor
from tacit.privacy.records import GENESIS

Detail: TypeAlias = str | int | float | bool | None

KINDS: Final = (
    "offer-accepted",
    "offer-refused",
    "message-left",
    "ledger-opened",
    "ledger-reserved",
    "ledger-spent",
    "ledger-void",
    "receipt-accepted",
    "receipt-refused",
    "receipt-unknown",
    "round-failed",
    "policy-read",
    "enrolled",
    "data-added",
    "data-removed",
    "paused",
    "resumed",
    "left",
)
"""Everything that an entry can be about."""

LONGEST_TEXT: Final = 500
"""Characters of a detail: enough for a reason, too few for a table; what is longer is cut."""

_LABEL: Final = b"tacit/audit/1\x00"


class AuditBroken(PrivacyError):
    """An audit log's entries were altered, dropped, reordered or cut.

    Args:
        counter: number of the first entry, from 1, that is not what was written.
        why: what is wrong with it.
    """

    def __init__(self, counter: int, why: str) -> None:
        """Keep the place for the caller that reports it."""
        self.counter = counter
        super().__init__(f"audit entry {counter}: {why}")


@dataclass(frozen=True)
class Noted:
    """One entry.

    Attributes:
        counter: its number, from 1.
        at: seconds since 1970 by the agent's clock.
        kind: what happened, one of `KINDS`.
        details: to what, by name.
    """

    counter: int
    at: float
    kind: str
    details: Mapping[str, Detail]


class AuditLog:
    """An append-only account, checked at opening.

    Args:
        lines: where it is kept.
        now: the clock, in seconds since 1970.

    Raises:
        AuditBroken: the lines are not the chain that was written.
    """

    def __init__(self, lines: Lines, now: Callable[[], float]) -> None:
        """Check the chain and stand at its end."""
        self._lines, self._now = lines, now
        self._head = GENESIS
        self._counter = 0
        for self._counter, line in enumerate(lines.read(), start=1):
            _read(line, self._counter, self._head)
            self._head = _hash(line)

    @property
    def head(self) -> Anchor | None:
        """Return the number of entries and the hash of the last, to be kept elsewhere; None while there is none."""
        return Anchor(self._counter, self._head) if self._counter else None

    def append(self, kind: str, **details: Detail | bytes) -> None:
        """Add an entry; it is durable when this returns.

        Args:
            kind: what happened, one of `KINDS`.
            details: texts, numbers, and digests as bytes. Whatever a coordinator calls itself or its run, it must not
                keep an entry from being written: odd characters are escaped, and long texts cut.

        Raises:
            InputError: the kind is unknown.
            ValueError: a detail is neither text nor a finite number.
            StorageError: the entry could not be written.
        """
        if kind not in KINDS:
            raise unknown("kind of audit entry", kind, KINDS)
        line = canonical_json(
            {
                "counter": self._counter + 1,
                "previous": self._head.hex(),
                "at": round(float(self._now()), 3),
                "kind": kind,
                "details": {name: _plain(name, value) for name, value in details.items()},
            }
        )
        self._lines.append(line)
        self._counter += 1
        self._head = _hash(line)

    def entries(self) -> tuple[Noted, ...]:
        """Return all entries as they are kept, checked again.

        Raises:
            AuditBroken: see `verify`.
        """
        return verify_audit(self._lines.read(), self.head)

    def verify(self, head: Anchor | None = None) -> None:
        """Check what is kept against what was written since opening, and against a head that was kept elsewhere.

        Raises:
            AuditBroken: an entry was altered, dropped or reordered, or entries are missing at the end.
        """
        lines = self._lines.read()
        verify_audit(lines, self.head)
        if head is not None:
            verify_audit(lines, head)


def verify_audit(lines: Iterable[bytes], head: Anchor | None = None) -> tuple[Noted, ...]:
    """Return the entries of a log, checked.

    Args:
        lines: the log from its first line.
        head: what it once was known to end with; it may have grown since.

    Raises:
        AuditBroken: an entry was altered, dropped or reordered, or the log ends before the head.
    """
    entries: list[Noted] = []
    previous = GENESIS
    for counter, line in enumerate(lines, start=1):
        entries.append(_read(line, counter, previous))
        previous = _hash(line)
        if head and counter == head.counter and not hmac.compare_digest(previous, head.head):
            raise AuditBroken(counter, "not the entry that it was when its head was kept")
    if head and len(entries) < head.counter:
        raise AuditBroken(len(entries) + 1, "missing: the log ends before the head that was kept")
    return tuple(entries)


def next_entry(line: bytes, head: Anchor | None) -> tuple[Noted, Anchor]:
    """Return the entry that a line adds to a log, checked, and the log's head with it.

    Args:
        line: the log's next line.
        head: what the log ended with before it; None at its first line.

    Raises:
        AuditBroken: it is no entry, or not the one after that head.
    """
    counter, previous = (head.counter + 1, head.head) if head else (1, GENESIS)
    return _read(line, counter, previous), Anchor(counter, _hash(line))


def head_of(lines: Sequence[bytes]) -> Anchor | None:
    """Return the number of a log's lines and the hash of the last, to be kept elsewhere; None while there is none."""
    return Anchor(len(lines), _hash(lines[-1])) if lines else None


def _read(line: bytes, counter: int, previous: bytes) -> Noted:
    try:
        values = json.loads(line)
        if canonical_json(values) != line:
            raise ValueError("another spelling")
        noted = Noted(values["counter"], values["at"], values["kind"], values["details"])
        chained = hmac.compare_digest(bytes.fromhex(values["previous"]), previous)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise AuditBroken(counter, "is none that was written here") from None
    if noted.counter != counter or not chained:
        raise AuditBroken(counter, "does not follow the one before it")
    return noted


def _hash(line: bytes) -> bytes:
    return hashlib.sha256(_LABEL + line).digest()


def _plain(name: str, value: Detail | bytes) -> Detail:
    if isinstance(value, bytes):
        value = value.hex()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        return (value if value.isprintable() else ascii(value[:LONGEST_TEXT]))[:LONGEST_TEXT]
    raise ValueError(f"the detail {name!r} is neither text nor a finite number")
