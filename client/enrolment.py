"""How an agent becomes a member: it pins its coordinator, draws up its certificate, and has it signed.

Nothing that a network says is believed before the coordinator's certificate authority is the one that the invitation
names by its SHA-256. The agent's keys, its organisation's and the invitation's secret stay here: what leaves are public
keys and signatures.
"""

from __future__ import annotations

import hmac
import http.client
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tacit.client.connection import (
    ProxyFailed,
    TurnedAway,
    Unreachable,
    check_insecure,
    connect,
    out_of_time,
    pinned,
)
from tacit.client.enrolled import Enrolled
from tacit.client.proxy import Proxy
from tacit.models.enrolment import (
    AUTHORITIES_PATH,
    AUTHORITY_PATH,
    FEDERATION_PATH,
    LARGEST_REPLY,
    LEAVE_PATH,
    LONGEST_REASON,
    MEMBER_PATH,
    RENEWAL_PATH,
    Authorities,
    EnrolmentRequest,
    Federation,
    LeaveRequest,
    RenewalRequest,
    first_serial,
)
from tacit.models.errors import InputError
from tacit.models.invitation import Invitation
from tacit.models.wire import CLOCK_TOLERANCE
from tacit.privacy.codec import sha256
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Certificate, Identity

RENEW_BEFORE = 1 / 3  # of a certificate's life


@dataclass(frozen=True)
class Line:
    """A way to a coordinator.

    Attributes:
        host, port: the fleet port.
        proxy: an HTTP proxy that leads there by CONNECT; None for a direct way.
        seconds: how long the network may be silent.
        insecure: do without TLS, on the loopback alone.

    Raises:
        InputError: it is to do without TLS, and is not the loopback.
    """

    host: str
    port: int
    proxy: Proxy | None = None
    seconds: float = 20.0
    insecure: bool = False

    def __post_init__(self) -> None:
        """Refuse to leave this machine in the clear."""
        if self.insecure:
            check_insecure(self.host, self.proxy)


def enrol(
    invitation: Invitation,
    member: Identity,
    *,
    organisation: Identity | None = None,
    proxy: Proxy | None = None,
    insecure: bool = False,
    seconds: float = 20.0,
    clock: Callable[[], float] = time.time,
) -> Enrolled:
    """Enrol with an invitation; repeating it after a lost reply gives the same certificate.

    Args:
        invitation: the token, read.
        member: the agent's own key.
        organisation: the key of the organisation that the invitation names; None if it names none.
        proxy: an HTTP proxy that leads to the coordinator by CONNECT.
        insecure: do without TLS, which only an address of the loopback may.
        seconds: how long the network may be silent.
        clock: seconds since 1970.

    Raises:
        InputError: the coordinator is not the invitation's, refuses, or signs something else; the organisation's key
            is missing; or the clocks differ.
        Unreachable: there was no answer, or none that can be used.
    """
    if bool(invitation.organisation) != (organisation is not None):
        wanted = f"is for a member of {invitation.organisation}" if invitation.organisation else "names no organisation"
        right = (
            "give the organisation's key by --organisation-key FILE"
            if invitation.organisation
            else "give no organisation's key"
        )
        raise InputError(wanted, where="invitation", right=right)
    host, port = invitation.address
    line = Line(host, port, proxy, seconds, insecure)
    authority = fetch_authority(line, invitation.ca_sha256)
    tls = pinned(ssl.DER_cert_to_PEM_cert(authority))
    federation = fetch_federation(line, tls)
    check_clock(federation, clock())
    draft = Certificate(
        client=invitation.name,
        organisation=invitation.organisation or invitation.name,
        subject_key=member.public_key,
        organisation_key=(organisation or member).public_key,
        authority_key=federation.authority_key,
        serial=first_serial(invitation.number),
        expires_at=federation.now + federation.certificate_seconds,
    ).endorsed(organisation or member)
    request = EnrolmentRequest.make(invitation.number, draft, member, invitation.identity)
    status, content = _ask(line, tls, "POST", MEMBER_PATH, request.encode())
    if status != 200:
        raise InputError(f"the coordinator refuses: {_reason(status, content)}", where="enrolment")
    certificate = _certificate(content, draft, federation)
    return Enrolled(invitation.url, (authority,), federation, certificate)


