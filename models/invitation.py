"""The invitation to a federation: one word of text that an operator hands to a data owner, to be used once.

The word is `tacit1` and, in Base32 without padding (RFC 4648, section 6), the encoded fields and four bytes of their
SHA-256. It holds lower-case letters and digits only, so that a double click selects all of it, and upper case, line
breaks and spaces that a mail program adds do no harm. The checksum finds what was changed or cut off; it keeps nobody
from forging, which the secret does.

The secret is the seed of an Ed25519 key. Whoever enrols signs with it, so that it never travels, and the coordinator
keeps its public half alone: reading the coordinator's database lets nobody enrol.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from tacit.models.errors import InputError
from tacit.privacy.codec import DIGEST_BYTES, Message, Reader, Writer, check_lengths, sha256
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Identity, check_name
from tacit.privacy.randomness import KEY_BYTES

PREFIX = "tacit"
VERSION = "1"  # no letter of Base32, so that the prefix ends there
CHECKSUM_BYTES = 4
NUMBER_BYTES = 16
LONGEST_URL = 300
ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz234567")
WHERE = "invitation"
AGAIN = "copy the whole token again"


@dataclass(frozen=True)
class Invitation(Message):
    """Who may enrol where, until when.

    Attributes:
        url: the coordinator, `https://HOST:PORT`.
        ca_sha256: the SHA-256 of the certificate (DER) of the coordinator's private certificate authority.
        name: the member's name in the federation.
        organisation: the name of the organisation that must sign for the member; empty if it is its own.
        expires_at: seconds since 1970 from which on it is void.
        secret: 32 bytes, the seed of the key that proves the right to enrol.
    """

    TAG = 0x40
    LIMIT = 1024

    url: str
    ca_sha256: bytes
    name: str
    organisation: str
    expires_at: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what no coordinator would hand out."""
        coordinator_address(self.url)
        check_lengths(DIGEST_BYTES, ca_sha256=self.ca_sha256)
        check_lengths(KEY_BYTES, secret=self.secret)
        check_name(self.name)
        if self.organisation:
            check_name(self.organisation)
        if not 0 < self.expires_at < 1 << 63:
            raise ValueError("an invitation needs an expiry in seconds since 1970")

    @property
    def identity(self) -> Identity:
        """The key that proves the right to enrol."""
        return Identity(self.secret)

    @property
    def number(self) -> bytes:
        """The 16 bytes that the coordinator finds the invitation by; they tell nothing about the secret."""
        return invitation_number(self.identity.public_key)

    @property
    def address(self) -> tuple[str, int]:
        """The coordinator's host and port."""
        return coordinator_address(self.url)

    def text(self) -> str:
        """Return the token; it is a secret until it was used."""
        content = self.encode()
        return PREFIX + VERSION + _base32(content + sha256(content)[:CHECKSUM_BYTES])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token, however it was wrapped, and in whatever case.

        Raises:
            InputError: it is none, or damaged; nothing of it is repeated.
        """
        word = "".join(text.split()).lower()
        if not word:
            raise InputError("is empty", where=WHERE, right="give the token that the coordinator's operator made")
        if not word.startswith(PREFIX):
            raise InputError(f"does not begin with {PREFIX}{VERSION}", where=WHERE, right=AGAIN)
        version, letters = word[len(PREFIX) : len(PREFIX) + 1], word[len(PREFIX) + 1 :]
        if version != VERSION:
            if version.isdigit():
                raise InputError("was made by another version of Tacit", where=WHERE, right=f"version {VERSION}")
            raise InputError(f"does not begin with {PREFIX}{VERSION}", where=WHERE, right=AGAIN)
        for position, letter in enumerate(letters, start=len(PREFIX) + 2):
            if letter not in ALPHABET:
                raise InputError(f"character {position} belongs to no token", where=WHERE, right=AGAIN)
        try:
            data = base64.b32decode(letters.upper() + "=" * (-len(letters) % 8))
        except binascii.Error:
            raise InputError("is incomplete", where=WHERE, right=AGAIN) from None
        content, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        # Base32 ignores the last bits of its last letter: compared as text, every letter counts.
        if sha256(content)[:CHECKSUM_BYTES] != checksum or _base32(data) != letters:
            raise InputError("a character was changed or is missing", where=WHERE, right=AGAIN)
        try:
            return cls.decode(content)
        except RemoteProtocolError as error:
            raise InputError(f"holds no invitation ({error.detail})", where=WHERE, right="ask for a new one") from None

    def write(self, out: Writer) -> None:
        """Append every field."""
        out.text(self.url).fixed(self.ca_sha256).text(self.name).text(self.organisation)
        out.u64(self.expires_at).fixed(self.secret)

    @classmethod
    def read(cls, source: Reader) -> Self:
        """Take every field."""
        return cls(
            url=source.text(LONGEST_URL),
            ca_sha256=source.digest(),
            name=source.text(64),
            organisation=source.text(64),
            expires_at=source.u64(),
            secret=source.fixed(KEY_BYTES),
        )


def invitation_number(public_key: bytes) -> bytes:
    """Return the number of the invitation whose proofs this key verifies."""
    return sha256(public_key)[:NUMBER_BYTES]


def coordinator_address(url: str) -> tuple[str, int]:
    """Return host and port of a coordinator's URL.

    Raises:
        ValueError: it is not of the form `https://HOST:PORT`.
    """
    wrong = ValueError("a coordinator's URL has the form https://HOST:PORT")
    if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable():
        raise wrong
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme != "https" or not host or not port or parts.username is not None or " " in url:
        raise wrong
    if parts.path or "?" in url or "#" in url:
        raise wrong
    return host, port


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
