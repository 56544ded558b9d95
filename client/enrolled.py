"""What an agent knows of its coordinator once it is a member, in one private file."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tacit.client.connection import pinned
from tacit.models.durable import flush_directory, write_file
from tacit.models.enrolment import LARGEST_REPLY, Authorities, Federation
from tacit.models.errors import InputError
from tacit.models.invitation import LONGEST_URL, coordinator_address
from tacit.privacy.codec import Message, Reader, Writer
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Certificate, Identity

ENROLMENT = "enrolment"  # the name of its file in an agent's directory


@dataclass(frozen=True)
class Enrolled(Message):
    """What an agent keeps of its enrolment; nothing of it is secret, but all of it is believed.

    Attributes:
        url: the coordinator, `https://HOST:PORT`.
        authorities: the certificates (DER) of the coordinator's TLS authorities: one, two while it changes.
        federation: its name and public keys, as they were when it last signed.
        certificate: the member's.
    """

    TAG = 0x44
    LIMIT = LARGEST_REPLY

    url: str
    authorities: tuple[bytes, ...] = field(repr=False)
    federation: Federation
    certificate: Certificate

    def __post_init__(self) -> None:
        """Refuse a certificate of another authority."""
        coordinator_address(self.url)
        if self.certificate.authority_key != self.federation.authority_key:
            raise ValueError("the certificate is another federation's")

    @property
    def address(self) -> tuple[str, int]:
        """The coordinator's host and port."""
        return coordinator_address(self.url)

    @property
    def tls(self) -> ssl.SSLContext:
        """How to check the coordinator's certificate: by its own authorities alone."""
        return pinned("".join(map(ssl.DER_cert_to_PEM_cert, self.authorities)))

    def write(self, out: Writer) -> None:
        """Append every field."""
        out.text(self.url).blob(Authorities(self.authorities).encode())
        self.federation.write(out)
        self.certificate.write(out)

    @classmethod
    def read(cls, source: Reader) -> Self:
        """Take every field."""
        url, trusted = source.text(LONGEST_URL), Authorities.decode(source.blob(LARGEST_REPLY))
        return cls(url, trusted.certificates, Federation.read(source), Certificate.read(source))


def write_enrolled(path: Path, enrolled: Enrolled) -> None:
    """Keep an enrolment in a file, in place of what was there.

    Raises:
        InputError: it cannot be written; what was there still is.
    """
    try:
        write_file(path, enrolled.encode(), private=True)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from None


def forget_enrolled(path: Path) -> bool:
    """Remove an enrolment's file, and say whether there was one; on disk when this returns.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        path.unlink()
        flush_directory(path.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"cannot be removed ({error.strerror})", where=str(path)) from None
    return True


def read_enrolled(path: Path, member: Identity) -> Enrolled | None:
    """Return the enrolment that a file keeps, None while there is no such file.

    Args:
        path: the file.
        member: the agent's key.

    Raises:
        InputError: it cannot be read, holds none, or that of another key.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    try:
        enrolled = Enrolled.decode(content)
    except RemoteProtocolError:
        raise InputError("holds no enrolment", where=str(path), right="restore it from a copy") from None
    if enrolled.certificate.subject_key != member.public_key:
        raise InputError("is the enrolment of another key", where=str(path), right="restore the key it belongs to")
    return enrolled
