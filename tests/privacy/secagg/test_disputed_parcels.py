"""Parcels that are exchanged, left out or false: what a member says then, and whom it convicts."""

from dataclasses import replace
from itertools import combinations

import pytest

from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg import disputes, keys
from tacit.privacy.secagg.blame import convicted, judge
from tacit.privacy.secagg.client import State
from tacit.privacy.secagg.messages import (
    BAD_CIPHERTEXT,
    BAD_SIGNATURE,
    Accusation,
    Delivery,
    parcel_body,
)
from tacit.privacy.secagg.progress import Phase


def test_swapping_two_members_ciphertexts(scene):
    here = scene(5).until(Phase.MASK)
    here.give_all()
    mine, other = (Delivery.decode(here.server.request(name)) for name in ("m0000", "m0001"))
    dealers = {parcel.member: parcel for parcel in other.parcels}
    swapped = tuple(dealers.get(parcel.member, parcel) for parcel in mine.parcels)
    reply = here.clients["m0000"].receive(replace(mine, parcels=swapped).encode())
    accusation = Accusation.decode(reply.message)
    assert accusation.kind == BAD_SIGNATURE and reply.vector is None
    assert here.clients["m0000"].state is State.ACCUSED
    # Two parcels for one holder, with the dealers exchanged.
    first, second, *rest = Delivery.decode(here.server.request("m0002")).parcels
    crossed = (second._replace(member=first.member), first._replace(member=second.member), *rest)
    delivery = replace(Delivery.decode(here.server.request("m0002")), parcels=crossed)
    assert Accusation.decode(here.clients["m0002"].receive(delivery.encode()).message).kind == BAD_SIGNATURE


def test_leaving_out_a_parcel(scene):
    here = scene(5).until(Phase.MASK)
    here.give_all()
    delivery = Delivery.decode(here.server.request("m0000"))
    here.refuses(here.clients["m0000"], replace(delivery, parcels=delivery.parcels[1:]).encode(), "missing-shares")


def test_one_false_dealer_makes_everybody_accuse_while_the_victims_input_is_on_its_way(scene):
    # Were the accusers to reveal their round keys, the coordinator would open what the victim dealt to all of them.
    here = scene(7, colluders=1).until(Phase.MASK)
    here.give_all()
    victim, dealer = 0, 6
    identity, members = here.loopback.members["m0006"], here.server._members()
    accusations = {}
    for holder in range(1, 6):
        body_of = parcel_body(members.transcript, dealer, holder, garbage := bytes(80))
        parcel = (
            here.server._state.shares[dealer]
            .by_holder[holder]
            ._replace(member=dealer, ciphertext=garbage, signature=identity.sign("tacit/secagg/1/parcel", body_of))
        )
        delivery = Delivery.decode(here.server.request(here.names[holder]))
        parcels = tuple(parcel if old.member == dealer else old for old in delivery.parcels)
        reply = here.clients[here.names[holder]].receive(replace(delivery, parcels=parcels).encode())
        accusations[holder] = Accusation.decode(reply.message)
        assert accusations[holder].kind == BAD_CIPHERTEXT
        assert judge(members, accusations[holder], parcel._replace(member=holder), here.loopback.verify) == dealer
    assert here.clients["m0000"].receive(here.server.request("m0000")).vector is not None
    opened = 0
    for holder, accusation in accusations.items():
        body = parcel_body(members.transcript, dealer, holder, bytes(80))
        keys_of = [members.adverts[at].encryption_key for at in (holder, dealer)]
        secret = disputes.revealed_secret(accusation.evidence, *keys_of, body)
        key = keys.share_key(secret, members.transcript, victim, holder)
        binding = keys.share_binding(members.transcript, victim, holder, members.threshold)
        ciphertext = here.server._state.shares[victim].by_holder[holder].ciphertext
        with pytest.raises(RemoteProtocolError, match="does not open"):
            keys.open_shares(key, binding, ciphertext)
        assert disputes.multiply(8, disputes.decompress(accusation.evidence[:32]))  # a point, and no key
        opened += 1
    assert opened == 5


def test_framing_an_honest_dealer_with_forged_evidence(scene):
    here = scene(5).until(Phase.MASK)
    members = here.server._members()
    dealer, accuser = 1, 3
    parcel = here.server._state.shares[dealer].by_holder[accuser]
    body = parcel_body(members.transcript, dealer, accuser, parcel.ciphertext)
    vault = here.clients["m0003"]._vault
    dealer_key = members.adverts[dealer].encryption_key
    true = disputes.reveal(bytes(vault._encryption_key), dealer_key, body, _stream())
    another_pair = disputes.reveal(bytes(vault._encryption_key), members.adverts[2].encryption_key, body, _stream())
    another_holder = disputes.reveal(b"x" * 32, dealer_key, body, _stream())
    for evidence in (true, another_pair, another_holder, bytes(96), true[:32] + true[64:] + true[32:64]):
        accusation = Accusation(members.transcript, accuser, dealer, BAD_CIPHERTEXT, evidence)
        assert judge(members, accusation, parcel, here.loopback.verify) == accuser
    bare = Accusation(members.transcript, accuser, dealer, BAD_SIGNATURE, b"")
    assert judge(members, bare, parcel, here.loopback.verify) == accuser


def _stream():
    return Keystream(b"q" * 32)


def test_framing_an_honest_member_by_charges_takes_more_than_all_colluders():
    victim, colluders = "victim", [f"colluder-{at}" for at in range(3)]
    framed = {(victim, colluder) for colluder in colluders} | {(colluder, victim) for colluder in colluders}
    assert convicted(framed, colluders=3) == frozenset()
    assert convicted(framed | {(victim, "another")}, colluders=3) == {victim}
    # A colluder that charges everybody is charged with everybody.
    assert convicted({(name, "colluder-0") for name in "abcd"}, colluders=3) == {"colluder-0"}
    for size in range(5):
        for pairs in combinations([("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")], size):
            assert convicted(pairs, colluders=2) == frozenset()
