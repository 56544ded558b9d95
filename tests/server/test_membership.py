"""What another process has changed in the store takes effect at the fleet port, once, and in the right order."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from tacit.models.enrolment import EnrolmentRequest, first_serial
from tacit.models.errors import InputError
from tacit.models.invitation import Invitation
from tacit.privacy.identity import Certificate, Identity
from tacit.server.enrolment import Registrar
from tacit.server.membership import Membership, invite
from tacit.server.store import Store, open_store

NOW = 1_773_500_000
LIFE = 30 * 86_400
REGISTRAR = Registrar("hospitals", Identity(bytes(32)), bytes(32), LIFE)


@dataclass
class Port:
    """A fleet port that notes what it is told, and refuses a name that it has."""

    told: list[tuple[str, str]] = field(default_factory=list)
    names: dict[bytes, str] = field(default_factory=dict)

    def admit(self, public_key: bytes, name: str) -> int:
        if name in self.names.values():
            raise InputError("another key has this name", where=name)
        self.names[public_key] = name
        self.told.append(("admit", name))
        return len(self.told)

    def revoke(self, public_key: bytes) -> None:
        self.told.append(("revoke", self.names.pop(public_key, "")))


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store("sqlite://", now=lambda: datetime.fromtimestamp(NOW, UTC)) as opened:
        yield opened


def enrolled(store: Store, name: str, number: int) -> Certificate:
    made = invite(store, url="https://a:1", ca_der=b"ca", name=name, expires_at=NOW + 60, actor="test")
    return Membership(store, REGISTRAR, lambda: NOW).enrol(request(made, number))


def request(invitation: Invitation, number: int) -> EnrolmentRequest:
    member = Identity(bytes([number]) * 32)
    draft = Certificate(
        client=invitation.name,
        organisation=invitation.name,
        subject_key=member.public_key,
        organisation_key=member.public_key,
        authority_key=REGISTRAR.authority.public_key,
        serial=first_serial(invitation.number),
        expires_at=NOW + LIFE,
    ).endorsed(member)
    return EnrolmentRequest.make(invitation.number, draft, member, invitation.identity)


def test_members_are_let_in_once(store: Store) -> None:
    enrolled(store, "north", 1)
    membership, port = Membership(store, REGISTRAR, lambda: NOW), Port()
    membership.bring(port)
    enrolled(store, "south", 2)
    for _ in range(3):
        membership.bring(port)
    assert port.told == [("admit", "north"), ("admit", "south")]


def test_a_revoked_member_leaves_before_somebody_new_gets_its_name(store: Store) -> None:
    enrolled(store, "north", 1)
    membership, port = Membership(store, REGISTRAR, lambda: NOW), Port()
    membership.bring(port)
    store.revoke_member("north")
    enrolled(store, "north", 2)
    for _ in range(2):
        membership.bring(port)
    assert port.told == [("admit", "north"), ("revoke", "north"), ("admit", "north")]
    assert list(port.names) == [Identity(bytes([2]) * 32).public_key]


def test_a_member_that_was_revoked_before_the_start_is_told_to_the_port_too(store: Store) -> None:
    enrolled(store, "north", 1)
    store.revoke_member("north")
    port = Port()
    Membership(store, REGISTRAR, lambda: NOW).bring(port)
    assert port.told == [("revoke", "")]


def test_a_certificate_that_has_ended_opens_no_door_and_closes_none_for_ever(store: Store) -> None:
    certificate = enrolled(store, "north", 1)
    port = Port()
    late = Membership(store, REGISTRAR, lambda: NOW + LIFE)
    late.bring(port)
    assert port.told == [] and late.taking_part() == {}
    refusal = late.refusal(certificate.subject_key)
    assert refusal is not None and refusal.word == "expired"


def test_what_cannot_be_let_in_is_not_the_end_of_the_others(store: Store) -> None:
    enrolled(store, "north", 1)
    enrolled(store, "south", 2)
    membership, port = Membership(store, REGISTRAR, lambda: NOW), Port(names={b"x" * 32: "north"})
    membership.bring(port)
    assert port.told == [("admit", "south")]


def test_an_invitation_ends_when_it_says_and_is_kept_without_its_secret(store: Store) -> None:
    made = invite(store, url="https://a:1", ca_der=b"ca", name="north", expires_at=NOW + 60, actor="ada")
    [kept] = store.list_invitations()
    assert kept.expires_at == datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=60)
    assert kept.proof_key == made.identity.public_key != made.secret
    assert store.audit()[0].actor == "ada"
