"""Who is at fault: by evidence that anybody can check, or by charges that honest members cannot collect."""

from __future__ import annotations

from collections.abc import Iterable

from tacit.privacy.codec import Verify
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.secagg import disputes, keys
from tacit.privacy.secagg.messages import BAD_SIGNATURE, PARCEL_LABEL, Accusation, Parcel, parcel_body
from tacit.privacy.secagg.roster import Membership

Charges = frozenset[tuple[str, str]]
"""Pairs (dealer, holder) one of whom sent a false share: which of the two cannot be told."""


def judge(membership: Membership, accusation: Accusation, parcel: Parcel, verify: Verify) -> int:
    """Return who is at fault: the dealer if its parcel cannot be right, else the accuser.

    Args:
        membership: the roster.
        accusation: with a good signature.
        parcel: what the dealer sent for the accuser, within a message that the dealer signed as a whole.
        verify: how signatures are verified.
    """
    transcript, dealer, accuser = membership.transcript, accusation.dealer, accusation.member
    body = parcel_body(transcript, dealer, accuser, parcel.ciphertext)
    if not verify(membership.identity_key(dealer), PARCEL_LABEL, body, parcel.signature):
        return dealer
    if accusation.kind == BAD_SIGNATURE:
        return accuser
    accuser_key, dealer_key = (membership.adverts[member].encryption_key for member in (accuser, dealer))
    secret = disputes.revealed_secret(accusation.evidence, accuser_key, dealer_key, body)
    if secret is None:
        return accuser
    binding = keys.share_binding(transcript, dealer, accuser, membership.threshold)
    try:
        keys.open_shares(keys.share_key(secret, transcript, dealer, accuser), binding, parcel.ciphertext)
    except RemoteProtocolError:
        return dealer
    return accuser


def tolerated(colluders: int) -> int:
    """Return how many members' lies prove nothing: c of them, and one in any case, for nobody's word is enough."""
    return max(colluders, 1)


def convicted(charges: Iterable[tuple[str, str]], colluders: int) -> frozenset[str]:
    """Return the members that are charged together with more different others than may lie.

    In every pair one of the two is at fault. If a member is not, all the others that it is charged with are, and there
    are at most c of those. Charges of several rounds add up, if they are of the same federation.

    Args:
        charges: pairs of (dealer, holder).
        colluders: c.
    """
    others: dict[str, set[str]] = {}
    for dealer, holder in charges:
        others.setdefault(dealer, set()).add(holder)
        others.setdefault(holder, set()).add(dealer)
    return frozenset(member for member, with_whom in others.items() if len(with_whom) > tolerated(colluders))
