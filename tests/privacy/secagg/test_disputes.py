"""Evidence about one pair: it convinces exactly if it is true, and says nothing about any other pair."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg import disputes
from tacit.privacy.secagg.keys import agreement, element_bytes, public_of
from tacit.privacy.secagg.shamir import PRIME

KEYS = st.binary(min_size=32, max_size=32)
CONTEXT = b"attempt 1, dealer 2, holder 3"


def stream():
    return Keystream(b"n" * 32)


@given(KEYS, KEYS)
@settings(max_examples=20, deadline=None)
def test_what_is_revealed_is_what_x25519_agrees_on(holder, dealer):
    evidence = disputes.reveal(holder, public_of(dealer), CONTEXT, stream())
    assert len(evidence) == 96
    found = disputes.revealed_secret(evidence, public_of(holder), public_of(dealer), CONTEXT)
    assert found == agreement(holder)(public_of(dealer)) == agreement(dealer)(public_of(holder))


@given(KEYS)
@settings(max_examples=20, deadline=None)
def test_the_edwards_arithmetic_agrees_with_x25519(private):
    point = disputes.multiply(disputes.clamped(private), disputes.BASE)
    assert disputes.montgomery(point) == public_of(private)
    lifted = disputes.lift(public_of(private))
    assert disputes.same(lifted, point) or disputes.same(disputes.negative(lifted), point)
    assert disputes.same(disputes.decompress(disputes.compress(point)), point)


def test_the_base_point_is_that_of_rfc_8032_and_has_its_order():
    assert disputes.compress(disputes.BASE).hex() == "58" + "66" * 31
    assert disputes.same(disputes.multiply(disputes.ORDER, disputes.BASE), disputes.NEUTRAL)
    assert disputes.montgomery(disputes.BASE) == element_bytes(9)


def test_evidence_with_any_byte_changed_proves_nothing():
    holder, dealer = b"h" * 32, b"d" * 32
    evidence = disputes.reveal(holder, public_of(dealer), CONTEXT, stream())
    for at in range(0, 96, 7):
        bent = bytearray(evidence)
        bent[at] ^= 1
        assert disputes.revealed_secret(bytes(bent), public_of(holder), public_of(dealer), CONTEXT) is None


def test_evidence_is_about_one_pair_and_one_context():
    holder, dealer, other = b"h" * 32, b"d" * 32, public_of(b"o" * 32)
    evidence = disputes.reveal(holder, public_of(dealer), CONTEXT, stream())
    assert disputes.revealed_secret(evidence, other, public_of(dealer), CONTEXT) is None
    assert disputes.revealed_secret(evidence, public_of(holder), other, CONTEXT) is None
    assert disputes.revealed_secret(evidence, public_of(holder), public_of(dealer), CONTEXT + b"!") is None


def test_a_liar_cannot_prove_another_secret_by_adding_a_point_of_low_order():
    # Z + T with T of order 8 satisfies the second equation whenever the challenge is a multiple of 8, which a liar can
    # search for; its u-coordinate differs, the ciphertext would not open, and an honest dealer would be convicted.
    holder, dealer = b"h" * 32, b"d" * 32
    dealer_key = public_of(dealer)
    low_order = disputes.decompress(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"))
    assert disputes.same(disputes.multiply(8, low_order), disputes.NEUTRAL)
    secret = disputes.clamped(holder) // 8 % disputes.ORDER
    lifted = disputes.lift(public_of(holder))
    if not disputes.same(disputes.multiply(secret, disputes.BASE_8), lifted):
        secret = disputes.ORDER - secret
    dealer_point = disputes.lift(dealer_key)
    dealer_8 = disputes.multiply(8, dealer_point)
    forged = disputes.add(disputes.multiply(secret, dealer_8), low_order)
    for nonce in range(1, 200):
        commitments = (disputes.multiply(nonce, disputes.BASE_8), disputes.multiply(nonce, dealer_8))
        challenge = disputes._challenge(CONTEXT, lifted, dealer_point, forged, *commitments)
        if challenge % 8 == 0:
            break
    response = (nonce + challenge * secret) % disputes.ORDER
    second = disputes.add(
        disputes.multiply(response, dealer_8), disputes.negative(disputes.multiply(challenge, forged))
    )
    assert disputes.same(second, commitments[1])  # the equations hold: only the check of the order is left
    evidence = disputes.compress(forged) + element_bytes(challenge) + element_bytes(response)
    assert disputes.revealed_secret(evidence, public_of(holder), dealer_key, CONTEXT) is None


def test_a_key_on_the_twist_is_no_point():
    on_twist = next(
        element_bytes(u) for u in range(2, 50) if disputes.lift(element_bytes(u)) is None and u != PRIME - 1
    )
    with pytest.raises(RemoteProtocolError, match="bad-point"):
        disputes.reveal(b"h" * 32, on_twist, CONTEXT, stream())
    assert disputes.lift(element_bytes(PRIME - 1)) is None
