"""What members can send: each is dropped with the reason, and the round of the others comes to its end."""

from dataclasses import replace

import numpy as np
import pytest

from tacit.privacy.errors import LocalProtocolError, RemoteProtocolError
from tacit.privacy.identity import Certificate, Identity
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg import disputes, keys
from tacit.privacy.secagg.blame import convicted
from tacit.privacy.secagg.client import State
from tacit.privacy.secagg.keys import element_bytes
from tacit.privacy.secagg.messages import PARCEL_LABEL, Advertise, MaskedInput, Parcel, Shares, parcel_body
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.shamir import PRIME
from tacit.privacy.secagg.unmasking import SurvivorSignature, UnmaskShares

EVIL = "m0002"
ORDER = (Phase.ADVERTISE, Phase.SHARE, Phase.MASK, Phase.SIGN, Phase.UNMASK)


def dropped_for(here, message, reason, vector=None):
    """The coordinator refuses it, records why, and the round ends without that member's further part."""
    with pytest.raises(RemoteProtocolError) as caught:
        here.server.receive(EVIL, message, vector)
    assert caught.value.reason == reason
    assert here.server.dropped[EVIL].startswith(reason)
    with pytest.raises(RemoteProtocolError, match="dropped"):
        here.server.receive(EVIL, b"anything", None)
    phase = here.server.phase
    assert here.run(lambda _, name: name == EVIL) is Phase.DONE
    here.assert_sum_over(set(here.names) - {EVIL} if phase.value <= Phase.MASK.value else here.names)


def at(scene, phase):
    """Six members, one of which may drop out, and the evil one's honest answer in this phase."""
    here = scene(6, dropout=0.17).until(phase)
    if phase is Phase.MASK:
        here.give(EVIL)
    return here, here.clients[EVIL].receive(here.server.request(EVIL))


def resigned(here, message):
    return message.signed(here.loopback.members[EVIL]).encode()


@pytest.mark.parametrize("phase", ORDER)
@pytest.mark.parametrize("how", ["empty", "truncated", "longer", "oversized", "noise", "other-kind", "own-kind-noise"])
def test_a_malformed_message_costs_its_sender_and_nobody_else(scene, phase, how):
    here, reply = at(scene, phase)
    message = reply.message
    bad, reasons = {
        "empty": (b"", {"unexpected-message"}),
        "truncated": (message[:-1], {"truncated", "malformed"}),
        "longer": (message + b"\0", {"malformed", "oversized"}),
        "oversized": (message + bytes(2_000_000), {"oversized"}),
        "noise": (bytes(range(200, 250)), {"unexpected-message"}),
        "other-kind": (here.server.offer.encode(), {"unexpected-message"}),
        "own-kind-noise": (
            message[:1] + b"\xff" * 100,
            {"truncated", "malformed", "oversized", "bad-signature", "wrong-sender"},
        ),
    }[how]
    with pytest.raises(RemoteProtocolError) as caught:
        here.server.receive(EVIL, bad, reply.vector)
    assert caught.value.reason in reasons
    assert here.run(lambda _, name: name == EVIL) is Phase.DONE
    here.assert_sum_over(set(here.names) - {EVIL} if phase.value <= Phase.MASK.value else here.names)


@pytest.mark.parametrize("phase", ORDER)
def test_another_answer_after_the_first_is_a_duplicate(scene, phase):
    here, reply = at(scene, phase)
    here.server.receive(EVIL, reply.message, reply.vector)
    changed = bytearray(reply.message)
    changed[-1] ^= 1
    with pytest.raises(RemoteProtocolError) as caught:
        here.server.receive(EVIL, bytes(changed), reply.vector)
    assert caught.value.reason == "duplicate"
    assert here.run(lambda _, name: name == EVIL) is Phase.DONE
    # An input that is in the sum stays there: it cannot be told from the others any more.
    here.assert_sum_over(set(here.names) - {EVIL} if phase.value < Phase.MASK.value else here.names)


@pytest.mark.parametrize("phase", ORDER[:-1])
def test_an_answer_to_an_exchange_that_is_over_is_late(scene, phase):
    here, reply = at(scene, phase)
    here.exchange(lambda _, name: name == EVIL)
    with pytest.raises(RemoteProtocolError) as caught:
        here.server.receive(EVIL, reply.message, reply.vector)
    assert caught.value.reason == "late"
    assert here.run(lambda _, name: name == EVIL) is Phase.DONE


