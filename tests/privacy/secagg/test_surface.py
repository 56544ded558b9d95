"""Calls out of order, and rosters that hang together badly: each is refused by name, and nothing changes."""

from dataclasses import replace

import numpy as np
import pytest

from tacit.privacy.codec import NO_DIGEST, Message, SignedMessage
from tacit.privacy.errors import LocalProtocolError, PrivacyError, RemoteProtocolError
from tacit.privacy.secagg.client import State
from tacit.privacy.secagg.elided import ElidedRound
from tacit.privacy.secagg.messages import Advertise, Reply, Roster
from tacit.privacy.secagg.policy import Policy
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.roster import Membership
from tacit.privacy.secagg.server import ServerRound


@pytest.fixture
def adverts(scene):
    here = scene(6, dropout=0.17)
    return here, [here.clients[name].receive(here.signed(here.offer)).message for name in here.names]


def changed(here, adverts, at, **changes):
    message = replace(Advertise.decode(adverts[at]), **changes).signed(here.loopback.members[here.names[at]])
    return [*adverts[:at], message.encode(), *adverts[at + 1 :]]


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (lambda here, adverts: adverts[::-1], "roster-order"),
        (lambda here, adverts: [adverts[0], *adverts[:-1]], "roster-order"),
        (lambda here, adverts: adverts[:4], "roster-size"),
        (lambda here, adverts: [*adverts, adverts[-1]], "roster-size"),
        (lambda here, adverts: [*adverts[:5], adverts[5][:-1]], "truncated"),
        (lambda here, adverts: [*adverts[:5], b""], "truncated"),
        (
            lambda here, adverts: changed(here, adverts, 3, masking_key=Advertise.decode(adverts[2]).masking_key),
            "repeated-key",
        ),
        (
            lambda here, adverts: changed(
                here, adverts, 3, seed_commitment=Advertise.decode(adverts[2]).seed_commitment
            ),
            "repeated-key",
        ),
        (lambda here, adverts: changed(here, adverts, 3, encryption_key=b"\xff" * 32), "malformed"),
        (lambda here, adverts: changed(here, adverts, 3, offer_digest=NO_DIGEST), "other-offer"),
    ],
)
def test_a_roster_that_does_not_hang_together_ends_the_members_part(adverts, arrange, reason):
    here, messages = adverts
    with pytest.raises(RemoteProtocolError) as caught:
        here.clients["m0000"].receive(Roster(tuple(arrange(here, messages))).encode())
    assert caught.value.reason == reason
    assert here.clients["m0000"].state is State.ABORTED


def test_a_roster_without_our_own_words_ends_our_part(adverts):
    here, messages = adverts
    for roster in (messages[1:], changed(here, messages, 0, seed_commitment=b"x" * 32)):
        client = here.client("m0000", journal=type(here.journals["m0000"])())
        assert client.receive(here.signed(here.offer)).message == messages[0]
        with pytest.raises(RemoteProtocolError, match="roster-without-us"):
            client.receive(Roster(tuple(roster)).encode())


def test_one_key_for_two_purposes_cannot_be_advertised(adverts):
    here, messages = adverts
    advert = Advertise.decode(messages[0])
    with pytest.raises(ValueError, match="two purposes"):
        replace(advert, masking_key=advert.encryption_key)
    membership = Membership.of(here.offer, Roster(tuple(messages)))
    assert membership.name(0) == "m0000" and len(membership) == 6 and membership.threshold == 4


def test_a_member_with_another_ones_certificate_is_not_even_made(scene):
    here = scene(5)
    from tacit.privacy.secagg.client import ClientRound

    with pytest.raises(LocalProtocolError, match="another key"):
        ClientRound(
            here.loopback.members["m0000"],
            here.loopback.certificates["m0001"],
            here.loopback.policy(),
            here.journals["m0000"],
            here.loopback.randomness,
            model_digest=NO_DIGEST,
            now=0,
        )


