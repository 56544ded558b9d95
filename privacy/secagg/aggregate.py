"""What a round is for: the sum over its survivors, and nothing else about any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.codec import sha256
from tacit.privacy.secagg.encoding import Residues, centre, decode, pack
from tacit.privacy.secagg.offer import Offer


@dataclass(frozen=True)
class Aggregate:
    """The sum of the survivors' inputs.

    Attributes:
        blocks: for each block of the layout the sums of its values, float64, shape `(size,)`.
        exact: for each wide block its totals as integers in units of `2^-fraction_bits`.
        integers: the sum on the grid, shape `(dimension,)`; everything else follows from it.
        survivors: the names of those that were summed, in order.
        digest: SHA-256 of the packed integer sum, as the receipt has it.
    """

    blocks: Mapping[str, NDArray[np.float64]]
    exact: Mapping[str, tuple[int, ...]]
    integers: NDArray[np.int32]
    survivors: tuple[str, ...]
    digest: bytes

    @classmethod
    def of(cls, offer: Offer, total: Residues, survivors: tuple[str, ...]) -> Aggregate:
        """Decode a sum modulo 2^B that has no mask left in it."""
        integers = centre(total, offer.bits)
        summed = decode(offer.layout, integers, offer.rotation_seed)
        digest = sha256(pack(total, offer.bits).data)
        return cls(summed.blocks, summed.exact, integers, survivors, digest)
