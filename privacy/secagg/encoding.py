"""From real values to integers modulo 2^B and back: rounding, limbs, packing.

`Q(x) = floor(s x + u)` with `u` uniform on `[0, 1)` is unbiased without drawing again: `E[Q(x)] = s x`. Here `u` has 32
bits, so a coordinate's bias is below 2^-32 grid steps. Where the integers must keep to a norm (differential privacy on
the integer grid), `prepare` returns the scaled values instead, and `tacit.privacy.grid.round_within` rounds them; its
docstring states the bias of drawing again.

A sum over n clients of integers within a block's bound is below 2^(B-1) in size (`layout.fits`), so the representative
nearest to zero of the sum modulo 2^B is the sum itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import LocalProtocolError
from tacit.privacy.randomness import Keystream
from tacit.privacy.rotation import rotate, unrotate
from tacit.privacy.secagg.layout import Block, Layout, WideBlock

CHUNK = 1 << 16

Values = Mapping[str, NDArray[np.floating]]
Residues: TypeAlias = NDArray[np.uint16] | NDArray[np.uint32]
"""Coordinates modulo 2^B: words of 16 bits, or of 32 for 24 and 32, whose bits above B mean nothing."""


def prepare(layout: Layout, values: Values, rotation_seed: bytes) -> NDArray[np.float64]:
    """Return the values of every plain block rotated, clamped and scaled but not rounded, shape `(dimension,)`.

    For mechanisms that round by themselves; a layout with wide blocks has no such form.

    Raises:
        LocalProtocolError: a block is missing, unknown, wide, of another size, or holds NaN or infinity.
    """
    _check_names(layout, values)
    prepared = np.empty(layout.dimension, dtype=np.float64)
    for block, span in layout.spans():
        if isinstance(block, WideBlock):
            raise LocalProtocolError(f"block {block.name} is wide: it is rounded exactly, never with noise")
        real = _checked(block, values[block.name], rotation_seed)
        np.clip(real, -block.clip, block.clip, out=prepared[span], dtype=np.float64)
        prepared[span] *= block.scale
    return prepared


def encode(layout: Layout, values: Values, rotation_seed: bytes, rounding: Keystream) -> NDArray[np.int32]:
    """Return the integers of one client's contribution, shape `(dimension,)`.

    Args:
        layout: the blocks.
        values: for each block its values, shape `(size,)`; each is clamped to the block's clip.
        rotation_seed: the public seed of the rotation of the blocks that are rotated.
        rounding: uniform words that are used for nothing else.

    Raises:
        LocalProtocolError: a block is missing, unknown or of another size, holds NaN or infinity, or a wide value is
            larger than its block allows.
    """
    _check_names(layout, values)
    encoded = np.empty(layout.dimension, dtype=np.int32)
    for block, span in layout.spans():
        real = _checked(block, values[block.name], rotation_seed)
        if isinstance(block, WideBlock):
            encoded[span] = split_limbs(block, real)
        else:
            _round(real, block, rounding, encoded[span])
    return encoded


def _check_names(layout: Layout, values: Values) -> None:
    expected = {block.name for block in layout.blocks}
    if values.keys() != expected:
        raise LocalProtocolError(f"the vector is made of the blocks {', '.join(sorted(expected))}")


def _checked(block: Block | WideBlock, real: NDArray[np.floating], seed: bytes) -> NDArray[np.floating]:
    if real.shape != (block.size,):
        raise LocalProtocolError(f"block {block.name} has shape ({block.size},), not {real.shape}")
    if not np.isfinite(real).all():
        raise LocalProtocolError(f"block {block.name} has a value that is not finite; nothing was sent")
    return rotate(real, seed) if isinstance(block, Block) and block.rotated else real


def _round(real: NDArray[np.floating], block: Block, rounding: Keystream, out: NDArray[np.int32]) -> None:
    """Write `floor(scale x + u)` for clamped x: the integer below, or one more where u reaches the fraction's end."""
    for start in range(0, real.size, CHUNK):
        scaled = np.clip(real[start : start + CHUNK], -block.clip, block.clip, dtype=np.float64)
        scaled *= block.scale
        below = np.floor(scaled)
        scaled -= below
        scaled *= 4294967296.0  # exact; compared as float64, for the fraction of a tiny negative number rounds to one
        up = rounding.words32(scaled.size) < scaled
        np.add(below, up, out=out[start : start + scaled.size], casting="unsafe")


