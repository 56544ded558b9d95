"""Where the round that a run is in stands."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from tacit.server.store import runs
from tacit.server.store.records import CheckpointRef, PhaseRecord
from tacit.server.store.tables import PhaseRow


def announce(session: Session, run: str, phase: PhaseRecord, now: datetime) -> None:
    """Keep a phase in place of the one before it."""
    runs.touch(session, run, now)
    row = session.get(PhaseRow, run) or PhaseRow(run=run)
    row.number, row.attempt, row.exchange = phase.number, phase.attempt, phase.exchange
    row.progress, row.memory = dict(phase.progress), dict(phase.memory)
    row.snapshot_path = phase.snapshot.path if phase.snapshot else None
    row.snapshot_sha256 = phase.snapshot.sha256 if phase.snapshot else None
    row.announced_at = now
    session.add(row)


def current(session: Session, run: str) -> PhaseRecord | None:
    """Return the phase that was announced last, None before the first."""
    runs.get(session, run)
    row = session.get(PhaseRow, run)
    if row is None:
        return None
    return PhaseRecord(
        number=row.number,
        attempt=row.attempt,
        exchange=row.exchange,
        progress=row.progress,
        snapshot=None if row.snapshot_path is None else CheckpointRef(row.snapshot_path, row.snapshot_sha256 or ""),
        memory=row.memory,
        announced_at=row.announced_at,
    )