def test_a_member_has_no_offer_and_no_survivors_before_there_are_any(scene):
    here = scene(5)
    client = here.clients["m0000"]
    with pytest.raises(LocalProtocolError, match="no offer"):
        _ = client.offer
    assert client.survivors == () and client.survivors_that_count == 0
    here.exchange()
    assert client.offer.digest == here.offer.digest


def test_a_policy_that_asks_for_no_company_is_refused(scene):
    key = bytes(32)
    for wrong in ({"min_cohort": 1}, {"max_colluders": -1}):
        with pytest.raises(ValueError, match="at least 2 members"):
            Policy(key, frozenset({key}), **wrong)
    with pytest.raises(ValueError, match="32"):
        Policy(b"short", frozenset({key}))
    assert Policy(key, frozenset({key})).min_cohort == 5


def test_an_offer_goes_to_as_many_distinct_clients_as_it_says(scene):
    here = scene(5)
    for clients in (here.names[:4], [*here.names[:4], here.names[0]]):
        with pytest.raises(LocalProtocolError, match="5 distinct clients"):
            ServerRound(here.offer, here.loopback.coordinator, clients, authority_keys=frozenset(), now=0)


def test_only_those_that_are_asked_have_a_request(scene):
    here = scene(6, dropout=0.17).until(Phase.MASK, lambda phase, name: phase is Phase.SHARE and name == "m0003")
    assert here.server.waiting == set(here.names) - {"m0003"}
    with pytest.raises(LocalProtocolError, match="m0003 is not asked"):
        here.server.request("m0003")
    with pytest.raises(LocalProtocolError, match="not asked"):
        here.server.request("nobody")


def test_an_attempt_that_is_over_stays_so(scene):
    here = scene(5)
    here.server.abort("for a reason")
    assert here.server.phase is Phase.ABORTED and here.server.abort_reason == "for a reason"
    assert here.server.requests() == {} and here.server.survivors == () and not here.server.contributed
    for call in (here.server.close_phase, here.server.result, lambda: here.server.abort("again")):
        with pytest.raises(LocalProtocolError, match=r"aborted|no sum"):
            call()
    done = scene(5)
    done.run()
    for call in (done.server.close_phase, lambda: done.server.abort("late")):
        with pytest.raises(LocalProtocolError, match="done"):
            call()
    assert done.server.result().survivors == tuple(done.names)


@pytest.mark.parametrize("answering", [2, 5])
def test_an_aborted_attempt_comes_back_from_its_snapshot_as_aborted(scene, answering):
    here = scene(5)
    here.exchange(lambda phase, name: int(name[1:]) >= answering)
    if here.server.phase is not Phase.ABORTED:
        here.server.abort("deadline")
    restored = ServerRound.restore(here.server.snapshot(), here.loopback.coordinator, authority_keys=frozenset(), now=0)
    assert restored.phase is Phase.ABORTED and restored.abort_reason == here.server.abort_reason
    assert restored.waiting == frozenset()
    with pytest.raises(RemoteProtocolError):
        ServerRound.restore(b"no snapshot", here.loopback.coordinator, authority_keys=frozenset(), now=0)


def test_a_round_says_where_it_is_and_nothing_else(scene):
    here = scene(5)
    assert repr(here.server) == "ServerRound(run, round 0, ADVERTISE)"
    here.exchange()
    with pytest.raises(LocalProtocolError, match="no sum"):
        here.server.result()


def test_an_elided_round_refuses_other_shapes(scene):
    elided = ElidedRound(scene(5).plan(mode="elided"))
    for integers in (np.zeros(5, int), np.zeros(6), np.zeros(6, np.uint32)):
        with pytest.raises(LocalProtocolError, match="6 signed integers"):
            elided.contribute_integers("m0000", integers)


def test_a_message_says_nothing_of_its_own():
    with pytest.raises(NotImplementedError):
        Message.read(None)
    with pytest.raises(NotImplementedError):
        Message().write(None)
    with pytest.raises(NotImplementedError):
        SignedMessage().write_body(None)
    assert Reply(b"x").vector is None
    assert issubclass(RemoteProtocolError, PrivacyError)