def split_limbs(block: WideBlock, real: NDArray[np.floating]) -> NDArray[np.int32]:
    """Return the limbs of wide values, shape `(size * limbs,)`, the limbs of one value side by side, lowest first.

    Exact for any float64: scaling by a power of two, cutting and subtracting what was cut off lose no bit, and only
    what lies below the resolution is rounded, to the nearest. Limbs are cut from the size of the value and take its
    sign, because borrowing from a higher limb would need more bits than a float64 has.

    Raises:
        LocalProtocolError: a value is larger than the block allows.
    """
    exact = np.asarray(real, dtype=np.float64)
    rest = np.abs(exact)
    if rest.max() > 2.0**block.integer_bits:
        raise LocalProtocolError(f"block {block.name} has a value beyond 2^{block.integer_bits}; nothing was sent")
    rest = np.rint(np.ldexp(rest, block.fraction_bits))
    limbs = np.empty((block.size, block.limbs), dtype=np.int32)
    for place in range(block.limbs - 1, -1, -1):
        limb = np.floor(np.ldexp(rest, -place * block.limb_bits))
        rest -= np.ldexp(limb, place * block.limb_bits)
        limbs[:, place] = np.copysign(limb, exact)
    return limbs.reshape(-1)


def join_limbs(block: WideBlock, summed: NDArray[np.int32]) -> tuple[int, ...]:
    """Return the exact totals, shape `(size,)`, in units of `2^-fraction_bits`, from the sums of the limbs."""
    return tuple(
        sum(limb << (place * block.limb_bits) for place, limb in enumerate(limbs))
        for limbs in summed.reshape(block.size, block.limbs).tolist()
    )


@dataclass(frozen=True)
class Sum:
    """What a sum of contributions says: for each block the sum of its values over the clients that were summed.

    Attributes:
        blocks: float64 arrays of shape `(size,)`; of wide blocks the exact total rounded once.
        exact: for each wide block its totals as integers in units of `2^-fraction_bits`.
    """

    blocks: Mapping[str, NDArray[np.float64]]
    exact: Mapping[str, tuple[int, ...]]


def decode(layout: Layout, total: NDArray[np.int32], rotation_seed: bytes) -> Sum:
    """Return the sums of every block from the integer sum, shape `(dimension,)`."""
    blocks: dict[str, NDArray[np.float64]] = {}
    exact: dict[str, tuple[int, ...]] = {}
    for block, span in layout.spans():
        if isinstance(block, WideBlock):
            exact[block.name] = join_limbs(block, total[span])
        blocks[block.name] = _values(block, total[span])
        if isinstance(block, Block) and block.rotated:
            unrotate(blocks[block.name], rotation_seed)
    return Sum(MappingProxyType(blocks), MappingProxyType(exact))


def decode_over(layout: Layout, total: Residues, bits: int, rotation_seed: bytes) -> Mapping[str, NDArray[np.floating]]:
    """Return the sums of every block from the sum modulo 2^B, in the memory of that sum, which is gone afterwards.

    Rotated blocks come as float32 (`unrotate` has by how much that is off), all others as `decode` has them.
    So a model's sum needs no more memory than before it was decoded. Only for what is rounded to float32 anyway, and
    never before noise is added: noise is measured against how far two sums can be apart, which rounding changes.
    """
    blocks: dict[str, NDArray[np.floating]] = {}
    for block, span in layout.spans():
        part = total[span]
        if isinstance(block, WideBlock) or not block.rotated:
            blocks[block.name] = _values(block, centre(part, bits))
            continue
        real = part.view(np.float32) if part.itemsize == 4 else np.empty(part.size, dtype=np.float32)
        for piece in _chunks(part.size):
            real[piece] = centre(part[piece], bits) / block.scale
        unrotate(real, rotation_seed)
        blocks[block.name] = real
    return MappingProxyType(blocks)


