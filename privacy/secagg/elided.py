"""The same sum without masks, for fast simulation: identical arithmetic, none of the protection.

Masks cancel exactly, so what is decoded from an elided round is, bit for bit, what the protocol would have given: the
values are encoded by the same function with the same draws, reduced modulo 2^B, added and decoded by the same code.
An elided round reads offers of mode `elided` only; a member's `ClientRound` and the coordinator's `ServerRound` refuse
those, so the weaker mode is reached by naming it and by nothing else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import LocalProtocolError
from tacit.privacy.randomness import Keystream, Randomness
from tacit.privacy.secagg.aggregate import Aggregate
from tacit.privacy.secagg.encoding import Values, encode, reduce, zeros
from tacit.privacy.secagg.offer import ELIDED, Offer


def input_rounding(randomness: Randomness, offer: Offer, client: str) -> Keystream:
    """Return the words that one member's values are rounded with, the same whether masks are real or elided."""
    return Keystream(randomness.key("secagg", *offer.attempt_key, client, "rounding"))


class ElidedRound:
    """A running sum of plain inputs.

    Args:
        offer: of mode `elided`.

    Raises:
        LocalProtocolError: the offer asks for masks.
    """

    def __init__(self, offer: Offer) -> None:
        """Start with the sum of nothing."""
        if offer.mode != ELIDED:
            raise LocalProtocolError("the offer asks for masks, and gets them or nothing")
        self._offer = offer
        self._total = zeros(offer.dimension, offer.bits)
        self._survivors: set[str] = set()

    def contribute(self, client: str, values: Values, randomness: Randomness) -> None:
        """Add a member's values, rounded with the draws that its `ClientRound` would make from the same source.

        Raises:
            LocalProtocolError: the member is in the sum already, or the values are not what the layout asks for.
        """
        rounding = input_rounding(randomness, self._offer, client)
        self.contribute_integers(client, encode(self._offer.layout, values, self._offer.rotation_seed, rounding))

    def contribute_integers(self, client: str, integers: NDArray[np.signedinteger]) -> None:
        """Add a member's input as integers that a privacy mechanism has already rounded and noised.

        Raises:
            LocalProtocolError: the member is in the sum already, or the shape is another one.
        """
        if client in self._survivors:
            raise LocalProtocolError(f"{client} is in the sum already")
        if integers.shape != (self._offer.dimension,) or not np.issubdtype(integers.dtype, np.signedinteger):
            raise LocalProtocolError(f"the input has {self._offer.dimension} signed integers")
        np.add(self._total, reduce(integers, self._offer.bits), out=self._total)
        self._survivors.add(client)

    def result(self) -> Aggregate:
        """Return the sum.

        Raises:
            LocalProtocolError: fewer than U_min contributed.
        """
        if len(self._survivors) < self._offer.min_survivors:
            raise LocalProtocolError(
                f"{len(self._survivors)} are in the sum, at least {self._offer.min_survivors} must be"
            )
        return Aggregate(self._offer, self._total, tuple(sorted(self._survivors)))
