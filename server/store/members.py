"""The clients of the federation and their invitations; who may be enrolled is decided elsewhere.

What a decision rests on is looked at again in the transaction that writes: an invitation is used once, a name belongs
to one client at a time, and a key to one client for ever, also when two ask at the same moment.
"""

from __future__ import annotations

from datetime import datetime
from typing import cast

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tacit.models.errors import InputError
from tacit.server.store.errors import EnrolmentConflict
from tacit.server.store.records import ClientRecord, ClientState, InvitationRecord, NewClient, NewInvitation
from tacit.server.store.tables import ClientRow, InvitationRow


def invite(session: Session, new: NewInvitation, again: bool, now: datetime) -> InvitationRecord:
    """Add an invitation, and void what was open for the same name."""
    active = _active(session, new.name) is not None
    if active and not again:
        raise InputError(
            "is a client already", where=f"client {new.name}", right="choose another name, or revoke it first"
        )
    if again and not active:
        raise InputError("is no client", where=f"client {new.name}", right="an invitation without --again")
    for row in _open(session, new.name):
        row.revoked_at = now
    row = InvitationRow(
        invitation=new.invitation,
        name=new.name,
        organisation=new.organisation,
        organisation_key=new.organisation_key,
        proof_key=new.proof_key,
        created_at=now,
        expires_at=new.expires_at,
    )
    session.add(row)
    session.flush()
    return _invitation(row)


def get_invitation(session: Session, number: str) -> InvitationRecord | None:
    """Return an invitation, None if there is none."""
    row = session.get(InvitationRow, number)
    return None if row is None else _invitation(row)


def list_invitations(session: Session) -> list[InvitationRecord]:
    """Return every invitation, oldest first."""
    query = select(InvitationRow).order_by(InvitationRow.created_at, InvitationRow.invitation)
    return [_invitation(row) for row in session.scalars(query)]


def enrol(session: Session, number: str, new: NewClient, now: datetime) -> ClientRecord:
    """Add a client, or let one come back, and use up its invitation.

    Raises:
        EnrolmentConflict: the invitation is not open, or the name or the key is taken.
    """
    # Whoever comes second waits for this row, and then finds it used.
    invitation = session.get(InvitationRow, number, with_for_update=True)
    if invitation is None or invitation.used_at is not None or invitation.revoked_at is not None:
        raise EnrolmentConflict("the invitation is not open")
    if now >= invitation.expires_at or invitation.name != new.name:
        raise EnrolmentConflict("the invitation is void, or somebody else's")
    invitation.used_at, invitation.used_by = now, new.public_key
    row = session.scalar(select(ClientRow).where(ClientRow.public_key == new.public_key).with_for_update())
    if row is None:
        row = ClientRow(public_key=new.public_key)
        session.add(row)
    elif row.state == "revoked" or (row.state == "active" and row.name != new.name):
        raise EnrolmentConflict("the key is taken")
    row.name, row.organisation, row.organisation_key = new.name, new.organisation, new.organisation_key
    row.certificate, row.state, row.reason = new.certificate, "active", ""
    row.enrolled_at, row.renewed_at, row.revoked_at = now, None, None
    try:
        session.flush()
    except IntegrityError:
        raise EnrolmentConflict("the name or the key is taken") from None
    return _client(row)


def renew(session: Session, public_key: bytes, certificate: bytes, instead_of: bytes, now: datetime) -> ClientRecord:
    """Give an active client a new certificate.

    Raises:
        EnrolmentConflict: it is not active, or has another certificate than `instead_of` by now.
    """
    row = session.scalar(select(ClientRow).where(ClientRow.public_key == public_key).with_for_update())
    if row is None or row.state != "active" or row.certificate != instead_of:
        raise EnrolmentConflict("the client has changed")
    row.certificate, row.renewed_at = certificate, now
    session.flush()
    return _client(row)


def leave(session: Session, public_key: bytes, instead_of: bytes, now: datetime) -> ClientRecord:
    """Mark an active client as one that has left.

    Raises:
        EnrolmentConflict: it is not active, or has another certificate than `instead_of` by now.
    """
    row = session.scalar(select(ClientRow).where(ClientRow.public_key == public_key).with_for_update())
    if row is None or row.state != "active" or row.certificate != instead_of:
        raise EnrolmentConflict("the client has changed")
    row.state, row.reason, row.revoked_at = "left", "", now
    session.flush()
    return _client(row)


def revoke(
    session: Session, name: str, reason: str, now: datetime
) -> tuple[ClientRecord | None, list[InvitationRecord]]:
    """Revoke the active client of a name, and what is open for it."""
    row = _active(session, name)
    if row is not None:
        row.state, row.reason, row.revoked_at = "revoked", reason, now
    invitations = _open(session, name)
    for one in invitations:
        one.revoked_at = now
    if row is None and not invitations:
        raise InputError(
            "nobody of this name is enrolled or invited",
            where=f"client {name!r}",
            right="`tacit coordinator clients` names them",
        )
    session.flush()
    return None if row is None else _client(row), [_invitation(one) for one in invitations]


def get_client(session: Session, public_key: bytes) -> ClientRecord | None:
    """Return the client that a key was enrolled for, None for an unknown key."""
    row = session.scalar(select(ClientRow).where(ClientRow.public_key == public_key))
    return None if row is None else _client(row)


def list_clients(session: Session) -> list[ClientRecord]:
    """Return every client in the order of their enrolment."""
    return [_client(row) for row in session.scalars(select(ClientRow).order_by(ClientRow.number))]


def _active(session: Session, name: str) -> ClientRow | None:
    if not name.isprintable():  # drivers raise errors of their own for NUL and lone surrogates
        return None
    return session.scalar(
        select(ClientRow).where(ClientRow.name == name, ClientRow.state == "active").with_for_update()
    )


def _open(session: Session, name: str) -> list[InvitationRow]:
    if not name.isprintable():
        return []
    row = InvitationRow
    query = select(row).where(row.name == name, row.used_at.is_(None), row.revoked_at.is_(None)).with_for_update()
    return list(session.scalars(query))


def _invitation(row: InvitationRow) -> InvitationRecord:
    return InvitationRecord(
        row.invitation,
        row.name,
        row.organisation,
        row.organisation_key,
        row.proof_key,
        row.expires_at,
        row.created_at,
        row.used_at,
        row.used_by,
        row.revoked_at,
    )


def _client(row: ClientRow) -> ClientRecord:
    return ClientRecord(
        row.public_key,
        row.name,
        row.organisation,
        row.organisation_key,
        row.certificate,
        cast(ClientState, row.state),
        row.reason,
        row.enrolled_at,
        row.renewed_at,
        row.revoked_at,
    )
