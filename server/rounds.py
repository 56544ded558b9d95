"""One round as a pure state machine: who was asked, who answered, who did not, and when it is over.

Two rules. Everything that happens to a round (`start`, `resume`, `receive`, `lose`, `tick`) is a method that takes the
time as an argument and returns the requests to send next. What messages mean is not known here: `Exchanges` decides
that, so that a plain round (one exchange) and secure aggregation (five) are the same machine.

    READY --start--> WAITING --exchange over--> WAITING (next exchange) ... --last one over--> COMPLETE
                        |                                                        ^
                        +--fewer than the quorum are left, or Exchanges says no--+--> ABORTED

An exchange is over when nobody is left to wait for, when its deadline has passed, or, for the exchange that `Exchanges`
names, when as many as were wanted have reported (over-selection). A client that answers wrongly, too late or not at
all is dropped with the reason; it never ends the round for the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from tacit.models.messages import Instruction, Reply

ParticipationOutcome = Literal["reported", "dropped", "late", "refused"]


class RoundState(Enum):
    """Where a round is."""

    READY = "ready"
    WAITING = "waiting"
    COMPLETE = "complete"
    ABORTED = "aborted"


# Which call is allowed in which state; anything else is a mistake of ours and raises.
ALLOWED: Mapping[RoundState, frozenset[str]] = {
    RoundState.READY: frozenset({"start", "resume"}),
    RoundState.WAITING: frozenset({"receive", "lose", "tick"}),
    RoundState.COMPLETE: frozenset({"receive", "lose", "tick"}),
    RoundState.ABORTED: frozenset({"receive", "lose", "tick"}),
}


class RoundAborted(Exception):
    """Raised by `Exchanges.close` when the round cannot go on; the text is the reason."""


class Exchanges(Protocol):
    """What the messages of a round mean."""

    names: tuple[str, ...]
    closes_early: int | None  # the exchange that is over once enough have reported; None for none

    def request(self, exchange: int, client: str) -> Instruction:
        """Return what to send to a client in an exchange."""
        ...

    def vector_bytes(self, exchange: int) -> int:
        """Return how many bytes the vectors of an answer have at most."""
        ...

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Take a client's answer.

        Raises:
            ValueError: the answer cannot be used; the client is dropped with the text as the reason.
        """
        ...

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """End an exchange and return which of `reported` to ask in the next one (ignored after the last).

        Raises:
            RoundAborted: the round cannot go on.
        """
        ...


@dataclass(frozen=True)
class Participant:
    """What became of one client that was asked: the outcome, the reason, and the last exchange it was part of."""

    client: str
    outcome: ParticipationOutcome
    reason: str
    exchange: str


@dataclass(frozen=True)
class Request:
    """A message to send, and how many bytes the vectors of its answer have at most; None if nobody knows."""

    client: str
    instruction: Instruction
    vector_bytes: int | None = None


@dataclass(frozen=True)
class RoundProgress:
    """How far a round has come when an exchange is about to be asked for: all that a new process needs to go on.

    Attributes:
        cohort: the clients asked in the first exchange.
        wanted: how many reports were enough.
        exchange: the number of the exchange, from 0.
        asked: whom it asks.
        answered: client to the last exchange that it answered.
        gone: those that were lost, by then.
    """

    cohort: tuple[str, ...]
    wanted: int
    exchange: int
    asked: tuple[str, ...]
    answered: Mapping[str, str] = field(default_factory=dict)
    gone: tuple[Participant, ...] = ()


