"""Where random bits come from: keys from the operating system, and long streams expanded from a key.

Every random quantity of the privacy layer (masks, shares, stochastic rounding, noise) is drawn from a `Keystream`, and
every key of a keystream from a `Randomness`. Privacy code takes a `Randomness` as an argument and calls nothing else,
so a simulation can be repeated by passing a seeded source while no setting can reach a deployed one.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
CHUNK_BYTES = 1 << 18  # 64K words of 32 bits: large enough to hide the call, small enough to stay in the L2 cache

_ZEROS = memoryview(bytes(CHUNK_BYTES))


class Randomness(Protocol):
    """A source of independent 32-byte keys, one for each label."""

    def key(self, *label: str | int) -> bytes:
        """Return 32 bytes that nothing else is drawn from.

        The label says what the key is for, such as `("round", 3, "rounding")`. A seeded source gives the same label
        the same key, so a caller must use each label once: no random draw may serve two messages.
        """
        ...


class SystemRandomness:
    """Keys from the operating system; labels are ignored and no two keys are related."""

    def key(self, *label: str | int) -> bytes:
        """Return 32 bytes from the operating system's generator."""
        return os.urandom(KEY_BYTES)


class SeededRandomness:
    """Keys that follow from a secret seed, for tests and simulations only.

    `key(*label) = HMAC-SHA256(seed, encoding of the label)`, where the encoding is injective: labels of different
    parts or types never collide, neither do `("a", "b")` and `("ab",)`. Whoever knows the seed knows every draw.

    Args:
        seed: 32 secret bytes.

    Raises:
        ValueError: the seed does not have 32 bytes.
    """

    def __init__(self, seed: bytes) -> None:
        """Keep the seed; nothing is drawn yet."""
        if len(seed) != KEY_BYTES:
            raise ValueError(f"a seed has {KEY_BYTES} bytes, not {len(seed)}")
        self._seed = bytes(seed)

    def key(self, *label: str | int) -> bytes:
        """Return the key of this label; the same label always has the same key."""
        mac = hmac.HMAC(self._seed, hashes.SHA256())
        mac.update(encode_label(*label))
        return mac.finalize()

    def __repr__(self) -> str:
        """Hide the seed."""
        return "SeededRandomness(seed hidden)"


def encode_label(*label: str | int) -> bytes:
    """Encode a label injectively: for each part its type (`s` or `i`), its length in 4 bytes and its text."""
    encoded = bytearray()
    for part in label:
        if isinstance(part, bool) or not isinstance(part, (str, int)):
            raise TypeError(f"a label is made of text and integers, not {type(part).__name__}")
        text = part.encode() if isinstance(part, str) else str(part).encode()
        encoded += (b"s" if isinstance(part, str) else b"i") + len(text).to_bytes(4, "big") + text
    return bytes(encoded)


class Keystream:
    """The bytes of AES-256 in counter mode under one key, from counter 0 (NIST SP 800-38A, section 6.5).

    The stream is read once from front to back: every call goes on where the last one ended. Words are little-endian,
    so the same key gives the same words on every machine. The stream is sound for one use of the key only.

    Args:
        key: 32 secret bytes.
        first_block: the block of 16 bytes to start at, so that several can read parts of one stream.

    Raises:
        ValueError: the key does not have 32 bytes.
    """

    def __init__(self, key: bytes, *, first_block: int = 0) -> None:
        """Start the stream at its first byte, or at a later block."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a keystream's key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(first_block.to_bytes(16, "big"))).encryptor()

    def update_into(self, buffer: bytearray | memoryview | NDArray[np.generic]) -> None:
        """Overwrite a writable contiguous buffer with the next bytes of the stream.

        The work is done in pieces of `CHUNK_BYTES` outside the interpreter lock, so threads run in parallel.
        """
        if not len(buffer):  # no view of an empty array can be cast
            return
        view = (buffer.data if isinstance(buffer, np.ndarray) else memoryview(buffer)).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            piece = view[start : start + CHUNK_BYTES]
            self._cipher.update_into(_ZEROS[: len(piece)], piece)

    def bytes(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        buffer = bytearray(count)
        self.update_into(buffer)
        return bytes(buffer)

    def words32(self, count: int) -> NDArray[np.uint32]:
        """Return the next `count` words of 32 bits, shape `(count,)`, each uniform on `[0, 2^32)`."""
        words = np.empty(count, dtype="<u4")
        self.update_into(words)
        return words.astype(np.uint32, copy=False)

    def words64(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` words of 64 bits, shape `(count,)`, each uniform on `[0, 2^64)`."""
        words = np.empty(count, dtype="<u8")
        self.update_into(words)
        return words.astype(np.uint64, copy=False)

    def __repr__(self) -> str:
        """Hide the key."""
        return "Keystream(key hidden)"
