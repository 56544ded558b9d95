"""What the coordinator computes from released shares: the masks that are still in the sum, and who sent false ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tacit.privacy.secagg import keys, shamir
from tacit.privacy.secagg.blame import Charges, tolerated
from tacit.privacy.secagg.masks import Mask
from tacit.privacy.secagg.roster import Membership


class Unrecoverable(Exception):
    """A secret cannot be recovered: more false shares than there are shares to spare.

    Args:
        owner: the member whose secret it is.
        charges: the pairs that are charged.
    """

    def __init__(self, owner: str, charges: Charges) -> None:
        """Keep the charges."""
        self.owner = owner
        self.charges = charges
        super().__init__(f"the secret of {owner} cannot be recovered")


class Recovery:
    """Recovers b of every survivor and s of every other share holder, each checked against what was advertised.

    Args:
        membership: the roster.
        transcript: T2.
        holders: U2.
        survivors: U3.
        released: for every member that released shares, its share of each neighbour's secret.
    """

    def __init__(
        self,
        membership: Membership,
        transcript: bytes,
        holders: Sequence[int],
        survivors: Sequence[int],
        released: Mapping[int, Mapping[int, int]],
    ) -> None:
        """Compute the holders' weights, once for all secrets where everybody is everybody's neighbour."""
        self._membership = membership
        self._transcript = transcript
        self._holders = holders
        self._survivors = survivors
        self._released = released
        everybody = [keys.point_of(holder) for holder in sorted(released)]
        self._shared_weights = shamir.Holders(everybody) if membership.topology.circle is None else None
        self._charges: set[tuple[str, str]] = set()

    def masks(self) -> tuple[list[Mask], Charges]:
        """Return the masks that take everything but the inputs out of the sum, and the pairs that are charged.

        Raises:
            Unrecoverable: a secret cannot be recovered.
            RemoteProtocolError: `low-order-point`.
        """
        masks = []
        survived = set(self._survivors)
        for owner in self._holders:
            if owner in survived:
                seed = self._secret(owner, survived=True)
                masks.append(Mask(keys.self_mask_key(seed, self._transcript, owner), -1))
            else:
                seed = self._secret(owner, survived=False)
                masks += self._pair_masks(owner, keys.masking_key(seed, self._membership.offer.digest))
        return masks, frozenset(self._charges)

    def _pair_masks(self, gone: int, masking_key: bytes) -> Iterable[Mask]:
        """Take off what every surviving neighbour i added for a member j that is gone: `sign(j - i) PRG_ij`."""
        secret = keys.agreement(masking_key)
        for neighbour in self._membership.neighbours(gone, self._survivors):
            shared = secret(self._membership.adverts[neighbour].masking_key)
            key = keys.pair_mask_key(shared, self._transcript, neighbour, gone)
            yield Mask(key, -1 if gone > neighbour else 1)

    def _secret(self, owner: int, *, survived: bool) -> int:
        points, shares = [], []
        for holder in self._membership.neighbours(owner, sorted(self._released)):
            points.append(keys.point_of(holder))
            shares.append(self._released[holder][owner])
        threshold = self._membership.threshold
        if len(points) >= threshold:
            if self._shared_weights is not None:
                weights = self._shared_weights.without(keys.point_of(owner))
            else:
                weights = shamir.Holders(points).weights()
            secret = weights.secret(shares)
            if self._is(owner, secret, survived):
                return secret
            corrected = shamir.correct(points, shares, threshold)
            if corrected is not None and self._is(owner, corrected[0], survived):
                self._charge(owner, corrected[1])
                return corrected[0]
        # An honest dealer's secret fails only if more holders lie than can be corrected. Where that would take more
        # than all who may, the dealer is at fault together with whoever; else nobody can be charged.
        if len(points) - threshold >= 2 * tolerated(self._membership.offer.colluders):
            self._charge(owner, points)
        raise Unrecoverable(self._membership.name(owner), frozenset(self._charges))

    def _is(self, owner: int, secret: int, survived: bool) -> bool:
        """Say whether a secret is the one that its owner advertised: b by its commitment, s by its public key."""
        advert = self._membership.adverts[owner]
        digest = self._membership.offer.digest
        if survived:
            return keys.commitment(secret, digest, advert.certificate.client) == advert.seed_commitment
        return keys.public_of(keys.masking_key(secret, digest)) == advert.masking_key

    def _charge(self, dealer: int, points: Iterable[int]) -> None:
        self._charges |= {(self._membership.name(dealer), self._membership.name(point - 1)) for point in points}
