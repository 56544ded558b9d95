"""A deterministic encoding for signed messages: fixed-size integers, and length prefixes before everything else.

One value has one encoding: integers are big-endian and of fixed size, texts and byte strings carry their length, lists
their count, and nothing may follow the last field. So a digest of the encoding is a digest of the value. The reader
believes nothing: a length is compared with what is left, and with the field's own limit, before anything is read, so
what a message can make us allocate is bounded by its size.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, Self, TypeVar

from cryptography.hazmat.primitives import hashes

from tacit.privacy.errors import RemoteProtocolError

DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
NO_SIGNATURE = bytes(SIGNATURE_BYTES)
NO_DIGEST = bytes(DIGEST_BYTES)

Item = TypeVar("Item")


def sha256(*parts: bytes | memoryview) -> bytes:
    """Return the SHA-256 digest of the parts, one after the other."""
    digest = hashes.Hash(hashes.SHA256())
    for part in parts:
        digest.update(part)
    return digest.finalize()


class Writer:
    """Appends fields to an encoding."""

    def __init__(self) -> None:
        """Start empty."""
        self._out = bytearray()

    def u8(self, value: int) -> Self:
        """Write an integer of one byte."""
        self._out += value.to_bytes(1, "big")
        return self

    def u16(self, value: int) -> Self:
        """Write an integer of two bytes."""
        self._out += value.to_bytes(2, "big")
        return self

    def u32(self, value: int) -> Self:
        """Write an integer of four bytes."""
        self._out += value.to_bytes(4, "big")
        return self

    def u64(self, value: int) -> Self:
        """Write an integer of eight bytes."""
        self._out += value.to_bytes(8, "big")
        return self

    def f64(self, value: float) -> Self:
        """Write a floating-point number of eight bytes (IEEE 754)."""
        self._out += struct.pack(">d", value)
        return self

    def fixed(self, value: bytes) -> Self:
        """Write bytes whose number both sides know."""
        self._out += value
        return self

    def blob(self, value: bytes) -> Self:
        """Write bytes after their number."""
        return self.u32(len(value)).fixed(value)

    def text(self, value: str) -> Self:
        """Write a text as UTF-8."""
        return self.blob(value.encode())

    def list(self, items: Sequence[Item], write: Callable[[Item], object]) -> Self:
        """Write a count and then each item with `write`, which appends to this writer."""
        self.u32(len(items))
        for item in items:
            write(item)
        return self

    def indices(self, members: Sequence[int]) -> Self:
        """Write a list of two-byte positions."""
        return self.u32(len(members)).fixed(struct.pack(f">{len(members)}H", *members))

    def getvalue(self) -> bytes:
        """Return what was written."""
        return bytes(self._out)


class Reader:
    """Takes fields from an encoding, front to back.

    Raises:
        RemoteProtocolError: `truncated` or `malformed`, at whatever field is wrong.
    """

    def __init__(self, data: bytes) -> None:
        """Start at the first byte."""
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """The number of bytes that were not read yet."""
        return len(self._data) - self._at

    def fixed(self, count: int) -> bytes:
        """Read `count` bytes."""
        if count > self.left:
            raise RemoteProtocolError("truncated", f"{count} bytes expected where {self.left} are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def u8(self) -> int:
        """Read an integer of one byte."""
        return self.fixed(1)[0]

    def u16(self) -> int:
        """Read an integer of two bytes."""
        return int.from_bytes(self.fixed(2), "big")

    def u32(self) -> int:
        """Read an integer of four bytes."""
        return int.from_bytes(self.fixed(4), "big")

    def u64(self) -> int:
        """Read an integer of eight bytes."""
        return int.from_bytes(self.fixed(8), "big")

    def f64(self) -> float:
        """Read a finite floating-point number of eight bytes."""
        value: float = struct.unpack(">d", self.fixed(8))[0]
        if not math.isfinite(value):
            raise RemoteProtocolError("malformed", "a number is not finite")
        return value

    def flag(self) -> bool:
        """Read a truth value; any byte but 0 and 1 is refused."""
        value = self.u8()
        if value > 1:
            raise RemoteProtocolError("malformed", "a truth value is neither 0 nor 1")
        return value == 1

    def digest(self) -> bytes:
        """Read 32 bytes."""
        return self.fixed(DIGEST_BYTES)

    def signature(self) -> bytes:
        """Read 64 bytes."""
        return self.fixed(SIGNATURE_BYTES)

    def blob(self, most: int) -> bytes:
        """Read at most `most` bytes after their number."""
        return self.fixed(self._count(most))

    def text(self, most: int) -> str:
        """Read a text of at most `most` bytes of UTF-8."""
        try:
            return self.blob(most).decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("malformed", "a text is not UTF-8") from None

    def list(self, read: Callable[[], Item], *, most: int, item_bytes: int) -> tuple[Item, ...]:
        """Read at most `most` items with `read`, none of which takes fewer than `item_bytes` bytes."""
        count = self._count(most)
        if count * item_bytes > self.left:
            raise RemoteProtocolError("truncated", f"{count} items cannot fit into {self.left} bytes")
        return tuple(read() for _ in range(count))

    def records(self, item_bytes: int, most: int) -> bytes:
        """Read at most `most` records of `item_bytes` bytes each, as one piece."""
        return self.fixed(self._count(most) * item_bytes)

    def indices(self, most: int) -> tuple[int, ...]:
        """Read at most `most` two-byte positions."""
        count = self._count(most)
        return struct.unpack(f">{count}H", self.fixed(2 * count))

    def finish(self) -> None:
        """Refuse bytes after the last field."""
        if self.left:
            raise RemoteProtocolError("malformed", f"{self.left} bytes follow the last field")

    def _count(self, most: int) -> int:
        count = self.u32()
        if count > most:
            raise RemoteProtocolError("oversized", f"{count} where at most {most} are allowed")
        return count


class Message:
    """A frozen dataclass with a tag and one encoding; sub-classes validate themselves when they are made.

    A sub-class raises `ValueError` for values that no honest sender would write; `decode` turns that into a
    `RemoteProtocolError`, because there the peer wrote them.
    """

    TAG: ClassVar[int]
    LIMIT: ClassVar[int]

    def write(self, out: Writer) -> None:
        """Append every field."""
        raise NotImplementedError

    @classmethod
    def read(cls, source: Reader) -> Self:
        """Take every field."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """Return the tag and the fields."""
        out = Writer().u8(self.TAG)
        self.write(out)
        return out.getvalue()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read one whole message of this kind.

        Raises:
            RemoteProtocolError: too long, of another kind, truncated, malformed, or followed by further bytes.
        """
        if len(data) > cls.LIMIT:
            raise RemoteProtocolError("oversized", f"{len(data)} bytes where at most {cls.LIMIT} are allowed")
        source = Reader(data)
        if source.u8() != cls.TAG:
            raise RemoteProtocolError("unexpected-message", f"no {cls.__name__}")
        try:
            message = cls.read(source)
        except ValueError as error:
            raise RemoteProtocolError("malformed", str(error)) from None
        source.finish()
        return message


