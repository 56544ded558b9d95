"""The HTTP requests between an agent and its coordinator: where they go, who signs them, and how bodies are cut.

An agent asks three things, each by POST: `PULL` waits for the next message and brings it with everything it holds,
`PUSH` brings the answer with everything that it holds, `ALIVE` says that an agent that computes is still there. A body
is a sequence of frames, each a length of four bytes, big-endian, and so many bytes: first the head of the message, then
its objects, descendants before what holds them. Every request is signed with the agent's identity, over the path, the
time and how long it would wait, so that who asks is known before a byte of the body is read. The body needs no second
signature: it travels inside TLS, and what matters in it is signed end to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

PULL = "/v1/fleet/tacit/pull"
PUSH = "/v1/fleet/tacit/push"
ALIVE = "/v1/fleet/tacit/alive"
PATHS = frozenset({PULL, PUSH, ALIVE})
PROTOCOL = "1"
LABEL = "tacit/fleet/1/request"  # of the signature
CLOCK_TOLERANCE = 300  # seconds that two clocks may differ

PROTOCOL_HEADER = "tacit-protocol"
KEY_HEADER = "tacit-key"
TIME_HEADER = "tacit-time"
WAIT_HEADER = "tacit-wait"
SIGNATURE_HEADER = "tacit-signature"

LENGTH_BYTES = 4
PIECE = 1 << 17  # bytes
LARGEST_FRAME = 6 << 20  # bytes: a chunk of an array has 5 MiB, and a head
MOST_FRAMES = 4096  # of one message: 20 GiB of chunks


class Signer(Protocol):
    """Whoever holds an agent's key."""

    @property
    def public_key(self) -> bytes:
        """Return the public half."""
        ...

    def sign(self, label: str, message: bytes) -> bytes:
        """Return a signature under a label."""
        ...


@dataclass(frozen=True)
class Envelope:
    """What the headers of a request say.

    Attributes:
        public_key: who asks.
        time: seconds since 1970 by the asker's clock.
        wait: how many milliseconds to wait for a message.
        signature: of `statement`.
    """

    public_key: bytes
    time: int
    wait: int
    signature: bytes

    def statement(self, path: str) -> bytes:
        """Return what is signed."""
        return f"{path}\n{self.time}\n{self.wait}".encode()


def sealed_headers(signer: Signer, path: str, now: float, wait_seconds: float = 0.0) -> dict[str, str]:
    """Return the headers of a request."""
    plain = Envelope(signer.public_key, int(now), round(1000 * wait_seconds), b"")
    return {
        PROTOCOL_HEADER: PROTOCOL,
        KEY_HEADER: plain.public_key.hex(),
        TIME_HEADER: str(plain.time),
        WAIT_HEADER: str(plain.wait),
        SIGNATURE_HEADER: signer.sign(LABEL, plain.statement(path)).hex(),
    }


def read_envelope(headers: Mapping[str, str]) -> Envelope:
    """Read the headers of a request; whether the signature is good is not looked at.

    Raises:
        ValueError: they are not those of a request of this protocol.
    """
    key, signature = headers.get(KEY_HEADER, ""), headers.get(SIGNATURE_HEADER, "")
    time, wait = headers.get(TIME_HEADER, ""), headers.get(WAIT_HEADER, "")
    if len(key) != 64 or len(signature) != 128 or not _is_number(time) or not _is_number(wait):
        raise ValueError("the headers are not those of an agent")
    return Envelope(bytes.fromhex(key), int(time), int(wait), bytes.fromhex(signature))


def _is_number(text: str) -> bool:
    return 0 < len(text) <= 12 and text.isascii() and text.isdigit()


def framed(payloads: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    """Yield a body in pieces of `PIECE` bytes or a little more: each is sent in a time of its own."""
    gathered = bytearray()
    for payload in payloads:
        gathered += len(payload).to_bytes(LENGTH_BYTES, "big")
        if len(payload) <= PIECE:
            gathered += payload
        if len(payload) > PIECE or len(gathered) > PIECE:
            yield bytes(gathered)
            gathered.clear()
        if len(payload) > PIECE:  # as it is, without a copy
            whole = memoryview(payload)
            yield from (whole[at : at + PIECE] for at in range(0, len(whole), PIECE))
    if gathered:
        yield bytes(gathered)


def framed_size(payloads: Iterable[bytes]) -> int:
    """Return how many bytes a body has."""
    return sum(LENGTH_BYTES + len(payload) for payload in payloads)


@dataclass(frozen=True)
class Part:
    """The next so many bytes of a payload that is too long to be held as a whole, and whether they are its last."""

    content: bytes
    last: bool


class Frames:
    """Cuts a body that comes in pieces into its payloads, and holds no more than one of them.

    Args:
        largest: bytes that one payload may have.
        most: how many payloads there may be.
    """

    def __init__(self, largest: int = LARGEST_FRAME, most: int = MOST_FRAMES) -> None:
        """Start at the beginning of a body."""
        self._largest = largest
        self._most = most
        self._held = bytearray()
        self._count = 0
        self._left = 0  # of a payload that is given in parts

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the payloads that a piece completes.

        Raises:
            ValueError: a payload is too large, or there are too many.
        """
        self._held += piece
        while (length := self._next_length()) is not None and len(self._held) >= LENGTH_BYTES + length:
            yield self._take(length)

    def feed_in_parts(self, piece: bytes, longest: int) -> Iterator[bytes | Part]:
        """Yield the payloads that a piece completes; of those of more than `longest` bytes, parts of up to that many.

        Raises:
            ValueError: a payload is too large, or there are too many.
        """
        self._held += piece
        while True:
            if not self._left:
                length = self._next_length()
                if length is None:
                    return
                if length <= longest:
                    if len(self._held) < LENGTH_BYTES + length:
                        return
                    yield self._take(length)
                    continue
                self._count += 1
                self._left = length
                del self._held[:LENGTH_BYTES]
            size = min(self._left, longest)
            if len(self._held) < size:
                return
            content = bytes(memoryview(self._held)[:size])
            del self._held[:size]
            self._left -= size
            yield Part(content, not self._left)

    def _next_length(self) -> int | None:
        """Return how long the payload is that begins here; None if that has not come yet."""
        if len(self._held) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._held[:LENGTH_BYTES], "big")
        if length > self._largest:
            raise ValueError("a frame is too large")
        if self._count >= self._most:
            raise ValueError("there are too many frames")
        return length

    def _take(self, length: int) -> bytes:
        self._count += 1
        payload = bytes(memoryview(self._held)[LENGTH_BYTES : LENGTH_BYTES + length])
        del self._held[: LENGTH_BYTES + length]
        return payload

    def finish(self) -> None:
        """Check that the body ended with a payload.

        Raises:
            ValueError: it ended within one.
        """
        if self._held or self._left:
            raise ValueError("the body ends within a frame")
