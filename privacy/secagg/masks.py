"""Masks: AES-256-CTR keystreams that are added to a vector, or taken off it, modulo 2^B.

A mask's coordinates are the little-endian words of the keystream from counter 0: 4 bytes each, of which B = 24 uses the
lower 24 bits, or 2 bytes for B = 16. The key is used for this one mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg.encoding import CHUNK, Residues

_AES_BLOCK = 16


@dataclass(frozen=True)
class Mask:
    """A keystream and whether it is added (+1) or subtracted (-1); its representation hides the key."""

    key: bytes
    sign: int

    def __repr__(self) -> str:
        """Show the sign only."""
        return f"Mask(sign={self.sign:+d}, key hidden)"


def apply(masks: Sequence[Mask], vector: Residues, threads: int = 1) -> None:
    """Add or subtract every mask, in place.

    The vector is taken a cacheful at a time and all masks are applied to it there, so the vector passes through memory
    once however many masks there are, and no mask is ever held as a whole. Threads share out the coordinates; AES runs
    outside the interpreter lock.

    Args:
        masks: the keystreams and their signs.
        vector: 16- or 32-bit words, shape `(dimension,)`.
        threads: how many threads work on it; the result does not depend on it.
    """
    if threads <= 1 or vector.size <= CHUNK:
        _apply_part(masks, vector, 0)
        return
    part = -(-vector.size // (threads * CHUNK)) * CHUNK
    starts = range(0, vector.size, part)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for done in [pool.submit(_apply_part, masks, vector[start : start + part], start) for start in starts]:
            done.result()


def _apply_part(masks: Sequence[Mask], vector: Residues, start: int) -> None:
    first_block = start * vector.itemsize // _AES_BLOCK
    streams = [(Keystream(mask.key, first_block=first_block), mask.sign) for mask in masks]
    little_endian = vector.dtype.newbyteorder("<")
    buffer = np.empty(min(CHUNK, vector.size), dtype=little_endian)
    for at in range(0, vector.size, CHUNK):
        piece = vector[at : at + CHUNK]
        words = buffer[: piece.size]
        for stream, sign in streams:
            stream.update_into(words)
            if sign > 0:
                np.add(piece, words, out=piece)
            else:
                np.subtract(piece, words, out=piece)
