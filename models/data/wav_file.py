"""One WAV file: the RIFF container, PCM of 8, 16, 24 and 32 bits, and 32-bit floats.

The standard library's `wave` reads no floats, before Python 3.12 no extensible headers, and believes the sizes that a
file claims. Here a size counts only once the file is seen to be so long, and no more is read than is asked for.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tacit.models.errors import InputError

MAX_CHANNELS = 8
MAX_SAMPLE_RATE = 384_000
# Before the samples a file holds its format and perhaps a few notes.
MAX_CHUNKS = 1000

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
# What follows the number of the format in the identifier of an extensible one.
_EXTENSIBLE_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_FORMAT_BYTES, _EXTENSIBLE_BYTES = 16, 40
_RIGHT = "PCM of 8, 16, 24 or 32 bits, or 32-bit floats"


@dataclass(frozen=True, repr=False)
class Clip:
    """Samples of one channel, float32, full scale from -1 to 1, shape `(samples,)`."""

    samples: NDArray[np.float32]
    sample_rate: int


@dataclass(frozen=True)
class _Format:
    tag: int
    channels: int
    sample_rate: int
    sample_bytes: int

    @property
    def frame_bytes(self) -> int:
        """The bytes of one sample of every channel."""
        return self.channels * self.sample_bytes


def read_wav(path: Path, seconds: float) -> Clip:
    """Read at most the first `seconds` of a file, mixed down to the mean of its channels.

    Raises:
        InputError: the file cannot be read, is no WAV file, is shorter than its header says, holds no samples or one
            that is not finite, or has another format.
    """
    try:
        with path.open("rb") as file:
            return _read(file, str(path), seconds)
    except OSError:
        raise InputError("cannot be read", where=str(path), right="a WAV file") from None


def _read(file: BinaryIO, where: str, seconds: float) -> Clip:
    length = os.fstat(file.fileno()).st_size
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise InputError("is no WAV file", where=where, right="RIFF and WAVE in the first 12 bytes")
    if int.from_bytes(head[4:8], "little") + 8 > length:
        raise _shorter(where)
    found = None
    for name, size in _chunks(file, length, where):
        if name == b"fmt ":
            found = _format(file.read(min(size, _EXTENSIBLE_BYTES)), where)
        if name == b"data":
            if found is None:
                raise InputError("has no format before its samples", where=where, right="a fmt chunk first")
            if not size:
                raise InputError("holds no samples", where=where, right="at least one")
            if size % found.frame_bytes:
                raise InputError("ends within a sample", where=where, right="whole samples of every channel")
            wanted = math.ceil(seconds * found.sample_rate) * found.frame_bytes
            return Clip(_samples(file.read(min(size, wanted)), found, where), found.sample_rate)
    raise InputError("holds no samples", where=where, right="a data chunk")


def _chunks(file: BinaryIO, length: int, where: str) -> Iterator[tuple[bytes, int]]:
    """Yield name and size of each chunk that lies whole in the file, which then stands at its content."""
    start = 12
    for _ in range(MAX_CHUNKS):
        file.seek(start)
        head = file.read(8)
        if len(head) < 8:
            return
        size = int.from_bytes(head[4:], "little")
        if start + 8 + size > length:
            raise _shorter(where)
        yield head[:4], size
        # Chunks begin at even places.
        start += 8 + size + size % 2
    raise InputError("holds too many chunks", where=where, right=f"at most {MAX_CHUNKS}")


def _shorter(where: str) -> InputError:
    return InputError("is shorter than its header says", where=where, right="a whole WAV file")


def _format(content: bytes, where: str) -> _Format:
    if len(content) < _FORMAT_BYTES:
        raise InputError("has a format chunk that is too short", where=where, right=f"at least {_FORMAT_BYTES} bytes")
    tag, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", content)
    if tag == _EXTENSIBLE:
        if len(content) < _EXTENSIBLE_BYTES or content[26:] != _EXTENSIBLE_TAIL:
            raise InputError("has an unknown format", where=where, right=_RIGHT)
        (tag,) = struct.unpack_from("<H", content, 24)
    if (tag, bits) not in ((_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32)):
        raise InputError(f"has format {tag} with {bits} bits", where=where, right=_RIGHT)
    if not 1 <= channels <= MAX_CHANNELS:
        raise InputError(f"has {channels} channels", where=where, right=f"1 to {MAX_CHANNELS}")
    if not 1 <= rate <= MAX_SAMPLE_RATE:
        raise InputError(f"has {rate} samples a second", where=where, right=f"1 to {MAX_SAMPLE_RATE}")
    if frame_bytes != channels * bits // 8:
        raise InputError("has a format that contradicts itself", where=where, right="channels times bytes a sample")
    return _Format(tag, channels, rate, bits // 8)


def _samples(content: bytes, found: _Format, where: str) -> NDArray[np.float32]:
    if len(content) % found.frame_bytes:
        # The file became shorter while it was read.
        raise _shorter(where)
    with np.errstate(over="ignore", invalid="ignore"):
        values = _full_scale(content, found).reshape(-1, found.channels).mean(axis=1, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError("holds a sample that is not finite", where=where, right="finite samples")
    return values


def _full_scale(content: bytes, found: _Format) -> NDArray[np.float32]:
    """Return the numbers in `content`, full scale from -1 to 1."""
    if found.tag == _FLOAT:
        return np.frombuffer(content, dtype="<f4").astype(np.float32)
    match found.sample_bytes:
        case 1:
            # Only samples of 8 bits are unsigned.
            values = np.frombuffer(content, dtype=np.uint8).astype(np.float32) - np.float32(128)
        case 3:
            padded = np.zeros((len(content) // 3, 4), dtype=np.uint8)
            padded[:, :3] = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3)
            # Shifted up, the sign bit is in its place; shifted down, it fills the byte that was missing.
            values = (padded.view("<i4").reshape(-1) << 8 >> 8).astype(np.float32)
        case width:
            values = np.frombuffer(content, dtype=f"<i{width}").astype(np.float32)
    return values * np.float32(2.0 ** (1 - 8 * found.sample_bytes))
