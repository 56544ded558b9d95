"""Who is enrolled, whose certificate is renewed, and who may take part: decisions, from records to certificates.

Each is a function of what was asked, of what the store says, and of the time. The store looks again at what a decision
rests on when it writes, so that of two requests for one invitation one is granted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tacit.models.enrolment import EnrolmentRequest, Federation, LeaveRequest, Refused, RenewalRequest, first_serial
from tacit.models.wire import CLOCK_TOLERANCE
from tacit.privacy.codec import Verify
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import ORGANISATION_LABEL, Certificate, Identity, verify
from tacit.server.store.records import ClientRecord, InvitationRecord


class EnrolmentRefused(Exception):
    """Somebody is not enrolled, not renewed, or not let in.

    Args:
        word: why, for programs.
        detail: why, for people: one line without secrets.
    """

    def __init__(self, word: Refused, detail: str) -> None:
        """Keep both."""
        super().__init__(f"{word}: {detail}")
        self.word = word
        self.detail = detail


@dataclass(frozen=True)
class Registrar:
    """Signs certificates for a federation.

    Attributes:
        federation: its name.
        authority: the key that signs members' certificates.
        coordinator_key: the public key that signs offers.
        certificate_seconds: the longest life of a certificate.
    """

    federation: str
    authority: Identity = field(repr=False)
    coordinator_key: bytes
    certificate_seconds: int

    def describe(self, now: int) -> Federation:
        """Return what an agent needs to know to draw up its certificate."""
        return Federation(
            self.federation, self.authority.public_key, self.coordinator_key, self.certificate_seconds, now
        )

    def enrol(
        self,
        request: EnrolmentRequest,
        invitation: InvitationRecord | None,
        present: ClientRecord | None,
        now: int,
        verify: Verify = verify,
    ) -> Certificate:
        """Return the certificate that a request leads to.

        Args:
            request: what was asked.
            invitation: what the store has under the request's number.
            present: what the store has under the member's key.
            now: seconds since 1970.
            verify: how signatures are verified.

        Returns:
            A new certificate; or the very one that was issued before, if the request was granted before.

        Raises:
            EnrolmentRefused: it is not granted.
        """
        draft = request.draft
        # Before anything is told about an invitation: whoever asks must hold its secret.
        if invitation is None or not _signed(request, invitation.proof_key, verify):
            raise EnrolmentRefused("forged", "this coordinator made no such invitation")
        label, possessed = request.possessed()
        if not verify(draft.subject_key, label, possessed, request.possession):
            raise EnrolmentRefused("forged", "the member's key did not sign the request")
        if invitation.used_at is not None:
            if present is not None and invitation.used_by == draft.subject_key:
                require_standing(present, now)
                return Certificate.decode(present.certificate)  # whose reply was lost
            raise EnrolmentRefused("used", "the invitation was used before; ask the operator for a new one")
        if invitation.revoked_at is not None:
            raise EnrolmentRefused("revoked", "the invitation was revoked; ask the operator for a new one")
        if now >= invitation.expires_at.timestamp():
            raise EnrolmentRefused(
                "expired", f"the invitation ended on {invitation.expires_at:%Y-%m-%d at %H:%M} UTC; ask for a new one"
            )
        if draft.client != invitation.name:
            raise EnrolmentRefused("wrong-name", f"the invitation is for {invitation.name}, not {draft.client}")
        self._check_organisation(draft, invitation)
        if present is not None:
            _check_known(present, draft.client)
        if draft.serial != first_serial(request.invitation):
            raise EnrolmentRefused("wrong-certificate", "its serial is not the invitation's")
        return self._certified(draft, now, verify)

    def renew(
        self, request: RenewalRequest, present: ClientRecord | None, now: int, verify: Verify = verify
    ) -> Certificate:
        """Return a certificate that lasts longer than the one that a member has.

        Args:
            request: what was asked, signed with the member's present key.
            present: what the store has under that key.
            now: seconds since 1970.
            verify: how signatures are verified.

        Returns:
            A new certificate; or the very one that was issued before, if the request was granted before.

        Raises:
            EnrolmentRefused: it is not granted.
        """
        draft = request.draft
        if not _signed(request, draft.subject_key, verify):
            raise EnrolmentRefused("forged", "the member's key did not sign the request")
        require_standing(present, now)
        if present is None:
            raise RuntimeError("nobody stands without a record")
        old = Certificate.decode(present.certificate)
        if draft.serial == old.serial:
            return old  # whose reply was lost
        if draft.client != old.client:
            raise EnrolmentRefused("wrong-name", f"the key is enrolled as {old.client}, not {draft.client}")
        if (draft.organisation, draft.organisation_key) != (old.organisation, old.organisation_key):
            raise EnrolmentRefused("wrong-organisation", f"the key is enrolled for {old.organisation}")
        if draft.serial != old.serial + 1:
            raise EnrolmentRefused("wrong-certificate", "its serial does not follow the present one's")
        return self._certified(draft, now, verify)

    def leave(self, request: LeaveRequest, present: ClientRecord | None, verify: Verify = verify) -> bool:
        """Return whether a member is to be marked as one that has left; False if it is so already.

        Args:
            request: what was asked, signed with the member's key.
            present: what the store has under that key.
            verify: how signatures are verified.

        Raises:
            EnrolmentRefused: nobody who takes part asks.
        """
        if not _signed(request, request.subject_key, verify):
            raise EnrolmentRefused("forged", "the member's key did not sign the request")
        if present is None:
            raise EnrolmentRefused("not-a-member", "the key is nobody's in this federation")
        if present.state == "revoked":
            raise EnrolmentRefused("revoked", f"{present.name} was revoked")
        if present.state == "left":
            return False
        # The reply to a renewal may have been lost; a copy from before the member came back is another matter.
        if Certificate.decode(present.certificate).serial - request.serial not in (0, 1):
            raise EnrolmentRefused("wrong-certificate", "it is about another enrolment")
        return True

    def _check_organisation(self, draft: Certificate, invitation: InvitationRecord) -> None:
        if draft.organisation != (invitation.organisation or invitation.name):
            wanted = invitation.organisation or "none but its own"
            raise EnrolmentRefused("wrong-organisation", f"the invitation is for a member of {wanted}")
        if draft.organisation_key != (invitation.organisation_key or draft.subject_key):
            raise EnrolmentRefused("wrong-organisation", f"{draft.organisation} signs with another key")

    def _certified(self, draft: Certificate, now: int, verify: Verify) -> Certificate:
        if draft.authority_key != self.authority.public_key:
            raise EnrolmentRefused("wrong-certificate", "it names another enrolment authority")
        if not now < draft.expires_at <= now + self.certificate_seconds + CLOCK_TOLERANCE:
            raise EnrolmentRefused("wrong-certificate", "it lasts too long, or has ended; check the clock")
        if not verify(draft.organisation_key, ORGANISATION_LABEL, draft.statement(), draft.organisation_signature):
            raise EnrolmentRefused("wrong-organisation", f"{draft.organisation} has not signed for the member")
        return draft.certified(self.authority)


def standing(client: ClientRecord | None, now: int) -> EnrolmentRefused | None:
    """Return why whoever holds a key may not take part now, None if it may.

    Args:
        client: what the store has under the key.
        now: seconds since 1970.
    """
    if client is None:
        return EnrolmentRefused("not-a-member", "the key is nobody's in this federation")
    if client.state == "left":
        return EnrolmentRefused("left", f"{client.name} has left; it needs a new invitation")
    if client.state != "active":
        return EnrolmentRefused("revoked", f"{client.name} was revoked")
    if _has_ended(client, now):
        return EnrolmentRefused("expired", f"the certificate of {client.name} has ended; it needs a new invitation")
    return None


def require_standing(client: ClientRecord | None, now: int) -> None:
    """Refuse whoever may not take part now.

    Raises:
        EnrolmentRefused: it may not.
    """
    refusal = standing(client, now)
    if refusal is not None:
        raise refusal


def taking_part(clients: Iterable[ClientRecord], now: int) -> dict[str, Certificate]:
    """Return the certificates of all who may take part now, by name."""
    return {client.name: Certificate.decode(client.certificate) for client in clients if standing(client, now) is None}


def _has_ended(client: ClientRecord, now: int) -> bool:
    expires_at = Certificate.decode(client.certificate).expires_at
    return bool(expires_at) and now >= expires_at


def _check_known(present: ClientRecord, name: str) -> None:
    """Refuse a known key, but for that of a member which has left, or which the operator invited again by its name."""
    if present.state == "revoked":
        raise EnrolmentRefused("revoked", "the member's key was revoked; make a new one")
    if present.state == "active" and present.name != name:
        raise EnrolmentRefused("key-known", f"the member's key is enrolled as {present.name}; make a new one")


def _signed(request: EnrolmentRequest | RenewalRequest | LeaveRequest, public_key: bytes, verify: Verify) -> bool:
    try:
        request.check_signature(public_key, verify)
    except RemoteProtocolError:
        return False
    return True
