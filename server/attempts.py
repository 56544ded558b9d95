"""Attempts at the rounds of a run: whom there is to ask, what is announced before they are, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from tacit.models.sections import TrainingSection
from tacit.server.exchanges import Occasion
from tacit.server.masked import MaskedRound
from tacit.server.masking import Masking, Receipts
from tacit.server.phases import BrokenOff, Phases
from tacit.server.reports import RoundReport
from tacit.server.rounds import Exchanges, Round, RoundProgress, RoundState
from tacit.server.secure_sum import MASK_EXCHANGE
from tacit.server.transport import Transport, drive

RECEIPT_SECONDS = 30.0  # to deliver the last receipts in


class RunFailed(Exception):
    """The run cannot go on; the text says why. What was committed stays."""


class Summing(Exchanges, Protocol):
    """Exchanges that end with what a round is for."""

    def result(self) -> Any:
        """Return it, from the sums."""
        ...


@dataclass(frozen=True)
class Attempts:
    """What makes the attempts of one run.

    Attributes:
        training: says deadline and quorum.
        transport: the way to the agents.
        masking: the coordinator's part in masked rounds; None for rounds in which it sees every update.
        phases: where the exchanges of masked rounds are announced; None where an attempt is repeated instead.
        clock: seconds for the reported durations.
    """

    training: TrainingSection
    transport: Transport
    masking: Masking | None
    phases: Phases | None
    clock: Callable[[], float]

    def clients(self, without: Collection[str] = ()) -> tuple[str, ...]:
        """Return who can be asked, but for those who were convicted and those who are named.

        Raises:
            RunFailed: there is nobody, whoever is named.
        """
        at_fault = self.masking.at_fault if self.masking is not None else ()
        clients = tuple(client for client in self.transport.clients() if client not in at_fault)
        if not clients:
            raise RunFailed("no client can be reached")
        return tuple(client for client in clients if client not in without)

    def broken_off(self, number: int) -> BrokenOff | None:
        """Return the attempt at a round that another process was in the middle of, if it can be gone on with."""
        return self.phases.broken_off(number) if self.phases is not None and self.masking is not None else None

    def make(
        self,
        exchanges: Exchanges,
        cohort: tuple[str, ...],
        number: int,
        attempt: int,
        *,
        wanted: int | None = None,
        broken_off: BrokenOff | None = None,
    ) -> tuple[RoundReport, bool]:
        """Ask a cohort, and return what became of it and whether there is a result.

        Args:
            exchanges: what the messages mean.
            cohort: whom to ask.
            number: the round.
            attempt: the attempt at it.
            wanted: how many reports are enough; None for all.
            broken_off: how far another process had come with this attempt.
        """
        phases, masked = self.phases, exchanges if isinstance(exchanges, MaskedRound) else None
        current = Round(
            cohort,
            wanted or len(cohort),
            exchanges,
            deadline_seconds=self.training.deadline_seconds,
            quorum=self.training.quorum,
            quorum_counts_until=MASK_EXCHANGE if masked is not None else None,
        )

        def announce(progress: RoundProgress) -> None:
            if phases is not None and masked is not None:
                phases.announce(number, attempt, masked.names[progress.exchange], progress, masked.snapshot())

        started = self.clock()
        progress = broken_off.progress if broken_off is not None else None
        drive(current, self.transport, announce=announce, broken_off=progress)
        done = current.state is RoundState.COMPLETE
        seconds = self.clock() - started
        participants = current.participation()
        if masked is not None:
            if not done:
                masked.abandon(current.reason)
            participants = masked.verdicts(participants, done)
        return RoundReport(number, attempt, done, current.reason, seconds, participants), done

    def deliver_receipts(self, run: str, number: int) -> None:
        """Deliver the receipts that are still owed; whoever does not answer soon has one less."""
        if self.masking is None or not self.masking.owed:
            return
        owed = tuple(client for client in self.transport.clients() if self.masking.owes(client))
        if owed:
            exchanges = Receipts(Occasion(run, number, 0, b""), self.masking)
            deadline = min(self.training.deadline_seconds, RECEIPT_SECONDS)
            drive(Round(owed, len(owed), exchanges, deadline_seconds=deadline, quorum=1e-9), self.transport)


def at_attempt(broken_off: BrokenOff | None, attempt: int) -> BrokenOff | None:
    """Return what was broken off if it is this attempt."""
    return broken_off if broken_off is not None and broken_off.attempt == attempt else None


def snapshot_of(broken_off: BrokenOff | None) -> bytes:
    """Return where the exchanges stood; empty for those that begin."""
    return broken_off.snapshot if broken_off is not None else b""