def renew(
    enrolled: Enrolled,
    member: Identity,
    *,
    organisation: Identity | None = None,
    proxy: Proxy | None = None,
    insecure: bool = False,
    seconds: float = 20.0,
    clock: Callable[[], float] = time.time,
) -> Enrolled:
    """Have a certificate renewed before it ends, and return what to keep from now on.

    Args:
        enrolled: what was kept so far.
        member: the agent's own key.
        organisation: the key of the member's organisation; None if it is its own.
        proxy: see `enrol`.
        insecure: see `enrol`.
        seconds: see `enrol`.
        clock: see `enrol`.

    Raises:
        InputError: the keys are not those of the certificate, the coordinator's have changed, or the clocks differ.
        TurnedAway: the coordinator refuses, as when the member was revoked or its certificate has ended.
        Unreachable: there was no answer, or none that can be used.
    """
    old = enrolled.certificate
    endorser = organisation or member
    if (member.public_key, endorser.public_key) != (old.subject_key, old.organisation_key):
        right = ""
        if organisation is None and old.organisation_key != member.public_key:
            right = f"give the key of {old.organisation} with --organisation-key FILE"
        raise InputError("the keys are not those of the certificate", where="renewal", right=right)
    host, port = enrolled.address
    line = Line(host, port, proxy, seconds, insecure)
    tls = enrolled.tls
    authorities = fetch_authorities(line, tls)
    federation = fetch_federation(line, tls)
    if (federation.authority_key, federation.coordinator_key) != (
        enrolled.federation.authority_key,
        enrolled.federation.coordinator_key,
    ):
        raise InputError(
            "the coordinator signs with other keys than it did", where="renewal", right="ask its operator why"
        )
    check_clock(federation, clock())
    draft = Certificate(
        client=old.client,
        organisation=old.organisation,
        subject_key=old.subject_key,
        organisation_key=old.organisation_key,
        authority_key=old.authority_key,
        serial=old.serial + 1,
        expires_at=federation.now + federation.certificate_seconds,
    ).endorsed(endorser)
    status, content = _ask(line, tls, "POST", RENEWAL_PATH, RenewalRequest(draft).signed(member).encode())
    if status != 200:
        raise TurnedAway(status, _reason(status, content))
    return Enrolled(enrolled.url, authorities, federation, _certificate(content, draft, federation))


def refresh(
    enrolled: Enrolled, *, proxy: Proxy | None = None, insecure: bool = False, seconds: float = 20.0
) -> Enrolled:
    """Ask which TLS authorities to trust from now on, and return what to keep; to be called now and then.

    Raises:
        InputError: the coordinator's certificate is of none of those that are trusted.
        Unreachable: there was no answer, or none that can be used.
    """
    host, port = enrolled.address
    authorities = fetch_authorities(Line(host, port, proxy, seconds, insecure), enrolled.tls)
    return enrolled if authorities == enrolled.authorities else replace(enrolled, authorities=authorities)


def leave(
    enrolled: Enrolled,
    member: Identity,
    *,
    proxy: Proxy | None = None,
    insecure: bool = False,
    seconds: float = 20.0,
) -> None:
    """Tell the coordinator that a member takes part no longer; it may be told again.

    Raises:
        InputError: the coordinator's certificate is of none of the authorities that are trusted.
        TurnedAway: the coordinator refuses, as it does if the member was revoked.
        Unreachable: there was no answer, or none that can be used.
    """
    host, port = enrolled.address
    request = LeaveRequest(member.public_key, enrolled.certificate.serial).signed(member)
    line = Line(host, port, proxy, seconds, insecure)
    status, content = _ask(line, enrolled.tls, "POST", LEAVE_PATH, request.encode())
    if status == 403:
        raise TurnedAway(status, _reason(status, content))
    if status != 200:
        raise Unreachable(f"the coordinator answers {_reason(status, content)}")


def fetch_authority(line: Line, sha256_wanted: bytes) -> bytes:
    """Return the certificate (DER) of the coordinator's TLS authority, which is the one that is wanted.

    Raises:
        InputError: it is another one.
        Unreachable: there was no answer, or none that can be used.
    """
    status, der = _ask(line, _unchecked(), "GET", AUTHORITY_PATH)
    if status != 200:
        raise Unreachable(f"the coordinator answers {_reason(status, der)}")
    if not hmac.compare_digest(sha256(der), sha256_wanted):
        raise InputError(
            "the coordinator's certificate authority is not the one that the invitation names",
            where=f"{line.host}:{line.port}",
            right="somebody may sit in between: ask the operator",
        )
    return der


