"""How requests reach agents and answers come back; the round engine knows no more of it than this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tacit.models.messages import Reply
from tacit.server.rounds import Request, Round, RoundProgress, RoundState


@dataclass(frozen=True)
class Arrival:
    """An answer, or, where `reply` is None, the reason why there will be none."""

    client: str
    reply: Reply | None
    reason: str = ""


class Transport(Protocol):
    """A way to all agents of a federation."""

    def clients(self) -> tuple[str, ...]:
        """Return the names of the agents that can be asked now, in a fixed order."""
        ...

    def now(self) -> float:
        """Return the time in seconds that deadlines are measured in."""
        ...

    def send(self, requests: Sequence[Request]) -> None:
        """Send requests without waiting for answers."""
        ...

    def arrivals(self, deadline: float) -> Iterable[Arrival]:
        """Yield what has arrived; return after a while without, and at the deadline at the latest.

        What is yielded is not kept, so that a caller who folds it holds one answer at a time.
        """
        ...

    def abandon(self) -> None:
        """Forget the requests that are still open."""
        ...


def drive(
    current: Round,
    transport: Transport,
    *,
    announce: Callable[[RoundProgress], None] = lambda progress: None,
    broken_off: RoundProgress | None = None,
) -> None:
    """Run a round to its end.

    Args:
        current: the round.
        transport: the way to the agents.
        announce: called before the requests of an exchange are sent; what it keeps is there before anybody is asked.
        broken_off: how far another process had come with the round; None to begin it.
    """

    def send(requests: Sequence[Request]) -> None:
        if requests:
            announce(current.progress())
            transport.send(requests)

    try:
        if broken_off is None:
            send(current.start(transport.now()))
        else:
            transport.send(current.resume(broken_off, transport.now()))
        while current.state is RoundState.WAITING:
            for arrival in transport.arrivals(current.deadline):
                if arrival.reply is None:
                    following = current.lose(arrival.client, arrival.reason, transport.now())
                else:
                    following = current.receive(arrival.client, arrival.reply, transport.now())
                del arrival  # a whole model: it must be gone before the next one comes
                send(following)
                if current.state is not RoundState.WAITING:
                    break
            else:
                send(current.tick(transport.now()))
    finally:
        transport.abandon()
