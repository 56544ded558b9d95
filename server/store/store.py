"""The store: each method is one transaction, all of it or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tacit.server.store import audit, figures, keys, ledgers, members, models, phases, runs
from tacit.server.store.departures import Departures
from tacit.server.store.engine import WRITES, available, shown
from tacit.server.store.records import (
    AliasChange,
    AuditEntry,
    ClientRecord,
    Figures,
    InvitationRecord,
    KeyRecord,
    LedgerLine,
    ModelSummary,
    ModelVersion,
    NewClient,
    NewInvitation,
    NewKey,
    NewModelVersion,
    NewRun,
    PhaseRecord,
    RoundRecord,
    RunRecord,
    RunStatus,
    Scope,
)

COORDINATOR = "coordinator"


class Store:
    """What the coordinator must not lose; safe to share between threads and between processes.

    Whatever is wrong with what a caller gives is an `InputError`; a database that is locked, full or out of reach is
    a `StoreUnavailable`. After either, nothing of the call was applied.
    """

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        """Use a database whose schema is up to date; `open_store` sees to that."""
        self._engine = engine
        self._writer = engine.execution_options(**{WRITES: True})
        self._now = now

    def __repr__(self) -> str:
        """Name the database, without a password."""
        return f"Store({shown(self._engine.url)!r})"

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    # Runs and rounds

    def create_run(self, run: NewRun) -> RunRecord:
        """Add a run, which is running from now on; an `InputError` when its name is taken."""
        with self._write() as (session, now):
            audit.append(session, COORDINATOR, "run.create", run.run, {"recipe_sha256": run.recipe_sha256}, now)
            return runs.create(session, run, now)

    def get_run(self, run: str) -> RunRecord:
        """Return a run."""
        with self._read() as session:
            return runs.get(session, run)

    def find_run(self, run: str) -> RunRecord | None:
        """Return a run, None if there is none of this name."""
        with self._read() as session:
            return runs.get(session, run) if runs.exists(session, run) else None

    def list_runs(self, limit: int | None = 50, status: RunStatus | None = None) -> list[RunRecord]:
        """Return the newest runs, newest first; `limit=None` returns all."""
        with self._read() as session:
            return runs.recent(session, limit, status)

    def set_run_status(self, run: str, status: RunStatus, reason: str = "") -> None:
        """Say how a run fares, and why."""
        with self._write() as (session, now):
            runs.set_status(session, run, status, reason, now)
            audit.append(session, COORDINATOR, f"run.{status}", run, {"reason": reason}, now)

    def finish_run(
        self, run: str, summary: Mapping[str, Any], *, status: RunStatus = "finished", reason: str = ""
    ) -> None:
        """Say that a run has ended, and keep its summary."""
        with self._write() as (session, now):
            runs.finish(session, run, summary, status, reason, now)
            audit.append(session, COORDINATOR, f"run.{status}", run, {"reason": reason}, now)

    def commit_round(
        self,
        run: str,
        round: RoundRecord,
        *,
        model: NewModelVersion | None = None,
        ledger: Sequence[LedgerLine] = (),
        memory: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Commit one attempt at a round: its metrics and participation, what it spent, and the model that came of it.

        Args:
            run: the run.
            round: the attempt.
            model: a version to register, if one came of it.
            ledger: the records that settle what it spent, in the order of their counters.
            memory: what the coordinator owes and knows from now on, where phases are announced; the attempt's is over.

        Returns:
            The version of `model`, None without one.

        Raises:
            RoundAlreadyCommitted: this attempt is in the store already, or another attempt at this round is part of
                the model; nothing was applied again.
            LedgerConflict: a record of `ledger` is not its ledger's next one; the round is not committed either.
        """
        with self._write() as (session, now):
            runs.commit_round(session, run, round, now)
            for line in ledger:
                ledgers.append(session, line)
            if memory is not None:
                phases.announce(session, run, PhaseRecord(round.number, round.attempt, "", memory=memory), now)
            return None if model is None else self._add_version(session, model, now)

    def rounds(self, run: str) -> list[RoundRecord]:
        """Return every attempt at every round of a run, by number and attempt."""
        with self._read() as session:
            return runs.rounds(session, run)

    def last_committed_round(self, run: str) -> RoundRecord | None:
        """Return the newest round that is part of the model, None before the first."""
        with self._read() as session:
            return runs.last_committed_round(session, run)

    def last_attempt(self, run: str) -> RoundRecord | None:
        """Return the newest attempt at a round, however it ended, None before the first."""
        with self._read() as session:
            return runs.last_attempt(session, run)

    def figures(self) -> Figures:
        """Return counts over all runs."""
        with self._read() as session:
            return figures.figures(session)

    def next_attempt(self, run: str, number: int) -> int:
        """Return the number of the next attempt at a round, also after a restart: 0 if it was never tried."""
        with self._read() as session:
            return runs.next_attempt(session, run, number)

    def announce_phase(self, run: str, phase: PhaseRecord) -> None:
        """Keep where the round that a run is in stands, in place of what was kept before."""
        with self._write() as (session, now):
            phases.announce(session, run, phase, now)

    def phase(self, run: str) -> PhaseRecord | None:
        """Return where the round that a run is in stands, None before its first announcement."""
        with self._read() as session:
            return phases.current(session, run)

    # Ledgers

    def open_ledger(self, population: str, unit: str, public_key: bytes, line: bytes) -> None:
        """Add the ledger of a population with its first record; a `LedgerConflict` when it is open already."""
        with self._write() as (session, now):
            ledgers.open_ledger(session, population, unit, public_key, line, now)
            details = {"unit": unit, "public_key": public_key.hex()}
            audit.append(session, COORDINATOR, "ledger.open", population, details, now)

    def append_ledger(self, population: str, unit: str, counter: int, line: bytes) -> None:
        """Append a record to a ledger; a `LedgerConflict` when its counter is not the next one."""
        with self._write() as (session, _):
            ledgers.append(session, LedgerLine(population, unit, counter, line))

    def ledger_lines(self, population: str, unit: str) -> list[bytes]:
        """Return the records of a ledger, from the first; none while there is no such ledger."""
        with self._read() as session:
            return ledgers.lines_of(session, population, unit)

    def ledger_length(self, population: str, unit: str) -> int:
        """Return how many records a ledger has, 0 while there is no such ledger."""
        with self._read() as session:
            return ledgers.length_of(session, population, unit)

    def ledger_key(self, population: str, unit: str) -> bytes | None:
        """Return the public key that a ledger was opened with, None while there is no such ledger."""
        with self._read() as session:
            return ledgers.key_of(session, population, unit)

    def ledger_closed(self, population: str, unit: str) -> str | None:
        """Return why nothing may be appended to a ledger, None while something may."""
        with self._read() as session:
            return ledgers.closed(session, population, unit)

    # Models

    def add_model_version(self, new: NewModelVersion) -> int:
        """Return the version that `new` got; the same name and digest always get the same one."""
        with self._write() as (session, now):
            return self._add_version(session, new, now)

    def get_model_version(self, name: str, version: int) -> ModelVersion:
        """Return one version of a model."""
        with self._read() as session:
            return models.get_version(session, name, version)

    def list_models(self) -> list[ModelSummary]:
        """Return every model, by name."""
        with self._read() as session:
            return models.list_models(session)

    def list_versions(self, name: str) -> list[ModelVersion]:
        """Return every version of a model, oldest first."""
        with self._read() as session:
            return models.list_versions(session, name)

    def set_alias(self, name: str, alias: str, version: int, actor: str, *, displaced: str | None = None) -> None:
        """Point an alias at a version; what it pointed at before goes to the alias `displaced`, if that is given."""
        with self._write() as (session, now):
            for moved, target in models.set_alias(session, name, alias, version, actor, displaced, now).items():
                audit.append(session, actor, "model.alias", name, {"alias": moved, "version": target}, now)

    def alias(self, name: str, alias: str) -> int | None:
        """Return the version that an alias points at, None when it points nowhere."""
        with self._read() as session:
            return models.alias_of(session, name, alias)

    def alias_history(self, name: str) -> list[AliasChange]:
        """Return every move of every alias of a model, oldest first."""
        with self._read() as session:
            return models.alias_history(session, name)

    # Members

    def invite(self, new: NewInvitation, *, again: bool = False, actor: str = COORDINATOR) -> InvitationRecord:
        """Add an invitation; whatever was open for the same name is void from now on.

        Raises:
            InputError: a client has the name already, or with `again` none has it.
        """
        with self._write() as (session, now):
            record = members.invite(session, new, again, now)
            details = {
                "invitation": new.invitation,
                "organisation": new.organisation,
                "until": new.expires_at.isoformat(),
            }
            audit.append(session, actor, "invitation.create", new.name, details, now)
            return record

    def invitation(self, number: str) -> InvitationRecord | None:
        """Return an invitation by its number in hex, None if there is none."""
        with self._read() as session:
            return members.get_invitation(session, number)

    def list_invitations(self) -> list[InvitationRecord]:
        """Return every invitation, also those that were used or revoked, oldest first."""
        with self._read() as session:
            return members.list_invitations(session)

    def enrol_client(self, invitation: str, new: NewClient) -> ClientRecord:
        """Add a client and use up its invitation.

        Raises:
            EnrolmentConflict: the invitation is not open any more, or the name or the key was taken.
        """
        with self._write() as (session, now):
            record = members.enrol(session, invitation, new, now)
            details = {"invitation": invitation, "public_key": new.public_key.hex(), "organisation": new.organisation}
            audit.append(session, COORDINATOR, "client.enrol", new.name, details, now)
            return record

    def renew_client(self, public_key: bytes, certificate: bytes, *, instead_of: bytes) -> ClientRecord:
        """Give an active client a new certificate in place of the one that it has.

        Raises:
            EnrolmentConflict: it has another one by now, is revoked or unknown.
        """
        with self._write() as (session, now):
            record = members.renew(session, public_key, certificate, instead_of, now)
            audit.append(session, COORDINATOR, "client.renew", record.name, {"public_key": public_key.hex()}, now)
            return record

    def leave_client(self, public_key: bytes, *, instead_of: bytes) -> ClientRecord:
        """Mark an active client with the certificate `instead_of` as one that has left, or raise EnrolmentConflict."""
        with self._write() as (session, now):
            record = members.leave(session, public_key, instead_of, now)
            audit.append(session, record.name, "client.leave", record.name, {"public_key": public_key.hex()}, now)
            return record

    def revoke_member(
        self, name: str, reason: str = "", *, actor: str = COORDINATOR
    ) -> tuple[ClientRecord | None, list[InvitationRecord]]:
        """Let the client of this name take part no longer, and void the invitations that are open for it.

        Returns:
            The client that was active, None if there was none, and the invitations that were open.

        Raises:
            InputError: nobody of this name is active or invited.
        """
        with self._write() as (session, now):
            client, invitations = members.revoke(session, name, reason, now)
            details = {
                "reason": reason,
                "public_key": client.public_key.hex() if client else None,
                "invitations": [one.invitation for one in invitations],
            }
            audit.append(session, actor, "client.revoke", name, details, now)
            return client, invitations

    def client(self, public_key: bytes) -> ClientRecord | None:
        """Return the client that a key was enrolled for, also a revoked one; None for an unknown key."""
        with self._read() as session:
            return members.get_client(session, public_key)

    def departures(self, clock: Callable[[], float] = time.monotonic) -> Departures:
        """Return what says with every request who was revoked or has left, by a clock in seconds."""
        return Departures(self._engine, clock)

    def list_clients(self) -> list[ClientRecord]:
        """Return every client, also the revoked ones, in the order of their enrolment."""
        with self._read() as session:
            return members.list_clients(session)

    # API keys

    def create_key(self, name: str, scopes: Iterable[Scope], *, actor: str = COORDINATOR) -> NewKey:
        """Make an API key and return `(key_id, secret)`; the secret cannot be had again."""
        with self._write() as (session, now):
            key = keys.create(session, name, scopes, now)
            audit.append(session, actor, "key.create", key.key_id, {"name": name, "scopes": sorted(scopes)}, now)
            return key

    def check_key(self, secret: str) -> KeyRecord | None:
        """Return the key that `secret` is, None for an unknown or a revoked one."""
        with self._read() as session:
            return keys.check(session, secret)

    def list_keys(self) -> list[KeyRecord]:
        """Return every key, also the revoked ones, oldest first."""
        with self._read() as session:
            return keys.list_all(session)

    def revoke_key(self, key_id: str, *, actor: str = COORDINATOR) -> KeyRecord:
        """Make a key useless from now on."""
        with self._write() as (session, now):
            audit.append(session, actor, "key.revoke", key_id, None, now)
            return keys.revoke(session, key_id, now)

    # Audit

    def append_audit(self, actor: str, action: str, subject: str, details: Mapping[str, Any] | None = None) -> None:
        """Add an entry; what the store does itself it writes down itself."""
        with self._write() as (session, now):
            audit.append(session, actor, action, subject, details, now)

    def audit(self, limit: int | None = 100) -> list[AuditEntry]:
        """Return the newest entries, newest first; `limit=None` returns all."""
        with self._read() as session:
            return audit.tail(session, limit)

    def _add_version(self, session: Session, new: NewModelVersion, now: datetime) -> int:
        version, added = models.add_version(session, new, now)
        if added:
            details = {"version": version, "digest": new.digest, "run": new.run}
            audit.append(session, COORDINATOR, "model.register", new.name, details, now)
        return version

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with available(self._engine.url), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def _write(self) -> Iterator[tuple[Session, datetime]]:
        with available(self._engine.url), Session(self._writer) as session, session.begin():
            yield session, self._now()
