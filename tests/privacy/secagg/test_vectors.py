"""Known answers: the primitives against the documents that define them, the graph against its published tests."""

import json
from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tacit.privacy.identity import Identity, signature_input
from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg import disputes, keys
from tacit.privacy.secagg.graph import regular_parameters

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "secure_aggregation.json").read_text())


def vectors(name):
    return pytest.mark.parametrize("vector", VECTORS[name]["vectors"])


def raw(vector):
    return {name: bytes.fromhex(value) for name, value in vector.items()}


@vectors("x25519")
def test_x25519(vector):
    known = raw(vector)
    assert keys.agreement(known["scalar"])(known["u"]) == known["result"]


def test_x25519_a_thousand_times():
    scalar = point = bytes([9]) + bytes(31)
    for _ in range(1000):
        scalar, point = keys.agreement(scalar)(point), scalar
    assert scalar.hex() == VECTORS["x25519"]["after_1000_iterations"]


def test_the_edwards_arithmetic_of_disputes_gives_the_same_answer():
    known = raw(VECTORS["x25519"]["vectors"][0])
    lifted = disputes.lift(known["u"])
    if lifted is not None:  # the other vector's point has one
        assert disputes.montgomery(disputes.multiply(disputes.clamped(known["scalar"]), lifted)) == known["result"]
    nine = raw(VECTORS["x25519"]["vectors"][1])
    product = disputes.multiply(disputes.clamped(nine["scalar"]), disputes.lift(nine["u"]))
    assert disputes.montgomery(product) == nine["result"]


@vectors("hkdf_sha256")
def test_hkdf(vector):
    known = raw(vector)
    assert keys.hkdf(known["secret"], known["salt"], known["info"]) == known["result"]


@vectors("ed25519")
def test_ed25519(vector):
    known = raw(vector)
    identity = Identity(known["secret"])
    assert identity.public_key == known["public"]
    assert identity._key.sign(known["message"]) == known["signature"]
    # What we sign is label, zero byte, digest: nothing else is ever signed with the key.
    assert identity.sign("label", b"m") == identity._key.sign(signature_input("label", b"m"))
    assert len(signature_input("label", b"m" * 1000)) == len(b"label\0") + 32


@vectors("aes_256_ctr")
def test_aes_256_in_counter_mode(vector):
    known = raw(vector)
    stream = Keystream(known["key"], first_block=int.from_bytes(known["counter"], "big"))
    block = stream.bytes(len(known["plaintext"]))
    assert bytes(a ^ b for a, b in zip(block, known["plaintext"], strict=True)) == known["ciphertext"]


@vectors("aes_256_gcm")
def test_aes_256_gcm_with_the_nonce_of_shares(vector):
    known = raw(vector)
    assert AESGCM(known["key"]).encrypt(keys.ZERO_NONCE, known["plaintext"], None) == known["ciphertext"]


@vectors("chacha20_poly1305")
def test_chacha20_poly1305(vector):
    known = raw(vector)
    sealed = ChaCha20Poly1305(known["key"]).encrypt(known["nonce"], known["plaintext"], known["associated"])
    assert sealed == known["ciphertext"]


@vectors("regular_graph")
def test_degree_and_threshold_of_the_regular_graph(vector):
    members, colluding, dropping, adversary, degree, threshold = vector
    colluding, dropping = Fraction(str(colluding)), Fraction(str(dropping))
    found = regular_parameters(
        members,
        floor(colluding * members),
        floor(dropping * members),
        ceil((1 - dropping) * members),
        semi_malicious=adversary == "semi-malicious",
    )
    assert found == (degree, threshold)
