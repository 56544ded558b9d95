"""What comes to the fleet port and leaves it, counted: requests by path and status, and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tacit.server.gate import Application, Event, Receive, Scope, Send

GONE = 499  # the status of a request whose sender has left without an answer


class Traffic:
    """Counts; written by the event loop's thread alone, read by any.

    Attributes:
        requests: how many were answered, by what their path counts as, and status.
        open: how many are not answered yet, most of them pulls that wait.
        received: bytes of bodies that came.
        sent: bytes of bodies that left.
    """

    def __init__(self) -> None:
        """Begin at nothing."""
        self.requests: Counter[tuple[str, int]] = Counter()
        self.open = 0
        self.received = 0
        self.sent = 0

    def counted(self, application: Application, counts_as: Callable[[str], str]) -> Application:
        """Return an application whose requests are counted.

        Args:
            application: answers.
            counts_as: what a path counts as; of few values, as strangers can ask for any path.
        """

        async def answered(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await application(scope, receive, send)
                return
            status = GONE

            async def received() -> Event:
                event = await receive()
                self.received += len(event.get("body", b""))
                return event

            async def sent(event: Event) -> None:
                nonlocal status
                if event["type"] == "http.response.start":
                    status = event["status"]
                self.sent += len(event.get("body", b""))
                await send(event)

            self.open += 1
            try:
                await application(scope, received, sent)
            except Exception:
                status = 500
                raise
            finally:
                self.open -= 1
                self.requests[counts_as(scope["path"]), status] += 1

        return answered
