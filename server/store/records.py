"""What goes into the store and comes out of it: frozen, without a trace of the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

RunStatus = Literal["running", "interrupted", "finished", "failed", "stopped"]
RoundOutcome = Literal["committed", "aborted"]
ParticipationOutcome = Literal["reported", "dropped", "late", "refused", "selected"]
Scope = Literal["predict", "read", "admin"]
ClientState = Literal["active", "left", "revoked"]

RUN_STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)
ROUND_OUTCOMES: tuple[RoundOutcome, ...] = get_args(RoundOutcome)
PARTICIPATION_OUTCOMES: tuple[ParticipationOutcome, ...] = get_args(ParticipationOutcome)
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class NewRun:
    """A run that is about to begin: its identity, its recipe as resolved, and where its files go."""

    run: str
    recipe_name: str
    task: str
    recipe_toml: str
    recipe_sha256: str
    directory: str
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """A run as the store knows it; `summary` and `finished_at` are None until the run has ended.

    `rounds_committed` leaves out round 0, which prepares a run.
    """

    run: str
    recipe_name: str
    task: str
    recipe_toml: str
    recipe_sha256: str
    directory: str
    environment: Mapping[str, Any]
    status: RunStatus
    reason: str
    rounds_committed: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    summary: Mapping[str, Any] | None


@dataclass(frozen=True)
class Participation:
    """What became of one client in one attempt at a round, and at which exchange it was lost, if it was."""

    client: str
    outcome: ParticipationOutcome
    reason: str = ""
    exchange: str = ""

    def __post_init__(self) -> None:
        """Refuse an outcome that is not one of the five."""
        if self.outcome not in PARTICIPATION_OUTCOMES:
            raise ValueError(f"participation outcome {self.outcome!r} is none of {', '.join(PARTICIPATION_OUTCOMES)}")


@dataclass(frozen=True)
class CheckpointRef:
    """Where the global state after a round lies, and the hex SHA-256 that it must have."""

    path: str
    sha256: str


@dataclass(frozen=True)
class RoundRecord:
    """One attempt at a round; at most one attempt of a number is ever `committed`.

    Attributes:
        number: the round's number within its run; 0 is the preparation.
        attempt: which try at that round this is.
        outcome: `committed`: its result is part of the model; `aborted`: it left no trace in it.
        seconds: wall-clock time of the attempt.
        metrics: figures by name; NaN and infinities are kept.
        participation: what became of each client that was selected, in the order given.
        checkpoint: the state after the round, or None.
        extra: whatever else a strategy wants to find again; JSON values.
        committed_at: set by the store; ignored by comparisons.
    """

    number: int
    attempt: int
    outcome: RoundOutcome
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    participation: tuple[Participation, ...] = ()
    checkpoint: CheckpointRef | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    committed_at: datetime | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse negative counters and an unknown outcome."""
        if self.number < 0 or self.attempt < 0:
            raise ValueError(f"round {self.number}, attempt {self.attempt}: neither may be negative")
        if self.outcome not in ROUND_OUTCOMES:
            raise ValueError(f"round outcome {self.outcome!r} is none of {', '.join(ROUND_OUTCOMES)}")


@dataclass(frozen=True)
class Figures:
    """Counts over all runs; each has every word that there is, also where it counts none.

    Attributes:
        runs: runs by status.
        attempts: attempts at rounds, preparations too, by outcome.
        seconds: how long they took, by outcome.
        asked: what became of the clients that they asked.
    """

    runs: Mapping[RunStatus, int]
    attempts: Mapping[RoundOutcome, int]
    seconds: Mapping[RoundOutcome, float]
    asked: Mapping[ParticipationOutcome, int]


@dataclass(frozen=True)
class PhaseRecord:
    """Where the round that a run is in stands.

    Attributes:
        number: the round.
        attempt: the attempt at it.
        exchange: the name of the exchange that was announced; empty if none is open.
        progress: whom it asks, and what became of everybody before; JSON values.
        snapshot: where the state of the exchanges lies, None without one.
        memory: what the coordinator owes its members and knows of them; JSON values.
        announced_at: set by the store; ignored by comparisons.
    """

    number: int
    attempt: int
    exchange: str
    progress: Mapping[str, Any] = field(default_factory=dict)
    snapshot: CheckpointRef | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    announced_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class LedgerLine:
    """A record of a population's ledger: its number, from 1, and its bytes."""

    population: str
    unit: str
    counter: int
    line: bytes


@dataclass(frozen=True)
class NewModelVersion:
    """A model to be registered; `digest` names its files, `files` the hex SHA-256 of each of them."""

    name: str
    digest: str
    run: str | None
    round: int | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion:
    """An immutable version of a named model: 1, 2, ... without gaps."""

    name: str
    version: int
    digest: str
    run: str | None
    round: int | None
    metrics: Mapping[str, float]
    details: Mapping[str, Any]
    files: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True)
class ModelSummary:
    """A model's name, how many versions it has, and where its aliases point now."""

    name: str
    versions: int
    aliases: Mapping[str, int]
    created_at: datetime


@dataclass(frozen=True)
class AliasChange:
    """An alias of a model was pointed at a version; the latest change is the one that holds."""

    name: str
    alias: str
    version: int
    actor: str
    at: datetime


@dataclass(frozen=True)
class AuditEntry:
    """Somebody did something to something."""

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class NewInvitation:
    """An invitation that is about to be handed out.

    Attributes:
        invitation: its number in hex.
        name: who may enrol with it.
        organisation: which organisation must sign, and with which key; empty and None for a member of its own.
        organisation_key: see there.
        proof_key: the public key that verifies proofs of its secret.
        expires_at: from when on it is void.
    """

    invitation: str
    name: str
    organisation: str
    organisation_key: bytes | None
    proof_key: bytes
    expires_at: datetime


@dataclass(frozen=True)
class InvitationRecord(NewInvitation):
    """An invitation as the store knows it; `used_by` is the key that was enrolled with it."""

    created_at: datetime
    used_at: datetime | None
    used_by: bytes | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class NewClient:
    """Somebody who is about to be enrolled; `certificate` holds the very bytes that were signed."""

    public_key: bytes
    name: str
    organisation: str
    organisation_key: bytes
    certificate: bytes


@dataclass(frozen=True)
class ClientRecord(NewClient):
    """A key that was enrolled; `reason` says why it was revoked, if it was."""

    state: ClientState
    reason: str
    enrolled_at: datetime
    renewed_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class KeyRecord:
    """An API key, without anything that would let somebody use it."""

    key_id: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None


class NewKey(NamedTuple):
    """A key that was just made: `key_id, secret = store.create_key(...)`; the secret exists nowhere else."""

    key_id: str
    secret: str

    def __repr__(self) -> str:
        """Name the key and keep the secret."""
        return f"NewKey(key_id={self.key_id!r}, secret=...)"
