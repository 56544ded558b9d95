"""What an agent and a coordinator say to each other when a member enrols, renews or leaves: requests, replies, paths.

The agent draws up its certificate itself, with its organisation's signature, and proves that it holds the member's key
and the invitation's. The coordinator adds the authority's signature or refuses. So private keys, and the invitation's
secret, stay where they are, and nobody can enrol a key that is not theirs.

A request that is repeated gets the same certificate: nothing is lost with a lost reply.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

from tacit.models.invitation import NUMBER_BYTES
from tacit.privacy.codec import (
    NO_SIGNATURE,
    SIGNATURE_BYTES,
    Message,
    Reader,
    SignedMessage,
    Writer,
    check_lengths,
    sha256,
)
from tacit.privacy.identity import Certificate, Identity, check_name
from tacit.privacy.randomness import KEY_BYTES

PREFIX = "/v1/enrol/"
AUTHORITY_PATH = PREFIX + "ca"
AUTHORITIES_PATH = PREFIX + "authorities"
FEDERATION_PATH = PREFIX + "federation"
MEMBER_PATH = PREFIX + "member"
RENEWAL_PATH = PREFIX + "renewal"
LEAVE_PATH = PREFIX + "leave"

LARGEST_REQUEST = 2048  # bytes
LARGEST_REPLY = 16 << 10
LONGEST_REASON = 300  # characters
MOST_AUTHORITIES = 4
LARGEST_AUTHORITY = 2048  # bytes of a certificate

Refused = Literal[
    "forged",
    "used",
    "expired",
    "revoked",
    "left",
    "wrong-name",
    "wrong-organisation",
    "wrong-certificate",
    "name-taken",
    "key-known",
    "not-a-member",
]
"""Why somebody is not enrolled; the word begins the body of a reply with status 403."""

_MEMBER_LABEL = "tacit/enrolment/1/possession"


@dataclass(frozen=True)
class Federation(Message):
    """What a coordinator is called and signs with, and how long its certificates last.

    Attributes:
        name: the federation's.
        authority_key: the Ed25519 public key that signs members' certificates.
        coordinator_key: the Ed25519 public key that signs offers.
        certificate_seconds: the longest life of a member's certificate.
        now: seconds since 1970 by the coordinator's clock.
    """

    TAG = 0x41
    LIMIT = 256

    name: str
    authority_key: bytes
    coordinator_key: bytes
    certificate_seconds: int
    now: int

    def __post_init__(self) -> None:
        """Refuse what no coordinator is."""
        check_name(self.name)
        check_lengths(KEY_BYTES, authority_key=self.authority_key, coordinator_key=self.coordinator_key)
        if not 0 < self.certificate_seconds < 1 << 40 or not 0 < self.now < 1 << 40:
            raise ValueError("a certificate's life and the time are positive numbers of seconds")

    def write(self, out: Writer) -> None:
        """Append every field."""
        out.text(self.name).fixed(self.authority_key).fixed(self.coordinator_key)
        out.u64(self.certificate_seconds).u64(self.now)

    @classmethod
    def read(cls, source: Reader) -> Self:
        """Take every field."""
        return cls(source.text(64), source.fixed(KEY_BYTES), source.fixed(KEY_BYTES), source.u64(), source.u64())


@dataclass(frozen=True)
class Authorities(Message):
    """The TLS authorities that a member is to trust from now on, and no other: certificates as DER."""

    TAG = 0x45
    LIMIT = LARGEST_REPLY

    certificates: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Refuse to trust nobody, or a crowd."""
        if not 1 <= len(self.certificates) <= MOST_AUTHORITIES or not all(self.certificates):
            raise ValueError(f"there are 1 to {MOST_AUTHORITIES} authorities")

    def write(self, out: Writer) -> None:
        """Append every field."""
        out.list(self.certificates, out.blob)

    @classmethod
    def read(cls, source: Reader) -> Self:
        """Take every field."""
        return cls(source.list(lambda: source.blob(LARGEST_AUTHORITY), most=MOST_AUTHORITIES, item_bytes=4))


