"""What the coordinator checks of each reply, and what it concludes at the end of each exchange.

`accept_*` takes one reply into the state or refuses it; `close_*` fixes the set of members that the next exchange is
about, or raises `Abort`. The order is that of the protocol.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.codec import Verify, sha256
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Identity
from tacit.privacy.secagg import disputes, keys, masks
from tacit.privacy.secagg.blame import judge
from tacit.privacy.secagg.encoding import add_packed, packed_bytes
from tacit.privacy.secagg.layout import Infeasible
from tacit.privacy.secagg.messages import (
    Accusation,
    Advertise,
    Delivery,
    MaskedInput,
    Parcel,
    Roster,
    Shares,
    holders_transcript,
)
from tacit.privacy.secagg.progress import Phase, Progress
from tacit.privacy.secagg.receipt import Receipt
from tacit.privacy.secagg.recovery import Recovery, Unrecoverable
from tacit.privacy.secagg.roster import Membership
from tacit.privacy.secagg.unmasking import SURVIVORS_LABEL, SurvivorSignature, UnmaskShares, survivors_body


class Abort(Exception):
    """The attempt cannot go on; the text is the reason."""


def audience(state: Progress, members: Membership | None) -> frozenset[str]:
    """Return who is asked in this phase; `members` is None as long as the roster is not fixed."""
    if state.phase is Phase.ADVERTISE:
        return frozenset(state.clients)
    if members is None:
        return frozenset()
    match state.phase:
        case Phase.SHARE:
            asked: Collection[int] = range(len(members))
        case Phase.MASK:
            asked = state.holders
        case Phase.SIGN:
            asked = state.survivors
        case Phase.UNMASK:
            asked = releasing(state, members)
        case _:
            asked = ()
    return frozenset(members.names(asked)) - state.dropped.keys()


def check_sender(members: Membership, member: int, claimed: int, transcript: bytes, said: bytes) -> None:
    """Refuse a message in another member's name or about another roster or set of holders.

    Raises:
        RemoteProtocolError: `wrong-sender` or `other-transcript`.
    """
    if member != claimed:
        raise RemoteProtocolError("wrong-sender", f"{members.name(member)} speaks for another member")
    if said != transcript:
        raise RemoteProtocolError("other-transcript", "the message is about another roster or set of share holders")


def accept_advert(
    state: Progress, client: str, advert: Advertise, authority_keys: frozenset[bytes], now: int, verify: Verify
) -> None:
    """Round 0: take a member's keys."""
    if advert.offer_digest != state.offer.digest:
        raise RemoteProtocolError("other-offer", "it answers another offer")
    if advert.certificate.client != client:
        raise RemoteProtocolError("wrong-sender", "the certificate is another member's")
    advert.certificate.check(authority_keys, now, verify)
    advert.check_signature(advert.certificate.subject_key, verify)
    if len(advert.public_values) < 4 or state.taken & advert.public_values:
        raise RemoteProtocolError("repeated-key", "another member, or another purpose, has one of these keys")
    for key in (advert.encryption_key, advert.masking_key):
        keys.check_point(key)
    if disputes.lift(advert.encryption_key) is None:
        raise RemoteProtocolError("bad-point", "the encryption key is no point of the curve")
    state.adverts[client] = advert
    state.taken |= advert.public_values


def close_advertise(state: Progress) -> tuple[Membership, Roster]:
    """Fix U1; the roster and what follows from it are the same for everybody."""
    roster = Roster(tuple(state.adverts[name].encode() for name in sorted(state.adverts)))
    try:
        return Membership.of(state.offer, roster), roster
    except (RemoteProtocolError, Infeasible) as error:
        raise Abort(str(error)) from None


def accept_shares(state: Progress, members: Membership, me: int, shares: Shares, verify: Verify) -> None:
    """Round 1: take a dealer's parcels; only their holders can look into them."""
    check_sender(members, me, shares.member, members.transcript, shares.roster_transcript)
    shares.check_signature(members.identity_key(me), verify)
    if tuple(parcel.member for parcel in shares.parcels) != members.topology.neighbours(me):
        raise RemoteProtocolError("missing-shares", "there is not one parcel for each neighbour")
    state.shares[me] = shares


def close_share(state: Progress, members: Membership) -> None:
    """Fix U2: whose shares arrived, as long as t of its neighbours' did, too."""
    holders = sorted(state.shares)
    while alone := {member for member in holders if len(members.neighbours(member, holders)) < members.threshold}:
        holders = [member for member in holders if member not in alone]
    check_enough(state, holders)
    state.holders = tuple(holders)


def delivery(state: Progress, members: Membership, holder: int) -> Delivery:
    """Return what a holder's neighbours sealed for it, each parcel under its dealer's position."""
    dealers = members.neighbours(holder, state.holders)
    sealed = (state.shares[dealer].by_holder[holder] for dealer in dealers)
    parcels = tuple(
        Parcel(dealer, parcel.ciphertext, parcel.signature) for dealer, parcel in zip(dealers, sealed, strict=True)
    )
    return Delivery(members.transcript, state.holders, parcels)