def test_a_stranger_is_refused_and_an_answer_after_the_end_is_late(scene):
    here, reply = at(scene, Phase.UNMASK)
    with pytest.raises(RemoteProtocolError, match="unknown-client"):
        here.server.receive("somebody", reply.message)
    assert here.run(lambda _, name: name == EVIL) is Phase.DONE
    with pytest.raises(RemoteProtocolError, match="late"):
        here.server.receive(EVIL, reply.message)


LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (PRIME - 1).to_bytes(32, "little"),
]


@pytest.mark.parametrize("field", ["encryption_key", "masking_key"])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_point_of_low_order_is_refused(scene, field, point):
    here, reply = at(scene, Phase.ADVERTISE)
    bad = replace(Advertise.decode(reply.message), **{field: point})
    dropped_for(here, resigned(here, bad), "low-order-point")


@pytest.mark.parametrize("field", ["encryption_key", "masking_key"])
def test_a_key_not_in_canonical_form_is_refused(scene, field):
    here, reply = at(scene, Phase.ADVERTISE)
    twice_nine = (PRIME + 9).to_bytes(32, "little")
    high_bit = bytes([9]) + bytes(30) + b"\x80"
    for point in (twice_nine, high_bit):
        bad = replace(Advertise.decode(reply.message), **{field: point})
        with pytest.raises(RemoteProtocolError) as caught:
            scene_copy, _ = at(scene, Phase.ADVERTISE)
            scene_copy.server.receive(EVIL, resigned(here, bad))
        assert caught.value.reason == "malformed"


def test_a_member_refuses_a_low_order_point_that_the_coordinator_let_pass(scene):
    here = scene(5)
    adverts = {name: here.clients[name].receive(here.signed(here.offer)).message for name in here.names}
    bad = replace(Advertise.decode(adverts[EVIL]), masking_key=bytes(32))
    adverts[EVIL] = resigned(here, bad)
    from tacit.privacy.secagg.messages import Roster

    with pytest.raises(RemoteProtocolError, match="low-order-point"):
        here.clients["m0000"].receive(Roster(tuple(adverts[name] for name in here.names)).encode())


def test_an_encryption_key_off_the_curve_is_refused(scene):
    here, reply = at(scene, Phase.ADVERTISE)
    twist = next(element_bytes(u) for u in range(2, 50) if disputes.lift(element_bytes(u)) is None)
    bad = replace(Advertise.decode(reply.message), encryption_key=twist)
    dropped_for(here, resigned(here, bad), "bad-point")


def test_taking_over_another_members_keys_or_name(scene):
    here, reply = at(scene, Phase.ADVERTISE)
    mine = Advertise.decode(reply.message)
    other = here.clients["m0000"].receive(here.server.request("m0000"))
    here.server.receive("m0000", other.message)
    theirs = Advertise.decode(other.message)
    dropped_for(here, resigned(here, replace(mine, masking_key=theirs.masking_key)), "repeated-key")
    here, reply = at(scene, Phase.ADVERTISE)
    dropped_for(here, other.message, "wrong-sender")
    here, reply = at(scene, Phase.ADVERTISE)
    dropped_for(here, replace(mine, certificate=theirs.certificate).encode(), "wrong-sender")


def test_a_certificate_of_another_authority_an_expired_one_and_a_bad_signature(scene):
    here, reply = at(scene, Phase.ADVERTISE)
    mine = Advertise.decode(reply.message)
    other_authority = Identity.generate(SeededRandomness(b"o" * 32), "authority")
    own = here.loopback.members[EVIL]
    base = Certificate(EVIL, "own", own.public_key, own.public_key, other_authority.public_key)
    forged = base.endorsed(own).certified(other_authority)
    dropped_for(here, resigned(here, replace(mine, certificate=forged)), "bad-certificate")
    here, _ = at(scene, Phase.ADVERTISE)
    expired = replace(mine.certificate, expires_at=1).endorsed(own).certified(here.loopback.authority)
    here.server._now = 1
    expired_here = replace(mine, certificate=expired)
    with pytest.raises(RemoteProtocolError, match="expired"):
        here.server.receive(EVIL, resigned(here, expired_here))
    here, _ = at(scene, Phase.ADVERTISE)
    dropped_for(here, replace(mine, seed_commitment=bytes(32)).encode(), "bad-signature")


