"""Keeps the rounds of a run: the checkpoint file first, then one transaction that points at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tacit.models.errors import InputError
from tacit.server.checkpoints import Checkpoints, RunState
from tacit.server.reports import RoundReport
from tacit.server.rounds import Participant
from tacit.server.store import Store
from tacit.server.store.records import LedgerLine, Participation, RoundRecord


class StoreRecorder:
    """A recorder over the store and a directory of checkpoints.

    A crash between the file and the transaction leaves a file that nothing points at; the round is then run again
    and overwrites it. There is no moment at which the database points at a file that is not on the disk.

    Args:
        store: keeps the rounds.
        run: the run's name.
        checkpoints: keep the states.
        memory: what the coordinator owes and knows, to be kept with each round; None where no phases are announced.
    """

    def __init__(
        self, store: Store, run: str, checkpoints: Checkpoints, memory: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        """Record the rounds of `run`."""
        self._memory = memory
        self._store = store
        self._run = run
        self._checkpoints = checkpoints

    def resume_point(self) -> RunState | None:
        """Return the state after the last committed round, or None for a run that has not begun."""
        last = self._store.last_committed_round(self._run)
        if last is None or last.checkpoint is None:
            return None
        return self._checkpoints.read(last.checkpoint)

    def commit(self, report: RoundReport, state: RunState | None, ledger: Sequence[LedgerLine] = ()) -> None:
        """Keep a round, its state and what it spent."""
        reference = self._checkpoints.write(state) if state is not None else None
        self._store.commit_round(
            self._run,
            RoundRecord(
                number=report.number,
                attempt=report.attempt,
                outcome="committed" if report.committed else "aborted",
                seconds=report.seconds,
                metrics=dict(report.metrics),
                participation=tuple(
                    Participation(p.client, p.outcome, p.reason, p.exchange) for p in report.participants
                ),
                checkpoint=reference,
                extra={"reason": report.reason} if report.reason else {},
            ),
            ledger=ledger,
            memory=self._memory() if self._memory is not None else None,
        )
        if state is not None:
            best = {state.best_round} if state.best_round else set()
            self._checkpoints.prune({state.round, state.round - 1} | best)

    def state_of(self, round_number: int) -> RunState:
        """Return the kept state of an earlier round.

        Raises:
            InputError: it is not kept, or its file is not the one that was written.
        """
        for record in self._store.rounds(self._run):
            if record.number == round_number and record.checkpoint is not None:
                return self._checkpoints.read(record.checkpoint)
        raise InputError(f"has no checkpoint of round {round_number}", where=f"run {self._run}")

    def attempts(self, round_number: int) -> int:
        """Return how many attempts at a round were kept."""
        return self._store.next_attempt(self._run, round_number)

    def asked(self, round_number: int) -> tuple[Participant, ...]:
        """Return what became of everybody that the kept attempts at a round asked."""
        return tuple(
            Participant(member.client, member.outcome, member.reason, member.exchange)
            for record in self._store.rounds(self._run)
            if record.number == round_number
            for member in record.participation
            if member.outcome != "selected"
        )
