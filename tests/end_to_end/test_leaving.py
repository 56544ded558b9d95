"""A member leaves by a command, and comes back only if it is invited again; what it has spent is never forgotten."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tacit.__main__ import run as tacit
from tacit.client.connection import Address, Connection, TurnedAway
from tacit.client.directory import AgentDirectory, init
from tacit.client.enrolled import ENROLMENT, Enrolled, read_enrolled
from tacit.models.invitation import Invitation
from tacit.models.key_file import kept_identity
from tacit.server.coordinator_directory import CoordinatorDirectory, create
from tacit.server.enrolment_routes import EnrolmentRoutes
from tacit.server.membership import Membership, invite
from tacit.server.roll import Roll
from tacit.server.store import Store, open_store
from tacit.server.superlink import SuperLink, TlsFiles


@dataclass
class Hub:
    """A coordinator with its fleet port, and the directory of one agent."""

    directory: CoordinatorDirectory
    store: Store
    link: SuperLink
    agent: AgentDirectory

    @property
    def path(self) -> str:
        return str(self.agent.path)

    def invitation(self, name: str = "north", again: bool = False, **more: Any) -> str:
        return invite(
            self.store, url=f"https://127.0.0.1:{self.link.address[1]}", ca_der=self.directory.ca_der, name=name,
            expires_at=int(time.time()) + 600, again=again, actor="a test", **more,
        ).text()  # fmt: skip

    def enrol(self, name: str = "north") -> Enrolled:
        assert tacit(["agent", "enrol", "--dir", self.path, "--token", self.invitation(name)]) == 0
        enrolled = self.enrolled
        assert enrolled is not None
        return enrolled

    @property
    def enrolled(self) -> Enrolled | None:
        return read_enrolled(self.agent.path / ENROLMENT, self.agent.identity)

    def kinds(self) -> list[str]:
        return [json.loads(line)["kind"] for line in self.agent.account_lines()]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    directory = create(tmp_path / "hub", datetime.now(UTC), federation="hospitals")
    with open_store(directory.db) as store:
        membership, roll = Membership(store, directory.registrar), Roll(store)
        routes = EnrolmentRoutes(
            membership,
            directory.ca_der,
            enrolled=lambda certificate: membership.bring(link),
            left=lambda: membership.bring(link),
        )
        tls = TlsFiles(directory.server_certificate, directory.server_key)
        link = SuperLink(tls=tls, enrolment=routes, enrolment_prefix="/v1/enrol/", refusal=roll)
        with link:
            yield Hub(directory, store, link, init(tmp_path / "north", "north"))
        roll.close()


def test_a_member_leaves_and_comes_back_with_a_new_invitation(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    enrolled = hub.enrol()
    connection = Connection(Address(*enrolled.address, tls=enrolled.tls), hub.agent.identity)
    connection.alive()
    assert tacit(["agent", "leave", "--dir", hub.path]) == 0
    assert "north has left hospitals; its ledger and its account stay" in capsys.readouterr().out
    with pytest.raises(TurnedAway, match="this member has left the federation"):
        connection.alive()
    assert hub.enrolled is None and dict(hub.link.names) == {} and hub.kinds() == ["enrolled", "left"]
    assert tacit(["coordinator", "clients", "--dir", str(hub.directory.path), "--format", "json"]) == 0
    [client] = json.loads(capsys.readouterr().out)
    assert (client["name"], client["state"]) == ("north", "left")
    # A second time there is nothing to do, and whoever has left does not start.
    assert tacit(["agent", "leave", "--dir", hub.path]) == 0
    assert "is no member" in capsys.readouterr().out and hub.kinds() == ["enrolled", "left"]
    assert tacit(["agent", "start", "--dir", hub.path]) == 2
    back = hub.enrol("ward")
    assert back.certificate.subject_key == enrolled.certificate.subject_key
    connection.alive()
    connection.close()
    assert list(hub.link.names.values()) == ["ward"]


def test_the_state_of_an_agent_says_where_it_is_a_member(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> tuple[str | None, str | None, str | None]:
        capsys.readouterr()
        assert tacit(["agent", "status", "--dir", hub.path, "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        return found["member_of"], found["member_as"], found["certificate_until"]

    assert told() == (None, None, None)
    enrolled = hub.enrol("ward")
    until = datetime.fromtimestamp(enrolled.certificate.expires_at, UTC)
    federation, name, holds = told()
    assert (federation, name) == ("hospitals", "ward") and datetime.fromisoformat(str(holds)) == until


def test_a_certificate_is_renewed_by_hand_while_the_agent_runs_with_the_organisations_key(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tacit(["agent", "renew", "--dir", hub.path]) == 2 and "is no member" in capsys.readouterr().err
    file = str(tmp_path / "organisation.key")
    key = kept_identity(Path(file), "organisation")
    token = hub.invitation(organisation="hospital", organisation_key=key.public_key)
    assert tacit(["agent", "enrol", "--dir", hub.path, "--token", token, "--organisation-key", file]) == 0
    first = hub.enrolled
    assert first is not None
    with hub.agent.journal():
        assert tacit(["agent", "renew", "--dir", hub.path]) == 2
        told = "the keys are not those of the certificate; give the key of hospital "
        assert told in capsys.readouterr().err
        assert tacit(["agent", "renew", "--dir", hub.path, "--organisation-key", str(tmp_path / "absent")]) == 2
        assert tacit(["agent", "renew", "--dir", hub.path, "--organisation-key", file]) == 0
    assert "the certificate of north ends on" in capsys.readouterr().out
    assert hub.enrolled is not None and hub.enrolled.certificate.serial == first.certificate.serial + 1
    hub.link.stop()
    assert tacit(["agent", "renew", "--dir", hub.path, "--organisation-key", file]) == 1


def test_nobody_forgets_one_federation_by_enrolling_in_another(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    enrolled = hub.enrol()
    elsewhere = Invitation("https://127.0.0.1:9", bytes(32), "north", "", int(time.time()) + 60, bytes(32)).text()
    assert tacit(["agent", "enrol", "--dir", hub.path, "--token", elsewhere]) == 2
    assert "is a member of hospitals" in capsys.readouterr().err and hub.enrolled == enrolled
    # Of the same one it gets a new certificate.
    assert tacit(["agent", "enrol", "--dir", hub.path, "--token", hub.invitation(again=True)]) == 0
    assert hub.enrolled is not None and hub.enrolled.certificate.serial != enrolled.certificate.serial


def test_a_member_does_not_leave_while_its_agent_runs(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.enrol()
    with hub.agent.journal():
        assert tacit(["agent", "leave", "--dir", hub.path]) == 2
    error = capsys.readouterr().err
    assert "an agent is running here" in error and "stop it, then leave" in error
    assert hub.enrolled is not None and list(hub.link.names.values()) == ["north"]


def test_a_coordinator_that_is_away_is_not_left_unnoticed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.enrol()
    hub.link.stop()
    assert tacit(["agent", "leave", "--dir", hub.path]) == 1
    assert "north is still a member. Try again, or --offline" in capsys.readouterr().err
    assert hub.enrolled is not None
    assert tacit(["agent", "leave", "--offline", "--dir", hub.path]) == 0
    said = capsys.readouterr()
    assert "has left" in said.out and "ask its operator to revoke north" in said.err
    assert hub.enrolled is None and hub.kinds()[-1] == "left"
    [client] = hub.store.list_clients()
    assert client.state == "active"


def test_a_revoked_member_forgets_the_federation_too(hub: Hub) -> None:
    hub.enrol()
    hub.store.revoke_member("north")
    assert tacit(["agent", "leave", "--dir", hub.path]) == 0
    assert hub.enrolled is None
    details = json.loads(hub.agent.account_lines()[-1])["details"]
    assert details["coordinator"].startswith("not needed (revoked:")
    [client] = hub.store.list_clients()
    assert client.state == "revoked"