@pytest.mark.parametrize(
    ("phase", "change", "reason"),
    [
        (Phase.SHARE, {"member": 1}, "wrong-sender"),
        (Phase.SHARE, {"roster_transcript": bytes(32)}, "other-transcript"),
        (Phase.MASK, {"member": 1}, "wrong-sender"),
        (Phase.MASK, {"holders_transcript": bytes(32)}, "other-transcript"),
        (Phase.MASK, {"vector_digest": bytes(32)}, "wrong-digest"),
        (Phase.UNMASK, {"member": 1}, "wrong-sender"),
        (Phase.UNMASK, {"holders_transcript": bytes(32)}, "other-transcript"),
        (Phase.UNMASK, {"shares": ((0, 1),)}, "missing-shares"),
    ],
)
def test_a_message_about_something_else(scene, phase, change, reason):
    kind = {Phase.SHARE: Shares, Phase.MASK: MaskedInput, Phase.UNMASK: UnmaskShares}[phase]
    here, reply = at(scene, phase)
    changed = replace(kind.decode(reply.message), **change)
    dropped_for(here, resigned(here, changed), reason, reply.vector)


@pytest.mark.parametrize("phase", [Phase.SHARE, Phase.MASK, Phase.UNMASK])
def test_a_message_that_was_changed_after_it_was_signed(scene, phase):
    here, reply = at(scene, phase)
    changed = bytearray(reply.message)
    changed[-1] ^= 1
    dropped_for(here, bytes(changed), "bad-signature", reply.vector)


def test_a_survivor_that_signs_another_set(scene):
    here, _ = at(scene, Phase.SIGN)
    signature = here.loopback.members[EVIL].sign("tacit/secagg/1/survivors", b"another set")
    dropped_for(here, SurvivorSignature(2, signature).encode(), "bad-signature")


@pytest.mark.parametrize("vector", [None, "short", "long", "words", "other"])
def test_a_vector_of_another_length_or_content_never_enters_the_sum(scene, vector):
    here, reply = at(scene, Phase.MASK)
    sent, reason = {
        None: (None, "wrong-length"),
        "short": (reply.vector[:-1], "wrong-length"),
        "long": (np.append(reply.vector, np.uint8(0)), "wrong-length"),
        "words": (reply.vector.astype(np.uint32), "wrong-length"),
        "other": (reply.vector ^ 1, "wrong-digest"),
    }[vector]
    dropped_for(here, reply.message, reason, sent)


def test_missing_or_additional_parcels(scene):
    here, reply = at(scene, Phase.SHARE)
    shares = Shares.decode(reply.message)
    dropped_for(here, resigned(here, replace(shares, parcels=shares.parcels[1:])), "missing-shares")
    here, _ = at(scene, Phase.SHARE)
    extra = (*shares.parcels, Parcel(6, bytes(80), bytes(64)))
    dropped_for(here, resigned(here, replace(shares, parcels=extra)), "missing-shares")


@pytest.mark.parametrize("how", ["signature", "ciphertext", "not-a-number"])
def test_a_dealer_of_shares_that_do_not_open_is_convicted_and_the_accuser_is_not(scene, how):
    here = scene(7, colluders=1, dropout=0.15)
    here.exchange()
    reply = here.clients[EVIL].receive(here.server.request(EVIL))
    shares, members = Shares.decode(reply.message), here.server._members()
    me, holder = 2, 5
    bad = shares.by_holder[holder]
    if how == "signature":
        bad = bad._replace(ciphertext=bytes(80), signature=bytes(64))
    else:
        ciphertext = bytes(80)
        if how == "not-a-number":
            secret = here.clients[EVIL]._vault._encryption_pairs[holder]
            key = keys.share_key(secret, members.transcript, me, holder)
            binding = keys.share_binding(members.transcript, me, holder, members.threshold)
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            ciphertext = AESGCM(key).encrypt(bytes(12), b"\xff" * 64, binding)
        body = parcel_body(members.transcript, me, holder, ciphertext)
        bad = Parcel(holder, ciphertext, here.loopback.members[EVIL].sign(PARCEL_LABEL, body))
    parcels = tuple(bad if parcel.member == holder else parcel for parcel in shares.parcels)
    here.server.receive(EVIL, resigned(here, replace(shares, parcels=parcels)))
    here.exchange(lambda _, name: name == EVIL)
    # The accuser answers before the dealer does, so the dealer's input is not even taken.
    here.give_all()
    accusation = here.clients["m0005"].receive(here.server.request("m0005"))
    with pytest.raises(RemoteProtocolError) as caught:
        here.server.receive("m0005", accusation.message)
    assert caught.value.reason == "accuser"
    assert here.clients["m0005"].state is State.ACCUSED
    assert here.server.at_fault == {EVIL}
    assert here.server.may_retry == set(here.names) - {EVIL}
    here.give = lambda name: None
    assert here.run() is Phase.ABORTED  # two of seven are gone where one may be
    assert here.server.abort_reason.startswith("too-few-members")