class Round:
    """One attempt of one round.

    Args:
        cohort: the clients asked in the first exchange, without repetition.
        wanted: how many reports are enough; below `len(cohort)` this is over-selection.
        exchanges: what the messages mean.
        deadline_seconds: how long each exchange may take.
        quorum: the share of `wanted` that must report in every exchange that it counts in.
        quorum_counts_until: the last exchange in which it does; afterwards `Exchanges` alone says how many are enough.
            None for all exchanges.
    """

    def __init__(
        self,
        cohort: Sequence[str],
        wanted: int,
        exchanges: Exchanges,
        *,
        deadline_seconds: float,
        quorum: float,
        quorum_counts_until: int | None = None,
    ) -> None:
        """Prepare the round; nothing is sent before `start`."""
        if len(set(cohort)) != len(cohort) or not 0 < wanted <= len(cohort):
            raise ValueError("a cohort has distinct members and at least as many as are wanted")
        self.state = RoundState.READY
        self.reason = ""
        self.deadline = math.inf
        self._exchanges = exchanges
        self._exchange = 0
        self._wanted = wanted
        self._quorum = max(1, math.ceil(quorum * wanted - 1e-9))
        self._quorum_counts_until = len(exchanges.names) if quorum_counts_until is None else quorum_counts_until
        self._deadline_seconds = deadline_seconds
        self._cohort = tuple(cohort)
        self._pending: set[str] = set()
        self._reported: list[str] = []
        self._latest: dict[str, str] = {}  # client to the last exchange that it answered
        self._gone: dict[str, Participant] = {}

    def start(self, now: float) -> list[Request]:
        """Begin the first exchange at `now` seconds and return its requests."""
        self._check("start")
        self.state = RoundState.WAITING
        return self._open(self._cohort, now)

    def resume(self, progress: RoundProgress, now: float) -> list[Request]:
        """Go on at `now` seconds with the exchange that another process had begun, and return its requests.

        The exchanges must stand where they stood then. Whoever was asked is asked again, and has the whole time again.
        """
        self._check("resume")
        if progress.cohort != self._cohort or progress.wanted != self._wanted:
            raise ValueError("the progress is another round's")
        self.state = RoundState.WAITING
        self._exchange = progress.exchange
        self._latest = dict(progress.answered)
        self._gone = {member.client: member for member in progress.gone}
        return self._open(progress.asked, now)

    def progress(self) -> RoundProgress:
        """Return how far the round has come; to be kept before the requests of an exchange are sent."""
        return RoundProgress(
            self._cohort,
            self._wanted,
            self._exchange,
            tuple(client for client in self._cohort if client in self._pending),
            dict(self._latest),
            tuple(self._gone.values()),
        )

    def receive(self, client: str, reply: Reply, now: float) -> list[Request]:
        """Take an answer; one that nobody waits for (late, repeated, or of a stranger) changes nothing."""
        self._check("receive")
        if client not in self._pending or self.state is not RoundState.WAITING:
            return []
        if now > self.deadline:
            return self.tick(now)
        if reply.outcome == "refused":
            return self._drop(client, "refused", reply.reason or "refused without a reason", now)
        if reply.outcome == "failed":
            return self._drop(client, "dropped", reply.reason or "failed without a reason", now)
        try:
            self._exchanges.accept(self._exchange, client, reply)
        except ValueError as error:
            return self._drop(client, "dropped", str(error), now)
        self._pending.discard(client)
        self._reported.append(client)
        self._latest[client] = self._exchanges.names[self._exchange]
        return self._advance(now)

    def lose(self, client: str, reason: str, now: float) -> list[Request]:
        """Note that no answer will come from a client, because the transport says so."""
        self._check("lose")
        if client not in self._pending or self.state is not RoundState.WAITING:
            return []
        return self._drop(client, "dropped", reason, now)

    def tick(self, now: float) -> list[Request]:
        """Let time pass: at the deadline, whoever has not answered is late."""
        self._check("tick")
        if self.state is RoundState.WAITING and now >= self.deadline:
            for client in sorted(self._pending):
                self._note(client, "late", f"no answer within {self._deadline_seconds:g} s")
            self._pending.clear()
            return self._advance(now)
        return []

    @property
    def waiting_for(self) -> frozenset[str]:
        """Return the clients that have not answered yet."""
        return frozenset(self._pending)

    @property
    def reported(self) -> tuple[str, ...]:
        """Return the clients that answered the current (after the end: the last) exchange, in order of arrival."""
        return tuple(self._reported)

    def participation(self) -> tuple[Participant, ...]:
        """Return what became of everybody who was asked, in the order of the cohort.

        A client that answered and was not asked again counts as one that reported.
        """
        name = self._exchanges.names[self._exchange]
        answered = {client: Participant(client, "reported", "", last) for client, last in self._latest.items()}
        waiting = {client: Participant(client, "late", "not yet answered", name) for client in self._pending}
        everybody = {**answered, **waiting, **self._gone}
        return tuple(everybody[client] for client in self._cohort if client in everybody)

    def _required_in(self, exchange: int) -> int:
        return self._quorum if exchange <= self._quorum_counts_until else 1

    def _check(self, call: str) -> None:
        if call not in ALLOWED[self.state]:
            raise RuntimeError(f"a round that is {self.state.value} cannot {call}")

    def _open(self, clients: Sequence[str], now: float) -> list[Request]:
        self._pending = set(clients)
        self._reported = []
        self.deadline = now + self._deadline_seconds
        exchanges, exchange = self._exchanges, self._exchange
        size = exchanges.vector_bytes(exchange)
        return [Request(client, exchanges.request(exchange, client), size) for client in clients]

    def _drop(self, client: str, outcome: ParticipationOutcome, reason: str, now: float) -> list[Request]:
        self._pending.discard(client)
        self._note(client, outcome, reason)
        return self._advance(now)

    def _note(self, client: str, outcome: ParticipationOutcome, reason: str) -> None:
        self._gone[client] = Participant(client, outcome, reason, self._exchanges.names[self._exchange])

    def _advance(self, now: float) -> list[Request]:
        enough = self._exchange == self._exchanges.closes_early and len(self._reported) >= self._wanted
        required = self._required_in(self._exchange)
        hopeless = len(self._reported) + len(self._pending) < required
        if self._pending and not enough and not hopeless:
            return []
        for client in sorted(self._pending):
            self._note(client, "late", "the round was over")
        self._pending.clear()
        if len(self._reported) < required:
            return self._abort(f"{len(self._reported)} reported, the quorum is {required}")
        try:
            following = self._exchanges.close(self._exchange, tuple(self._reported))
        except RoundAborted as error:
            return self._abort(str(error))
        if self._exchange + 1 == len(self._exchanges.names):
            self.state = RoundState.COMPLETE
            self.deadline = math.inf
            return []
        if len(set(following) & set(self._reported)) != len(following):
            raise ValueError("only clients that reported can be asked again, and only once")
        if len(following) < (required := self._required_in(self._exchange + 1)):
            return self._abort(f"{len(following)} are left to ask, the quorum is {required}")
        self._exchange += 1
        return self._open(following, now)

    def _abort(self, reason: str) -> list[Request]:
        self.state = RoundState.ABORTED
        self.reason = reason
        self.deadline = math.inf
        return []
