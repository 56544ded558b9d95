"""The audit log: who did what to what; appended to, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tacit.server.store.records import AuditEntry
from tacit.server.store.tables import AuditRow


def append(
    session: Session, actor: str, action: str, subject: str, details: Mapping[str, Any] | None, now: datetime
) -> None:
    """Add an entry to the transaction, so that it is there exactly if what it tells of is."""
    session.add(AuditRow(at=now, actor=actor, action=action, subject=subject, details=dict(details or {})))


def tail(session: Session, limit: int | None) -> list[AuditEntry]:
    """Return the newest entries, newest first."""
    query = select(AuditRow).order_by(AuditRow.number.desc()).limit(limit)
    return [
        AuditEntry(row.number, row.at, row.actor, row.action, row.subject, row.details)
        for row in session.scalars(query)
    ]
