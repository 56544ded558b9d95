"""An agent's connection to its coordinator: signed requests over one connection that is kept."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from tacit.models.errors import InputError
from tacit.models.wire import ALIVE, PIECE, PULL, PUSH, Frames, Signer, framed, framed_size, sealed_headers

LONGEST_REASON = 200  # characters
LARGEST_MESSAGE = 1 << 30  # bytes
CERT_NOT_YET_VALID, CERT_HAS_EXPIRED = 9, 10  # of OpenSSL's codes


class Unreachable(Exception):
    """There is no answer, or none that can be used; asking again later may help."""


class TurnedAway(Exception):
    """The coordinator refuses; asking again at once will not help."""

    def __init__(self, status: int, reason: str) -> None:
        """Keep status and reason."""
        super().__init__(reason or f"status {status}")
        self.status = status


@dataclass(frozen=True)
class Address:
    """Where a coordinator is.

    Attributes:
        host, port: the fleet port.
        tls: how its certificate is checked; None for no TLS, which only the loopback may do without.
        proxy: host and port of an HTTP proxy that leads there by CONNECT; None for a direct way.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    proxy: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        """Refuse to go through a proxy, or over a network, in the clear."""
        if self.tls is None:
            check_insecure(self.host, self.proxy)


class TooLarge(ValueError):
    """A message is larger than this agent takes."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("it sent a message that is larger than this agent takes")


def pinned(authority_pem: str) -> ssl.SSLContext:
    """Return how to check a server's certificate: by one authority, and by no other that this machine knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority_pem)
    return context


def check_insecure(host: str, proxy: tuple[str, int] | None) -> None:
    """Refuse to do without TLS where anybody but this machine could read along.

    Raises:
        InputError: the host is no address of the loopback, or there is a proxy on the way.
    """
    try:
        is_loopback = ip_address(host).is_loopback
    except ValueError:  # a name leads wherever somebody else says
        is_loopback = False
    if not is_loopback:
        raise InputError("is not this machine, and without TLS everybody could read along", where=host, right="use TLS")
    if proxy is not None:
        raise InputError("nothing goes through a proxy without TLS", where=host, right="use TLS, or no proxy")


