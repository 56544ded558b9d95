"""How a federation stands, from what its coordinator keeps: the database, the queue, and `up.json` while it is up.

Nobody is asked for any of it, so that it can be seen beside a coordinator that works, and of one that does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.models.errors import InputError
from tacit.models.recipe import Recipe, parse_recipe
from tacit.privacy.errors import PrivacyError
from tacit.server.enrolment import taking_part
from tacit.server.run_queue import FAILED, Queued, is_to_stop, queued
from tacit.server.store import RoundRecord, RunRecord, Store
from tacit.server.store.records import PhaseRecord
from tacit.server.up_file import Up, read_up

if TYPE_CHECKING:
    from tacit.privacy.terms import Unit

RECENT = 8


@dataclass(frozen=True)
class Member:
    """Who may take part, and whether it is there; None of both while no coordinator is up."""

    name: str
    online: bool | None
    seen: datetime | None


@dataclass(frozen=True)
class Missing:
    """A client that was asked and is not in the result."""

    client: str
    outcome: str
    reason: str


@dataclass(frozen=True)
class Phase:
    """Which exchange of the round is under way.

    Attributes:
        exchange: its name.
        asked: how many clients it asks.
        cohort: how many the round has asked.
        since: when it was announced.
        missing: those that the round has lost by then.
    """

    exchange: str
    asked: int
    cohort: int
    since: datetime | None
    missing: tuple[Missing, ...]


@dataclass(frozen=True)
class Attempt:
    """How the newest attempt at a round ended.

    Attributes:
        round, attempt: which one; round 0 is the preparation.
        committed: whether it is part of the model.
        reason: why it is not.
        seconds: how long it took.
        ended_at: when it ended.
        counts: how many clients reported, were refused, late, dropped.
        missing: those that did not report, with what they or their coordinator said.
    """

    round: int
    attempt: int
    committed: bool
    reason: str
    seconds: float
    ended_at: datetime | None
    counts: Mapping[str, int]
    missing: tuple[Missing, ...]


@dataclass(frozen=True)
class Spending:
    """What the ledger that pays for a run stands at, open reservations included."""

    ledger: str
    epsilon_committed: float
    epsilon_granted: float
    delta: float


@dataclass(frozen=True)
class Going:
    """A run that has begun and not ended.

    Attributes:
        run, recipe: their names.
        since: when it began.
        rounds_committed, rounds: how many are part of the model, and how many there are to be.
        round, attempt: what is being tried now.
        phase: how far that has come; None between two rounds.
        stopping: whether it was asked to end after the attempt that is going.
        metrics: of the newest committed round.
        privacy: None without a promise, or before anything was reserved.
        last: the newest attempt that has ended.
    """

    run: str
    recipe: str
    since: datetime
    rounds_committed: int
    rounds: int | None
    round: int
    attempt: int
    phase: Phase | None
    stopping: bool
    metrics: Mapping[str, float]
    privacy: Spending | None
    last: Attempt | None


@dataclass(frozen=True)
class Ended:
    """A run that is over, or was broken off.

    Attributes:
        run, recipe: their names.
        status: finished, stopped, failed or interrupted.
        reason: why, where it did not just come to its last round.
        rounds_committed: how many are part of the model.
        ended_at: when.
        model: what was registered, as in ward@3; empty for nothing.
        metrics: of the test.
    """

    run: str
    recipe: str
    status: str
    reason: str
    rounds_committed: int
    ended_at: datetime | None
    model: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Status:
    """How a federation stands.

    Attributes:
        federation: its name.
        url: where agents find it.
        up: what the coordinator says of itself; None while none is up.
        members: those who may take part, by name.
        going: the run that has begun and not ended; with `up` None it waits for the next start.
        waiting: what is to be trained, in order.
        put_aside: what could not be trained.
        recent: the newest runs that are over, newest first.
    """

    federation: str
    url: str
    up: Up | None
    members: tuple[Member, ...]
    going: Going | None
    waiting: tuple[Queued, ...]
    put_aside: tuple[Queued, ...]
    recent: tuple[Ended, ...]

    @property
    def online(self) -> int:
        """Return how many members are there."""
        return sum(bool(member.online) for member in self.members)


class Ledgers:
    """What ledgers stand at, remembered for as long as they have no new record: to check one takes a while.

    Args:
        store: keeps them.
    """

    def __init__(self, store: Store) -> None:
        """Remember nothing."""
        self._store = store
        self._known: tuple[tuple[str, str, int], Spending | None] | None = None

    def spending(self, run: str, recipe: Recipe) -> Spending | None:
        """Return what the ledger stands at that pays for a run, None without a promise or before the first record."""
        unit = recipe.privacy.unit
        if unit == "none":
            return None
        population = recipe.population.ledger or f"run/{run}"
        key, known = (population, unit, self._store.ledger_length(population, unit)), self._known
        if known is None or known[0] != key:
            known = key, self._read(population, unit)
            self._known = known
        return known[1]

    def _read(self, population: str, unit: Unit) -> Spending | None:
        # Imported here: the accountant takes a second to load, and without a promise nobody needs it.
        from tacit.server.population_ledger import read_ledger

        try:
            ledger = read_ledger(self._store, population, unit)
        except PrivacyError:  # whoever is to write to it says what is wrong
            return None
        granted = ledger.opening.budgets.get("assured") if ledger else None
        if ledger is None or granted is None:
            return None
        return Spending(population, ledger.epsilon_committed("assured"), granted.epsilon, granted.delta)


def read_status(
    directory: Path, federation: str, url: str, store: Store, now: datetime, ledgers: Ledgers | None = None
) -> Status:
    """Return how the federation of a directory stands.

    Args:
        directory: the coordinator's.
        federation: its name.
        url: where agents find it.
        store: its database.
        now: the time.
        ledgers: remembers what they stand at, for whoever looks again and again.

    Raises:
        InputError: a file of the directory cannot be read.
        StoreUnavailable: the database cannot be reached.
    """
    up = read_up(directory)
    seen = up.clients if up else {}
    members = []
    for name in sorted(taking_part(store.list_clients(), int(now.timestamp()))):
        there = seen.get(name)
        online = None if up is None else there is not None and there.online
        members.append(Member(name, online, there.seen if there else None))
    runs = store.list_runs(RECENT + 1)
    going = [*store.list_runs(1, "running")]
    names = {record.run for record in going}
    return Status(
        federation=federation,
        url=up.url if up else url,
        up=up,
        members=tuple(members),
        going=read_going(directory, going[0], store, ledgers or Ledgers(store)) if going else None,
        waiting=tuple(one for one in queued(directory) if one.run not in names),
        put_aside=queued(directory, FAILED),
        recent=tuple(_ended(record) for record in runs if record.run not in names)[:RECENT],
    )


def read_going(directory: Path, record: RunRecord, store: Store, ledgers: Ledgers) -> Going:
    """Return how a run that has begun stands.

    Args:
        directory: the coordinator's.
        record: the run.
        store: the database.
        ledgers: what they stand at.
    """
    try:
        recipe = parse_recipe(record.recipe_toml)
    except InputError:  # of another version
        recipe = None
    newest, last = store.last_committed_round(record.run), store.last_attempt(record.run)
    phase = store.phase(record.run)
    if phase is not None and phase.exchange:
        number, attempt = phase.number, phase.attempt
    else:
        phase, number = None, newest.number + 1 if newest else 0
        attempt = store.next_attempt(record.run, number)
    return Going(
        run=record.run,
        recipe=record.recipe_name,
        since=record.created_at,
        rounds_committed=record.rounds_committed,
        rounds=recipe.training.rounds if recipe else None,
        round=number,
        attempt=attempt,
        phase=_phase(phase) if phase else None,
        stopping=is_to_stop(directory, record.run),
        metrics=newest.metrics if newest else {},
        privacy=ledgers.spending(record.run, recipe) if recipe else None,
        last=_attempt(last) if last else None,
    )


def _phase(record: PhaseRecord) -> Phase:
    gone = record.progress.get("gone", ())
    return Phase(
        exchange=record.exchange,
        asked=len(record.progress.get("asked", ())),
        cohort=len(record.progress.get("cohort", ())),
        since=record.announced_at,
        missing=tuple(Missing(one["client"], one["outcome"], one["reason"]) for one in gone),
    )


def _attempt(record: RoundRecord) -> Attempt:
    return Attempt(
        round=record.number,
        attempt=record.attempt,
        committed=record.outcome == "committed",
        reason=str(record.extra.get("reason", "")),
        seconds=record.seconds,
        ended_at=record.committed_at,
        counts=dict(Counter(one.outcome for one in record.participation)),
        missing=tuple(
            Missing(one.client, one.outcome, one.reason)
            for one in record.participation
            if one.outcome not in ("reported", "selected")
        ),
    )


def _ended(record: RunRecord) -> Ended:
    summary = record.summary or {}
    model = summary.get("model")
    return Ended(
        run=record.run,
        recipe=record.recipe_name,
        status=record.status,
        reason=record.reason or str(summary.get("stopped") or ""),
        rounds_committed=record.rounds_committed,
        ended_at=record.finished_at or record.updated_at,
        model="{name}@{version}".format_map(model) if isinstance(model, Mapping) and "version" in model else "",
        metrics=summary.get("metrics") or {},
    )
