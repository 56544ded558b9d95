"""The messages that release a sum: the set of survivors, their signatures of it, and shares for that set alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tacit.privacy.codec import SIGNATURE_BYTES, Message, Reader, SignedMessage, Verify, Writer, sha256
from tacit.privacy.randomness import KEY_BYTES
from tacit.privacy.secagg.keys import LABEL, element_bytes, element_of, label_bytes
from tacit.privacy.secagg.messages import check_members
from tacit.privacy.secagg.offer import MAX_MEMBERS
from tacit.privacy.secagg.roster import Membership


@dataclass(frozen=True)
class Survivors(Message):
    """U3: the members whose masked inputs arrived."""

    TAG = 0x08
    LIMIT = 2 * MAX_MEMBERS + 64

    holders_transcript: bytes
    members: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse members out of order."""
        check_members(self.members)

    def write(self, out: Writer) -> None:
        """Append every field."""
        out.fixed(self.holders_transcript).indices(self.members)

    @classmethod
    def read(cls, source: Reader) -> Survivors:
        """Take every field."""
        return cls(source.digest(), source.indices(MAX_MEMBERS))


def survivors_digest(members: Sequence[int]) -> bytes:
    """H(U3)."""
    return sha256(label_bytes("survivors"), Writer().indices(members).getvalue())


SURVIVORS_LABEL = LABEL + "survivors"


def survivors_body(transcript: bytes, members: Sequence[int]) -> bytes:
    """Return what every survivor signs: T2 and H(U3)."""
    return transcript + survivors_digest(members)


@dataclass(frozen=True)
class SurvivorSignature(Message):
    """A survivor's signature of U3, for the others to see before they release shares."""

    TAG = 0x09
    LIMIT = 128

    member: int
    signature: bytes

    def write(self, out: Writer) -> None:
        """Append every field."""
        out.u16(self.member).fixed(self.signature)

    @classmethod
    def read(cls, source: Reader) -> SurvivorSignature:
        """Take every field."""
        return cls(source.u16(), source.signature())


Signatures = tuple[tuple[int, bytes], ...]
_SIGNATURE = struct.Struct(f">H{SIGNATURE_BYTES}s")


def write_signatures(out: Writer, signatures: Signatures) -> None:
    """Append a list of members and their signatures."""
    out.u32(len(signatures)).fixed(b"".join(_SIGNATURE.pack(*entry) for entry in signatures))


def read_signatures(source: Reader) -> Signatures:
    """Take a list of members and their signatures, each member once."""
    signatures = tuple(_SIGNATURE.iter_unpack(source.records(_SIGNATURE.size, MAX_MEMBERS)))
    check_members([member for member, _ in signatures])
    return signatures


def count_signatures(
    membership: Membership, me: int, transcript: bytes, survivors: Sequence[int], signatures: Signatures, verify: Verify
) -> int:
    """Return how many of a member's neighbours in U3 signed this very U3, counting no further than t."""
    signers = set(membership.neighbours(me, survivors))
    body = survivors_body(transcript, survivors)
    good = 0
    for signer, signature in signatures:
        if good == membership.threshold:
            break
        if signer in signers and verify(membership.identity_key(signer), SURVIVORS_LABEL, body, signature):
            good += 1
    return good


@dataclass(frozen=True)
class UnmaskRequest(Message):
    """The survivors' signatures of U3; whoever sees t of its neighbours' releases its shares for that U3."""

    TAG = 0x0A
    LIMIT = MAX_MEMBERS * (2 + SIGNATURE_BYTES) + 64

    holders_transcript: bytes
    signatures: Signatures

    def write(self, out: Writer) -> None:
        """Append every field."""
        write_signatures(out.fixed(self.holders_transcript), self.signatures)

    @classmethod
    def read(cls, source: Reader) -> UnmaskRequest:
        """Take every field."""
        return cls(source.digest(), read_signatures(source))


_SHARE = struct.Struct(f">H{KEY_BYTES}s")


@dataclass(frozen=True)
class UnmaskShares(SignedMessage):
    """What a holder releases: for every neighbour one share, of b if it survived and of s if it did not.

    Attributes:
        holders_transcript: T2.
        member: the holder.
        shares: members and shares, the members in rising order.
    """

    TAG = 0x0B
    LIMIT = MAX_MEMBERS * (2 + KEY_BYTES) + 256
    LABEL = LABEL + "unmask-shares"

    holders_transcript: bytes
    member: int
    shares: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Refuse members out of order, so that nobody is answered for twice."""
        check_members([member for member, _ in self.shares])

    def __repr__(self) -> str:
        """Hide the shares."""
        return f"UnmaskShares(member={self.member}, {len(self.shares)} shares hidden)"

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        out.fixed(self.holders_transcript).u16(self.member)
        out.u32(len(self.shares))
        out.fixed(b"".join(_SHARE.pack(owner, element_bytes(share)) for owner, share in self.shares))

    @classmethod
    def read(cls, source: Reader) -> UnmaskShares:
        """Take every field."""
        return cls(
            holders_transcript=source.digest(),
            member=source.u16(),
            shares=tuple(
                (owner, element_of(share))
                for owner, share in _SHARE.iter_unpack(source.records(_SHARE.size, MAX_MEMBERS))
            ),
            signature=source.signature(),
        )
