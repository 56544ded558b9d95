"""Over TLS both sides know whom they speak to, and everything else is refused before a word is said."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tacit.client.connection import Address, Connection, Unreachable, pinned
from tacit.models.errors import InputError
from tacit.privacy.identity import Identity
from tacit.server.superlink import SuperLink, TlsFiles


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own."""

    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    @classmethod
    def new(cls) -> Authority:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {os.urandom(4).hex()}")])
        return cls(ec.generate_private_key(ec.SECP256R1()), name)

    def pem(self) -> str:
        return self._sign(self.name, self.key.public_key(), x509.BasicConstraints(True, 0)).decode()

    def server(self, path: Path, address: str = "127.0.0.1", days: float = 1.0) -> TlsFiles:
        """Write a server's certificate and key."""
        path.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        (path / "server.pem").write_bytes(self._sign(name, key.public_key(), where, days))
        plain = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        (path / "key.pem").write_bytes(pem)
        return TlsFiles(path / "server.pem", path / "key.pem")

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType, days: float = 1.0
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self.name,
            subject_name=subject,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=2),
            not_valid_after=now + datetime.timedelta(days=days),
        )
        signed = builder.add_extension(extension, critical=True).sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority() -> Authority:
    return Authority.new()


Serve = Callable[[TlsFiles], SuperLink]


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[SuperLink] = []

    def start(tls: TlsFiles) -> SuperLink:
        link = SuperLink(tls=tls)
        link.start()
        started.append(link)
        return link

    yield start
    for link in started:
        link.stop()


def alive(link: SuperLink, trusted: str | None, identity: Identity, host: str = "127.0.0.1") -> None:
    with Connection(Address(host, link.address[1], pinned(trusted) if trusted else None), identity) as connection:
        connection.alive()


def test_an_enrolled_agent_is_heard_over_tls(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    link, identity = serve(authority.server(tmp_path)), Identity(os.urandom(32))
    link.admit(identity.public_key, "clinic")
    alive(link, authority.pem(), identity)


@pytest.mark.parametrize("trouble", ["authority", "address", "expired"])
def test_a_server_that_is_not_the_pinned_one_is_not_spoken_to(
    serve: Serve, authority: Authority, tmp_path: Path, trouble: str
) -> None:
    pem = Authority.new().pem() if trouble == "authority" else authority.pem()
    address = "127.0.0.2" if trouble == "address" else "127.0.0.1"
    link = serve(authority.server(tmp_path, address, days=-1.0 if trouble == "expired" else 1.0))
    identity = Identity(os.urandom(32))
    link.admit(identity.public_key, "clinic")
    words = "has ended by this machine's clock" if trouble == "expired" else "is not the pinned authority's"
    with pytest.raises(Unreachable, match=f"certificate {words}"):
        alive(link, pem, identity)


def test_the_machines_own_authorities_count_for_nothing(authority: Authority) -> None:
    trusted = pinned(authority.pem())
    (only,) = trusted.get_ca_certs()
    assert only["subject"] == ((("commonName", authority.name.rfc4514_string().removeprefix("CN=")),),)
    assert trusted.verify_mode is ssl.CERT_REQUIRED and trusted.check_hostname


def test_an_agent_without_tls_gets_nothing_from_a_port_with_it(
    serve: Serve, authority: Authority, tmp_path: Path
) -> None:
    link, identity = serve(authority.server(tmp_path)), Identity(os.urandom(32))
    link.admit(identity.public_key, "clinic")
    with pytest.raises(Unreachable):
        alive(link, None, identity)


def test_an_older_tls_is_refused(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    link = serve(authority.server(tmp_path))
    context = pinned(authority.pem())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(link.address) as plain, pytest.raises((ssl.SSLError, ConnectionResetError)):
        context.wrap_socket(plain, server_hostname="127.0.0.1").close()


def test_a_certificate_that_cannot_be_used_is_named_before_anything_listens(
    authority: Authority, tmp_path: Path
) -> None:
    one, other = authority.server(tmp_path / "one"), authority.server(tmp_path / "other")
    for tls in (TlsFiles(one.certificate, other.key), TlsFiles(tmp_path / "no.pem", one.key)):
        with pytest.raises(InputError, match="the server's certificate: cannot be used"):
            SuperLink(tls=tls).start()


def test_a_proxy_without_tls_behind_it_is_not_used() -> None:
    with pytest.raises(InputError, match="through a proxy"):
        Address("127.0.0.1", 1, proxy=("127.0.0.1", 2))


@pytest.mark.parametrize("host", ["10.0.0.1", "hub.example", "localhost", "::", "0.0.0.0", "fe80::1"])
def test_nothing_leaves_the_machine_without_tls(host: str) -> None:
    with pytest.raises(InputError, match="is not this machine"):
        Address(host, 1)


def test_the_loopback_may_do_without_tls() -> None:
    for host in ("127.0.0.1", "127.0.0.2", "::1"):
        Address(host, 1)


def test_a_proxy_sees_where_an_agent_goes_and_nothing_else(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    import threading

    link, identity = serve(authority.server(tmp_path)), Identity(os.urandom(32))
    link.admit(identity.public_key, "clinic")
    seen: list[bytes] = []

    def carry(source: socket.socket, to: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                seen.append(piece)
                to.sendall(piece)
        except OSError:
            return

    def proxy(listening: socket.socket) -> None:
        inner, _ = listening.accept()
        head = b""
        while b"\r\n\r\n" not in head:
            head += inner.recv(65536)
        seen.append(head)
        with inner, socket.create_connection(link.address) as outer:
            inner.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=carry, args=(outer, inner))
            back.start()
            carry(inner, outer)
            outer.shutdown(socket.SHUT_RDWR)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=proxy, args=(listening,))
        thread.start()
        address = Address("127.0.0.1", link.address[1], pinned(authority.pem()), listening.getsockname()[:2])
        with Connection(address, identity) as connection:
            connection.alive()
        thread.join()
    assert seen[0].startswith(f"CONNECT 127.0.0.1:{link.address[1]} HTTP/1.".encode())
    everything = b"".join(seen)
    assert b"tacit" not in everything and identity.public_key.hex().encode() not in everything
