"""Who is enrolled and who is not: each refusal has its reason, and a repeated request its first answer."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.models.enrolment import EnrolmentRequest, Federation, RenewalRequest, first_serial
from tacit.models.invitation import Invitation
from tacit.models.wire import CLOCK_TOLERANCE
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Certificate, Identity
from tacit.server.enrolment import EnrolmentRefused, Registrar, require_standing, standing, taking_part
from tacit.server.store import ClientRecord, InvitationRecord

NOW = 1_773_500_000
LIFE = 30 * 86_400
AUTHORITY, MEMBER, OTHER, ORGANISATION = (Identity(bytes([number]) * 32) for number in range(1, 5))
REGISTRAR = Registrar("hospitals", AUTHORITY, bytes(32), LIFE)
INVITATION = Invitation("https://a:1", bytes(32), "north", "", NOW + 3600, bytes(range(32)))
AT = datetime.fromtimestamp(NOW, UTC)


def kept(invitation: Invitation = INVITATION, organisation_key: bytes | None = None) -> InvitationRecord:
    return InvitationRecord(
        invitation.number.hex(),
        invitation.name,
        invitation.organisation,
        organisation_key,
        invitation.identity.public_key,
        datetime.fromtimestamp(invitation.expires_at, UTC),
        AT - timedelta(hours=1),
        None,
        None,
        None,
    )


def draft(signer: Identity = MEMBER, /, **changes: object) -> Certificate:
    fields: dict[str, object] = {
        "client": "north",
        "organisation": "north",
        "subject_key": MEMBER.public_key,
        "organisation_key": signer.public_key,
        "authority_key": AUTHORITY.public_key,
        "serial": first_serial(INVITATION.number),
        "expires_at": NOW + LIFE,
    }
    return Certificate(**{**fields, **changes}).endorsed(signer)  # type: ignore[arg-type]


def request(certificate: Certificate | None = None, invitation: Invitation = INVITATION) -> EnrolmentRequest:
    return EnrolmentRequest.make(invitation.number, certificate or draft(), MEMBER, invitation.identity)


def enrolled(certificate: Certificate, state: str = "active") -> ClientRecord:
    return ClientRecord(
        certificate.subject_key,
        certificate.client,
        certificate.organisation,
        certificate.organisation_key,
        certificate.encode(),
        state,  # type: ignore[arg-type]
        "",
        AT,
        None,
        None,
    )


def refused(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(EnrolmentRefused) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value.word, caught.value.detail


def test_who_was_invited_gets_a_certificate_that_everybody_believes() -> None:
    certificate = REGISTRAR.enrol(request(), kept(), None, NOW)
    certificate.check(frozenset({AUTHORITY.public_key}), NOW)
    assert certificate == replace(draft(), authority_signature=certificate.authority_signature)


def test_requests_and_replies_come_back_from_their_bytes() -> None:
    asked = request()
    assert EnrolmentRequest.decode(asked.encode()) == asked
    renewal = RenewalRequest(draft()).signed(MEMBER)
    assert RenewalRequest.decode(renewal.encode()) == renewal
    told = REGISTRAR.describe(NOW)
    assert Federation.decode(told.encode()) == told
    for message in (asked, renewal, told):
        for length in range(len(message.encode())):
            with pytest.raises(RemoteProtocolError):
                type(message).decode(message.encode()[:length])


def test_a_member_of_an_organisation_needs_its_signature() -> None:
    invitation = replace(INVITATION, organisation="hospital")
    record = kept(invitation, ORGANISATION.public_key)
    good = draft(ORGANISATION, organisation="hospital")
    certificate = REGISTRAR.enrol(request(good), record, None, NOW)
    certificate.check(frozenset({AUTHORITY.public_key}), NOW)
    for wrong in (
        draft(organisation="hospital"),
        draft(ORGANISATION),
        draft(OTHER, organisation="hospital"),
        replace(good, organisation_signature=bytes(64)),
        replace(good, organisation_signature=MEMBER.sign("tacit/identity/1/organisation", good.statement())),
    ):
        assert (
            refused(lambda wrong=wrong: REGISTRAR.enrol(request(wrong), record, None, NOW))[0] == "wrong-organisation"
        )  # type: ignore[misc]


def test_a_member_of_its_own_cannot_claim_an_organisation() -> None:
    for wrong in (draft(organisation="hospital"), draft(ORGANISATION)):
        assert (
            refused(lambda wrong=wrong: REGISTRAR.enrol(request(wrong), kept(), None, NOW))[0] == "wrong-organisation"
        )  # type: ignore[misc]


def test_an_invitation_that_nobody_made_and_a_wrong_secret_are_told_in_the_same_words() -> None:
    unknown = refused(lambda: REGISTRAR.enrol(request(), None, None, NOW))
    stolen = EnrolmentRequest.make(INVITATION.number, draft(), MEMBER, OTHER)
    assert refused(lambda: REGISTRAR.enrol(stolen, kept(), None, NOW)) == unknown
    assert unknown[0] == "forged"


def test_nothing_about_an_invitation_is_told_to_whoever_lacks_its_secret() -> None:
    stolen = EnrolmentRequest.make(INVITATION.number, draft(), MEMBER, OTHER)
    for record in (replace(kept(), used_at=AT), replace(kept(), revoked_at=AT), replace(kept(), expires_at=AT)):
        assert refused(lambda record=record: REGISTRAR.enrol(stolen, record, None, NOW))[0] == "forged"  # type: ignore[misc]


def test_nobody_enrols_a_key_that_is_not_theirs() -> None:
    theirs = replace(draft(), subject_key=OTHER.public_key, organisation_key=OTHER.public_key)
    assert refused(lambda: REGISTRAR.enrol(request(theirs), kept(), None, NOW))[0] == "forged"


def test_a_possession_that_was_shown_for_another_invitation_does_not_count() -> None:
    other = replace(INVITATION, secret=bytes(32))
    shown = request(invitation=other).possession
    again = EnrolmentRequest(INVITATION.number, draft(), shown).signed(INVITATION.identity)
    assert refused(lambda: REGISTRAR.enrol(again, kept(), None, NOW))[0] == "forged"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"used_at": AT, "used_by": OTHER.public_key}, "used"),
        ({"used_at": AT, "used_by": MEMBER.public_key}, "used"),
        ({"revoked_at": AT}, "revoked"),
        ({"expires_at": AT}, "expired"),
        ({"name": "south"}, "wrong-name"),
    ],
)
def test_a_spoilt_invitation_is_refused_with_its_reason(changes: dict[str, object], word: str) -> None:
    record = replace(kept(), **changes)  # type: ignore[arg-type]
    assert refused(lambda: REGISTRAR.enrol(request(), record, None, NOW))[0] == word


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"authority_key": OTHER.public_key}, "wrong-certificate"),
        ({"serial": 7}, "wrong-certificate"),
        ({"expires_at": 0}, "wrong-certificate"),
        ({"expires_at": NOW}, "wrong-certificate"),
        ({"expires_at": NOW + LIFE + CLOCK_TOLERANCE + 1}, "wrong-certificate"),
        ({"client": "south"}, "wrong-name"),
    ],
)
def test_a_draft_that_no_authority_would_sign_is_refused(changes: dict[str, object], word: str) -> None:
    assert refused(lambda: REGISTRAR.enrol(request(draft(**changes)), kept(), None, NOW))[0] == word  # type: ignore[arg-type]


def test_a_request_whose_reply_was_lost_gets_the_same_certificate() -> None:
    first = REGISTRAR.enrol(request(), kept(), None, NOW)
    used = replace(kept(), used_at=AT, used_by=MEMBER.public_key)
    later = draft(expires_at=NOW + LIFE + 60)
    assert REGISTRAR.enrol(request(), used, enrolled(first), NOW + 60) == first
    assert REGISTRAR.enrol(request(later), used, enrolled(first), NOW + 60) == first
    # Also when the invitation has ended in between, but not once the member was revoked.
    assert REGISTRAR.enrol(request(), used, enrolled(first), NOW + 4000) == first
    assert refused(lambda: REGISTRAR.enrol(request(), used, enrolled(first, "revoked"), NOW))[0] == "revoked"


def test_a_key_is_enrolled_once() -> None:
    south = enrolled(draft(client="south", organisation="south"))
    assert refused(lambda: REGISTRAR.enrol(request(), kept(), south, NOW))[0] == "key-known"
    gone = replace(south, state="revoked")
    assert refused(lambda: REGISTRAR.enrol(request(), kept(), gone, NOW))[0] == "revoked"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_request_of_which_one_bit_was_changed_is_never_granted(data: st.DataObject) -> None:
    content = bytearray(request().encode())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = EnrolmentRequest.decode(bytes(content))
    except RemoteProtocolError:
        return
    with pytest.raises(EnrolmentRefused):
        REGISTRAR.enrol(changed, kept(), None, NOW)


# Renewal


FIRST = REGISTRAR.enrol(request(), kept(), None, NOW)
LATER = NOW + 20 * 86_400


def next_draft(signer: Identity = MEMBER, /, **changes: object) -> Certificate:
    return draft(signer, **{"serial": FIRST.serial + 1, "expires_at": LATER + LIFE, **changes})  # type: ignore[arg-type]


def test_a_member_renews_with_its_present_key() -> None:
    renewed = REGISTRAR.renew(RenewalRequest(next_draft()).signed(MEMBER), enrolled(FIRST), LATER)
    renewed.check(frozenset({AUTHORITY.public_key}), LATER)
    assert (renewed.serial, renewed.expires_at) == (FIRST.serial + 1, LATER + LIFE)


def test_a_renewal_whose_reply_was_lost_gets_the_same_certificate() -> None:
    asked = RenewalRequest(next_draft()).signed(MEMBER)
    renewed = REGISTRAR.renew(asked, enrolled(FIRST), LATER)
    assert REGISTRAR.renew(asked, enrolled(renewed), LATER + 60) == renewed


@pytest.mark.parametrize(
    ("asked", "present", "at", "word"),
    [
        (RenewalRequest(next_draft()).signed(OTHER), enrolled(FIRST), LATER, "forged"),
        (RenewalRequest(next_draft()).signed(MEMBER), None, LATER, "not-a-member"),
        (RenewalRequest(next_draft()).signed(MEMBER), enrolled(FIRST, "revoked"), LATER, "revoked"),
        (RenewalRequest(next_draft()).signed(MEMBER), enrolled(FIRST), NOW + LIFE, "expired"),
        (RenewalRequest(next_draft(client="south")).signed(MEMBER), enrolled(FIRST), LATER, "wrong-name"),
        (RenewalRequest(next_draft(organisation="x")).signed(MEMBER), enrolled(FIRST), LATER, "wrong-organisation"),
        (RenewalRequest(next_draft(OTHER)).signed(MEMBER), enrolled(FIRST), LATER, "wrong-organisation"),
        (
            RenewalRequest(next_draft(serial=FIRST.serial + 2)).signed(MEMBER),
            enrolled(FIRST),
            LATER,
            "wrong-certificate",
        ),
        (
            RenewalRequest(next_draft(expires_at=LATER + 2 * LIFE)).signed(MEMBER),
            enrolled(FIRST),
            LATER,
            "wrong-certificate",
        ),
    ],
)
def test_a_renewal_is_refused_with_its_reason(
    asked: RenewalRequest, present: ClientRecord | None, at: int, word: str
) -> None:
    assert refused(lambda: REGISTRAR.renew(asked, present, at))[0] == word


# Standing


def test_only_an_active_member_whose_certificate_lasts_may_take_part() -> None:
    assert standing(enrolled(FIRST), NOW + LIFE - 1) is None
    for record, now, word in (
        (None, NOW, "not-a-member"),
        (enrolled(FIRST, "revoked"), NOW, "revoked"),
        (enrolled(FIRST), NOW + LIFE, "expired"),
    ):
        assert refused(lambda record=record, now=now: require_standing(record, now))[0] == word  # type: ignore[misc]
    assert taking_part([enrolled(FIRST), enrolled(FIRST, "revoked")], NOW) == {"north": FIRST}
    assert taking_part([enrolled(FIRST)], NOW + LIFE) == {}
