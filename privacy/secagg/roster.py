"""The members of one attempt, as everybody who checked the same roster sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tacit.privacy.codec import Verify
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Certificate, once
from tacit.privacy.secagg.graph import Topology, topology
from tacit.privacy.secagg.keys import element_of
from tacit.privacy.secagg.messages import Advertise, Roster
from tacit.privacy.secagg.offer import Offer


@dataclass(frozen=True)
class Membership:
    """U1 with everything that follows from it: T1, the neighbours and the threshold.

    Attributes:
        offer: the offer that all members answered.
        adverts: their messages, in the order of their names; a position in it is how a member is called from here on.
        transcript: T1.
        topology: the neighbours, and t, computed from the roster and from nothing that was claimed.
    """

    offer: Offer
    adverts: tuple[Advertise, ...]
    transcript: bytes
    topology: Topology

    @classmethod
    def of(cls, offer: Offer, roster: Roster) -> Membership:
        """Read a roster and check everything about it but its signatures.

        Raises:
            RemoteProtocolError: too few or too many members, one out of order or twice, one key or seed used twice, a
                key not in canonical form, or a member that answered another offer.
            Infeasible: no threshold is safe for so few members.
        """
        adverts = tuple(Advertise.decode(encoded) for encoded in roster.adverts)
        members = len(adverts)
        least = max(offer.min_cohort, offer.min_survivors)
        if not least <= members <= offer.cohort:
            raise RemoteProtocolError("roster-size", f"{members} members are not within {least} and {offer.cohort}")
        names = [advert.certificate.client for advert in adverts]
        if any(one >= other for one, other in zip(names, names[1:], strict=False)):
            raise RemoteProtocolError("roster-order", "members are not named once each, in order")
        digest = offer.digest
        keys: set[bytes] = set()
        for advert in adverts:
            if advert.offer_digest != digest:
                raise RemoteProtocolError("other-offer", f"{advert.certificate.client} answered another offer")
            keys |= advert.public_values
            try:
                element_of(advert.encryption_key), element_of(advert.masking_key)
            except ValueError:
                raise RemoteProtocolError("malformed", "a public key is not in canonical form") from None
        if len(keys) != 4 * members:
            raise RemoteProtocolError("repeated-key", "two members, or two purposes, share a key")
        transcript = roster.transcript
        graph = topology(offer.graph, members, offer.colluders, offer.dropout_ppm, transcript)
        return cls(offer, adverts, transcript, graph)

    def check_signatures(self, authority_keys: frozenset[bytes], now: int, verify: Verify) -> None:
        """Refuse the roster if one certificate or one message is not signed as it must be.

        Raises:
            RemoteProtocolError: `bad-certificate` or `bad-signature`.
        """
        for advert in self.adverts:
            advert.certificate.check(authority_keys, now, verify)
            advert.check_signature(advert.certificate.subject_key, verify)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Each member's position by its name."""
        return {advert.certificate.client: at for at, advert in enumerate(self.adverts)}

    @property
    def threshold(self) -> int:
        """The threshold t."""
        return self.topology.threshold

    def __len__(self) -> int:
        """Return n."""
        return len(self.adverts)

    def name(self, member: int) -> str:
        """Return a member's name."""
        return self.adverts[member].certificate.client

    def names(self, members: Iterable[int]) -> tuple[str, ...]:
        """Return the names of several members."""
        return tuple(self.name(member) for member in members)

    def identity_key(self, member: int) -> bytes:
        """Return the key that a member signs with."""
        return self.adverts[member].certificate.subject_key

    def certificates(self, members: Iterable[int]) -> list[Certificate]:
        """Return the certificates of several members."""
        return [self.adverts[member].certificate for member in members]

    def neighbours(self, member: int, among: Sequence[int]) -> tuple[int, ...]:
        """Return a member's neighbours that are in a set, in rising order."""
        chosen = set(among)
        return tuple(filter(chosen.__contains__, self.topology.neighbours(member)))


def checked_roster(
    offer: Offer, roster: Roster, authority_keys: frozenset[bytes], now: int, verify: Verify
) -> Membership:
    """Read a roster and check everything about it; parties that share what they verified do it once.

    Raises:
        RemoteProtocolError: see `Membership.of` and `Membership.check_signatures`.
        Infeasible: see `Membership.of`.
    """

    def checked() -> Membership:
        membership = Membership.of(offer, roster)
        membership.check_signatures(authority_keys, now, verify)
        return membership

    return once(verify, (offer, roster, authority_keys, now), checked)
