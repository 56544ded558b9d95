"""Identities, certificates that two parties sign, and what pins count."""

from dataclasses import replace

import pytest

from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import (
    AUTHORITY_LABEL,
    ORGANISATION_LABEL,
    Certificate,
    Identity,
    Pins,
    VerifiedSignatures,
    check_name,
    once,
    verify,
)
from tacit.privacy.randomness import SeededRandomness, SystemRandomness

SOURCE = SeededRandomness(b"i" * 32)
AUTHORITY, OWNER, MEMBER, STRANGER = (Identity.generate(SOURCE, name) for name in ("authority", "owner", "m", "x"))
TRUSTED = frozenset({AUTHORITY.public_key})


def certificate(client="clinic-1", owner=OWNER, authority=AUTHORITY, **changes):
    plain = Certificate(client, "clinic", MEMBER.public_key, owner.public_key, authority.public_key, **changes)
    return plain.endorsed(owner).certified(authority)


def test_a_signature_holds_for_its_key_label_and_message_only():
    signature = MEMBER.sign("label", b"message")
    assert verify(MEMBER.public_key, "label", b"message", signature)
    assert not verify(STRANGER.public_key, "label", b"message", signature)
    assert not verify(MEMBER.public_key, "labe", b"lmessage", signature)
    assert not verify(MEMBER.public_key, "label", b"massage", signature)
    assert not verify(MEMBER.public_key, "label", b"message", signature[:-1])
    assert not verify(b"short", "label", b"message", signature)


def test_an_identity_survives_its_bytes_and_hides_them():
    again = Identity(MEMBER.secret_bytes())
    assert again.public_key == MEMBER.public_key
    assert MEMBER.secret_bytes().hex() not in repr(MEMBER) and MEMBER.public_key.hex() in repr(MEMBER)
    with pytest.raises(ValueError, match="32 bytes"):
        Identity(b"short")


def test_generated_identities_differ_and_a_seed_repeats_them():
    assert (
        Identity.generate(SystemRandomness(), "a").public_key != Identity.generate(SystemRandomness(), "a").public_key
    )
    assert Identity.generate(SOURCE, "m").public_key == MEMBER.public_key != OWNER.public_key


def test_a_certificate_with_both_signatures_is_good_and_comes_back_from_its_bytes():
    good = certificate(serial=7, expires_at=1000)
    good.check(TRUSTED, now=999)
    assert Certificate.decode(good.encode()) == good


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (certificate(authority=STRANGER), "unknown authority"),
        (certificate(expires_at=1000), "expired"),
        (certificate().certified(STRANGER), "not signed by the authority"),
        (certificate().endorsed(STRANGER), "not signed by the organisation"),
        (certificate().endorsed(AUTHORITY), "not signed by the organisation"),
        (replace(certificate(), client="clinic-2"), "not signed by the authority"),
        (replace(certificate(), organisation="another"), "not signed by the authority"),
        (replace(certificate(), subject_key=STRANGER.public_key), "not signed by the authority"),
        (replace(certificate(), organisation_key=STRANGER.public_key), "not signed by the authority"),
        (replace(certificate(), serial=1), "not signed by the authority"),
        (replace(certificate(), expires_at=2000), "not signed by the authority"),
    ],
)
def test_a_certificate_with_anything_else_is_refused(bad, why):
    with pytest.raises(RemoteProtocolError, match=why) as caught:
        bad.check(TRUSTED, now=1000)
    assert caught.value.reason == "bad-certificate"


def test_one_partys_signature_cannot_stand_for_the_others():
    # Where authority and organisation are one, each signature still counts for its own role.
    good = certificate(owner=AUTHORITY)
    good.check(TRUSTED, now=0)
    swapped = replace(
        good, authority_signature=good.organisation_signature, organisation_signature=good.authority_signature
    )
    with pytest.raises(RemoteProtocolError):
        swapped.check(TRUSTED, now=0)
    assert AUTHORITY_LABEL != ORGANISATION_LABEL


def test_a_member_may_be_its_own_organisation():
    own = certificate(owner=MEMBER)
    own.check(TRUSTED, now=0)
    assert own.organisation_key == own.subject_key


