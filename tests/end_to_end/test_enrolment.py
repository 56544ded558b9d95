"""Agents enrol over real TLS on the loopback, and whoever should not is refused with the reason."""

from __future__ import annotations

import http.client
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvicorn

from tacit.client.connection import Address, Connection, TurnedAway, Unreachable, pinned
from tacit.client.enrolled import Enrolled, read_enrolled, write_enrolled
from tacit.client.enrolment import enrol, refresh, renew
from tacit.models.enrolment import AUTHORITIES_PATH, AUTHORITY_PATH, FEDERATION_PATH, MEMBER_PATH, RENEWAL_PATH
from tacit.models.errors import InputError
from tacit.models.invitation import Invitation
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import SystemRandomness
from tacit.server.coordinator_directory import CoordinatorDirectory, create, open_directory
from tacit.server.enrolment_routes import EnrolmentRoutes
from tacit.server.gate import Application, Gate, Receive, Scope, Send
from tacit.server.membership import Membership, invite
from tacit.server.store import Store, open_store
from tacit.server.superlink import SuperLink, TlsFiles
from tacit.server.tls_rotation import announce, switch

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named

DAY = 86_400


def identity(name: str = "member") -> Identity:
    return Identity.generate(SystemRandomness(), name)


async def nobody(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the fleet is not asked")


@contextmanager
def listening(application: Application, certificate: Path, key: Path) -> Iterator[int]:
    """Serve an application by TLS on a free port of the loopback."""
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]
        lifespan="off",
        ws="none",
        log_config=None,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


@dataclass
class Hub:
    """A coordinator's enrolment route, its store, and the time that it believes in."""

    directory: CoordinatorDirectory
    store: Store
    membership: Membership
    port: int = 0
    ahead: float = 0.0  # seconds
    certified: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return time.time() + self.ahead

    def invite(self, name: str = "north", seconds: int = 3600, **more: object) -> Invitation:
        made = invite(
            self.store,
            url=f"https://127.0.0.1:{self.port}",
            ca_der=self.directory.ca_der,
            name=name,
            expires_at=int(self.clock()) + seconds,
            actor="test",
            **more,  # type: ignore[arg-type]
        )
        return Invitation.parse(made.text())

    def ask(self, method: str, path: str, content: bytes | None = None) -> tuple[int, bytes]:
        tls = pinned(ssl.DER_cert_to_PEM_cert(self.directory.ca_der))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=tls)
        connection.request(method, path, content)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer


def coordinator(path: Path) -> CoordinatorDirectory:
    return create(path, datetime.now(UTC), federation="hospitals")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    directory = coordinator(tmp_path / "hub")
    clock: list[Callable[[], float]] = [time.time]
    with open_store(directory.db, now=lambda: datetime.fromtimestamp(clock[0](), UTC)) as store:
        membership = Membership(store, directory.registrar, lambda: clock[0]())
        made = Hub(directory, store, membership)
        clock[0] = made.clock
        routes = EnrolmentRoutes(
            membership,
            directory.ca_der,
            authorities=directory.authorities,
            enrolled=lambda certificate: made.certified.append(certificate.client),
        )
        gate = Gate(nobody, (), enrolment=routes, enrolment_prefix="/v1/enrol/")
        with listening(gate, directory.server_certificate, directory.server_key) as port:
            made.port = port
            yield made


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_agent_enrols_with_its_token_and_knows_whom_it_has_joined(hub: Hub) -> None:
    member = identity()
    enrolled = enrol(hub.invite(), member)
    assert enrolled.federation.name == "hospitals"
    assert enrolled.federation.coordinator_key == hub.directory.coordinator.public_key
    assert enrolled.authorities == (hub.directory.ca_der,)
    enrolled.certificate.check(frozenset({hub.directory.authority.public_key}), int(time.time()))
    assert (enrolled.certificate.client, enrolled.certificate.subject_key) == ("north", member.public_key)
    [client] = hub.store.list_clients()
    assert client.certificate == enrolled.certificate.encode() and hub.certified == ["north"]
    assert hub.membership.taking_part() == {"north": enrolled.certificate}
    assert hub.membership.refusal(member.public_key) is None


