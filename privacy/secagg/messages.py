"""The messages between the coordinator and a member up to the masked input; the paper's rounds in brackets.

    coordinator                     member
    Offer                  ->
                           <-       Advertise            [round 0: AdvertiseKeys]
    Roster                 ->
                           <-       Shares               [round 1: ShareKeys]
    Delivery               ->
                           <-       MaskedInput, or Accusation   [round 2: MaskedInputCollection]
    Survivors              ->
                           <-       SurvivorSignature    [round 3: ConsistencyCheck; from here on see `unmasking`]
    UnmaskRequest          ->
                           <-       UnmaskShares         [round 4: Unmasking]
    Receipt                ->       (with the next contact of any kind)

Members are named in full in the roster, and by their position in it afterwards. Every message of a member is signed;
of the coordinator's only the offer and the receipt are, because the others are bound by the members' own transcripts:
T1 is the digest of the roster, T2 that of T1 and the set of share holders.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.codec import (
    DIGEST_BYTES,
    SIGNATURE_BYTES,
    Message,
    Reader,
    SignedMessage,
    Writer,
    check_lengths,
    sha256,
)
from tacit.privacy.identity import Certificate
from tacit.privacy.randomness import KEY_BYTES
from tacit.privacy.secagg.keys import CIPHERTEXT_BYTES, LABEL, label_bytes
from tacit.privacy.secagg.offer import MAX_MEMBERS

POINT_BYTES = 32
ADVERTISE_LIMIT = 1024
BAD_SIGNATURE = 0
BAD_CIPHERTEXT = 1


def check_members(members: Sequence[int]) -> None:
    """Refuse positions that are not in strictly rising order.

    Raises:
        ValueError: they repeat or are out of order.
    """
    if any(one >= other for one, other in zip(members, members[1:], strict=False)):
        raise ValueError("members are named once each, in rising order")


@dataclass(frozen=True)
class Advertise(SignedMessage):
    """A member's fresh keys for one attempt.

    Attributes:
        offer_digest: H(Offer).
        certificate: who the member is.
        encryption_key: X25519 public key C_i, for shares.
        masking_key: X25519 public key S_i, for masks.
        seed_commitment: commitment to the seed b of the self-mask.
    """

    TAG = 0x02
    LIMIT = ADVERTISE_LIMIT
    LABEL = LABEL + "advertise"

    offer_digest: bytes
    certificate: Certificate
    encryption_key: bytes
    masking_key: bytes
    seed_commitment: bytes

    def __post_init__(self) -> None:
        """Refuse other lengths, and one key for two purposes."""
        check_lengths(KEY_BYTES, encryption_key=self.encryption_key, masking_key=self.masking_key)
        check_lengths(DIGEST_BYTES, offer_digest=self.offer_digest, seed_commitment=self.seed_commitment)
        if self.encryption_key == self.masking_key:
            raise ValueError("one key serves two purposes")

    @property
    def public_values(self) -> frozenset[bytes]:
        """What no two members, and no two purposes of one member, may have in common."""
        return frozenset((self.certificate.subject_key, self.encryption_key, self.masking_key, self.seed_commitment))

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        out.fixed(self.offer_digest).blob(self.certificate.encode())
        out.fixed(self.encryption_key).fixed(self.masking_key).fixed(self.seed_commitment)

    @classmethod
    def read(cls, source: Reader) -> Advertise:
        """Take every field."""
        return cls(
            offer_digest=source.digest(),
            certificate=Certificate.decode(source.blob(Certificate.LIMIT)),
            encryption_key=source.fixed(KEY_BYTES),
            masking_key=source.fixed(KEY_BYTES),
            seed_commitment=source.digest(),
            signature=source.signature(),
        )


@dataclass(frozen=True)
class Roster(Message):
    """U1: every member's `Advertise`, as it was sent, in the order of the members' names."""

    TAG = 0x03
    LIMIT = MAX_MEMBERS * (ADVERTISE_LIMIT + 4) + 8

    adverts: tuple[bytes, ...]

    @property
    def transcript(self) -> bytes:
        """T1: the digest of the roster, and through its members' messages of the offer."""
        return sha256(label_bytes("roster"), self.encode())

    def write(self, out: Writer) -> None:
        """Append every field."""
        out.list(self.adverts, out.blob)

    @classmethod
    def read(cls, source: Reader) -> Roster:
        """Take every field."""
        return cls(source.list(lambda: source.blob(ADVERTISE_LIMIT), most=MAX_MEMBERS, item_bytes=4))


class Parcel(NamedTuple):
    """One dealer's two shares for one holder, encrypted, and the dealer's signature.

    Attributes:
        member: the other end: the holder where the dealer sends it, the dealer where the holder receives it.
        ciphertext: AES-256-GCM of the two shares.
        signature: by the dealer, over T1, dealer, holder and ciphertext, so that a parcel that does not open convicts.
    """

    member: int
    ciphertext: bytes
    signature: bytes


_PAIR = struct.Struct(">HH")
_PARCEL = struct.Struct(f">H{CIPHERTEXT_BYTES}s{SIGNATURE_BYTES}s")


def write_parcels(out: Writer, parcels: tuple[Parcel, ...]) -> None:
    """Append a list of parcels."""
    out.u32(len(parcels)).fixed(b"".join(_PARCEL.pack(*parcel) for parcel in parcels))


def read_parcels(source: Reader) -> tuple[Parcel, ...]:
    """Take a list of parcels, each for another member."""
    parcels = tuple(map(Parcel._make, _PARCEL.iter_unpack(source.records(_PARCEL.size, MAX_MEMBERS))))
    check_members([parcel.member for parcel in parcels])
    return parcels