class Connection:
    """Requests of one agent; to be used from one thread, but for `interrupt`.

    Args:
        address: where the coordinator is.
        signer: the agent's key.
        seconds: how long the network may be silent.
        largest_message: bytes of one message with all it holds.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        address: Address,
        signer: Signer,
        *,
        seconds: float = 20.0,
        largest_message: int = LARGEST_MESSAGE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Connect at the first request."""
        self._address = address
        self._signer = signer
        self._seconds = seconds
        self._largest = largest_message
        self._clock = clock
        self._http: http.client.HTTPConnection | None = None
        self._interrupted = False

    @property
    def largest_message(self) -> int:
        """Return how many bytes a message may have."""
        return self._largest

    def pull(self, wait_seconds: float) -> list[bytes] | None:
        """Return the next message as its head and its objects, or None if none came in time.

        Raises:
            Unreachable: there was no answer, or not a whole one.
            TurnedAway: the coordinator refuses.
        """
        return self._ask(PULL, (), wait_seconds)

    def push(self, payloads: Sequence[bytes]) -> None:
        """Bring an answer; the same one may be brought again.

        Raises:
            Unreachable: whether it arrived is not known.
            TurnedAway: the coordinator does not want it.
        """
        self._ask(PUSH, payloads)

    def alive(self) -> None:
        """Say that the agent is still there.

        Raises:
            Unreachable: there was no answer.
            TurnedAway: the coordinator refuses.
        """
        self._ask(ALIVE, ())

    def interrupt(self) -> None:
        """Break off a request that waits for a message, and every later one; from another thread."""
        self._interrupted = True
        kept = self._http
        if kept is not None and kept.sock is not None:
            try:
                kept.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def __enter__(self) -> Self:
        """Return the connection."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _ask(self, path: str, payloads: Sequence[bytes], wait_seconds: float = 0.0) -> list[bytes] | None:
        kept = self._http is not None and self._http.sock is not None
        try:
            return self._exchange(path, payloads, wait_seconds)
        except ConnectionError as error:
            self.close()
            if not kept:
                raise Unreachable(_reason(error)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Unreachable(_reason(error)) from None
        # The server may close a connection that nobody uses while we begin to: once more, over a new one.
        try:
            return self._exchange(path, payloads, wait_seconds)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Unreachable(_reason(error)) from None

    def _exchange(self, path: str, payloads: Sequence[bytes], wait_seconds: float) -> list[bytes] | None:
        connection = self._open()
        if path == PULL and self._interrupted:
            raise http.client.HTTPException
        connection.sock.settimeout(self._seconds + wait_seconds)
        headers = sealed_headers(self._signer, path, self._clock(), wait_seconds)
        headers["content-length"] = str(framed_size(payloads))
        headers["content-type"] = "application/octet-stream"
        try:
            connection.request("POST", path, _joined(payloads), headers)
        except (BrokenPipeError, ConnectionResetError):
            # A server that refuses does not read on; what it says may be there all the same.
            if connection.sock is None:
                raise
        response = connection.getresponse()
        if response.status == 200:
            return self._read(response)
        reason = _one_line(response.read(LONGEST_REASON))
        if response.status == 204:
            return None
        if response.will_close or response.length:
            self.close()
        if response.status in (408, 429) or response.status >= 500:
            raise Unreachable(f"the coordinator answers {response.status}")
        raise TurnedAway(response.status, reason)

    def _read(self, response: http.client.HTTPResponse) -> list[bytes]:
        if response.length is None and not response.chunked:  # every answer says one: the line broke in its headers
            raise http.client.IncompleteRead(b"")
        if (response.length or 0) > self._largest:  # before a byte of it is in memory
            raise TooLarge
        frames, size = Frames(), 0
        payloads: list[bytes] = []
        while piece := response.read(8 * PIECE):
            size += len(piece)
            if size > self._largest:
                raise TooLarge
            payloads.extend(frames.feed(piece))
        if response.length:
            raise http.client.IncompleteRead(b"")
        frames.finish()
        return payloads

    def _open(self) -> http.client.HTTPConnection:
        to = self._address
        if self._http is None:
            host, port = to.proxy or (to.host, to.port)
            if to.tls is None:
                self._http = http.client.HTTPConnection(host, port, timeout=self._seconds)
            else:
                self._http = http.client.HTTPSConnection(host, port, timeout=self._seconds, context=to.tls)
            if to.proxy is not None:
                self._http.set_tunnel(to.host, to.port)
        if self._http.sock is None:
            connect(self._http, to.proxy)
        return self._http


def _joined(payloads: Sequence[bytes]) -> bytes | Iterable[bytes | memoryview]:
    """Return a body: one piece where it is small, so that it leaves together with the headers."""
    if framed_size(payloads) <= PIECE:
        return b"".join(framed(payloads))
    return framed(payloads)


def connect(line: http.client.HTTPConnection, proxy: tuple[str, int] | None) -> None:
    """Connect, through a proxy if there is one on the way.

    Raises:
        ProxyFailed: the way ends at the proxy.
        OSError: it ends elsewhere.
    """
    try:
        line.connect()
    except (OSError, http.client.HTTPException) as error:
        # Whatever speaks HTTP before there is TLS is the proxy; once it let us through, it is not to blame.
        if proxy is None or (line.sock is not None and not isinstance(error, http.client.HTTPException)):
            raise
        where = f"the proxy {proxy[0]}:{proxy[1]}"
        refused = re.match(r"Tunnel connection failed: (\d{3})\b", str(error))  # its other words are a stranger's
        raise ProxyFailed(f"{where} answers {refused[1]}" if refused else f"{where}: {_reason(error)}") from None


def out_of_time(error: ssl.SSLCertVerificationError) -> str | None:
    """Return in one line that a certificate is of another time than this machine's clock; None if it is not."""
    word = {CERT_NOT_YET_VALID: "is not valid yet", CERT_HAS_EXPIRED: "has ended"}.get(error.verify_code)
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return None if word is None else f"the coordinator's certificate {word} by this machine's clock, which says {now}"


def is_news(trouble: str, before: str) -> bool:
    """Return whether there is another trouble than before; the same one with other figures in it is no news."""
    return re.sub(r"\d+", "", trouble) != re.sub(r"\d+", "", before)


class ProxyFailed(http.client.HTTPException):
    """The way ends at the proxy; the text is one line."""


def _reason(error: Exception) -> str:
    match error:
        case ProxyFailed() | TooLarge():
            return str(error)
        case ssl.SSLCertVerificationError():
            if (told := out_of_time(error)) is not None:
                return told
            return f"the coordinator's certificate is not the pinned authority's ({error.verify_message})"
        case TimeoutError():
            return "no answer in time"
        case http.client.RemoteDisconnected():
            return "the connection was closed"
        case OSError() if error.strerror:
            return error.strerror
    return type(error).__name__


def _one_line(text: bytes) -> str:
    """Return a stranger's words as one line that a terminal can take."""
    return "".join(character if character.isprintable() else " " for character in text.decode("utf-8", "replace"))