def test_an_enrolment_is_kept_in_a_file_and_belongs_to_one_key(hub: Hub, tmp_path: Path) -> None:
    file, member = tmp_path / "enrolment", identity()
    assert read_enrolled(file, member) is None
    enrolled = enrol(hub.invite(), member)
    write_enrolled(file, enrolled)
    assert read_enrolled(file, member) == enrolled and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "another key" in refused(lambda: read_enrolled(file, identity()))
    content = file.read_bytes()
    for damaged in (b"", content[:-1], content + b"\0", b"\0" + content[1:]):
        file.write_bytes(damaged)
        assert "holds no enrolment" in refused(lambda: read_enrolled(file, member))
    assert "cannot be written" in refused(lambda: write_enrolled(tmp_path / "absent" / "file", enrolled))


def test_an_organisation_signs_for_its_member(hub: Hub) -> None:
    hospital = identity("hospital")
    invitation = hub.invite(organisation="hospital", organisation_key=hospital.public_key)
    assert "give the organisation's key" in refused(lambda: enrol(invitation, identity()))
    assert "signs with another key" in refused(lambda: enrol(invitation, identity(), organisation=identity("other")))
    enrolled = enrol(invitation, identity(), organisation=hospital)
    assert (enrolled.certificate.organisation, enrolled.certificate.organisation_key) == (
        "hospital",
        hospital.public_key,
    )
    assert "names no organisation" in refused(lambda: enrol(hub.invite("south"), identity(), organisation=hospital))


def test_a_used_token_is_refused_to_everybody_but_whoever_used_it(hub: Hub) -> None:
    invitation, member = hub.invite(), identity()
    first = enrol(invitation, member)
    assert "used:" in refused(lambda: enrol(invitation, identity()))
    assert enrol(invitation, member).certificate == first.certificate, "its reply may have been lost"
    assert len(hub.store.list_clients()) == 1


def test_an_expired_token_is_refused(hub: Hub) -> None:
    invitation = hub.invite(seconds=30)
    hub.ahead = 60
    assert "expired:" in refused(lambda: enrol(invitation, identity()))


def test_a_forged_token_is_refused(hub: Hub) -> None:
    invitation = hub.invite()
    assert "forged:" in refused(lambda: enrol(replace(invitation, secret=bytes(32)), identity()))
    assert "wrong-name:" in refused(lambda: enrol(replace(invitation, name="south"), identity()))
    later = replace(invitation, expires_at=invitation.expires_at + DAY)
    hub.ahead = 4000
    assert "clock" in refused(lambda: enrol(later, identity()))
    assert "expired:" in refused(lambda: enrol(later, identity(), clock=hub.clock))
    assert hub.store.list_clients() == []


def test_a_revoked_token_is_refused(hub: Hub) -> None:
    invitation = hub.invite()
    hub.store.revoke_member("north")
    assert "revoked:" in refused(lambda: enrol(invitation, identity()))


def test_a_token_is_void_once_there_is_a_newer_one_for_the_name(hub: Hub) -> None:
    older, newer = hub.invite(), hub.invite()
    assert "revoked:" in refused(lambda: enrol(older, identity()))
    enrol(newer, identity())


def test_of_many_who_use_a_token_at_once_one_is_enrolled(hub: Hub) -> None:
    invitation = hub.invite()
    outcomes: list[str] = []

    def attempt() -> None:
        try:
            outcomes.append(enrol(invitation, identity()).certificate.client)
        except InputError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("north") == 1 and sum("used:" in one for one in outcomes) == 5


def test_another_authority_than_the_invitations_is_refused_before_anything_is_sent(hub: Hub) -> None:
    invitation = replace(hub.invite(), ca_sha256=bytes(32))
    assert "not the one that the invitation names" in refused(lambda: enrol(invitation, identity()))
    assert hub.certified == []


