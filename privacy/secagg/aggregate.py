"""What a round is for: the sum over its survivors, and nothing else about any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import LocalProtocolError
from tacit.privacy.secagg.encoding import Residues, Sum, centre, decode, decode_over, packed_pieces
from tacit.privacy.secagg.offer import Offer


class Aggregate:
    """The sum of the survivors' inputs.

    Args:
        offer: says what the coordinates mean.
        total: the sum modulo 2^B, without a mask in it; it is not copied.
        survivors: the names of those that were summed, in order.

    Attributes:
        survivors: see above.
        digest: SHA-256 of the packed integer sum, as the receipt has it.
    """

    def __init__(self, offer: Offer, total: Residues, survivors: tuple[str, ...]) -> None:
        """Take the sum's digest; it is decoded when it is asked for."""
        self._offer = offer
        self._total: Residues | None = total
        self.survivors = survivors
        hashed = hashlib.sha256()
        for piece in packed_pieces(total, offer.bits):
            hashed.update(piece)
        self.digest = hashed.digest()

    @property
    def integers(self) -> NDArray[np.int32]:
        """Return the sum on the grid, shape `(dimension,)`; everything else follows from it."""
        return centre(self._whole(), self._offer.bits)

    @property
    def blocks(self) -> Mapping[str, NDArray[np.float64]]:
        """Return for each block of the layout the sums of its values, float64, shape `(size,)`."""
        return self._decoded.blocks

    @property
    def exact(self) -> Mapping[str, tuple[int, ...]]:
        """Return for each wide block its totals as integers in units of `2^-fraction_bits`."""
        return self._decoded.exact

    @property
    def given_away(self) -> bool:
        """Return whether `give_away` was called, so that the sum is here no more."""
        return self._total is None

    def give_away(self) -> Mapping[str, NDArray[np.floating]]:
        """Return the blocks in the memory of the sum, the rotated ones as float32; see `decode_over`.

        Afterwards only `survivors` and `digest` are left.
        """
        total, self._total = self._whole(), None
        return decode_over(self._offer.layout, total, self._offer.bits, self._offer.rotation_seed)

    @cached_property
    def _decoded(self) -> Sum:
        return decode(self._offer.layout, self.integers, self._offer.rotation_seed)

    def _whole(self) -> Residues:
        if self._total is None:
            raise LocalProtocolError("the sum was given away")
        return self._total