def test_a_parcel_that_opens_needs_no_signature_to_be_its_dealers(scene):
    """Whoever could knock a holder out of the round by a bad signature alone would choose whom."""
    here = scene(7, colluders=1, dropout=0.15)
    here.exchange()
    shares = Shares.decode(here.clients[EVIL].receive(here.server.request(EVIL)).message)
    parcels = tuple(parcel._replace(signature=bytes(64)) for parcel in shares.parcels)
    here.server.receive(EVIL, resigned(here, replace(shares, parcels=parcels)))
    here.exchange(lambda _, name: name == EVIL)
    assert here.run() is Phase.DONE
    here.assert_sum_over(here.names)


def test_a_false_accusation_convicts_the_accuser(scene):
    here = scene(7, dropout=0.15).until(Phase.MASK)
    members = here.server._members()
    parcel = here.server._state.shares[4].by_holder[2]
    body = parcel_body(members.transcript, 4, 2, parcel.ciphertext)
    from tacit.privacy.randomness import Keystream
    from tacit.privacy.secagg.messages import BAD_CIPHERTEXT, Accusation

    evidence = disputes.reveal(
        bytes(here.clients[EVIL]._vault._encryption_key),
        members.adverts[4].encryption_key,
        body,
        Keystream(b"d" * 32),
    )
    accusation = Accusation(members.transcript, 2, 4, BAD_CIPHERTEXT, evidence)
    dropped_for(here, resigned(here, accusation), "false-accusation")
    assert here.server.at_fault == {EVIL}


def test_an_accusation_of_somebody_who_sent_nothing(scene):
    from tacit.privacy.secagg.messages import BAD_SIGNATURE, Accusation

    here = scene(7, dropout=0.3)
    here.until(Phase.MASK, lambda phase, name: name == "m0006" and phase is Phase.SHARE)
    accusation = Accusation(here.server._members().transcript, 2, 6, BAD_SIGNATURE, b"")
    dropped_for_two(here, resigned(here, accusation))


def dropped_for_two(here, message):
    with pytest.raises(RemoteProtocolError, match="malformed"):
        here.server.receive(EVIL, message)
    assert here.run(lambda _, name: name in (EVIL, "m0006")) is Phase.DONE
    assert not here.server.at_fault


def corrupt(here, holder, owners):
    """Let a holder release false shares of these owners."""
    reply = here.clients[holder].receive(here.server.request(holder))
    message = UnmaskShares.decode(reply.message)
    shares = tuple((owner, (share + 1) % PRIME if owner in owners else share) for owner, share in message.shares)
    here.server.receive(holder, replace(message, shares=shares).signed(here.loopback.members[holder]).encode())


def test_false_shares_are_corrected_and_the_pairs_charged(scene):
    # Eleven members, t = 7: every secret has ten shares, so one false share of it is one too few to do harm.
    here = scene(11, colluders=2).until(Phase.UNMASK)
    assert here.server._members().threshold == 7
    corrupt(here, "m0004", {0, 7})
    corrupt(here, "m0009", {3})
    assert here.run() is Phase.DONE
    here.assert_sum_over(here.names)
    assert here.server.charges == {("m0000", "m0004"), ("m0007", "m0004"), ("m0003", "m0009")}
    assert not here.server.at_fault  # nobody was charged with more than two others


def test_a_holder_that_lies_about_many_is_convicted_while_those_it_charges_are_not(scene):
    here = scene(11, colluders=2).until(Phase.UNMASK)
    corrupt(here, "m0004", {0, 7, 9})
    assert here.run() is Phase.DONE
    here.assert_sum_over(here.names)
    assert here.server.at_fault == {"m0004"}


def test_false_shares_of_a_drop_outs_key_are_corrected_as_well(scene):
    here = scene(12, colluders=1, dropout=0.1)
    here.until(Phase.UNMASK, lambda phase, name: name == "m0011" and phase is Phase.MASK)
    corrupt(here, "m0004", {11})
    assert here.run() is Phase.DONE
    here.assert_sum_over(here.names[:-1])
    assert here.server.charges == {("m0011", "m0004")}


