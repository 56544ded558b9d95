"""A coordinator that chooses its members: invented ones, too many of one house, or too few honest ones."""

from dataclasses import replace

import numpy as np
import pytest

from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Identity, Pins
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg.client import State
from tacit.privacy.secagg.messages import (
    Roster,
)
from tacit.privacy.secagg.policy import MemoryJournal
from tacit.privacy.secagg.progress import Phase


def pinned(here, owners, cap, **floors):
    """A policy change: pin these organisations, with a cap."""
    organisations = [here.loopback.certificates[name].organisation_key for name in owners]
    return replace(here.loopback.policy(), pins=Pins(frozenset(organisations), cap), **floors)


def test_sybils_fill_the_cohort_around_one_victim(scene):
    # Nobody pins: the coordinator mints the other five, and what they did not send is the victim's.
    here = scene(6, organisations=2)
    assert here.run() is Phase.DONE
    total = here.server.result().integers
    sybils = sum(here.plain(name) for name in here.names[1:])
    np.testing.assert_array_equal(total - sybils, here.plain("m0000"))
    # That is why the statement without pins says so.
    client = here.clients["m0000"]
    assert client._policy.adversary(here.offer) == "honest-but-curious coordinator"
    # The victim pins its own organisation: of the six, three are of the other one.
    here = scene(6, organisations=2, colluders=2)
    policy = pinned(here, ["m0000"], cap=6)
    assert policy.adversary(here.offer) == "malicious coordinator"
    here.clients["m0000"] = here.client("m0000", policy=policy)
    here.until(Phase.SHARE)
    error = here.refuses(here.clients["m0000"], here.server.request("m0000"), "too-many-strangers")
    assert "3 members do not count" in error.detail
    assert here.clients["m0000"].state is State.ABORTED


def test_one_pinned_organisation_cannot_fill_a_cohort_either(scene):
    here = scene(6, organisations=2, colluders=2)
    here.clients["m0000"] = here.client("m0000", policy=pinned(here, ["m0000", "m0001"], cap=1))
    here.until(Phase.SHARE)
    error = here.refuses(here.clients["m0000"], here.server.request("m0000"), "too-many-strangers")
    assert "4 members do not count" in error.detail
    here = scene(6, organisations=2, colluders=2, min_cohort=3)
    here.clients["m0000"] = here.client("m0000", policy=pinned(here, ["m0000", "m0001"], cap=1))
    here.until(Phase.SHARE)
    error = here.refuses(here.clients["m0000"], here.server.request("m0000"), "too-few-members")
    assert "2 members count, at least 3" in error.detail


def test_pinned_members_are_counted_in_every_set_and_not_only_in_the_first(scene):
    # Ten members of which two are strangers, as many as the colluders; the coordinator drops pinned ones later.
    here = scene(10, organisations=5, colluders=2, dropout=0.1)
    policy = pinned(here, ["m0000", "m0001", "m0002", "m0003"], cap=2)
    here.clients["m0000"] = here.client("m0000", policy=policy)
    here.exchange()
    with pytest.raises(RemoteProtocolError, match="too-few-members: 8 members count, at least 9"):
        here.until(Phase.MASK)
        here.give_all()
        here.clients["m0000"].receive(here.server.request("m0000"))


def test_pinned_members_are_enough_when_they_are(scene):
    here = scene(10, organisations=5, colluders=2, dropout=0.1, min_cohort=2)
    for name in here.names:
        here.clients[name] = here.client(name, policy=pinned(here, here.names[:5], cap=2, max_colluders=2))
    gone = here.names[4]
    assert here.run(lambda phase, name: name == gone and phase is Phase.MASK) is Phase.DONE
    assert here.clients["m0000"].survivors_that_count == 9


def test_a_certificate_without_the_organisations_own_signature_is_refused(scene):
    # The coordinator runs the authority, and names the victim's organisation without asking it.
    here = scene(5)
    fake_owner = Identity.generate(SeededRandomness(b"f" * 32), "fake")
    true = here.loopback.certificates["m0004"]
    minted = replace(true, subject_key=here.loopback.members["m0004"].public_key).endorsed(fake_owner)
    minted = minted.certified(here.loopback.authority)
    here.clients["m0004"]._certificate = minted
    with pytest.raises(RemoteProtocolError, match="not signed by the organisation"):
        reply = here.clients["m0004"].receive(here.server.request("m0004"))
        here.server.receive("m0004", reply.message)
    # A coordinator that does not check it gets it past nobody else.
    adverts = [here.clients[name].receive(here.signed(here.offer)).message for name in here.names]
    roster = Roster(tuple(adverts)).encode()
    for name in here.names[:4]:
        here.refuses(here.clients[name], roster, "bad-certificate")


def test_ignoring_honest_members_at_advertise_time(scene):
    # Of ten, two collude; the coordinator takes the victim's keys, the colluders', and nobody else's.
    here = scene(10, colluders=2, dropout=0.2)
    adverts = {name: here.clients[name].receive(here.signed(here.offer)).message for name in here.names}
    for members in (["m0000", "m0008", "m0009"], here.names[:7]):
        here.clients["m0000"] = here.client("m0000", journal=MemoryJournal())
        assert here.clients["m0000"].receive(here.signed(here.offer)).message == adverts["m0000"]
        roster = Roster(tuple(adverts[name] for name in members)).encode()
        here.refuses(here.clients["m0000"], roster, "roster-size")
    # Eight of ten is what the offer promised: at most two drop out and two collude, so four honest others remain.
    here.clients["m0000"] = here.client("m0000", journal=MemoryJournal())
    here.clients["m0000"].receive(here.signed(here.offer))
    here.clients["m0000"].receive(Roster(tuple(adverts[name] for name in here.names[:8])).encode())
