"""Runs and their rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Select, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tacit.models.errors import InputError
from tacit.server.store.errors import RoundAlreadyCommitted
from tacit.server.store.records import (
    RUN_STATUSES,
    CheckpointRef,
    NewRun,
    Participation,
    ParticipationOutcome,
    RoundOutcome,
    RoundRecord,
    RunRecord,
    RunStatus,
)
from tacit.server.store.tables import ParticipationRow, RoundMetricRow, RoundRow, RunRow


def create(session: Session, run: NewRun, now: datetime) -> RunRecord:
    """Add a run that is running from now on."""
    if not _is_name(run.run):
        raise InputError("a run needs a printable name of at most 200 characters")
    row = RunRow(
        run=run.run,
        recipe_name=run.recipe_name,
        task=run.task,
        recipe_toml=run.recipe_toml,
        recipe_sha256=run.recipe_sha256,
        directory=run.directory,
        environment=dict(run.environment),
        status="running",
        reason="",
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError:
        raise InputError("exists already", where=f"run {run.run}", right="choose another name, or resume it") from None
    return _record(row, 0)


def get(session: Session, run: str) -> RunRecord:
    """Return a run."""
    return _record(_row(session, run), _committed_counts(session, [run])[run])


def recent(session: Session, limit: int | None, status: RunStatus | None) -> list[RunRecord]:
    """Return runs, newest first."""
    query = select(RunRow).order_by(RunRow.created_at.desc(), RunRow.run.desc()).limit(limit)
    if status is not None:
        query = query.where(RunRow.status == _known(status))
    rows = session.scalars(query).all()
    counts = _committed_counts(session, [row.run for row in rows])
    return [_record(row, counts[row.run]) for row in rows]


def set_status(session: Session, run: str, status: RunStatus, reason: str, now: datetime) -> None:
    """Say how a run fares; a run that runs again has not ended."""
    row = _row(session, run, lock=True)
    row.status = _known(status)
    row.reason = reason
    row.updated_at = now
    row.finished_at = None if status in ("running", "interrupted") else row.finished_at or now


def touch(session: Session, run: str, now: datetime) -> None:
    """Say that something of a run has changed; whoever else writes to it waits."""
    _row(session, run, lock=True).updated_at = now


def finish(
    session: Session, run: str, summary: Mapping[str, Any], status: RunStatus, reason: str, now: datetime
) -> None:
    """Say that a run has ended, and with what."""
    set_status(session, run, status, reason, now)
    _row(session, run).summary = dict(summary)


def commit_round(session: Session, run: str, record: RoundRecord, now: datetime) -> None:
    """Add one attempt at a round with all that belongs to it.

    Raises:
        RoundAlreadyCommitted: this attempt is there already, or another attempt at this round was committed.
    """
    touch(session, run, now)
    attempts = select(RoundRow.attempt, RoundRow.outcome).where(RoundRow.run == run, RoundRow.number == record.number)
    for attempt, outcome in session.execute(attempts):
        if attempt == record.attempt or record.outcome == outcome == "committed":
            raise RoundAlreadyCommitted(run, record.number, attempt)
    key = {"run": run, "number": record.number, "attempt": record.attempt}
    checkpoint = record.checkpoint
    session.add(
        RoundRow(
            **key,
            outcome=record.outcome,
            seconds=float(record.seconds),
            checkpoint_path=checkpoint.path if checkpoint else None,
            checkpoint_sha256=checkpoint.sha256 if checkpoint else None,
            extra=dict(record.extra),
            committed_at=now,
        )
    )
    session.flush()
    _insert(
        session,
        RoundMetricRow,
        (
            key | {"name": name, "position": position, "value": float(value)}
            for position, (name, value) in enumerate(record.metrics.items())
        ),
    )
    _insert(
        session,
        ParticipationRow,
        (
            key
            | {
                "position": position,
                "client": one.client,
                "outcome": one.outcome,
                "reason": one.reason,
                "exchange": one.exchange,
            }
            for position, one in enumerate(record.participation)
        ),
    )


def rounds(session: Session, run: str) -> list[RoundRecord]:
    """Return every attempt at every round of a run, in order."""
    _row(session, run)
    query = select(RoundRow).where(RoundRow.run == run).order_by(RoundRow.number, RoundRow.attempt)
    return _round_records(session, run, session.scalars(query).all(), number=None)


def last_committed_round(session: Session, run: str) -> RoundRecord | None:
    """Return the newest round that became part of the model, None before the first."""
    return _newest(session, run, select(RoundRow).where(RoundRow.run == run, RoundRow.outcome == "committed"))


def last_attempt(session: Session, run: str) -> RoundRecord | None:
    """Return the newest attempt at a round, None before the first."""
    return _newest(session, run, select(RoundRow).where(RoundRow.run == run))


def _newest(session: Session, run: str, attempts: Select[RoundRow]) -> RoundRecord | None:
    _row(session, run)
    query = attempts.order_by(RoundRow.number.desc(), RoundRow.attempt.desc()).limit(1)
    row = session.scalars(query).one_or_none()
    return _round_records(session, run, [row], number=row.number)[0] if row else None


def next_attempt(session: Session, run: str, number: int) -> int:
    """Return the first attempt at a round that is not in the store, 0 for a round that nobody tried."""
    _row(session, run)
    newest = select(func.max(RoundRow.attempt)).where(RoundRow.run == run, RoundRow.number == number)
    last = session.scalar(newest)
    return 0 if last is None else last + 1


def exists(session: Session, run: str) -> bool:
    """Return whether there is such a run."""
    return _is_name(run) and session.get(RunRow, run) is not None


def _is_name(run: str) -> bool:
    # Also before reading: names come out of URLs, and drivers raise errors of their own for NUL and lone surrogates.
    return bool(run) and run.isprintable() and len(run) <= 200


def _row(session: Session, run: str, *, lock: bool = False) -> RunRow:
    row = session.get(RunRow, run, with_for_update=lock) if _is_name(run) else None
    if row is None:
        raise InputError("there is no such run", where=f"run {run!r}", right="`tacit runs list` names them")
    return row


def _known(status: str) -> RunStatus:
    if status not in RUN_STATUSES:
        raise InputError("is no status of a run", where=status, right=f"one of {', '.join(RUN_STATUSES)}")
    return status


def _committed_counts(session: Session, names: Sequence[str]) -> Mapping[str, int]:
    query = (
        select(RoundRow.run, func.count())
        .where(RoundRow.run.in_(names), RoundRow.outcome == "committed", RoundRow.number > 0)
        .group_by(RoundRow.run)
    )
    return defaultdict(int, {run: count for run, count in session.execute(query)})


def _record(row: RunRow, rounds_committed: int) -> RunRecord:
    return RunRecord(
        run=row.run,
        recipe_name=row.recipe_name,
        task=row.task,
        recipe_toml=row.recipe_toml,
        recipe_sha256=row.recipe_sha256,
        directory=row.directory,
        environment=row.environment,
        status=cast(RunStatus, row.status),
        reason=row.reason,
        rounds_committed=rounds_committed,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
        summary=row.summary,
    )


def _insert(session: Session, table: type[Any], rows: Iterable[dict[str, Any]]) -> None:
    if listed := list(rows):
        session.execute(insert(table), listed)


def _round_records(session: Session, run: str, rows: Sequence[RoundRow], number: int | None) -> list[RoundRecord]:
    metrics: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    clients: dict[tuple[int, int], list[Participation]] = defaultdict(list)
    # Columns and not objects: a long run has a row for each client of each round.
    figure, member = RoundMetricRow, ParticipationRow
    figures = select(figure.number, figure.attempt, figure.name, figure.value).where(figure.run == run)
    members = select(
        member.number, member.attempt, member.client, member.outcome, member.reason, member.exchange
    ).where(member.run == run)
    if number is not None:
        figures = figures.where(figure.number == number)
        members = members.where(member.number == number)
    for of_round, attempt, name, value in session.execute(figures.order_by(figure.position)):
        metrics[of_round, attempt][name] = cast(float, value)
    for of_round, attempt, client, outcome, reason, exchange in session.execute(members.order_by(member.position)):
        one = Participation(client, cast(ParticipationOutcome, outcome), reason, exchange)
        clients[of_round, attempt].append(one)
    return [
        RoundRecord(
            number=row.number,
            attempt=row.attempt,
            outcome=cast(RoundOutcome, row.outcome),
            seconds=cast(float, row.seconds),
            metrics=metrics[row.number, row.attempt],
            participation=tuple(clients[row.number, row.attempt]),
            checkpoint=None
            if row.checkpoint_path is None
            else CheckpointRef(row.checkpoint_path, row.checkpoint_sha256 or ""),
            extra=row.extra,
            committed_at=row.committed_at,
        )
        for row in rows
    ]