def _values(block: Block | WideBlock, total: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the sums of a block's values as they are before a rotation is undone, shape `(size,)`."""
    if not isinstance(block, WideBlock):
        return total / block.scale
    unit = 1 << block.fraction_bits
    return np.array([value / unit for value in join_limbs(block, total)], dtype=np.float64)


def zeros(dimension: int, bits: int) -> Residues:
    """Return the sum of nothing, shape `(dimension,)`."""
    return np.zeros(dimension, dtype=np.uint16) if bits == 16 else np.zeros(dimension, dtype=np.uint32)


def reduce(integers: NDArray[np.signedinteger], bits: int) -> Residues:
    """Return the integers modulo 2^16 or 2^32, shape unchanged."""
    return integers.astype(np.uint16) if bits == 16 else integers.astype(np.uint32)


def centre(total: Residues, bits: int) -> NDArray[np.int32]:
    """Return for each coordinate modulo 2^B the representative in `[-2^(B-1), 2^(B-1))`."""
    if bits == 16:
        return total.astype(np.uint16).view(np.int16).astype(np.int32)
    centred = np.left_shift(total, 32 - bits, dtype=np.uint32).view(np.int32)
    return np.right_shift(centred, 32 - bits, out=centred)


def packed_bytes(dimension: int, bits: int) -> int:
    """Return the length of a packed vector."""
    return dimension * bits // 8


def pack(total: Residues, bits: int) -> NDArray[np.uint8]:
    """Return the coordinates modulo 2^B in `B / 8` bytes each, shape `(dimension * B / 8,)`, little-endian.

    24 bits are two planes, the lower 16 bits of all coordinates and then their upper 8: both are plain conversions of
    whole arrays at the speed of memory, where three bytes side by side would be copied one by one.
    """
    if bits != 24:
        return total.astype(f"<u{bits // 8}", copy=False).view(np.uint8)
    packed = np.empty(packed_bytes(total.size, bits), dtype=np.uint8)
    lower, upper = _planes(packed, total.size)
    for span in _chunks(total.size):
        np.copyto(lower[span], total[span], casting="unsafe")
        np.right_shift(total[span], 16, out=upper[span], casting="unsafe")
    return packed


def packed_pieces(total: Residues, bits: int) -> Iterator[memoryview]:
    """Yield what `pack` returns, a piece at a time: nothing of the vector's size is made."""
    if bits != 24:
        yield from (pack(total[span], bits).data for span in _chunks(total.size))
        return
    yield from (total[span].astype("<u2").view(np.uint8).data for span in _chunks(total.size))
    yield from (np.right_shift(total[span], 16).astype(np.uint8).data for span in _chunks(total.size))


def add_packed(total: Residues, packed: NDArray[np.uint8], bits: int) -> None:
    """Add a packed vector to a running total in place.

    Raises:
        ValueError: the packed vector has another length.
    """
    if packed.dtype != np.uint8 or packed.shape != (packed_bytes(total.size, bits),):
        raise ValueError(f"{packed.size} bytes are no vector of {total.size} coordinates of {bits} bits")
    if bits != 24:
        np.add(total, packed.view(f"<u{bits // 8}"), out=total)
        return
    lower, upper = _planes(packed, total.size)
    buffer = np.empty(min(CHUNK, total.size), dtype=np.uint32)
    for span in _chunks(total.size):
        part = buffer[: span.stop - span.start]
        np.left_shift(upper[span], 16, out=part, dtype=np.uint32)
        np.bitwise_or(part, lower[span], out=part)
        np.add(total[span], part, out=total[span])


def unpack(packed: NDArray[np.uint8], dimension: int, bits: int) -> Residues:
    """Return the coordinates of a packed vector, shape `(dimension,)`.

    Raises:
        ValueError: the packed vector has another length.
    """
    total = zeros(dimension, bits)
    add_packed(total, packed, bits)
    return total


def _planes(packed: NDArray[np.uint8], dimension: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    return packed[: 2 * dimension].view("<u2"), packed[2 * dimension :]


def _chunks(dimension: int) -> Iterator[slice]:
    for start in range(0, dimension, CHUNK):
        yield slice(start, min(start + CHUNK, dimension))
