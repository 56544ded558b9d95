"""Over real TLS an agent that is left alone stays a member: certificates follow each other, and so do authorities."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tacit.client.agent import Agent
from tacit.client.connection import Connection
from tacit.client.directory import AgentDirectory, init
from tacit.client.enrolled import ENROLMENT, Enrolled, read_enrolled, write_enrolled
from tacit.client.enrolment import enrol
from tacit.client.fleet import Pace, Resident
from tacit.client.member import member
from tacit.client.register import new_data_set
from tacit.client.upkeep import Care, Upkeep
from tacit.server.coordinator_directory import CoordinatorDirectory, create, open_directory
from tacit.server.enrolment import Registrar
from tacit.server.enrolment_routes import EnrolmentRoutes
from tacit.server.membership import Membership, invite
from tacit.server.store import Store, open_store
from tacit.server.superlink import SuperLink, TlsFiles
from tacit.server.tls_rotation import announce, switch

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named

LIFE = 86_400  # seconds that a certificate lasts


def until(what: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@dataclass
class Hub:
    """A coordinator that can start again, and whose clock can be put forward."""

    path: Path
    store: Store
    port: int = field(default_factory=free_port)
    links: list[SuperLink] = field(default_factory=list)
    ahead: float = 0.0  # seconds

    def clock(self) -> float:
        return time.time() + self.ahead

    @property
    def directory(self) -> CoordinatorDirectory:
        return open_directory(self.path, datetime.now(UTC))

    def up(self) -> SuperLink:
        directory = self.directory
        registrar = Registrar(
            directory.settings.federation, directory.authority, directory.coordinator.public_key, LIFE
        )
        self.membership = Membership(self.store, registrar, self.clock)
        routes = EnrolmentRoutes(
            self.membership,
            directory.ca_der,
            authorities=directory.authorities,
            enrolled=lambda certificate: self.membership.bring(link),
        )
        tls = TlsFiles(directory.server_certificate, directory.server_key)
        link = SuperLink(port=self.port, tls=tls, enrolment=routes, enrolment_prefix="/v1/enrol/")
        self.membership.bring(link)
        link.start()
        self.links.append(link)
        return link

    def enrol(self, agent: AgentDirectory) -> Enrolled:
        invitation = invite(
            self.store, url=f"https://127.0.0.1:{self.port}", ca_der=self.directory.ca_der, name="north",
            expires_at=int(time.time()) + 3600, actor="a test",
        )  # fmt: skip
        enrolled = enrol(invitation, agent.identity)
        write_enrolled(agent.path / ENROLMENT, enrolled)
        return enrolled


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    create(tmp_path / "hub", datetime.now(UTC), federation="hospitals")
    with open_store(str(tmp_path / "hub" / "tacit.db")) as store:
        made = Hub(tmp_path / "hub", store)
        made.up()
        yield made
        for link in made.links:
            link.stop()


@pytest.fixture
def owner(tmp_path: Path) -> AgentDirectory:
    rows = tmp_path / "rows.csv"
    rows.write_text("a,y\n1,0\n2,1\n")
    return init(tmp_path / "north", "north").add_data("patients", new_data_set(f"csv:{rows}", label="y"), {})


class Proxy:
    """A proxy that leads by CONNECT to wherever it is asked, for as long as it is up, and keeps what it saw."""

    def __init__(self) -> None:
        self.port, self.seen, self.lines = free_port(), bytearray(), list[socket.socket]()
        self.up()

    def up(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(self.listening,), daemon=True).start()

    def down(self) -> None:
        for line in [self.listening, *self.lines]:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
        self.lines.clear()

    def _serve(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._tunnel, args=(listening.accept()[0],), daemon=True).start()

    def _tunnel(self, inner: socket.socket) -> None:
        self.lines.append(inner)
        with suppress(OSError), inner:
            head = b""
            while b"\r\n\r\n" not in head:
                head += inner.recv(65536)
            self.seen += head
            host, port = head.split()[1].decode().rsplit(":", 1)
            with socket.create_connection((host, int(port))) as outer:
                self.lines.append(outer)
                inner.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=self._carry, args=(outer, inner), daemon=True)
                back.start()
                self._carry(inner, outer)

    def _carry(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                self.seen += piece
                to.sendall(piece)
            to.shutdown(socket.SHUT_WR)


def shown(agent: Agent) -> int:
    """Return the serial of the certificate that an agent would show with its next offer."""
    assert agent._member is not None
    return agent._member.membership.certificate.serial


def test_certificates_follow_each_other_while_the_agent_runs(hub: Hub, owner: AgentDirectory) -> None:
    first = hub.enrol(owner)
    with owner.journal() as journal:
        agent = member(owner, first, "patients", journal)
        care = Upkeep(owner, first, agent.renewed, care=Care(nap=0.1), clock=hub.clock)
        with care.running():
            for serial in (first.certificate.serial + 1, first.certificate.serial + 2):
                assert hub.clock() < care.enrolled.certificate.expires_at - 0.8 * LIFE
                hub.ahead += 0.9 * LIFE  # in its last sixth, when any draw is due
                until(lambda serial=serial: shown(agent) == serial)
                kept = read_enrolled(owner.path / ENROLMENT, owner.identity)
                assert kept is not None and kept.certificate.serial == serial
                assert hub.membership.taking_part()["north"].serial == serial


def test_a_running_agent_learns_a_new_authority_and_is_there_after_the_switch(hub: Hub, owner: AgentDirectory) -> None:
    enrolled = hub.enrol(owner)
    care = Upkeep(owner, enrolled, care=Care(news=0.5, nap=0.1, retry=0.5))
    with owner.journal() as journal:
        agent = member(owner, enrolled, "patients", journal)
        pace = Pace(wait=2.0, first_pause=0.05, longest_pause=0.2)
        loop = Resident(lambda: Connection(care.address, owner.identity), agent, pace=pace)
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        try:
            with care.running():
                until(lambda: hub.links[0].presence()["north"].online)
                coming = announce(hub.path, "hospitals", datetime.now(UTC))
                until(lambda: coming in care.enrolled.authorities)
                switch(hub.path)
                hub.links[0].stop()
                again = hub.up()
                until(lambda: again.presence()["north"].online)
                until(lambda: care.enrolled.authorities == (coming,))
                until(lambda: loop.standing.trouble == "")
        finally:
            loop.stop()
            thread.join(10)


def test_an_agent_behind_a_proxy_says_when_that_is_away_and_comes_back_with_it(
    hub: Hub, owner: AgentDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    enrolled, proxy = hub.enrol(owner), Proxy()
    settings = owner.settings.model_copy(update={"proxy": f"http://127.0.0.1:{proxy.port}"})
    owner = replace(owner, settings=settings)
    care = Upkeep(owner, enrolled, care=Care(news=0.5, nap=0.1, retry=0.5))
    with owner.journal() as journal:
        agent = member(owner, enrolled, "patients", journal)
        pace = Pace(wait=1.0, first_pause=0.05, longest_pause=0.2)
        loop = Resident(lambda: Connection(care.address, owner.identity), agent, pace=pace)
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        try:
            with care.running():
                until(lambda: hub.links[0].presence()["north"].online)
                proxy.down()
                away = f"the proxy 127.0.0.1:{proxy.port}: Connection refused"
                until(lambda: loop.standing.trouble == f"the coordinator cannot be reached: {away}")
                until(lambda: f"the coordinator was not asked for news: {away}" in caplog.text)
                coming = announce(hub.path, "hospitals", datetime.now(UTC))
                proxy.up()
                until(lambda: loop.standing.trouble == "")
                until(lambda: coming in care.enrolled.authorities)
        finally:
            loop.stop()
            thread.join(10)
            proxy.down()
    assert f"CONNECT 127.0.0.1:{hub.port}".encode() in proxy.seen
    for secret in (b"tacit", b"north", b"patients", owner.identity.public_key.hex().encode(), coming):
        assert secret not in proxy.seen