def test_whoever_shows_the_right_authority_without_its_key_is_refused(hub: Hub, tmp_path: Path) -> None:
    other = coordinator(tmp_path / "other")
    asked: list[str] = []
    routes = EnrolmentRoutes(hub.membership, hub.directory.ca_der)

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await routes(scope, receive, send)

    with listening(noted, other.server_certificate, other.server_key) as port:
        invitation = replace(hub.invite(), url=f"https://127.0.0.1:{port}")
        assert "its authority did not issue" in refused(lambda: enrol(invitation, identity()))
    assert asked == [AUTHORITY_PATH], "nothing but the public certificate was asked for"


def test_a_certificate_for_another_name_is_refused(hub: Hub) -> None:
    invitation = replace(hub.invite(), url=f"https://127.1:{hub.port}")  # the same machine by another name
    assert "for this name" in refused(lambda: enrol(invitation, identity()))


def test_nobody_there_is_told_in_one_line(hub: Hub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
            enrol(replace(hub.invite(), url=f"https://127.0.0.1:{port}"), identity(), seconds=0.3)
    with pytest.raises(Unreachable, match="refused"):
        enrol(replace(hub.invite(), url=f"https://127.0.0.1:{free_port()}"), identity())


def test_a_member_renews_before_the_end_and_not_after_it_was_revoked(hub: Hub) -> None:
    member = identity()
    enrolled = enrol(hub.invite(), member)
    hub.ahead = 300 * DAY
    renewed = renew(enrolled, member, clock=hub.clock)
    assert renewed.certificate.expires_at > enrolled.certificate.expires_at + 299 * DAY
    assert renew(enrolled, member, clock=hub.clock).certificate == renewed.certificate, "its reply may have been lost"
    assert hub.membership.taking_part() == {"north": renewed.certificate}
    hub.store.revoke_member("north", "left")
    with pytest.raises(TurnedAway, match="revoked:"):
        renew(renewed, member, clock=hub.clock)
    refusal = hub.membership.refusal(member.public_key)
    assert refusal is not None and refusal.word == "revoked" and hub.membership.taking_part() == {}
    assert "keys are not those" in refused(lambda: renew(renewed, identity(), clock=hub.clock))


def test_a_certificate_that_has_ended_is_not_renewed(hub: Hub) -> None:
    member = identity()
    enrolled = enrol(hub.invite(), member)
    hub.ahead = 366 * DAY
    with pytest.raises(TurnedAway, match="expired:"):
        renew(enrolled, member, clock=hub.clock)


def test_agents_hear_of_a_new_authority_and_are_there_after_the_switch(hub: Hub) -> None:
    member, path = identity(), hub.directory.path
    enrolled = enrol(hub.invite(), member)
    assert refresh(enrolled) is enrolled
    coming = announce(path, "hospitals", datetime.now(UTC))
    told = refresh(enrolled)
    assert told.authorities == (hub.directory.ca_der, coming) == renew(enrolled, member).authorities
    switch(path)
    assert refresh(told).authorities == (hub.directory.ca_der, coming), "the old one still serves"
    # A coordinator that starts now serves with the new one.
    restarted = open_directory(path, datetime.now(UTC))
    routes = EnrolmentRoutes(hub.membership, restarted.ca_der, authorities=restarted.authorities)
    with listening(routes, restarted.server_certificate, restarted.server_key) as port:
        url = f"https://127.0.0.1:{port}"
        assert refresh(replace(told, url=url)).authorities == (coming,)
        assert "its authority did not issue" in refused(lambda: refresh(replace(enrolled, url=url)))


def test_a_coordinator_whose_keys_have_changed_is_not_believed(hub: Hub) -> None:
    member = identity()
    enrolled = enrol(hub.invite(), member)
    federation = replace(enrolled.federation, coordinator_key=bytes(32))
    assert "other keys" in refused(lambda: renew(replace(enrolled, federation=federation), member))


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", AUTHORITY_PATH, None, 200),
        ("GET", AUTHORITIES_PATH, None, 200),
        ("POST", AUTHORITIES_PATH, b"", 405),
        ("POST", AUTHORITY_PATH, b"", 405),
        ("POST", FEDERATION_PATH, b"", 405),
        ("GET", MEMBER_PATH, None, 405),
        ("POST", MEMBER_PATH, b"", 400),
        ("POST", MEMBER_PATH, b"\x42" + bytes(500), 400),
        ("POST", RENEWAL_PATH, b"garbage", 400),
        ("POST", MEMBER_PATH, bytes(2049), 413),
        ("POST", RENEWAL_PATH, bytes(1 << 20), 413),
        ("GET", "/v1/enrol/", None, 404),
        ("GET", "/v1/enrol/keys", None, 404),
        ("GET", "/v1/control/runs", None, 404),
    ],
)
def test_strangers_get_short_answers(hub: Hub, method: str, path: str, content: bytes | None, status: int) -> None:
    answered, answer = hub.ask(method, path, content)
    assert answered == status and (status == 200 or len(answer) < 200)


