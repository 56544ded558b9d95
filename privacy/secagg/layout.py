"""What stands where in a masked vector, and the proof that sums over it cannot wrap.

A vector is a row of blocks (update, weight, metrics, clip bit, ...), each with a clip and a scale of its own. A `Block`
holds one coordinate a value: real `x` becomes `Q(x) = floor(scale x + u)`, `u` uniform on `[0, 1)`. A `WideBlock` holds
several coordinates a value: a large-range fixed-point integer in limbs, whose sum is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tacit.privacy.codec import Reader, Writer
from tacit.privacy.errors import PrivacyError, RemoteProtocolError
from tacit.privacy.identity import check_name
from tacit.privacy.skellam import noise_bound

BITS = (16, 24, 32)
MAX_DIMENSION = 1 << 30
MAX_BLOCKS = 256
WRAP_LOG2_PROBABILITY = -40.0


class Infeasible(PrivacyError):
    """No round with these numbers can be both safe and completed; nothing was offered.

    Args:
        what: what does not fit, with the numbers.
        change: the setting to change and what it would have to be.
    """

    def __init__(self, what: str, change: str) -> None:
        """Keep the advice beside the text."""
        self.what = what
        self.change = change
        super().__init__(f"{what}; {change}")


@dataclass(frozen=True)
class Block:
    """Values that are summed on a grid of `1 / scale`.

    Attributes:
        name: what the values are.
        size: how many.
        clip: the largest size of a coordinate, after rotation if there is one; larger ones are clamped.
        scale: grid steps a unit.
        rotated: whether the values are flattened by the offer's public random rotation before they are rounded.
    """

    name: str
    size: int
    clip: float
    scale: float
    rotated: bool = False

    def __post_init__(self) -> None:
        """Refuse a block without values, or without a finite grid."""
        check_name(self.name)
        if not 0 < self.size <= MAX_DIMENSION:
            raise ValueError(f"block {self.name} has {self.size} values")
        if not (0.0 < self.clip < math.inf and 0.0 < self.scale < math.inf):
            raise ValueError(f"block {self.name} needs a positive finite clip and scale")
        if not self.scale * self.clip < 1 << 31:
            raise ValueError(f"block {self.name} has values beyond 31 bits")

    @property
    def coordinates(self) -> int:
        """The number of coordinates that it takes."""
        return self.size

    @property
    def bound(self) -> int:
        """The largest size of a rounded coordinate: `floor(scale clip) + 1`."""
        return math.floor(self.scale * self.clip) + 1


@dataclass(frozen=True)
class WideBlock:
    """Values of a large range whose sum must be exact to `2^-fraction_bits`, such as sums of squares.

    A value `x`, `|x| <= 2^integer_bits`, is the integer `V` nearest to `2^fraction_bits x`, cut into limbs:
    `V = sum_k limb_k 2^(k limb_bits)`, every limb with the sign of V and below `2^limb_bits` in size. Limbs are summed
    apart, so the total is the exact sum of all `V`.

    Attributes:
        name: what the values are.
        size: how many.
        integer_bits: the size of the largest value; a larger one is refused, never clamped.
        fraction_bits: the resolution; values are rounded to it, once, at the client.
        limb_bits: bits of a limb: 16 lets 127 clients add up within 24 bits, 32,767 within 32.
    """

    name: str
    size: int
    integer_bits: int
    fraction_bits: int
    limb_bits: int = 16

    def __post_init__(self) -> None:
        """Refuse a block without values, or beyond the range of floating-point numbers."""
        check_name(self.name)
        if not 0 < self.size <= MAX_DIMENSION:
            raise ValueError(f"block {self.name} has {self.size} values")
        if not (0 <= self.integer_bits <= 512 and 0 <= self.fraction_bits <= 256 and 1 <= self.limb_bits <= 24):
            raise ValueError(f"block {self.name} has more bits than a wide value can")

    @property
    def limbs(self) -> int:
        """How many limbs a value has: enough for `2^(integer_bits + fraction_bits)`."""
        return -(-(self.integer_bits + self.fraction_bits + 1) // self.limb_bits)

    @property
    def coordinates(self) -> int:
        """The number of coordinates that it takes."""
        return self.size * self.limbs

    @property
    def bound(self) -> int:
        """The largest size of a limb."""
        return 1 << self.limb_bits


@dataclass(frozen=True)
class Layout:
    """The blocks of a vector, in order.

    Raises:
        ValueError: no block, too many, two of one name, or too many coordinates.
    """

    blocks: tuple[Block | WideBlock, ...]

    def __post_init__(self) -> None:
        """Refuse a vector that could not be read again."""
        if not 0 < len(self.blocks) <= MAX_BLOCKS:
            raise ValueError(f"a layout has 1 to {MAX_BLOCKS} blocks")
        if len({block.name for block in self.blocks}) != len(self.blocks):
            raise ValueError("two blocks have one name")
        if self.dimension > MAX_DIMENSION:
            raise ValueError(f"{self.dimension} coordinates are more than {MAX_DIMENSION}")

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        return sum(block.coordinates for block in self.blocks)

    def spans(self) -> Iterator[tuple[Block | WideBlock, slice]]:
        """Yield each block with its coordinates."""
        start = 0
        for block in self.blocks:
            yield block, slice(start, start + block.coordinates)
            start += block.coordinates

    def write(self, out: Writer) -> None:
        """Append every block."""

        def write_block(block: Block | WideBlock) -> None:
            out.u8(isinstance(block, WideBlock)).text(block.name).u32(block.size)
            if isinstance(block, WideBlock):
                out.u16(block.integer_bits).u16(block.fraction_bits).u8(block.limb_bits)
            else:
                out.f64(block.clip).f64(block.scale).u8(block.rotated)

        out.list(self.blocks, write_block)

    @classmethod
    def read(cls, source: Reader) -> Layout:
        """Take every block."""

        def read_block() -> Block | WideBlock:
            wide, name, size = source.flag(), source.text(64), source.u32()
            if wide:
                return WideBlock(name, size, source.u16(), source.u16(), source.u8())
            return Block(name, size, source.f64(), source.f64(), source.flag())

        return cls(source.list(read_block, most=MAX_BLOCKS, item_bytes=15))


def noise_reach(layout: Layout, clients: int, noise_variance: float) -> int:
    """Return the `x` that the summed noise of `clients` exceeds in no coordinate, but with a probability of 2^-40.

    Args:
        layout: the vector.
        clients: how many add noise.
        noise_variance: the variance of one client's share in squared grid steps; 0 for no noise.
    """
    if not noise_variance:
        return 0
    return noise_bound(clients * noise_variance, layout.dimension, WRAP_LOG2_PROBABILITY)


def fits(layout: Layout, clients: int, noise_variance: float, bits: int) -> bool:
    """Say whether sums over `clients` stay within `bits`: `n (s c + 1) + x < 2^(B-1)` for every block.

    Without noise (`x = 0`) this is a proof. With noise a wrap has a probability below 2^-40; it would cost utility and
    never privacy, because reduction modulo 2^B is post-processing.
    """
    reach = noise_reach(layout, clients, noise_variance)
    return all(clients * block.bound + reach < 1 << (bits - 1) for block in layout.blocks)


def bits_for(layout: Layout, clients: int, noise_variance: float = 0.0) -> int:
    """Return the fewest bits a coordinate, of 16, 24 and 32, in which sums over `clients` cannot wrap.

    Raises:
        Infeasible: not even 32 bits are enough; the error names the block and the largest scale that would do.
    """
    for bits in BITS:
        if fits(layout, clients, noise_variance, bits):
            return bits
    widest = max(layout.blocks, key=lambda block: block.bound)
    room = ((1 << (BITS[-1] - 1)) - 1 - noise_reach(layout, clients, noise_variance)) // clients - 1
    advice = f"use at most {max(room, 0).bit_length() - 1} limb bits"
    if isinstance(widest, Block):
        advice = f"lower its scale from {widest.scale:g} to at most {max(room, 0) / widest.clip:g}"
        if room < 1:
            advice = "lower the noise or the number of clients"
    raise Infeasible(f"block {widest.name}: sums over {clients} clients do not fit into 32 bits", advice)


def largest_scale(clip: float, clients: int, bits: int, reach: int = 0) -> float:
    """Return the finest grid, in steps a unit, on which sums over `clients` stay within `bits`.

    Args:
        clip: the largest size of a coordinate.
        clients: how many are summed.
        bits: bits of a coordinate.
        reach: what the summed noise may add, in grid steps.

    Raises:
        Infeasible: not even a grid of one step fits.
    """
    steps = ((1 << (bits - 1)) - 1 - reach) // clients - 1
    if steps < 1:
        raise Infeasible(f"sums over {clients} clients do not fit into {bits} bits", "use more bits or fewer clients")
    return min(steps / clip, math.nextafter(float(1 << 31), 0) / clip)


def check_fits(layout: Layout, clients: int, noise_variance: float, bits: int) -> None:
    """Refuse numbers under which a sum could wrap.

    Raises:
        RemoteProtocolError: `overflow`.
    """
    if not fits(layout, clients, noise_variance, bits):
        raise RemoteProtocolError("overflow", f"sums over {clients} clients do not fit into {bits} bits")
