"""A line between agents and their coordinator that a test holds: it listens in, cuts, delays and swallows.

A `Wire` carries bytes, whatever they are. An `HttpWire` carries whole HTTP requests and answers, over TLS too where it
is given the server's own certificate, so that it sees everything that the coordinator sees; it asks about each request
and each answer whether that may arrive. Both run in a thread of their own.

    with Wire(port) as wire:            # agents connect to wire.port
        wire.cut()                      # every connection breaks, as when a cable is pulled
        wire.open = False               # new ones break at once
        wire.delay_seconds = 0.2        # every piece arrives later

    def loses(call: Call) -> bool:      # asked with the request first, and again with its answer
        return call.answer is not None and call.path.endswith("/push")

    with HttpWire(port, loses) as wire: ...
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

PIECE = 1 << 16
PATIENCE_SECONDS = 120.0  # for the thread, which hangs if it takes longer
HOST = "127.0.0.1"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Heard:
    """What went over one connection, as it was under the TLS if the wire ends that; kept if the wire keeps it."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)


@dataclass
class Call:
    """One request, and its answer once that is there.

    Attributes:
        number: of the request, over all connections, from 0.
        connection: number of the connection, from 0.
        path: what was asked for.
        request: head and body.
        answer: head and body; None while there is none.
        lost: whether the wire swallowed the request or the answer.
    """

    number: int
    connection: int
    path: str
    request: bytes
    answer: bytes | None = None
    lost: bool = False

    @property
    def status(self) -> int:
        """Return the answer's status."""
        return int((self.answer or b"HTTP/1.1 0").split(b" ", 2)[1])


@dataclass(frozen=True)
class Ends:
    """The files that TLS on both sides of a wire needs: the server's certificate and key, and the authority's."""

    certificate: Path
    key: Path
    authority: Path

    def server(self) -> ssl.SSLContext:
        """Return how to be taken for the server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        """Return how to reach it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority)
        return context


class _Lost(Exception):
    """A request or an answer was swallowed."""


class Wire:
    """A line that carries bytes to a port of this machine; use it as a context.

    Args:
        to: the port that it leads to.
        port: the port that it listens on; 0 for any free one.
        keep: keep every byte in `heard`.
        ends: end the TLS and begin it anew; None to carry what comes.
    """

    def __init__(self, to: int, *, port: int = 0, keep: bool = False, ends: Ends | None = None) -> None:
        self.to = to
        self.keep = keep
        self.open = True
        self.delay_seconds = 0.0
        self.heard: list[Heard] = []
        self.cuts = 0
        self._ends = ends
        self._server, self._client = (ends.server(), ends.client()) if ends else (None, None)
        self._listening = socket.create_server((HOST, port), backlog=256)
        self.port: int = self._listening.getsockname()[1]
        self._ends_of: dict[int, list[asyncio.StreamWriter]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self._thread.start()

    def cut(self) -> int:
        """Break every connection without a farewell, and return how many there were."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(PATIENCE_SECONDS)

    def close(self) -> None:
        """Break every connection and stop listening."""
        if not self._loop.is_closed():
            self.open = False
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(PATIENCE_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_SECONDS)
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _carry(self, number: int, inner: Streams, outer: Streams) -> None:
        """Carry both ways until either side ends."""
        heard = self.heard[number]
        ways = [
            asyncio.ensure_future(self._pump(inner[0], outer[1], heard.up)),
            asyncio.ensure_future(self._pump(outer[0], inner[1], heard.down)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, kept: bytearray) -> None:
        while piece := await source.read(PIECE):
            await self._hand_on(piece, to, kept)

    async def _hand_on(self, content: bytes, to: asyncio.StreamWriter, kept: bytearray) -> None:
        if self.keep:
            kept += content
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        to.write(content)
        await to.drain()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda loop, context: None)  # a connection that was cut is no news
        self._serving = self._loop.run_until_complete(
            asyncio.start_server(self._accepted, sock=self._listening, ssl=self._server)
        )
        self._loop.run_forever()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.heard)
        self.heard.append(Heard())
        ends = self._ends_of[number] = [writer]
        try:
            if self.open:
                outer = await asyncio.open_connection(HOST, self.to, ssl=self._client)
                ends.append(outer[1])
                if self.open and number in self._ends_of:
                    await self._carry(number, (reader, writer), outer)
        except _Lost:
            for end in ends:
                _reset(end)
        except (OSError, EOFError, ssl.SSLError):
            pass  # whoever is at the other end sees it as well
        finally:
            self._ends_of.pop(number, None)
            for end in ends:
                end.close()  # with what is still on its way

    async def _cut(self) -> int:
        cut = len(self._ends_of)
        for end in [end for ends in self._ends_of.values() for end in ends]:
            _reset(end)
        self._ends_of.clear()
        self.cuts += cut
        return cut

    async def _end(self) -> None:
        self._serving.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class HttpWire(Wire):
    """A line that carries whole requests and answers, and asks before each whether it is to be lost.

    A connection on which something was lost is cut, so that whoever waits knows it at once.

    Args:
        to: the port that it leads to.
        loses: called when a request has come whole, and again when its answer has; it may put another answer in the
            place of that one.
        port, keep, ends: see `Wire`.
    """

    def __init__(
        self,
        to: int,
        loses: Callable[[Call], bool] = lambda call: False,
        *,
        port: int = 0,
        keep: bool = False,
        ends: Ends | None = None,
    ) -> None:
        self.loses = loses
        self.calls: list[Call] = []
        self.failure: BaseException | None = None
        super().__init__(to, port=port, keep=keep, ends=ends)

    def close(self) -> None:
        """Break every connection and stop listening; raise what `loses` raised."""
        super().close()
        if self.failure is not None:
            raise self.failure

    async def _carry(self, number: int, inner: Streams, outer: Streams) -> None:
        heard = self.heard[number]
        while request := await _message(inner[0]):
            call = Call(len(self.calls), number, request.split(b" ", 2)[1].decode("latin-1"), request)
            self.calls.append(call)
            self._check(call)
            await self._hand_on(request, outer[1], heard.up)
            answer = await self._answer(inner[0], outer[0])
            if not answer:
                return
            call.answer = answer
            self._check(call)
            await self._hand_on(call.answer, inner[1], heard.down)

    def _check(self, call: Call) -> None:
        try:
            call.lost = self.loses(call)
        except BaseException as error:
            self.failure = self.failure or error  # raised where the line is closed
            raise _Lost from None
        if call.lost:
            self.cuts += 1
            raise _Lost

    async def _answer(self, inner: asyncio.StreamReader, outer: asyncio.StreamReader) -> bytes:
        """Return the answer, or nothing if whoever asked did not wait for it."""
        answered = asyncio.ensure_future(_message(outer))
        left = asyncio.ensure_future(inner.read(1))  # nobody sends the next request before the answer has come
        try:
            await asyncio.wait((answered, left), return_when=asyncio.FIRST_COMPLETED)
            return answered.result() if answered.done() else b""
        finally:
            for task in (answered, left):
                task.cancel()
            await asyncio.gather(answered, left, return_exceptions=True)


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Return one request or answer, head and body, or nothing at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":", 1)[1]) if lengths else 0
    return head + await reader.readexactly(length)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a cut line does: without a farewell."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
