"""What another process has changed in the store takes effect at the fleet port, once, and in the right order."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from tacit.models.enrolment import EnrolmentRequest, LeaveRequest, first_serial
from tacit.models.errors import InputError
from tacit.models.invitation import Invitation
from tacit.privacy.identity import Certificate, Identity
from tacit.server.enrolment import EnrolmentRefused, Registrar
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

    def dismiss(self, public_key: bytes) -> None:
        self.told.append(("dismiss", self.names.pop(public_key)))

    def revoke(self, public_key: bytes) -> None:
        self.told.append(("revoke", self.names.pop(public_key, "")))


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store("sqlite://", now=lambda: datetime.fromtimestamp(NOW, UTC)) as opened:
        yield opened


def enrolled(store: Store, name: str, number: int) -> Certificate:
    made = invite(store, url="https://a:1", ca_der=b"ca", name=name, expires_at=NOW + 60, actor="test")
    return Membership(store, REGISTRAR, lambda: NOW).enrol(request(made, number))


def request(invitation: Invitation, number: int, now: int = NOW) -> EnrolmentRequest:
    member = Identity(bytes([number]) * 32)
    draft = Certificate(
        client=invitation.name,
        organisation=invitation.name,
        subject_key=member.public_key,
        organisation_key=member.public_key,
        authority_key=REGISTRAR.authority.public_key,
        serial=first_serial(invitation.number),
        expires_at=now + LIFE,
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


def test_a_name_is_nobodys_while_it_changes_hands(store: Store) -> None:
    first = enrolled(store, "north", 1)
    membership = Membership(store, REGISTRAR, lambda: NOW)
    seen: list[bytes | None] = []

    class Watched(Port):
        def admit(self, public_key: bytes, name: str) -> int:
            seen.append(membership.holder(name))
            return super().admit(public_key, name)

    port = Watched()
    membership.bring(port)
    assert membership.holder("north") == first.subject_key and membership.holder("south") is None
    membership.leave(leaving(first))
    second = enrolled(store, "north", 2)
    membership.bring(port)
    assert membership.holder("north") == second.subject_key and seen == [None, None]
    store.revoke_member("north")
    membership.bring(port)
    assert membership.holder("north") is None


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


def leaving(certificate: Certificate, number: int = 1) -> LeaveRequest:
    return LeaveRequest(certificate.subject_key, certificate.serial).signed(Identity(bytes([number]) * 32))


def test_a_member_that_leaves_is_dismissed_and_comes_back_with_an_invitation_under_whatever_name(store: Store) -> None:
    certificate = enrolled(store, "north", 1)
    membership, port = Membership(store, REGISTRAR, lambda: NOW), Port()
    membership.bring(port)
    for _ in range(2):
        membership.leave(leaving(certificate))  # a second time nothing happens
        membership.bring(port)
    refusal = membership.refusal(certificate.subject_key)
    assert refusal is not None and refusal.word == "left" and membership.taking_part() == {}
    enrolled(store, "ward", 1)
    membership.bring(port)
    assert port.told == [("admit", "north"), ("dismiss", "north"), ("admit", "ward")]
    assert membership.refusal(certificate.subject_key) is None


def test_a_member_that_left_and_came_back_between_two_looks_has_its_new_name(store: Store) -> None:
    certificate = enrolled(store, "north", 1)
    membership, port = Membership(store, REGISTRAR, lambda: NOW), Port()
    membership.bring(port)
    membership.leave(leaving(certificate))
    enrolled(store, "ward", 1)
    membership.bring(port)
    assert port.told == [("admit", "north"), ("dismiss", "north"), ("admit", "ward")]


def test_a_copy_of_an_old_request_makes_nobody_leave(store: Store) -> None:
    certificate = enrolled(store, "north", 1)
    membership = Membership(store, REGISTRAR, lambda: NOW)
    membership.leave(leaving(certificate))
    enrolled(store, "north", 1)
    with pytest.raises(EnrolmentRefused, match="wrong-certificate"):
        membership.leave(leaving(certificate))
    assert "north" in membership.taking_part()


def test_only_the_member_itself_leaves(store: Store) -> None:
    certificate = enrolled(store, "north", 1)
    membership = Membership(store, REGISTRAR, lambda: NOW)
    with pytest.raises(EnrolmentRefused, match="forged"):
        membership.leave(leaving(certificate, number=2))
    with pytest.raises(EnrolmentRefused, match="not-a-member"):
        membership.leave(LeaveRequest(Identity(b"x" * 32).public_key, 1).signed(Identity(b"x" * 32)))
    store.revoke_member("north")
    with pytest.raises(EnrolmentRefused, match="revoked"):
        membership.leave(leaving(certificate))


def test_a_member_whose_certificate_has_ended_is_let_in_again_with_its_key_and_a_new_invitation(store: Store) -> None:
    old = enrolled(store, "north", 1)
    late = Membership(store, REGISTRAR, lambda: NOW + LIFE)
    assert late.taking_part() == {}
    made = invite(
        store, url="https://a:1", ca_der=b"ca", name="north", expires_at=NOW + 2 * LIFE, again=True, actor="test"
    )
    with pytest.raises(EnrolmentRefused, match="name-taken"):
        late.enrol(request(made, 2, NOW + LIFE))
    renewed = late.enrol(request(made, 1, NOW + LIFE))
    assert renewed.subject_key == old.subject_key and late.taking_part() == {"north": renewed}
    assert late.enrol(request(made, 1, NOW + LIFE)) == renewed, "its reply may have been lost"


def test_a_member_that_lost_its_way_gets_a_new_certificate_with_its_key_if_it_is_invited_again(store: Store) -> None:
    """As when it was away while the authority for TLS changed."""
    old = enrolled(store, "north", 1)
    enrolled(store, "south", 2)
    membership = Membership(store, REGISTRAR, lambda: NOW)
    with pytest.raises(InputError, match="is a client already"):
        enrolled(store, "north", 1)
    made = invite(store, url="https://a:1", ca_der=b"ca", name="north", expires_at=NOW + 60, again=True, actor="test")
    with pytest.raises(EnrolmentRefused, match="key-known"):  # somebody else's key under its name
        membership.enrol(request(made, 2))
    new = membership.enrol(request(made, 1))
    assert (new.subject_key, new.client) == (old.subject_key, "north") and new.serial != old.serial
    assert membership.taking_part()["north"] == new


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
