"""The secrets of one member in one attempt: made together, used for one thing each, wiped together."""

from __future__ import annotations

from collections.abc import Sequence

from tacit.privacy.codec import NO_DIGEST, Verify
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Certificate, Identity
from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg import disputes, keys, shamir
from tacit.privacy.secagg.masks import Mask
from tacit.privacy.secagg.messages import (
    BAD_CIPHERTEXT,
    BAD_SIGNATURE,
    PARCEL_LABEL,
    Accusation,
    Advertise,
    Parcel,
    parcel_body,
)
from tacit.privacy.secagg.roster import Membership


class Vault:
    """A member's round keys, seeds, the secrets shared with its neighbours, and the shares it holds.

    Args:
        encryption_key: the X25519 private key c for shares.
        seeds: secret numbers that b and s are drawn from.
        offer_digest: H(Offer).
        agree: how secrets are agreed on.
    """

    def __init__(
        self, encryption_key: bytes, seeds: Keystream, offer_digest: bytes, agree: keys.Agree = keys.agreement
    ) -> None:
        """Draw b and s, uniform modulo p, and derive the masking key from s."""
        self._agree = agree
        self._encryption_key = bytearray(encryption_key)
        self._self_seed = keys.element(seeds)
        self._masking_seed = keys.element(seeds)
        self._masking_key = bytearray(keys.masking_key(self._masking_seed, offer_digest))
        self._encryption_pairs: dict[int, bytes] = {}
        self._masking_pairs: dict[int, bytes] = {}
        self._held: dict[int, tuple[int, int]] = {}

    def advert(self, certificate: Certificate, offer_digest: bytes) -> Advertise:
        """Return the public keys and the commitment to b, unsigned."""
        return Advertise(
            offer_digest=offer_digest,
            certificate=certificate,
            encryption_key=keys.public_of(bytes(self._encryption_key)),
            masking_key=keys.public_of(bytes(self._masking_key)),
            seed_commitment=keys.commitment(self._self_seed, offer_digest, certificate.client),
        )

    def deal(self, membership: Membership, me: int, identity: Identity, coefficients: Keystream) -> tuple[Parcel, ...]:
        """Agree on secrets with all neighbours and return a parcel for each: one share of b and one of s.

        Raises:
            RemoteProtocolError: `low-order-point`: a neighbour's key makes a secret that is none.
        """
        neighbours = membership.topology.neighbours(me)
        encryption_secret = self._agree(bytes(self._encryption_key))
        masking_secret = self._agree(bytes(self._masking_key))
        for other in neighbours:
            advert = membership.adverts[other]
            self._encryption_pairs[other] = encryption_secret(advert.encryption_key)
            self._masking_pairs[other] = masking_secret(advert.masking_key)
        points = [keys.point_of(other) for other in neighbours]
        seed_shares, key_shares = (
            shamir.split(secret, keys.elements(coefficients, membership.threshold - 1), points)
            for secret in (self._self_seed, self._masking_seed)
        )
        parcels = []
        for holder, seed_share, key_share in zip(neighbours, seed_shares, key_shares, strict=True):
            key = keys.share_key(self._encryption_pairs[holder], membership.transcript, me, holder)
            binding = keys.share_binding(membership.transcript, me, holder, membership.threshold)
            ciphertext = keys.seal_shares(key, binding, seed_share, key_share)
            body = parcel_body(membership.transcript, me, holder, ciphertext)
            parcels.append(Parcel(holder, ciphertext, identity.sign(PARCEL_LABEL, body)))
        return tuple(parcels)

    def keep(
        self, membership: Membership, me: int, parcel: Parcel, dispute: Keystream, verify: Verify
    ) -> Accusation | None:
        """Keep the shares of one dealer, or return what the dealer is accused of, unsigned.

        What opens is the dealer's: nobody else but the holder has the key, which both derive from round keys that the
        roster vouches for. The parcel's signature says no more, so it is looked at only where one is needed to find out
        who is at fault. A bad one needs no evidence: the dealer signed the whole message that the parcel came in as
        well, and the coordinator has that. A ciphertext that does not open is shown with the pair's secret (see
        `disputes`).

        Raises:
            RemoteProtocolError: `bad-point`: the dealer's key is on no curve, and neither are its shares.
        """
        dealer, transcript = parcel.member, membership.transcript
        key = keys.share_key(self._encryption_pairs[dealer], transcript, dealer, me)
        binding = keys.share_binding(transcript, dealer, me, membership.threshold)
        try:
            self._held[dealer] = keys.open_shares(key, binding, parcel.ciphertext)
        except RemoteProtocolError:
            body = parcel_body(transcript, dealer, me, parcel.ciphertext)
            if not verify(membership.identity_key(dealer), PARCEL_LABEL, body, parcel.signature):
                return Accusation(transcript, me, dealer, BAD_SIGNATURE, b"")
            dealer_key = membership.adverts[dealer].encryption_key
            evidence = disputes.reveal(bytes(self._encryption_key), dealer_key, body, dispute)
            return Accusation(transcript, me, dealer, BAD_CIPHERTEXT, evidence)
        return None

    def masks(self, me: int, neighbours: Sequence[int], transcript: bytes) -> list[Mask]:
        """Return `PRG(b)` and, for every neighbour j, `sign(j - i) PRG_ij`, all keyed under T2."""
        own = Mask(keys.self_mask_key(self._self_seed, transcript, me), 1)
        return [own] + [
            Mask(keys.pair_mask_key(self._masking_pairs[other], transcript, me, other), 1 if other > me else -1)
            for other in neighbours
        ]

    def release(self, survivors: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return for each dealer one share: of b if it is among the survivors, else of s. Everything is wiped."""
        survived = set(survivors)
        released = tuple(
            (dealer, seed_share if dealer in survived else key_share)
            for dealer, (seed_share, key_share) in sorted(self._held.items())
        )
        self.wipe()
        return released

    def wipe(self) -> None:
        """Overwrite what Python lets one overwrite, and let go of the rest."""
        for key in (self._encryption_key, self._masking_key):
            key[:] = NO_DIGEST
        self._self_seed = self._masking_seed = 0
        for kept in (self._encryption_pairs, self._masking_pairs, self._held):
            kept.clear()

    def __repr__(self) -> str:
        """Show nothing."""
        return "Vault(hidden)"
