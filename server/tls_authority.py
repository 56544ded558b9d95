"""The coordinator's private certificate authority for TLS, and the server certificate that it issues.

Agents trust this authority alone, by the fingerprint in their invitation, and no other that their machine knows. It can
sign server certificates only, and no authority below it. Bytes in, bytes out: where they are kept is somebody else's
affair.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.models.errors import InputError
from tacit.privacy.codec import sha256

LIFE = timedelta(days=3650)
SLOW_CLOCK = timedelta(days=1)  # an agent's may be behind
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*")


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def new_authority(federation: str, now: datetime) -> KeyPair:
    """Return a new authority that lasts ten years."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} coordinator authority"[:64])])
    certificate = (
        _builder(name, name, key, key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, SHA256())
    )
    return _pair(certificate, key)


def new_server(authority: KeyPair, names: Sequence[str], now: datetime) -> KeyPair:
    """Return a server certificate for some host names and addresses, and the loopback; it ends with its authority.

    Raises:
        InputError: a name is neither a host name nor an address.
    """
    issuer, signer = _read(authority)
    alternatives = [general_name(name) for name in dict.fromkeys([*names, *LOOPBACK])]
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")])
    certificate = (
        _builder(subject, issuer.subject, key, signer, now, issuer.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(signer, SHA256())
    )
    return _pair(certificate, key)


def general_name(name: str) -> x509.GeneralName:
    """Return a host name or an address as certificates write it.

    Raises:
        InputError: it is neither.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if _HOST.fullmatch(name) is None:
        raise InputError(
            f"{name!r} is neither a host name nor an address", where="--name", right="such as coordinator.example"
        )
    return x509.DNSName(name.lower())


def check(authority: KeyPair, server: KeyPair, now: datetime) -> None:
    """Refuse pairs that do not belong together.

    Raises:
        InputError: a file of the two is damaged, belongs to another, or its certificate is out of date.
    """
    issuer, _ = _read(authority, "ca")
    certificate, _ = _read(server, "server")
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        raise InputError("was issued by another authority", where="server.pem", right="that of ca.pem") from None
    for name, one in (("ca.pem", issuer), ("server.pem", certificate)):
        if not one.not_valid_before_utc <= now < one.not_valid_after_utc:
            until = f"{one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}"
            raise InputError(f"is valid from {until}", where=name, right="check the clock, or make a new coordinator")


def der(certificate_pem: bytes) -> bytes:
    """Return a certificate's DER, which is what a fingerprint is taken of."""
    return x509.load_pem_x509_certificate(certificate_pem).public_bytes(Encoding.DER)


def fingerprint(certificate_pem: bytes) -> bytes:
    """Return the SHA-256 of a certificate's DER."""
    return sha256(der(certificate_pem))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    signer: EllipticCurvePrivateKey,
    now: datetime,
    until: datetime | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - SLOW_CLOCK)
        .not_valid_after(until or now.astimezone(UTC) + LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> KeyPair:
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(certificate.public_bytes(Encoding.PEM), secret)


def _read(pair: KeyPair, name: str = "ca") -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
    except ValueError:
        raise InputError("holds no certificate", where=f"{name}.pem", right="restore it from a copy") from None
    try:
        key = load_pem_private_key(pair.key, None)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise ValueError
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise InputError("holds no key", where=f"{name}.key", right="restore it from a copy") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise InputError("is another certificate's key", where=f"{name}.key", right=f"that of {name}.pem")
    return certificate, key