class Signer(Protocol):
    """Whoever signs under a label; an `Identity` does."""

    def sign(self, label: str, message: bytes) -> bytes:
        """Return the 64 bytes of the signature of `message` under `label`."""
        ...


Verify = Callable[[bytes, str, bytes, bytes], bool]
"""`verify(public_key, label, message, signature)`: whether the signature is good."""


@dataclass(frozen=True)
class SignedMessage(Message):
    """A message whose last field is its sender's signature over everything before it, under the kind's own label."""

    LABEL: ClassVar[str]

    signature: bytes = field(default=NO_SIGNATURE, kw_only=True, repr=False)

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        raise NotImplementedError

    def write(self, out: Writer) -> None:
        """Append every field."""
        self.write_body(out)
        out.fixed(self.signature)

    def body(self) -> bytes:
        """Return what is signed: the encoding without the signature."""
        out = Writer().u8(self.TAG)
        self.write_body(out)
        return out.getvalue()

    def signed(self, signer: Signer) -> Self:
        """Return the same message with its signature."""
        return replace(self, signature=signer.sign(self.LABEL, self.body()))

    def check_signature(self, public_key: bytes, verify: Verify) -> None:
        """Refuse a message that the holder of `public_key` did not sign.

        Raises:
            RemoteProtocolError: `bad-signature`.
        """
        if not verify(public_key, self.LABEL, self.body(), self.signature):
            raise RemoteProtocolError("bad-signature", f"{type(self).__name__} was not signed by its sender")


def check_lengths(expected: int, **values: bytes) -> None:
    """Refuse byte strings of another length, naming the first.

    Raises:
        ValueError: one has another length.
    """
    for name, value in values.items():
        if len(value) != expected:
            raise ValueError(f"{name} has {len(value)} bytes, not {expected}")
