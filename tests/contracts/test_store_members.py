"""An invitation is used once, a name is one client's at a time, a key one client's for ever, on every database."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tacit.models.errors import InputError
from tacit.server.store import (
    ClientRecord,
    EnrolmentConflict,
    InvitationRecord,
    NewClient,
    NewInvitation,
    Store,
    open_store,
)
from tacit.server.store.departures import FRESH_SECONDS
from tacit.server.store.tables import ClientRow

from .conftest import START

NORTH = NewInvitation("a" * 32, "north", "", None, b"p" * 32, START + timedelta(days=1))
CLIENT = NewClient(b"k" * 32, "north", "north", b"k" * 32, b"certificate 1")


def actions(store: Store) -> list[tuple[str, str, str]]:
    return [(entry.actor, entry.action, entry.subject) for entry in reversed(store.audit())]


def test_an_invitation_comes_back_as_it_was_made(store: Store) -> None:
    signed = replace(NORTH, organisation="hospital", organisation_key=b"o" * 32)
    made = store.invite(signed, actor="ada")
    assert made == store.invitation(signed.invitation) == store.list_invitations()[0]
    assert isinstance(made, InvitationRecord)
    assert (made.organisation, made.organisation_key, made.expires_at) == ("hospital", b"o" * 32, signed.expires_at)
    assert (made.used_at, made.used_by, made.revoked_at) == (None, None, None)
    assert actions(store) == [("ada", "invitation.create", "north")]


def test_an_unknown_invitation_and_an_unknown_key_are_nobodys(store: Store) -> None:
    assert store.invitation("b" * 32) is None
    assert store.client(b"x" * 32) is None
    assert store.list_clients() == [] == store.list_invitations()


def test_who_enrols_is_a_client_from_then_on_and_the_invitation_is_used(store: Store) -> None:
    store.invite(NORTH)
    client = store.enrol_client(NORTH.invitation, CLIENT)
    assert client == store.client(CLIENT.public_key) == store.list_clients()[0]
    assert isinstance(client, ClientRecord)
    assert (client.state, client.certificate, client.revoked_at) == ("active", b"certificate 1", None)
    used = store.invitation(NORTH.invitation)
    assert used is not None and (used.used_at, used.used_by) == (client.enrolled_at, CLIENT.public_key)
    assert [action for _, action, _ in actions(store)] == ["invitation.create", "client.enrol"]


def test_an_invitation_is_used_once(store: Store) -> None:
    store.invite(NORTH)
    store.enrol_client(NORTH.invitation, CLIENT)
    with pytest.raises(EnrolmentConflict):
        store.enrol_client(NORTH.invitation, replace(CLIENT, public_key=b"l" * 32))
    assert [client.public_key for client in store.list_clients()] == [CLIENT.public_key]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda store: store.revoke_member("north"),
        lambda store: store.invite(replace(NORTH, invitation="b" * 32)),
    ],
    ids=["revoked", "invited again"],
)
def test_an_invitation_that_was_voided_enrols_nobody(store: Store, spoil: Callable[[Store], object]) -> None:
    store.invite(NORTH)
    spoil(store)
    with pytest.raises(EnrolmentConflict):
        store.enrol_client(NORTH.invitation, CLIENT)
    assert store.list_clients() == []


def test_an_invitation_enrols_nobody_after_its_expiry_under_another_name_or_if_it_never_was(store: Store) -> None:
    store.invite(replace(NORTH, expires_at=START + timedelta(seconds=1)))  # the clock ticks once a transaction
    store.invite(replace(NORTH, invitation="b" * 32, name="south"))
    for invitation in (NORTH.invitation, "b" * 32, "c" * 32):
        with pytest.raises(EnrolmentConflict):
            store.enrol_client(invitation, CLIENT)
    assert store.list_clients() == []


def test_nobody_is_invited_under_the_name_of_a_client(store: Store) -> None:
    store.invite(NORTH)
    store.enrol_client(NORTH.invitation, CLIENT)
    with pytest.raises(InputError, match="client north: is a client already"):
        store.invite(replace(NORTH, invitation="b" * 32))
    assert len(store.list_invitations()) == 1


def test_a_key_is_enrolled_once_and_a_conflict_leaves_the_invitation_open(store: Store) -> None:
    store.invite(NORTH)
    store.enrol_client(NORTH.invitation, CLIENT)
    store.invite(replace(NORTH, invitation="b" * 32, name="south"))
    with pytest.raises(EnrolmentConflict):
        store.enrol_client("b" * 32, replace(CLIENT, name="south"))
    store.revoke_member("north")
    with pytest.raises(EnrolmentConflict):
        store.enrol_client("b" * 32, replace(CLIENT, name="south"))
    open_still = store.invitation("b" * 32)
    assert open_still is not None and open_still.used_at is None
    store.enrol_client("b" * 32, replace(CLIENT, name="south", public_key=b"l" * 32))


def test_the_name_of_a_revoked_client_can_go_to_a_new_key_and_the_old_one_stays_revoked(store: Store) -> None:
    store.invite(NORTH)
    store.enrol_client(NORTH.invitation, CLIENT)
    client, invitations = store.revoke_member("north", "lost its disk", actor="ada")
    assert client is not None and invitations == []
    assert (client.state, client.reason) == ("revoked", "lost its disk") and client.revoked_at is not None
    store.invite(replace(NORTH, invitation="b" * 32))
    store.enrol_client("b" * 32, replace(CLIENT, public_key=b"l" * 32))
    assert [(one.public_key, one.state) for one in store.list_clients()] == [
        (CLIENT.public_key, "revoked"),
        (b"l" * 32, "active"),
    ]
    assert ("ada", "client.revoke", "north") in actions(store)


def test_revoking_voids_what_is_open(store: Store) -> None:
    store.invite(NORTH)
    client, [invitation] = store.revoke_member("north")
    assert client is None and invitation.invitation == NORTH.invitation and invitation.revoked_at is not None


@pytest.mark.parametrize("name", ["north", "", "nul \0", "half \ud800"])
def test_nobody_is_revoked_who_is_not_there(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="nobody of this name"):
        store.revoke_member(name)
    assert store.audit() == []


def enrolled(store: Store) -> None:
    store.invite(NORTH)
    store.enrol_client(NORTH.invitation, CLIENT)


def test_who_has_left_comes_back_with_a_new_invitation_and_not_without(store: Store) -> None:
    enrolled(store)
    left = store.leave_client(CLIENT.public_key, instead_of=CLIENT.certificate)
    assert (left.state, left.certificate) == ("left", CLIENT.certificate) and left.revoked_at is not None
    assert actions(store)[-1] == ("north", "client.leave", "north")
    for refused in (
        lambda: store.leave_client(CLIENT.public_key, instead_of=CLIENT.certificate),
        lambda: store.renew_client(CLIENT.public_key, b"certificate 2", instead_of=CLIENT.certificate),
        lambda: store.enrol_client(NORTH.invitation, CLIENT),
    ):
        with pytest.raises(EnrolmentConflict):
            refused()
    store.invite(replace(NORTH, invitation="b" * 32, name="north-2"))
    back = store.enrol_client("b" * 32, replace(CLIENT, name="north-2", certificate=b"certificate 2"))
    assert (back.state, back.name, back.certificate, back.revoked_at) == ("active", "north-2", b"certificate 2", None)
    assert store.list_clients() == [back]


def test_the_name_of_who_has_left_can_go_to_another_key(store: Store) -> None:
    enrolled(store)
    store.leave_client(CLIENT.public_key, instead_of=CLIENT.certificate)
    store.invite(replace(NORTH, invitation="b" * 32))
    store.enrol_client("b" * 32, replace(CLIENT, public_key=b"l" * 32))
    store.invite(replace(NORTH, invitation="c" * 32), again=True)
    with pytest.raises(EnrolmentConflict):  # two keys, one name
        store.enrol_client("c" * 32, CLIENT)


def test_only_a_certificate_that_is_still_the_clients_is_left_with(store: Store) -> None:
    enrolled(store)
    store.renew_client(CLIENT.public_key, b"certificate 2", instead_of=b"certificate 1")
    for key, certificate in ((CLIENT.public_key, b"certificate 1"), (b"x" * 32, b"certificate 2")):
        with pytest.raises(EnrolmentConflict):
            store.leave_client(key, instead_of=certificate)
    assert [one.state for one in store.list_clients()] == ["active"]


def test_a_client_is_invited_again_only_on_purpose_and_only_if_it_is_there(store: Store) -> None:
    with pytest.raises(InputError, match="is no client"):
        store.invite(NORTH, again=True)
    enrolled(store)
    store.invite(replace(NORTH, invitation="b" * 32), again=True)
    again = store.enrol_client("b" * 32, replace(CLIENT, certificate=b"certificate 2"))
    assert store.list_clients() == [again] and again.certificate == b"certificate 2"


def test_who_takes_part_no_longer_is_known_by_key(store: Store) -> None:
    enrolled(store)
    store.invite(replace(NORTH, invitation="b" * 32, name="south"))
    store.enrol_client("b" * 32, replace(CLIENT, name="south", public_key=b"l" * 32))
    looks = count()
    departures = store.departures(clock=lambda: next(looks) * FRESH_SECONDS)
    assert departures() == {}
    store.revoke_member("south")
    store.leave_client(CLIENT.public_key, instead_of=CLIENT.certificate)
    assert departures() == {CLIENT.public_key: "left", b"l" * 32: "revoked"}
    departures.close()


def test_a_change_is_seen_whoever_made_it_and_asked_about_again_only_after_it(shared_url: str) -> None:
    now = 0
    with open_store(shared_url) as ours, open_store(shared_url) as theirs:
        departures = ours.departures(clock=lambda: now * FRESH_SECONDS)
        assert departures() == {}, "nothing was looked at yet"
        for store in (ours, theirs, theirs):
            now += 1
            store.append_audit("ada", "test", "subject")
            assert departures() == {}
            assert departures() is None
        if shared_url.startswith("sqlite"):
            now += 1
            assert departures() is None
        departures.close()
        assert departures() == {}
        departures.close()


def test_a_certificate_is_replaced_only_if_it_is_the_one_that_was_read(store: Store) -> None:
    store.invite(NORTH)
    store.enrol_client(NORTH.invitation, CLIENT)
    renewed = store.renew_client(CLIENT.public_key, b"certificate 2", instead_of=b"certificate 1")
    assert (renewed.certificate, renewed.state) == (b"certificate 2", "active") and renewed.renewed_at is not None
    for key, expected in ((CLIENT.public_key, b"certificate 1"), (b"x" * 32, b"certificate 2")):
        with pytest.raises(EnrolmentConflict):
            store.renew_client(key, b"certificate 3", instead_of=expected)
    store.revoke_member("north")
    with pytest.raises(EnrolmentConflict):
        store.renew_client(CLIENT.public_key, b"certificate 3", instead_of=b"certificate 2")
    found = store.client(CLIENT.public_key)
    assert found is not None and found.certificate == b"certificate 2"


def test_the_database_itself_refuses_a_second_active_client_of_a_name(store: Store) -> None:
    store.invite(NORTH)
    record = store.enrol_client(NORTH.invitation, CLIENT)
    with pytest.raises(IntegrityError), Session(store._engine) as session, session.begin():
        session.add(
            ClientRow(
                public_key=b"l" * 32,
                name="north",
                organisation="north",
                organisation_key=b"l" * 32,
                certificate=b"forged",
                state="active",
                reason="",
                enrolled_at=record.enrolled_at,
            )
        )


def test_of_many_who_use_an_invitation_at_once_one_is_enrolled(shared_url: str) -> None:
    with open_store(shared_url, now=lambda: START) as store:
        store.invite(NORTH)
        outcomes: list[bool] = []
        barrier = threading.Barrier(8)

        def enrol(number: int) -> None:
            key = bytes([number]) * 32
            barrier.wait()
            try:
                store.enrol_client(NORTH.invitation, replace(CLIENT, public_key=key, organisation_key=key))
            except EnrolmentConflict:
                outcomes.append(False)
            else:
                outcomes.append(True)

        threads = [threading.Thread(target=enrol, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [False] * 7 + [True]
        [client] = store.list_clients()
        used = store.invitation(NORTH.invitation)
        assert used is not None and used.used_by == client.public_key
