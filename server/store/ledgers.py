"""The ledgers of populations: signed lines in order, appended to and never changed; what they say is not read here."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tacit.models.errors import InputError
from tacit.server.store.errors import LedgerConflict
from tacit.server.store.records import LedgerLine
from tacit.server.store.tables import LedgerRecordRow, LedgerRow


def key_of(session: Session, population: str, unit: str) -> bytes | None:
    """Return the public key that signs a ledger, None while there is no such ledger."""
    row = session.get(LedgerRow, (population, unit)) if _is_name(population) and _is_name(unit, 16) else None
    return None if row is None else row.public_key


def closed(session: Session, population: str, unit: str) -> str | None:
    """Return why a ledger is closed, None for one that is open or does not exist."""
    row = session.get(LedgerRow, (population, unit)) if _is_name(population) and _is_name(unit, 16) else None
    return None if row is None else row.closed


def lines_of(session: Session, population: str, unit: str) -> list[bytes]:
    """Return the lines of a ledger, from the first."""
    if key_of(session, population, unit) is None:
        return []
    record = LedgerRecordRow
    query = select(record.line).where(record.population == population, record.unit == unit).order_by(record.counter)
    return list(session.scalars(query))


def length_of(session: Session, population: str, unit: str) -> int:
    """Return the number of a ledger's last record, 0 while there is no such ledger."""
    if key_of(session, population, unit) is None:
        return 0
    record = LedgerRecordRow
    last = select(func.max(record.counter)).where(record.population == population, record.unit == unit)
    return session.scalar(last) or 0


def open_ledger(session: Session, population: str, unit: str, public_key: bytes, line: bytes, now: datetime) -> None:
    """Add a ledger with its first line.

    Raises:
        LedgerConflict: it is open already.
    """
    if not _is_name(population):
        raise InputError("a population needs a printable name of at most 200 characters")
    if not _is_name(unit, 16):
        raise InputError(
            f"is no unit of privacy: {unit!r}", where=f"population {population}", right="client or example"
        )
    session.add(LedgerRow(population=population, unit=unit, public_key=public_key, created_at=now))
    try:
        session.flush()
    except IntegrityError:
        raise LedgerConflict(population, unit, 1) from None
    session.add(LedgerRecordRow(population=population, unit=unit, counter=1, line=line))
    session.flush()


def append(session: Session, new: LedgerLine) -> None:
    """Add a line behind the last one.

    Raises:
        InputError: there is no such ledger, or it is closed.
        LedgerConflict: its counter is not the next one, as when another process wrote in between.
    """
    # Writers of one ledger queue up for its row, so that they cannot both count the same last line.
    known = _is_name(new.population) and _is_name(new.unit, 16)
    key = (new.population, new.unit)
    row = session.get(LedgerRow, key, with_for_update=True) if known else None
    if row is None:
        raise InputError(f"there is no ledger of unit {new.unit!r}", where=f"population {new.population!r}")
    if row.closed is not None:
        raise InputError(f"its ledger is closed ({row.closed})", where=f"population {new.population!r}")
    if new.counter != length_of(session, new.population, new.unit) + 1:
        raise LedgerConflict(new.population, new.unit, new.counter)
    session.add(LedgerRecordRow(population=new.population, unit=new.unit, counter=new.counter, line=new.line))
    session.flush()


def _is_name(text: str, most: int = 200) -> bool:
    # Drivers raise errors of their own for NUL and lone surrogates.
    return bool(text) and text.isprintable() and len(text) <= most
