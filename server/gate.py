"""What stands before the fleet port: everything but a few addresses is not there, and nobody may be large or slow.

Flower's SuperLink serves its control and runtime interfaces, which know no passwords, on the port that agents use. This
lets named paths through and answers 404 to all others, before anything of Flower sees the request. Paths are compared
whole: nothing is resolved, decoded twice or matched by a beginning, but for enrolment, whose prefix leads to an
application that is not Flower's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        largest_body: bytes of an ordinary request.
        largest_enrolment: bytes of a request for enrolment, which anybody can send.
        largest_answer: bytes of an agent's whole answer, which is taken in piece by piece.
        silence_seconds: how long a sender may send nothing, or a receiver take nothing.
        slowest: bytes a second below which a sender is cut off, after `patience_seconds`.
        patience_seconds: see there.
        header_seconds: how long the headers of a request may take.
        largest_headers: bytes of the headers.
        connections: how many there may be at a time.
        longest_wait_seconds: how long an empty pull is held.
    """

    largest_body: int = 6 << 20
    largest_enrolment: int = 64 << 10
    largest_answer: int = 1 << 30
    silence_seconds: float = 20.0
    slowest: int = 16 << 10
    patience_seconds: float = 30.0
    header_seconds: float = 10.0
    largest_headers: int = 16 << 10
    connections: int = 2048
    longest_wait_seconds: float = 25.0


class Refusal(Exception):
    """A request that is answered with an error; the text is one line without data."""

    def __init__(self, status: int, reason: str = "") -> None:
        """Keep status and reason."""
        super().__init__(reason)
        self.status = status


class Gone(Exception):
    """Whoever sent the request has closed the connection."""


class Gate:
    """The application that the fleet port serves.

    Args:
        fleet: answers the fleet's paths.
        paths: what these are.
        streaming: those of them whose application reads the body itself, in pieces and through `body`.
        admit: looks at who asks on the fleet's paths, before a byte of the body is read; raises `Refusal`.
        enrolment: answers everything below `enrolment_prefix`; None if there is no enrolment.
        enrolment_prefix: begins and ends with a slash.
        limits: what one request may take.
    """

    def __init__(
        self,
        fleet: Application,
        paths: Collection[str],
        *,
        streaming: Collection[str] = (),
        admit: Callable[[Scope], None] = lambda scope: None,
        enrolment: Application | None = None,
        enrolment_prefix: str = "/enrol/",
        limits: Limits | None = None,
    ) -> None:
        """Open the gate."""
        self._fleet = fleet
        self._paths = frozenset(paths)
        self._streaming = frozenset(streaming)
        self._admit = admit
        self._enrolment = enrolment
        self._prefix = enrolment_prefix
        self._limits = limits or Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self._fleet(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        try:
            application = self._application(scope)
            limits, streaming = self._limits, scope["path"] in self._streaming
            largest = limits.largest_enrolment
            if application is self._fleet:
                largest = limits.largest_answer if streaming else limits.largest_body
            check_length(scope, largest)
            if application is self._fleet:
                self._admit(scope)
            if streaming:
                await application(scope, receive, answer)
                return
            pieces = [piece async for piece in body(receive, limits, largest)]
            await application(scope, _replay(b"".join(pieces), receive), answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Gone:
            return

    def _application(self, scope: Scope) -> Application:
        path = scope["path"]
        if path in self._paths:
            if scope["method"] != "POST":
                raise Refusal(405)
            return self._fleet
        if self._enrolment is not None and path.startswith(self._prefix) and _is_plain(scope):
            return self._enrolment
        raise Refusal(404)


class _Answer:
    """Sends an answer, and knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def __call__(self, event: Event) -> None:
        self._started = True
        await self._send(event)

    async def refuse(self, refusal: Refusal) -> None:
        if not self._started:
            await reply(self, refusal.status, str(refusal).encode(), close=True)


async def reply(send: Send, status: int, content: bytes = b"", *, close: bool = False) -> None:
    """Send a whole answer of plain text."""
    headers = [(b"content-length", str(len(content)).encode()), (b"content-type", b"text/plain; charset=utf-8")]
    if close:  # also because the rest of the body is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def check_length(scope: Scope, largest: int) -> None:
    """Refuse a body by the length that it announces, before a byte of it is read.

    Raises:
        Refusal: 413, or 400 for a length that is none.
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise Refusal(400, "the length is not a number")
            if int(value) > largest:
                raise Refusal(413, "the body is too large")


async def body(
    receive: Receive, limits: Limits, largest: int, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[bytes]:
    """Yield a body in pieces.

    Raises:
        Refusal: 413 when it becomes larger than allowed, 408 when it comes too slowly.
        Gone: the sender has left.
    """
    size, start = 0, clock()
    more = True
    while more:
        try:
            async with asyncio.timeout(limits.silence_seconds):
                event = await receive()
        except TimeoutError:
            raise Refusal(408, "the body comes too slowly") from None
        if event["type"] == "http.disconnect":
            raise Gone
        piece = event.get("body", b"")
        more = event.get("more_body", False)
        size += len(piece)
        if size > largest:
            raise Refusal(413, "the body is too large")
        taken = clock() - start
        if more and taken > limits.patience_seconds and size < limits.slowest * (taken - limits.patience_seconds):
            raise Refusal(408, "the body comes too slowly")
        if piece:
            yield piece


def _replay(content: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already, and then what comes after it."""
    given = False

    async def replayed() -> Event:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": content, "more_body": False}

    return replayed


def _is_plain(scope: Scope) -> bool:
    """Return whether a path is what it seems: no escapes, no steps upwards, no empty parts."""
    raw = scope.get("raw_path") or scope["path"].encode()
    return b"%" not in raw and b"//" not in raw and b"/." not in raw and b"\\" not in raw
