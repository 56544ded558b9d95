"""Counts over all runs, for monitoring."""

from __future__ import annotations

from typing import cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tacit.server.store.records import (
    PARTICIPATION_OUTCOMES,
    ROUND_OUTCOMES,
    RUN_STATUSES,
    Figures,
    ParticipationOutcome,
    RoundOutcome,
    RunStatus,
)
from tacit.server.store.tables import ParticipationRow, RoundRow, RunRow


def figures(session: Session) -> Figures:
    """Count runs by status, attempts at rounds with their seconds, and what became of whom they asked."""
    statuses = session.execute(select(RunRow.status, func.count()).group_by(RunRow.status))
    runs = dict.fromkeys(RUN_STATUSES, 0) | {cast(RunStatus, status): count for status, count in statuses}
    attempts, seconds = dict.fromkeys(ROUND_OUTCOMES, 0), dict.fromkeys(ROUND_OUTCOMES, 0.0)
    rounds = select(RoundRow.outcome, func.count(), func.sum(RoundRow.seconds)).group_by(RoundRow.outcome)
    for outcome, count, total in session.execute(rounds):
        attempts[cast(RoundOutcome, outcome)] = count
        seconds[cast(RoundOutcome, outcome)] = float(total or 0.0)
    outcomes = session.execute(select(ParticipationRow.outcome, func.count()).group_by(ParticipationRow.outcome))
    asked = dict.fromkeys(PARTICIPATION_OUTCOMES, 0)
    asked |= {cast(ParticipationOutcome, outcome): count for outcome, count in outcomes}
    return Figures(runs, attempts, seconds, asked)
