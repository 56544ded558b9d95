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

MOST_LOST = 10  # attempts in a row that fail because clients were away
RECEIPT_SECONDS = 30.0  # to deliver the last receipts in


class RunFailed(Exception):
    """The run cannot go on; the text says why. What was committed stays."""


class RunStopped(RunFailed):
    """The run was told to end before anything was trained; the text says by what."""


class Ready(Protocol):
    """What waits for clients before an attempt is made."""

    def __call__(self, failed: RoundReport | None, lost: int) -> bool:
        """Wait until there are as many clients as an attempt needs.

        Args:
            failed: the attempt before this one, if there was one and it failed.
            lost: how many attempts in a row have failed because clients were away.

        Returns:
            Whether `failed` did so because clients were away.
        """
        ...


@dataclass
class Tally:
    """How many attempts at something have failed in a row: by themselves, and because clients were away.

    Whoever is away comes back, and a run waits for that; what fails with everybody there would fail again. Clients that
    vanish each time that they are asked are given up in the end too. An attempt that shows somebody new to refuse does
    not count, as the next one asks others.

    Attributes:
        ready: waits for clients.
        most: so many that fail by themselves are too many.
        refused: who has refused.
        failed: how many have failed by themselves.
        lost: how many have failed because clients were away.
        cause: why most of those did not report who were missing from the last one; empty if nobody said.
    """

    ready: Ready
    most: int
    refused: frozenset[str] = frozenset()
    failed: int = 0
    lost: int = 0
    cause: str = ""

    def note(self, report: RoundReport) -> bool:
        """Count an attempt that failed, wait for whoever is away, and return whether too many have failed."""
        news, self.cause = report.refusers - self.refused, report.mostly
        self.refused |= news
        if self.ready(report, self.lost):
            self.lost += 1
        elif not news:
            self.failed += 1
        return self.failed >= self.most or self.lost >= MOST_LOST


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

    def there(self, without: Collection[str] = ()) -> int:
        """Return how many can be asked now, as `clients` says, be it nobody."""
        out = {*without, *(self.masking.at_fault if self.masking is not None else ())}
        return sum(client not in out for client in self.transport.clients())

    def willing(
        self,
        clients: tuple[str, ...],
        refused: Collection[str],
        most: int | None = None,
        promised: Callable[[int], bool] | None = None,
    ) -> tuple[str, ...]:
        """Return which of those who may be asked another attempt asks: not who refused, if the others are enough.

        What an owner refuses stays refused for as long as a round takes; in the next round everybody is asked again.

        Args:
            clients: who may be asked.
            refused: who has refused an earlier attempt.
            most: so many are asked at most; None for all.
            promised: whether the round's promise can be kept with so many.
        """
        others = tuple(client for client in clients if client not in refused)
        if len(others) == len(clients):
            return clients
        cohort = min(most or len(others), len(others))
        # The mean over one client is that client's own update, also where nothing masks it.
        enough = cohort > 1 and (self.masking is None or self.masking.could_sum(cohort))
        return others if enough and (promised is None or promised(cohort)) else clients

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
        self.transport.clients()  # where they are by now, also of those that another process has asked
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