def fetch_federation(line: Line, tls: ssl.SSLContext) -> Federation:
    """Return what the coordinator is called and signs with.

    Raises:
        Unreachable: there was no answer, or none that can be used.
    """
    status, content = _ask(line, tls, "GET", FEDERATION_PATH)
    if status != 200:
        raise Unreachable(f"the coordinator answers {_reason(status, content)}")
    try:
        return Federation.decode(content)
    except RemoteProtocolError as error:
        raise Unreachable(f"the coordinator's answer cannot be read ({error})") from None


def fetch_authorities(line: Line, tls: ssl.SSLContext) -> tuple[bytes, ...]:
    """Return the TLS authorities (DER) to trust from now on, as a coordinator that is trusted now names them.

    Raises:
        Unreachable: there was no answer, or none that can be used.
    """
    status, content = _ask(line, tls, "GET", AUTHORITIES_PATH)
    if status != 200:
        raise Unreachable(f"the coordinator answers {_reason(status, content)}")
    try:
        certificates = Authorities.decode(content).certificates
        pinned("".join(map(ssl.DER_cert_to_PEM_cert, certificates)))
    except (RemoteProtocolError, ssl.SSLError) as error:
        raise Unreachable(f"the coordinator's authorities cannot be read ({type(error).__name__})") from None
    return certificates


def check_clock(federation: Federation, now: float) -> None:
    """Refuse to go on with clocks that differ by more than the federation's requests allow.

    Raises:
        InputError: they do.
    """
    behind = federation.now - now
    if abs(behind) > CLOCK_TOLERANCE:
        word = "behind" if behind > 0 else "ahead of"
        raise InputError(
            f"this machine's clock is {abs(behind):.0f} s {word} the coordinator's", where="clock", right="set it"
        )


def _certificate(content: bytes, draft: Certificate, federation: Federation) -> Certificate:
    """Return the certificate of a reply, which is what was asked for, or was granted to the same request before."""
    try:
        certificate = Certificate.decode(content)
        certificate.check(frozenset({federation.authority_key}), federation.now)
    except RemoteProtocolError as error:
        raise InputError(f"the coordinator's certificate cannot be used ({error})", where="enrolment") from None
    # Whoever enrols again with what it has enrolled with before gets its newest certificate.
    if certificate.serial < draft.serial:
        raise InputError("the coordinator sent an older certificate", where="enrolment", right="ask its operator")
    for name in ("client", "organisation", "subject_key", "organisation_key"):
        if getattr(certificate, name) != getattr(draft, name):
            raise InputError(f"the coordinator signed another {name}", where="enrolment", right="ask its operator")
    return certificate


def _unchecked() -> ssl.SSLContext:
    """Return a context that checks nobody: for the one answer that is checked by its SHA-256."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _ask(
    line: Line, tls: ssl.SSLContext, method: Literal["GET", "POST"], path: str, content: bytes | None = None
) -> tuple[int, bytes]:
    host, port = line.proxy or (line.host, line.port)
    connection: http.client.HTTPConnection
    if line.insecure:
        connection = http.client.HTTPConnection(host, port, timeout=line.seconds)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=line.seconds, context=tls)
    if line.proxy is not None:
        connection.set_tunnel(line.host, line.port)
    try:
        connect(connection, line.proxy)
        connection.request(method, path, content, {"content-type": "application/octet-stream"})
        response = connection.getresponse()
        answer = response.read(LARGEST_REPLY + 1)
    except ssl.SSLCertVerificationError as error:
        if (told := out_of_time(error)) is not None:
            raise InputError(told, where=f"{line.host}:{line.port}", right="check this machine's clock") from None
        raise InputError(
            f"shows a certificate that its authority did not issue for this name ({error.verify_message})",
            where=f"{line.host}:{line.port}",
            right="ask the operator",
        ) from None
    except ProxyFailed as error:
        raise Unreachable(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise Unreachable(f"{line.host}:{line.port}: {what}") from None
    finally:
        connection.close()
    if len(answer) > LARGEST_REPLY:
        raise Unreachable(f"{line.host}:{line.port}: the answer is too large")
    return response.status, answer


def _reason(status: int, content: bytes) -> str:
    """Return what a coordinator says, as one line that a terminal can take."""
    text = content[:LONGEST_REASON].decode("utf-8", "replace")
    words = "".join(character if character.isprintable() else " " for character in text).split()
    return " ".join(words) or f"status {status}"