PARCEL_LABEL = LABEL + "parcel"


def parcel_body(roster_transcript: bytes, dealer: int, holder: int, ciphertext: bytes) -> bytes:
    """Return what the dealer of a parcel signs."""
    return roster_transcript + _PAIR.pack(dealer, holder) + ciphertext


@dataclass(frozen=True)
class Shares(SignedMessage):
    """A dealer's parcels, one for each of its neighbours."""

    TAG = 0x04
    LIMIT = MAX_MEMBERS * (2 + CIPHERTEXT_BYTES + SIGNATURE_BYTES) + 256
    LABEL = LABEL + "shares"

    roster_transcript: bytes
    member: int
    parcels: tuple[Parcel, ...]

    @cached_property
    def by_holder(self) -> dict[int, Parcel]:
        """The parcels by their holders."""
        return {parcel.member: parcel for parcel in self.parcels}

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        out.fixed(self.roster_transcript).u16(self.member)
        write_parcels(out, self.parcels)

    @classmethod
    def read(cls, source: Reader) -> Shares:
        """Take every field."""
        return cls(
            roster_transcript=source.digest(),
            member=source.u16(),
            parcels=read_parcels(source),
            signature=source.signature(),
        )


@dataclass(frozen=True)
class Delivery(Message):
    """U2, the members whose shares arrived, and the parcels for one holder."""

    TAG = 0x05
    LIMIT = Shares.LIMIT + 2 * MAX_MEMBERS

    roster_transcript: bytes
    members: tuple[int, ...]
    parcels: tuple[Parcel, ...]

    def __post_init__(self) -> None:
        """Refuse members out of order."""
        check_members(self.members)

    def write(self, out: Writer) -> None:
        """Append every field."""
        out.fixed(self.roster_transcript).indices(self.members)
        write_parcels(out, self.parcels)

    @classmethod
    def read(cls, source: Reader) -> Delivery:
        """Take every field."""
        return cls(source.digest(), source.indices(MAX_MEMBERS), read_parcels(source))


def holders_transcript(roster_transcript: bytes, members: Sequence[int]) -> bytes:
    """T2: the digest of T1 and U2."""
    return sha256(label_bytes("holders"), Writer().fixed(roster_transcript).indices(members).getvalue())


@dataclass(frozen=True)
class MaskedInput(SignedMessage):
    """The header of a masked vector, which travels beside it.

    Attributes:
        holders_transcript: T2.
        member: the sender.
        vector_digest: SHA-256 of the packed vector y.
        ledger_head: head of the member's own privacy ledger, to come back countersigned in the receipt.
        ledger_counter: its number of records.
    """

    TAG = 0x06
    LIMIT = 512
    LABEL = LABEL + "masked-input"

    holders_transcript: bytes
    member: int
    vector_digest: bytes
    ledger_head: bytes
    ledger_counter: int

    def __post_init__(self) -> None:
        """Refuse other lengths."""
        check_lengths(DIGEST_BYTES, vector_digest=self.vector_digest, ledger_head=self.ledger_head)
        if not 0 <= self.ledger_counter < 1 << 64:
            raise ValueError("a ledger counter has 64 bits")

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        out.fixed(self.holders_transcript).u16(self.member).fixed(self.vector_digest)
        out.fixed(self.ledger_head).u64(self.ledger_counter)

    @classmethod
    def read(cls, source: Reader) -> MaskedInput:
        """Take every field."""
        return cls(
            holders_transcript=source.digest(),
            member=source.u16(),
            vector_digest=source.digest(),
            ledger_head=source.digest(),
            ledger_counter=source.u64(),
            signature=source.signature(),
        )


@dataclass(frozen=True)
class Accusation(SignedMessage):
    """Instead of a masked input: a parcel that cannot be right; `disputes` decides who is at fault.

    Attributes:
        roster_transcript: T1.
        member: the accuser.
        dealer: the accused.
        kind: `BAD_SIGNATURE`, which needs no evidence, or `BAD_CIPHERTEXT`.
        evidence: for a ciphertext, the pair's secret and the proof that it is that pair's.
    """

    TAG = 0x07
    LIMIT = 512
    LABEL = LABEL + "accusation"

    roster_transcript: bytes
    member: int
    dealer: int
    kind: int
    evidence: bytes

    def __post_init__(self) -> None:
        """Refuse unknown kinds, and evidence of another length."""
        if self.kind not in (BAD_SIGNATURE, BAD_CIPHERTEXT) or self.member == self.dealer:
            raise ValueError("an accusation is of another member, for its signature or its ciphertext")
        check_lengths(0 if self.kind == BAD_SIGNATURE else 3 * POINT_BYTES, evidence=self.evidence)

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        out.fixed(self.roster_transcript).u16(self.member).u16(self.dealer).u8(self.kind).blob(self.evidence)

    @classmethod
    def read(cls, source: Reader) -> Accusation:
        """Take every field."""
        return cls(
            roster_transcript=source.digest(),
            member=source.u16(),
            dealer=source.u16(),
            kind=source.u8(),
            evidence=source.blob(3 * POINT_BYTES),
            signature=source.signature(),
        )


@dataclass(frozen=True)
class Reply:
    """What goes back to the coordinator.

    Attributes:
        message: the signed message.
        vector: beside a `MaskedInput`, the packed vector y, shape `(dimension * B / 8,)`; else None.
    """

    message: bytes
    vector: NDArray[np.uint8] | None = None