def test_neither_the_secret_nor_a_private_key_ever_leaves(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    ask = http.client.HTTPConnection.request

    def noted(self: http.client.HTTPConnection, method: str, url: str, body: bytes | None, headers: object) -> None:
        sent.append(body or b"")
        ask(self, method, url, body, headers)  # type: ignore[arg-type]

    monkeypatch.setattr(http.client.HTTPConnection, "request", noted)
    invitation, member = hub.invite(), identity()
    enrol(invitation, member)
    assert len(sent) == 3 and sent[:2] == [b"", b""] and member.public_key in sent[2]
    assert invitation.secret not in sent[2] and member.secret_bytes() not in sent[2]


def test_an_agent_enrols_through_a_proxy_that_sees_where_it_goes_and_nothing_else(hub: Hub) -> None:
    seen: list[bytes] = []

    def carry(source: socket.socket, to: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                seen.append(piece)
                to.sendall(piece)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def tunnel(inner: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += inner.recv(65536)
        seen.append(head)
        with inner, socket.create_connection(("127.0.0.1", hub.port)) as outer:
            inner.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=carry, args=(outer, inner))
            back.start()
            carry(inner, outer)
            back.join()

    def proxy(listening: socket.socket) -> None:
        for _ in range(3):
            tunnel(listening.accept()[0])

    member = identity()
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=proxy, args=(bound,), daemon=True)
        thread.start()
        enrolled = enrol(hub.invite(), member, proxy=bound.getsockname()[:2])
        thread.join(10)
    assert enrolled.certificate.client == "north"
    everything = b"".join(seen)
    assert everything.count(f"CONNECT 127.0.0.1:{hub.port}".encode()) == 3
    assert b"enrol" not in everything and member.public_key not in everything and b"north" not in everything


def test_whoever_enrols_is_let_in_at_the_fleet_port_and_turned_away_once_revoked(tmp_path: Path) -> None:
    directory = coordinator(tmp_path / "hub")
    with open_store(directory.db) as store:
        membership = Membership(store, directory.registrar)
        routes = EnrolmentRoutes(membership, directory.ca_der, enrolled=lambda certificate: membership.bring(link))
        tls = TlsFiles(directory.server_certificate, directory.server_key)
        link = SuperLink(tls=tls, enrolment=routes, enrolment_prefix="/v1/enrol/")
        with link:
            member = identity()
            invitation = invite(
                store,
                url=f"https://127.0.0.1:{link.address[1]}",
                ca_der=directory.ca_der,
                name="north",
                expires_at=int(time.time()) + 60,
                actor="test",
            )
            enrolled: Enrolled = enrol(invitation, member)
            assert list(link.names.values()) == ["north"]
            connection = Connection(Address(*enrolled.address, tls=enrolled.tls), member)
            connection.alive()
            store.revoke_member("north")
            membership.bring(link)
            with pytest.raises(TurnedAway):
                connection.alive()
            connection.close()
            assert dict(link.names) == {}
            # The name can go to a new key.
            again = invite(
                store,
                url=invitation.url,
                ca_der=directory.ca_der,
                name="north",
                expires_at=int(time.time()) + 60,
                actor="test",
            )
            enrol(again, identity())
            assert list(link.names.values()) == ["north"]
