"""Who is a member, from the store: for the enrolment route, for the fleet port and for rounds."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from tacit.models.enrolment import EnrolmentRequest, LeaveRequest, RenewalRequest
from tacit.models.errors import InputError
from tacit.models.invitation import Invitation
from tacit.privacy.codec import sha256
from tacit.privacy.identity import Certificate, check_name
from tacit.privacy.randomness import KEY_BYTES
from tacit.server.enrolment import EnrolmentRefused, Registrar, standing, taking_part
from tacit.server.store import ClientRecord, EnrolmentConflict, NewClient, NewInvitation, Store

_LOG = logging.getLogger(__name__)
TRIES = 3


class Fleet(Protocol):
    """Where members are let in, under a name; a SuperLink is one."""

    def admit(self, public_key: bytes, name: str) -> int:
        """Let the holder of a key take part."""
        ...

    def dismiss(self, public_key: bytes) -> None:
        """Let the holder of a key take part no longer, until it is admitted again."""
        ...

    def revoke(self, public_key: bytes) -> None:
        """Let the holder of a key never take part again."""
        ...


class Membership:
    """The members of a federation, as the store has them now; for any thread.

    Args:
        store: the coordinator's.
        registrar: signs certificates.
        clock: seconds since 1970.
    """

    def __init__(self, store: Store, registrar: Registrar, clock: Callable[[], float] = time.time) -> None:
        """Read nothing yet."""
        self._store = store
        self._registrar = registrar
        self._clock = clock
        self._admitted: dict[bytes, str] = {}
        self._holders: dict[str, bytes] = {}
        self._revoked: set[bytes] = set()
        self._bringing = threading.Lock()

    @property
    def registrar(self) -> Registrar:
        """Return who signs."""
        return self._registrar

    def now(self) -> int:
        """Return seconds since 1970."""
        return int(self._clock())

    def enrol(self, request: EnrolmentRequest) -> Certificate:
        """Enrol a member that was invited, and return its certificate.

        Raises:
            EnrolmentRefused: it is not enrolled.
        """
        number = request.invitation.hex()
        for _ in range(TRIES):
            invitation, present = self._store.invitation(number), self._store.client(request.draft.subject_key)
            certificate = self._registrar.enrol(request, invitation, present, self.now())
            if present is not None and certificate.encode() == present.certificate:
                return certificate
            try:
                self._store.enrol_client(number, _client(certificate))
            except EnrolmentConflict:
                continue  # somebody else was faster; the next look says at what
            _LOG.info("%s is enrolled", certificate.client)
            return certificate
        raise EnrolmentRefused("name-taken", f"{request.draft.client} is enrolled already")

    def renew(self, request: RenewalRequest) -> Certificate:
        """Give a member a certificate that lasts longer.

        Raises:
            EnrolmentRefused: it does not get one.
        """
        key = request.draft.subject_key
        for _ in range(TRIES):
            present = self._store.client(key)
            certificate = self._registrar.renew(request, present, self.now())
            encoded = certificate.encode()
            if present is None or encoded == present.certificate:
                return certificate
            try:
                self._store.renew_client(key, encoded, instead_of=present.certificate)
            except EnrolmentConflict:
                continue
            _LOG.info("the certificate of %s is renewed", certificate.client)
            return certificate
        raise EnrolmentRefused("wrong-certificate", "the certificate is being renewed by somebody else")

    def leave(self, request: LeaveRequest) -> None:
        """Let a member go; a second time nothing happens.

        Raises:
            EnrolmentRefused: nobody who takes part asks.
        """
        for _ in range(TRIES):
            present = self._store.client(request.subject_key)
            if not self._registrar.leave(request, present) or present is None:
                return
            try:
                self._store.leave_client(request.subject_key, instead_of=present.certificate)
            except EnrolmentConflict:
                continue
            _LOG.info("%s has left", present.name)
            return
        raise EnrolmentRefused("wrong-certificate", "the member is being changed by somebody else")

    def refusal(self, public_key: bytes) -> EnrolmentRefused | None:
        """Return why the holder of a key may not take part now, None if it may."""
        return standing(self._store.client(public_key), self.now())

    def taking_part(self) -> dict[str, Certificate]:
        """Return the certificates of all who may take part now, by name."""
        return taking_part(self._store.list_clients(), self.now())

    def holder(self, name: str) -> bytes | None:
        """Return the key that was let in at the fleet port under a name, None if none was."""
        return self._holders.get(name)

    def bring(self, fleet: Fleet) -> None:
        """Let in at the fleet port who may take part now, and turn away who was revoked or has left.

        Cheap enough to be called every second: what another process has changed takes effect by this.
        """
        with self._bringing:
            now = self.now()
            clients = self._store.list_clients()
            # Those who leave first: somebody new may have their name. A certificate that has merely ended closes no
            # door for ever; rounds leave its holder out.
            for client in clients:
                # Also those that this process never let in: the port may remember them from an earlier one.
                if client.state == "revoked" and client.public_key not in self._revoked:
                    self._free_name(client.public_key)
                    fleet.revoke(client.public_key)
                    self._revoked.add(client.public_key)
                    self._admitted.pop(client.public_key, None)
                    _LOG.info("%s takes part no longer", client.name)
                # It may have come back under another name by now.
                elif self._admitted.get(client.public_key, client.name) != client.name or (
                    client.state == "left" and client.public_key in self._admitted
                ):
                    self._free_name(client.public_key)
                    fleet.dismiss(client.public_key)
                    del self._admitted[client.public_key]
            for client in clients:
                if client.public_key not in self._admitted and standing(client, now) is None:
                    self._admit(fleet, client)

    def _admit(self, fleet: Fleet, client: ClientRecord) -> None:
        try:
            fleet.admit(client.public_key, client.name)
        except InputError as error:
            _LOG.warning("%s", error)
            return
        self._admitted[client.public_key] = client.name
        self._holders[client.name] = client.public_key

    def _free_name(self, public_key: bytes) -> None:
        """Forget who had a name, before anybody else can get it at the port."""
        self._holders.pop(self._admitted.get(public_key, ""), None)


def invite(
    store: Store,
    *,
    url: str,
    ca_der: bytes,
    name: str,
    expires_at: int,
    organisation: str = "",
    organisation_key: bytes | None = None,
    again: bool = False,
    actor: str,
) -> Invitation:
    """Make an invitation; the store keeps the public half of its secret, and whoever gets the token the rest.

    Args:
        store: the coordinator's.
        url: where the member finds the coordinator.
        ca_der: the certificate of the authority for TLS.
        name: the member's name in the federation.
        expires_at: seconds since 1970.
        organisation: the organisation that must sign for the member, empty for none but its own.
        organisation_key: its Ed25519 public key.
        again: for the member of this name, which with the same key gets a new certificate, also where the old one has
            ended.
        actor: for the audit log.

    Raises:
        InputError: a name cannot be used, is taken, or an organisation comes without its key.
    """
    for kind, text in (("name", name), ("organisation", organisation)):
        try:
            if kind == "name" or text:
                check_name(text)
        except ValueError as error:
            raise InputError(str(error), where=f"--{kind}") from None
    if (organisation == "") != (organisation_key is None):
        raise InputError(
            "an organisation and its key belong together",
            where="--organisation",
            right="give --organisation-key too, which `tacit agent org-key` shows",
        )
    invitation = Invitation(url, sha256(ca_der), name, organisation, expires_at, secrets.token_bytes(KEY_BYTES))
    store.invite(
        NewInvitation(
            invitation=invitation.number.hex(),
            name=name,
            organisation=organisation,
            organisation_key=organisation_key,
            proof_key=invitation.identity.public_key,
            expires_at=datetime.fromtimestamp(expires_at, UTC),
        ),
        again=again,
        actor=actor,
    )
    return invitation


def _client(certificate: Certificate) -> NewClient:
    return NewClient(
        certificate.subject_key,
        certificate.client,
        certificate.organisation,
        certificate.organisation_key,
        certificate.encode(),
    )