def accept_input(
    state: Progress, members: Membership, me: int, header: MaskedInput, vector: NDArray[np.uint8] | None, verify: Verify
) -> None:
    """Round 2: add a masked vector to the total."""
    check_sender(
        members, me, header.member, holders_transcript(members.transcript, state.holders), header.holders_transcript
    )
    header.check_signature(members.identity_key(me), verify)
    expected = packed_bytes(state.offer.dimension, state.offer.bits)
    if vector is None or vector.dtype != np.uint8 or vector.shape != (expected,):
        raise RemoteProtocolError("wrong-length", f"a masked vector has {expected} bytes")
    vector = np.ascontiguousarray(vector)
    if sha256(vector.data) != header.vector_digest:
        raise RemoteProtocolError("wrong-digest", "the vector is not the one that was signed")
    add_packed(state.total, vector, state.offer.bits)
    state.inputs[me] = header


def accept_accusation(state: Progress, members: Membership, me: int, accusation: Accusation, verify: Verify) -> None:
    """Round 2, instead of an input: find out who is at fault; the accuser is a drop-out either way.

    Raises:
        RemoteProtocolError: always: `accuser`, or `false-accusation` if it is the accuser.
    """
    check_sender(members, me, accusation.member, members.transcript, accusation.roster_transcript)
    accusation.check_signature(members.identity_key(me), verify)
    dealer = accusation.dealer
    if dealer not in members.neighbours(me, state.holders):
        raise RemoteProtocolError("malformed", "the accused sent nothing to the accuser")
    parcel = state.shares[dealer].by_holder[me]
    name = members.name(dealer)
    if judge(members, accusation, parcel, verify) == me:
        state.at_fault.add(members.name(me))
        raise RemoteProtocolError("false-accusation", f"the shares of {name} are as they must be")
    state.at_fault.add(name)
    state.dropped.setdefault(name, f"bad-shares: for {members.name(me)}")
    raise RemoteProtocolError("accuser", f"it could not use the shares of {name}, who is at fault")


def close_mask(state: Progress, members: Membership) -> None:
    """Fix U3: whose input is in the total."""
    survivors = sorted(state.inputs)
    check_enough(state, survivors)
    check_reachable(state, members, survivors)
    state.survivors = tuple(survivors)


def accept_signature(
    state: Progress, members: Membership, me: int, signature: SurvivorSignature, transcript: bytes, verify: Verify
) -> None:
    """Round 3: take a survivor's signature of U3."""
    check_sender(members, me, signature.member, transcript, transcript)
    body = survivors_body(transcript, state.survivors)
    if not verify(members.identity_key(me), SURVIVORS_LABEL, body, signature.signature):
        raise RemoteProtocolError("bad-signature", "it signed something else than this set of survivors")
    state.signatures[me] = signature.signature


def close_sign(state: Progress, members: Membership) -> None:
    """See whether those that will release shares are enough for every secret."""
    check_reachable(state, members, releasing(state, members))


def releasing(state: Progress, members: Membership) -> list[int]:
    """Return the signers that see t signatures of neighbours, and so will release shares."""
    signers = sorted(state.signatures)
    return [member for member in signers if len(members.neighbours(member, signers)) >= members.threshold]


def accept_released(
    state: Progress, members: Membership, me: int, released: UnmaskShares, transcript: bytes, verify: Verify
) -> None:
    """Round 4: take one share of every neighbour's secret."""
    check_sender(members, me, released.member, transcript, released.holders_transcript)
    released.check_signature(members.identity_key(me), verify)
    if tuple(owner for owner, _ in released.shares) != members.neighbours(me, state.holders):
        raise RemoteProtocolError("missing-shares", "there is not one share of each neighbour")
    state.released[me] = released


def close_unmask(state: Progress, members: Membership, threads: int) -> None:
    """Recover the secrets and take all masks off the total."""
    check_reachable(state, members, sorted(state.released))
    released = {member: dict(message.shares) for member, message in state.released.items()}
    transcript = holders_transcript(members.transcript, state.holders)
    try:
        found, charges = Recovery(members, transcript, state.holders, state.survivors, released).masks()
    except Unrecoverable as error:
        state.charges = error.charges
        raise Abort(f"unrecoverable: {error}") from None
    state.charges = charges
    masks.apply(found, state.total, threads)


def check_enough(state: Progress, members: Collection[int]) -> None:
    """Abort if fewer than U_min are left.

    Raises:
        Abort: with both numbers.
    """
    if len(members) < state.offer.min_survivors:
        raise Abort(f"too-few-members: {len(members)} are left, at least {state.offer.min_survivors} must be")


def check_reachable(state: Progress, members: Membership, holding: list[int]) -> None:
    """Abort if the secret of some share holder could not be recovered from these members' shares.

    Raises:
        Abort: with the member.
    """
    for owner in state.holders:
        if len(members.neighbours(owner, holding)) < members.threshold:
            raise Abort(f"too-few-shares: fewer than {members.threshold} hold shares of {members.name(owner)}")


def receipts(state: Progress, members: Membership, sum_digest: bytes, identity: Identity) -> dict[str, bytes]:
    """Return the signed receipt of every survivor."""
    survivors = members.names(state.survivors)
    signatures = tuple(sorted(state.signatures.items()))
    signed = {}
    for member, name in zip(state.survivors, survivors, strict=True):
        receipt = Receipt(
            offer_digest=state.offer.digest,
            holders_transcript=holders_transcript(members.transcript, state.holders),
            survivors=survivors,
            signatures=signatures,
            sum_digest=sum_digest,
            client=name,
            ledger_head=state.inputs[member].ledger_head,
            ledger_counter=state.inputs[member].ledger_counter,
        )
        signed[name] = receipt.signed(identity).encode()
    return signed
