"""The records of a ledger: what one says, and the one way to write it as bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar, get_args

from dp_accounting import NeighboringRelation, dp_event

from tacit.privacy.errors import PrivacyError
from tacit.privacy.events import Json, event_record, read_event
from tacit.privacy.filters import RenyiFilter
from tacit.privacy.terms import Unit

NoiseBy: TypeAlias = Literal["own", "pinned", "promised"]
Column: TypeAlias = Literal["assured", "promised"]
State: TypeAlias = Literal["opened", "reserved", "spent", "void"]
Signer: TypeAlias = Callable[[bytes], bytes]
Word = TypeVar("Word")

COLUMN_OF: Final[Mapping[NoiseBy, Column]] = {"own": "assured", "pinned": "assured", "promised": "promised"}
"""Which budget pays: noise that the owner made or members it pinned can be relied on, anybody else's is a promise."""

GENESIS: Final = bytes(32)
"""What stands in the first record in place of the hash of one before."""

_LABEL: Final = b"tacit/ledger/1\x00"


@dataclass(frozen=True)
class Opening:
    """The first record: whose privacy the ledger counts, and what was granted.

    Attributes:
        unit: who is protected; the two units are never added up in one ledger.
        subject: the identifier of a population or of a data register's entry, never a hash of the data itself.
        budgets: a stop rule for each column that may spend; a column without one is refused everything.
    """

    unit: Unit
    subject: str
    budgets: Mapping[Column, RenyiFilter]


@dataclass(frozen=True)
class Entry:
    """One participation's cost in one column.

    Attributes:
        run: identifier of the run.
        round: the round in it.
        attempt: the attempt at that round.
        offer: SHA-256 of the offer that was accepted.
        mechanism: the mechanism in words, for people.
        event: what it costs.
        delta: the delta that the offer was stated at.
        noise_by: who made the noise that the event counts.
    """

    run: str
    round: int
    attempt: int
    offer: bytes
    mechanism: str
    event: dp_event.DpEvent
    delta: float
    noise_by: NoiseBy

    @property
    def key(self) -> Key:
        """Return what no two reservations may share."""
        return (self.run, self.round, self.attempt, COLUMN_OF[self.noise_by])


Key: TypeAlias = tuple[str, int, int, Column]


@dataclass(frozen=True)
class Record:
    """One line of a ledger: an opening, or an entry in one of its states."""

    counter: int
    previous: bytes
    unit: Unit
    subject: str
    state: State
    content: Opening | Entry
    signature: bytes = b""

    def message(self) -> bytes:
        """Return the bytes that are signed."""
        return _LABEL + _canonical(self._fields())

    def to_bytes(self) -> bytes:
        """Return the record as one line of canonical JSON: sorted keys, no spaces, no line end."""
        return _canonical({**self._fields(), "signature": self.signature.hex()})

    def _fields(self) -> dict[str, Json]:
        return {
            "counter": self.counter,
            "previous": self.previous.hex(),
            "unit": self.unit,
            "subject": self.subject,
            "state": self.state,
            **(_opening_fields(self.content) if isinstance(self.content, Opening) else _entry_fields(self.content)),
        }


def record_hash(line: bytes) -> bytes:
    """Return what the next record is chained to: SHA-256 over the whole line, its signature included."""
    return hashlib.sha256(_LABEL + line).digest()


def read_record(line: bytes) -> Record:
    """Read a line back; only the very bytes that `to_bytes` writes are a record.

    Raises:
        PrivacyError: the line is anything else.
    """
    try:
        fields = json.loads(line)
        record = _read(fields)
        canonical = record.to_bytes() == line
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PrivacyError("a line is no ledger record") from error
    if not canonical:
        raise PrivacyError("a ledger record is not written canonically")
    return record


def _canonical(fields: dict[str, Json]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _opening_fields(opening: Opening) -> dict[str, Json]:
    budgets: dict[str, Json] = {}
    for column, budget in opening.budgets.items():
        budgets[column] = {
            "epsilon": float(budget.epsilon),
            "delta": float(budget.delta),
            "order": budget.order,
            "adjacency": budget.adjacency.name,
        }
    return {"budgets": budgets}


def _entry_fields(entry: Entry) -> dict[str, Json]:
    return {
        "run": entry.run,
        "round": entry.round,
        "attempt": entry.attempt,
        "offer": entry.offer.hex(),
        "mechanism": entry.mechanism,
        "event": event_record(entry.event),
        "delta": float(entry.delta),
        "noise_by": entry.noise_by,
    }


def _read(fields: Mapping[str, Json]) -> Record:
    # Fields that nobody knows, and spellings that mean the same, fail the comparison with the canonical bytes.
    state = _choice(fields["state"], get_args(State))
    return Record(
        counter=_whole(fields["counter"]),
        previous=_digest(fields["previous"]),
        unit=_choice(fields["unit"], get_args(Unit)),
        subject=_text(fields["subject"]),
        state=state,
        content=_read_opening(fields) if state == "opened" else _read_entry(fields),
        signature=bytes.fromhex(_text(fields["signature"])),
    )


def _read_opening(fields: Mapping[str, Json]) -> Opening:
    budgets: dict[Column, RenyiFilter] = {}
    for column, budget in _mapping(fields["budgets"]).items():
        values = _mapping(budget)
        budgets[_choice(column, get_args(Column))] = RenyiFilter(
            epsilon=_number(values["epsilon"]),
            delta=_number(values["delta"]),
            order=_whole(values["order"]),
            adjacency=NeighboringRelation[_text(values["adjacency"])],
        )
    return Opening(_choice(fields["unit"], get_args(Unit)), _text(fields["subject"]), budgets)


def _read_entry(fields: Mapping[str, Json]) -> Entry:
    return Entry(
        run=_text(fields["run"]),
        round=_whole(fields["round"]),
        attempt=_whole(fields["attempt"]),
        offer=_digest(fields["offer"]),
        mechanism=_text(fields["mechanism"]),
        event=read_event(fields["event"]),
        delta=_number(fields["delta"]),
        noise_by=_choice(fields["noise_by"], get_args(NoiseBy)),
    )


def _mapping(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise TypeError("not a mapping")
    return value


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _whole(value: Json) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("not a whole number")
    return value


def _number(value: Json) -> float:
    if type(value) is not float:
        raise TypeError("not a number")
    return value


def _digest(value: Json) -> bytes:
    digest = bytes.fromhex(_text(value))
    if len(digest) != 32:
        raise ValueError("not a SHA-256 digest")
    return digest


def _choice(value: Json, allowed: tuple[Word, ...]) -> Word:
    for choice in allowed:
        if choice == value and isinstance(value, str):
            return choice
    raise ValueError("not an allowed word")
