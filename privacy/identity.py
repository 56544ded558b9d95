"""Who somebody is: Ed25519 identities, and certificates that two parties must sign.

The coordinator runs the enrolment authority, so alone it could invent any number of members. A certificate therefore
carries a second signature, by the member's organisation, and a member may pin the organisations that it knows out of
band. Only members of pinned organisations then count as possibly honest, at most `members_per_organisation` of each;
everybody else counts as a colluder. Without pins the count rests on the coordinator's honesty, and says so.

Everything here is bytes in and bytes out: where keys are kept and how a certificate travels is somebody else's affair.

A signature is Ed25519 (RFC 8032) over `label || 00 || SHA-256(message)`. Each kind of message has a label of its own,
so that no signature can stand for another.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Self, TypeVar, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tacit.privacy.codec import (
    NO_SIGNATURE,
    SIGNATURE_BYTES,
    Message,
    Reader,
    Verify,
    Writer,
    check_lengths,
    sha256,
)
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.randomness import KEY_BYTES, Randomness

AUTHORITY_LABEL = "tacit/identity/1/authority"
ORGANISATION_LABEL = "tacit/identity/1/organisation"
Kept = TypeVar("Kept")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")


def signature_input(label: str, message: bytes) -> bytes:
    """Return what Ed25519 signs: `label || 00 || SHA-256(message)`."""
    return label.encode() + b"\0" + sha256(message)


class Identity:
    """A long-lived Ed25519 key pair; the secret half never leaves it except through `secret_bytes`.

    Args:
        secret: 32 secret bytes.

    Raises:
        ValueError: the secret does not have 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        """Derive the public half."""
        if len(secret) != KEY_BYTES:
            raise ValueError(f"an identity's secret has {KEY_BYTES} bytes, not {len(secret)}")
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public_key = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, randomness: Randomness, name: str) -> Self:
        """Make a new identity; a seeded source gives the same name the same one."""
        return cls(randomness.key("identity", name))

    def sign(self, label: str, message: bytes) -> bytes:
        """Return the 64 bytes of the signature of `message` under `label`."""
        return self._key.sign(signature_input(label, message))

    def secret_bytes(self) -> bytes:
        """Return the 32 secret bytes, for a file that only the owner can read."""
        return self._key.private_bytes_raw()

    def __repr__(self) -> str:
        """Show the public half only."""
        return f"Identity({self.public_key.hex()})"


