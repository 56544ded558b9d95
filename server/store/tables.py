"""The tables; migrations build them, and a test compares the two."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tacit.server.store.columns import Figure, FreeText, JsonObject, UtcTime

RunName = String(200)
ModelName = String(200)
Sha256Hex = String(64)
PopulationName = String(200)
UnitWord = String(16)
MemberName = String(64)


class Base(DeclarativeBase):
    """Every table, with constraint names that migrations can refer to."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcTime, dict[str, Any]: JsonObject, float: Figure, str: Text}


class RunRow(Base):
    """A run."""

    __tablename__ = "runs"

    run: Mapped[str] = mapped_column(RunName, primary_key=True)
    recipe_name: Mapped[str]
    task: Mapped[str]
    recipe_toml: Mapped[str]
    recipe_sha256: Mapped[str] = mapped_column(Sha256Hex)
    directory: Mapped[str]
    environment: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(FreeText)
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    summary: Mapped[dict[str, Any] | None]


class RoundRow(Base):
    """One attempt at a round."""

    __tablename__ = "rounds"

    run: Mapped[str] = mapped_column(RunName, ForeignKey("runs.run"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    outcome: Mapped[str] = mapped_column(String(16))
    seconds: Mapped[float | None]
    checkpoint_path: Mapped[str | None]
    checkpoint_sha256: Mapped[str | None] = mapped_column(Sha256Hex)
    extra: Mapped[dict[str, Any]]
    committed_at: Mapped[datetime]


# The database itself refuses a second committed attempt at one round, whatever the code above it does.
Index(
    "uq_rounds_committed",
    RoundRow.run,
    RoundRow.number,
    unique=True,
    sqlite_where=RoundRow.outcome == "committed",
    postgresql_where=RoundRow.outcome == "committed",
)


class RoundMetricRow(Base):
    """A figure of an attempt at a round; a row of its own, so that it can be NaN and can be asked for by name."""

    __tablename__ = "round_metrics"
    __table_args__ = (
        ForeignKeyConstraint(["run", "number", "attempt"], ["rounds.run", "rounds.number", "rounds.attempt"]),
    )

    run: Mapped[str] = mapped_column(RunName, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    position: Mapped[int]
    value: Mapped[float | None]


class ParticipationRow(Base):
    """What became of one client in one attempt at a round."""

    __tablename__ = "participation"
    __table_args__ = (
        ForeignKeyConstraint(["run", "number", "attempt"], ["rounds.run", "rounds.number", "rounds.attempt"]),
    )

    run: Mapped[str] = mapped_column(RunName, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    client: Mapped[str] = mapped_column(FreeText)
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(FreeText)
    exchange: Mapped[str] = mapped_column(FreeText)


class PhaseRow(Base):
    """Where the round that a run is in stands, and what its coordinator owes and knows; the last that was announced.

    `exchange` is empty while no exchange is open.
    """

    __tablename__ = "phases"

    run: Mapped[str] = mapped_column(RunName, ForeignKey("runs.run"), primary_key=True)
    number: Mapped[int]
    attempt: Mapped[int]
    exchange: Mapped[str] = mapped_column(String(32))
    progress: Mapped[dict[str, Any]]
    snapshot_path: Mapped[str | None]
    snapshot_sha256: Mapped[str | None] = mapped_column(Sha256Hex)
    memory: Mapped[dict[str, Any]]
    announced_at: Mapped[datetime]


class ModelRow(Base):
    """A model's name; `versions` counts them, and its row is what writers of one model queue up for."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(ModelName, primary_key=True)
    versions: Mapped[int]
    created_at: Mapped[datetime]


class ModelVersionRow(Base):
    """An immutable version of a model."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("name", "digest"),)

    name: Mapped[str] = mapped_column(ModelName, ForeignKey("models.name"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(Sha256Hex)
    run: Mapped[str | None] = mapped_column(RunName, ForeignKey("runs.run"), index=True)
    round: Mapped[int | None]
    metrics: Mapped[dict[str, Any]]
    details: Mapped[dict[str, Any]]
    files: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class AliasChangeRow(Base):
    """An alias was moved; the newest row of an alias is where it points, so the history cannot disagree with it."""

    __tablename__ = "alias_changes"
    __table_args__ = (
        ForeignKeyConstraint(["name", "version"], ["model_versions.name", "model_versions.version"]),
        Index(None, "name", "alias"),
    )

    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(ModelName)
    alias: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    actor: Mapped[str] = mapped_column(FreeText)
    at: Mapped[datetime]


class LedgerRow(Base):
    """The ledger of a population, one for each unit; its row is what writers of one ledger queue up for.

    `closed` says why nothing may be appended any more.
    """

    __tablename__ = "ledgers"

    population: Mapped[str] = mapped_column(PopulationName, primary_key=True)
    unit: Mapped[str] = mapped_column(UnitWord, primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]
    closed: Mapped[str | None]


class LedgerRecordRow(Base):
    """A record of a ledger as the very bytes that were signed; nothing in the store changes or removes one."""

    __tablename__ = "ledger_records"
    __table_args__ = (ForeignKeyConstraint(["population", "unit"], ["ledgers.population", "ledgers.unit"]),)

    population: Mapped[str] = mapped_column(PopulationName, primary_key=True)
    unit: Mapped[str] = mapped_column(UnitWord, primary_key=True)
    counter: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    line: Mapped[bytes] = mapped_column(LargeBinary)


class ClientRow(Base):
    """A key that was enrolled under a name; it is never removed, so that a revoked key stays revoked."""

    __tablename__ = "clients"
    __table_args__ = (UniqueConstraint("public_key"),)

    number: Mapped[int] = mapped_column(primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    name: Mapped[str] = mapped_column(MemberName)
    organisation: Mapped[str] = mapped_column(MemberName)
    organisation_key: Mapped[bytes] = mapped_column(LargeBinary)
    certificate: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(FreeText)
    enrolled_at: Mapped[datetime]
    renewed_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


# A name is one client's at a time, whatever the code above it does; whoever was revoked leaves it to a new key.
Index(
    "uq_clients_active_name",
    ClientRow.name,
    unique=True,
    sqlite_where=ClientRow.state == "active",
    postgresql_where=ClientRow.state == "active",
)


class InvitationRow(Base):
    """An invitation: the key that verifies proofs of its secret, never the secret."""

    __tablename__ = "invitations"

    invitation: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(MemberName, index=True)
    organisation: Mapped[str] = mapped_column(MemberName)
    organisation_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    proof_key: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    used_by: Mapped[bytes | None] = mapped_column(LargeBinary)
    revoked_at: Mapped[datetime | None]


class KeyRow(Base):
    """An API key: the hash of its secret, never the secret."""

    __tablename__ = "api_keys"

    key_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str]
    scopes: Mapped[str]
    secret_sha256: Mapped[str] = mapped_column(Sha256Hex)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class AuditRow(Base):
    """An entry of the audit log; nothing in the store changes or removes one."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(FreeText)
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(FreeText)
    details: Mapped[dict[str, Any]]