@dataclass(frozen=True)
class EnrolmentRequest(SignedMessage):
    """A member that was invited asks for its certificate; signed with the invitation's key.

    Attributes:
        invitation: the invitation's number, 16 bytes.
        draft: the certificate without the authority's signature.
        possession: the signature of the draft by the member's own key.
    """

    TAG = 0x42
    LIMIT = LARGEST_REQUEST
    LABEL = "tacit/enrolment/1/invitation"

    invitation: bytes
    draft: Certificate
    possession: bytes = field(default=NO_SIGNATURE, repr=False)

    def __post_init__(self) -> None:
        """Refuse a draft that claims to be certified."""
        check_lengths(NUMBER_BYTES, invitation=self.invitation)
        check_lengths(SIGNATURE_BYTES, possession=self.possession, signature=self.signature)
        _check_draft(self.draft)

    @classmethod
    def make(cls, invitation: bytes, draft: Certificate, member: Identity, proof: Identity) -> Self:
        """Return a request with both proofs."""
        possession = member.sign(_MEMBER_LABEL, _possessed(invitation, draft))
        return cls(invitation, draft, possession).signed(proof)

    def possessed(self) -> tuple[str, bytes]:
        """Return the label and the message that `possession` is the signature of."""
        return _MEMBER_LABEL, _possessed(self.invitation, self.draft)

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        out.fixed(self.invitation).fixed(self.possession)
        self.draft.write(out)

    @classmethod
    def read(cls, source: Reader) -> Self:
        """Take every field."""
        invitation, possession = source.fixed(NUMBER_BYTES), source.signature()
        return cls(invitation, Certificate.read(source), possession, signature=source.signature())


@dataclass(frozen=True)
class RenewalRequest(SignedMessage):
    """A member asks for a certificate that lasts longer; signed with its present key."""

    TAG = 0x43
    LIMIT = LARGEST_REQUEST
    LABEL = "tacit/enrolment/1/renewal"

    draft: Certificate

    def __post_init__(self) -> None:
        """Refuse a draft that claims to be certified."""
        check_lengths(SIGNATURE_BYTES, signature=self.signature)
        _check_draft(self.draft)

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        self.draft.write(out)

    @classmethod
    def read(cls, source: Reader) -> Self:
        """Take every field."""
        return cls(Certificate.read(source), signature=source.signature())


@dataclass(frozen=True)
class LeaveRequest(SignedMessage):
    """A member takes part no longer; signed with its key.

    It is good for one enrolment: whoever keeps a copy cannot make the member leave again when it has come back.

    Attributes:
        subject_key: the member's key.
        serial: that of its certificate.
    """

    TAG = 0x46
    LIMIT = LARGEST_REQUEST
    LABEL = "tacit/enrolment/1/leave"

    subject_key: bytes
    serial: int

    def __post_init__(self) -> None:
        """Refuse what no member has."""
        check_lengths(KEY_BYTES, subject_key=self.subject_key)
        check_lengths(SIGNATURE_BYTES, signature=self.signature)
        if not 0 <= self.serial < 1 << 64:
            raise ValueError("a serial is a number of 64 bits")

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        out.fixed(self.subject_key).u64(self.serial)

    @classmethod
    def read(cls, source: Reader) -> Self:
        """Take every field."""
        return cls(source.fixed(KEY_BYTES), source.u64(), signature=source.signature())


def first_serial(invitation: bytes) -> int:
    """Return the serial of the certificate that an invitation leads to; each renewal adds one."""
    return int.from_bytes(sha256(invitation)[:7], "big")


def _possessed(invitation: bytes, draft: Certificate) -> bytes:
    return invitation + draft.encode()


def _check_draft(draft: Certificate) -> None:
    if draft.authority_signature != NO_SIGNATURE:
        raise ValueError("the authority's signature is the coordinator's to add")