@pytest.mark.parametrize("name", ["a", "clinic-1", "node:42", "A.b_c@d", "x" * 64])
def test_names_that_may_be(name):
    check_name(name)


@pytest.mark.parametrize("name", ["", "-a", " a", "a b", "a\n", "é", "x" * 65, "a/b"])
def test_names_that_may_not(name):
    with pytest.raises(ValueError, match="name"):
        check_name(name)
    with pytest.raises(ValueError, match="name"):
        Certificate(name, "o", MEMBER.public_key, OWNER.public_key, AUTHORITY.public_key)


@pytest.mark.parametrize(
    "change",
    [
        {"subject_key": b""},
        {"organisation_key": bytes(31)},
        {"authority_signature": b""},
        {"serial": -1},
        {"expires_at": 1 << 64},
    ],
)
def test_a_certificate_of_another_form_cannot_be_made(change):
    with pytest.raises(ValueError, match="."):
        replace(certificate(), **change)


def test_pins_count_members_of_known_organisations_up_to_the_cap_of_each():
    owners = [Identity.generate(SOURCE, f"owner-{at}") for at in range(3)]
    members = [certificate(f"m{at}", owner=owners[at % 3]) for at in range(9)]  # three of each
    keys = [owner.public_key for owner in owners]
    assert Pins(frozenset(keys), 3).count(members) == 9
    assert Pins(frozenset(keys), 2).count(members) == 6
    assert Pins(frozenset(keys[:1]), 2).count(members) == 2
    assert Pins(frozenset(keys[:1]), 5).count(members) == 3
    assert Pins(frozenset({STRANGER.public_key}), 5).count(members) == 0


def test_pins_that_nobody_could_meet_are_refused():
    with pytest.raises(ValueError, match="at least one organisation"):
        Pins(frozenset(), 1)
    with pytest.raises(ValueError, match="at least one member"):
        Pins(frozenset({OWNER.public_key}), 0)
    with pytest.raises(ValueError, match="32"):
        Pins(frozenset({b"short"}), 1)


def test_the_memory_of_signatures_answers_as_verify_does_and_forgets_the_oldest():
    remembered = VerifiedSignatures(most=2)
    signatures = [MEMBER.sign("label", bytes([at])) for at in range(3)]
    for _ in range(2):
        for at, signature in enumerate(signatures):
            assert remembered(MEMBER.public_key, "label", bytes([at]), signature)
            assert not remembered(MEMBER.public_key, "label", bytes([at + 1]), signature)
            assert not remembered(MEMBER.public_key, "other", bytes([at]), signature)
            assert not remembered(STRANGER.public_key, "label", bytes([at]), signature)
            assert not remembered(MEMBER.public_key + b"x", "label", bytes([at]), signature)
            assert len(remembered._good) <= 2


def test_the_memory_cannot_be_confused_by_moving_bytes_between_the_fields():
    remembered = VerifiedSignatures()
    signature = MEMBER.sign("label", b"message")
    assert remembered(MEMBER.public_key, "label", b"message", signature)
    shifted = MEMBER.public_key[:-1], signature + MEMBER.public_key[-1:]
    assert not remembered(shifted[0], "label", b"message", shifted[1])


def test_what_parties_share_is_computed_once_and_only_the_last_results_are_kept():
    remembered, computed = VerifiedSignatures(), []

    def compute(key):
        computed.append(key)
        return f"result of {key}"

    for key in ("a", "b", "a", "c", "b", "a"):
        assert once(remembered, key, lambda key=key: compute(key)) == f"result of {key}"
    assert computed == ["a", "b", "c", "a"]  # the oldest is forgotten when a third comes
    assert once(verify, "a", lambda: compute("alone")) == "result of alone"


def test_an_error_is_raised_each_time_and_not_kept():
    remembered, calls = VerifiedSignatures(), []

    def fail():
        calls.append(1)
        raise RemoteProtocolError("bad-certificate")

    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            once(remembered, "key", fail)
    assert len(calls) == 2