def test_more_false_shares_than_can_be_corrected_end_the_round_and_frame_nobody(scene):
    # Two colluders, as many as there may be, spoil the shares of an honest dealer: one more than can be corrected. Were
    # the dealer charged with every holder, they would have had it excluded.
    here = scene(11, colluders=2).until(Phase.UNMASK)
    for holder in ("m0004", "m0005"):
        corrupt(here, holder, {0})
    assert here.run() is Phase.ABORTED
    assert here.server.abort_reason.startswith("unrecoverable")
    with pytest.raises(LocalProtocolError):
        here.server.result()
    assert not here.server.charges and not here.server.at_fault


def test_a_commitment_to_another_seed_than_the_one_that_was_shared(scene):
    here = scene(9, colluders=1)
    reply = here.clients[EVIL].receive(here.server.request(EVIL))
    wrong = replace(Advertise.decode(reply.message), seed_commitment=b"w" * 32)
    signed = resigned(here, wrong)
    here.clients[EVIL]._advert = signed
    here.server.receive(EVIL, signed)
    assert here.run() is Phase.ABORTED
    assert here.server.abort_reason == f"unrecoverable: the secret of {EVIL} cannot be recovered"
    assert here.server.at_fault == {EVIL}
    assert convicted(here.server.charges, 1) == {EVIL}


def test_a_dealer_whose_shares_lie_on_no_polynomial(scene):
    here = scene(9, colluders=1)
    here.exchange()
    client, members = here.clients[EVIL], here.server._members()
    reply = client.receive(here.server.request(EVIL))
    parcels = []
    for parcel in Shares.decode(reply.message).parcels:
        key = keys.share_key(client._vault._encryption_pairs[parcel.member], members.transcript, 2, parcel.member)
        binding = keys.share_binding(members.transcript, 2, parcel.member, members.threshold)
        ciphertext = keys.seal_shares(key, binding, 7919 * parcel.member**9 % PRIME, 1)
        body = parcel_body(members.transcript, 2, parcel.member, ciphertext)
        parcels.append(Parcel(parcel.member, ciphertext, here.loopback.members[EVIL].sign(PARCEL_LABEL, body)))
    here.server.receive(EVIL, resigned(here, Shares(members.transcript, 2, tuple(parcels))))
    assert here.run() is Phase.ABORTED
    assert here.server.at_fault == {EVIL}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block", ["update", "weight"])
def test_a_member_with_a_number_that_is_none_stops_before_masking(scene, bad, block):
    here = scene(5).until(Phase.MASK)
    values = here.values(EVIL)
    values[block][0] = bad
    with pytest.raises(LocalProtocolError, match="not finite; nothing was sent"):
        here.clients[EVIL].contribute(values, ledger_head=bytes(32), ledger_counter=0)
    with pytest.raises(LocalProtocolError, match="contribute before"):
        here.clients[EVIL].receive(here.server.request(EVIL))
    assert here.clients[EVIL].state is State.SHARED
    here.give(EVIL)  # it may still give a sound one
    assert here.clients[EVIL].receive(here.server.request(EVIL)).vector is not None


def test_inputs_out_of_turn_twice_or_of_another_shape_are_refused(scene):
    here = scene(5)
    head = {"ledger_head": bytes(32), "ledger_counter": 0}
    with pytest.raises(LocalProtocolError, match="no input is due"):
        here.give(EVIL)
    here.exchange()
    for values in (
        {"update": np.zeros(5)},
        {"update": np.zeros(4), "weight": np.zeros(1)},
        {"update": np.zeros((5, 1)), "weight": np.zeros(1)},
        {"update": np.zeros(5), "weight": np.zeros(1), "more": np.zeros(1)},
    ):
        with pytest.raises(LocalProtocolError, match="block"):
            here.clients[EVIL].contribute(values, **head)
    for integers in (np.zeros(5, int), np.zeros(6), np.zeros(6, np.uint32)):
        with pytest.raises(LocalProtocolError, match="6 signed integers"):
            here.clients[EVIL].contribute_integers(integers, **head)
    here.give(EVIL)
    with pytest.raises(LocalProtocolError, match="no random draw serves two inputs"):
        here.give(EVIL)
    assert here.clients[EVIL].state is State.ADVERTISED