def verify(public_key: bytes, label: str, message: bytes, signature: bytes) -> bool:
    """Say whether `signature` is the signature of `message` under `label` by the holder of `public_key`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signature_input(label, message))
    except (InvalidSignature, ValueError):
        return False
    return True


class VerifiedSignatures:
    """`verify` with a memory of the signatures that were found good, for what is met again and again.

    A certificate comes back in every round, and in a simulation every member checks what every other one checked. Bad
    signatures are never remembered. The result is always that of `verify`; only the time differs.

    Args:
        most: how many signatures are remembered; the longest unused is forgotten first.
    """

    KEPT = 2  # results of `once`

    def __init__(self, most: int = 65_536) -> None:
        """Start with an empty memory."""
        self._most = most
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._kept: OrderedDict[Hashable, object] = OrderedDict()

    def __call__(self, public_key: bytes, label: str, message: bytes, signature: bytes) -> bool:
        """Say whether the signature is good, as `verify` does."""
        if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
            return False
        known = public_key + signature + signature_input(label, message)
        if known in self._good:
            self._good.move_to_end(known)
            return True
        if not verify(public_key, label, message, signature):
            return False
        self._good[known] = None
        if len(self._good) > self._most:
            self._good.popitem(last=False)
        return True

    def once(self, key: Hashable, compute: Callable[[], Kept]) -> Kept:
        """Return what `compute` gives, computed at the first call with this key and kept for the next ones.

        For public results that follow from the key alone, and that every party of a simulation would compute again.
        An error is raised and not kept.
        """
        if key not in self._kept:
            self._kept[key] = compute()
            if len(self._kept) > self.KEPT:
                self._kept.popitem(last=False)
        return cast(Kept, self._kept[key])


def once(verify: Verify, key: Hashable, compute: Callable[[], Kept]) -> Kept:
    """Return what `compute` gives, remembered where `verify` remembers; see `VerifiedSignatures.once`."""
    return verify.once(key, compute) if isinstance(verify, VerifiedSignatures) else compute()


@dataclass(frozen=True)
class Certificate(Message):
    """The statement that a key belongs to a member, and the member to an organisation; both signatures cover all of it.

    A member without an organisation is its own: the organisation's key is then its own key.

    Attributes:
        client: the member's name in the federation, unique there.
        organisation: the organisation's name, for people; `organisation_key` is what counts.
        subject_key: the member's Ed25519 public key.
        organisation_key: the Ed25519 public key of the organisation.
        authority_key: the Ed25519 public key of the enrolment authority.
        serial: the authority's number for this certificate.
        expires_at: seconds since 1970 from which on it is void; 0 for never.
    """

    TAG = 0x20
    LIMIT = 512

    client: str
    organisation: str
    subject_key: bytes
    organisation_key: bytes
    authority_key: bytes
    serial: int = 0
    expires_at: int = 0
    authority_signature: bytes = NO_SIGNATURE
    organisation_signature: bytes = NO_SIGNATURE

    def __post_init__(self) -> None:
        """Refuse what no authority would sign."""
        check_name(self.client)
        check_name(self.organisation)
        check_lengths(
            KEY_BYTES,
            subject_key=self.subject_key,
            organisation_key=self.organisation_key,
            authority_key=self.authority_key,
        )
        check_lengths(
            SIGNATURE_BYTES,
            authority_signature=self.authority_signature,
            organisation_signature=self.organisation_signature,
        )
        if not (0 <= self.serial < 1 << 64 and 0 <= self.expires_at < 1 << 64):
            raise ValueError("serial and expiry are integers of 64 bits")

    def statement(self) -> bytes:
        """Return what both parties sign: every field but the signatures."""
        return replace(self, authority_signature=NO_SIGNATURE, organisation_signature=NO_SIGNATURE).encode()

    def endorsed(self, organisation: Identity) -> Certificate:
        """Return it with the organisation's signature."""
        return replace(self, organisation_signature=organisation.sign(ORGANISATION_LABEL, self.statement()))

    def certified(self, authority: Identity) -> Certificate:
        """Return it with the enrolment authority's signature."""
        return replace(self, authority_signature=authority.sign(AUTHORITY_LABEL, self.statement()))

    def check(self, authority_keys: frozenset[bytes], now: int, verify: Verify = verify) -> None:
        """Refuse a certificate that is not signed by both, is expired, or comes from an authority we do not know.

        Args:
            authority_keys: the enrolment authorities that are believed.
            now: seconds since 1970.
            verify: how signatures are verified.

        Raises:
            RemoteProtocolError: `bad-certificate`.
        """
        if self.authority_key not in authority_keys:
            raise RemoteProtocolError("bad-certificate", f"{self.client}: issued by an unknown authority")
        if self.expires_at and now >= self.expires_at:
            raise RemoteProtocolError("bad-certificate", f"{self.client}: expired")
        statement = self.statement()
        if not verify(self.authority_key, AUTHORITY_LABEL, statement, self.authority_signature):
            raise RemoteProtocolError("bad-certificate", f"{self.client}: not signed by the authority")
        if not verify(self.organisation_key, ORGANISATION_LABEL, statement, self.organisation_signature):
            raise RemoteProtocolError("bad-certificate", f"{self.client}: not signed by the organisation")

    def write(self, out: Writer) -> None:
        """Append every field."""
        out.text(self.client).text(self.organisation)
        out.fixed(self.subject_key).fixed(self.organisation_key).fixed(self.authority_key)
        out.u64(self.serial).u64(self.expires_at)
        out.fixed(self.authority_signature).fixed(self.organisation_signature)

    @classmethod
    def read(cls, source: Reader) -> Certificate:
        """Take every field."""
        return cls(
            client=source.text(64),
            organisation=source.text(64),
            subject_key=source.fixed(KEY_BYTES),
            organisation_key=source.fixed(KEY_BYTES),
            authority_key=source.fixed(KEY_BYTES),
            serial=source.u64(),
            expires_at=source.u64(),
            authority_signature=source.signature(),
            organisation_signature=source.signature(),
        )


def check_name(name: str) -> None:
    """Refuse a name that is empty, long, or holds anything but ASCII letters, digits and `. _ @ : -`.

    Raises:
        ValueError: the name is not of that form.
    """
    if NAME.fullmatch(name) is None:
        raise ValueError("a name has 1 to 64 ASCII letters, digits or . _ @ : - and starts with a letter or digit")


@dataclass(frozen=True)
class Pins:
    """The organisations that a member knows out of band, and how many members of each it is ready to count.

    Attributes:
        organisation_keys: their Ed25519 public keys.
        members_per_organisation: the most that one organisation adds to any count, so that none can fill a cohort.
    """

    organisation_keys: frozenset[bytes]
    members_per_organisation: int

    def __post_init__(self) -> None:
        """Refuse pins that nobody could meet."""
        if not self.organisation_keys:
            raise ValueError("pin at least one organisation, or none at all")
        for key in self.organisation_keys:
            check_lengths(KEY_BYTES, organisation_key=key)
        if self.members_per_organisation < 1:
            raise ValueError("count at least one member of each organisation")

    def count(self, certificates: Iterable[Certificate]) -> int:
        """Return how many of these members count: those of pinned organisations, up to the cap of each."""
        members = Counter(
            certificate.organisation_key
            for certificate in certificates
            if certificate.organisation_key in self.organisation_keys
        )
        return sum(min(count, self.members_per_organisation) for count in members.values())
