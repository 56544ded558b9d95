"""The ledger: every unit of privacy is written down before it can leave, once, and never comes off again.

A ledger is a sequence of records, each signed and chained to the one before by its hash. The first opens the budgets.
After that a record reserves an event, or settles a reservation: as spent, or as void if nothing left. A reservation
that was never settled counts as spent, so stopping at any moment loses no spend.

Two columns have a budget each: what the owner can rely on, and what others only promised. Records come in and go out
as bytes. Where they are kept, and that they are on disk before anything leaves, is the caller's business; this is a
pure fold over them.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from dp_accounting import NeighboringRelation, dp_event

from tacit.privacy.errors import BudgetExceeded, BudgetTooLarge, PrivacyError
from tacit.privacy.filters import RenyiFilter, Spending, largest_epsilon
from tacit.privacy.records import (
    COLUMN_OF,
    GENESIS,
    Column,
    Entry,
    Key,
    Opening,
    Record,
    Signer,
    State,
    read_record,
    record_hash,
)

Verifier: TypeAlias = Callable[[bytes, bytes], bool]
"""Says whether a signature (first) is the ledger owner's over a message (second)."""


class LedgerBroken(PrivacyError):
    """A ledger's records were altered, dropped, reordered, cut or rolled back; nothing may be spent from it.

    Args:
        counter: number of the first record, from 1, that cannot be what the owner wrote.
        why: what is wrong with it.
    """

    def __init__(self, counter: int, why: str) -> None:
        """Keep the place for the caller that reports it."""
        self.counter = counter
        super().__init__(f"ledger record {counter}: {why}")


@dataclass(frozen=True)
class Anchor:
    """A ledger's head as somebody else countersigned it: how many records there were, and the hash of the last."""

    counter: int
    head: bytes

    def __post_init__(self) -> None:
        """Refuse an anchor that would hold nothing."""
        if self.counter < 1 or len(self.head) != len(GENESIS):
            raise PrivacyError("an anchor is the number of a record, from 1, and its hash of 32 bytes")


@dataclass(frozen=True)
class Ledger:
    """The state of a ledger after its records; a step returns a new state and the record to store, or changes nothing.

    Attributes:
        opening: whose ledger it is, and the budgets that were granted.
        counter: how many records there are.
        head: hash of the last.
        spent_by_run: what is gone for good, by run and column; no step makes any of it smaller.
        waiting: the reservations not yet settled, with what they cost.
        settled: the keys of those that were; none can be reserved or settled again.
        voided: of those, the ones of which nothing left.
    """

    opening: Opening
    counter: int
    head: bytes
    spent_by_run: Mapping[tuple[str, Column], Spending] = field(default_factory=dict)
    waiting: Mapping[Key, tuple[Entry, Spending]] = field(default_factory=dict)
    settled: frozenset[Key] = frozenset()
    voided: frozenset[Key] = frozenset()

    @property
    def anchor(self) -> Anchor:
        """Return the counter and head that go out with a masked input, to come back countersigned."""
        return Anchor(self.counter, self.head)

    def spent(self, column: Column, run: str | None = None) -> Spending:
        """Return what is gone for good from a column, in all or by one run."""
        costs = self.spent_by_run.items()
        return sum((cost for (by, paid), cost in costs if paid == column and run in (None, by)), Spending())

    def committed(self, column: Column, run: str | None = None) -> Spending:
        """Return what a column has spent, in all or by one run, every open reservation counted as spent."""
        waiting = (cost for key, (_, cost) in self.waiting.items() if key[3] == column and run in (None, key[0]))
        return sum(waiting, self.spent(column, run))

    def epsilon_committed(self, column: Column, run: str | None = None) -> float:
        """Return the epsilon that a column stands at by its own stop rule, open reservations included.

        With `run`, what that run alone has used, for a policy that also limits each run.
        """
        budget = self.opening.budgets.get(column)
        return budget.epsilon_of(self.committed(column, run)) if budget else 0.0

    def allows(self, entry: Entry) -> bool:
        """Say whether `entry` could be reserved within its column's budget."""
        budget = self.opening.budgets.get(COLUMN_OF[entry.noise_by])
        return budget is not None and budget.allows(self.committed(entry.key[3]) + budget.spent([entry.event]))

    def reserve(self, entry: Entry, sign: Signer) -> tuple[Ledger, bytes]:
        """Return the ledger with `entry` reserved, and the record that must be stored before anything leaves.

        Raises:
            BudgetExceeded: with it the column would stand above its budget.
            PrivacyError: the participation was reserved before, its column has no budget, or the event is unknown.
        """
        return self._append("reserved", entry, sign)

    def spend(self, key: Key, sign: Signer, event: dp_event.DpEvent | None = None) -> tuple[Ledger, bytes]:
        """Return the ledger with a reservation spent, and the record to store.

        Args:
            key: `Entry.key` of the reservation.
            sign: signs the record.
            event: what it cost in the end, such as with the noise of all who survived; None for what was reserved.

        Raises:
            PrivacyError: nothing is reserved under the key, or the event costs more than was reserved.
        """
        entry = self._reserved(key)
        return self._append("spent", entry if event is None else replace(entry, event=event), sign)

    def void(self, key: Key, sign: Signer) -> tuple[Ledger, bytes]:
        """Return the ledger with a reservation given back, and the record to store: only where nothing has left.

        Raises:
            PrivacyError: nothing is reserved under the key.
        """
        return self._append("void", self._reserved(key), sign)

    def _reserved(self, key: Key) -> Entry:
        if key not in self.waiting:
            raise PrivacyError(f"nothing is reserved for run {key[0]}, round {key[1]}, attempt {key[2]} ({key[3]})")
        return self.waiting[key][0]

    def _append(self, state: State, entry: Entry, sign: Signer) -> tuple[Ledger, bytes]:
        record = Record(self.counter + 1, self.head, self.opening.unit, self.opening.subject, state, entry)
        self._after(record, b"")
        line = replace(record, signature=sign(record.message())).to_bytes()
        read_record(line)  # what cannot be read back, such as a run that is no text, is never written
        return self._after(record, line), line

    def _after(self, record: Record, line: bytes) -> Ledger:
        """Return the state after a record that continues this one; the only place where state changes."""
        entry = record.content
        if isinstance(entry, Opening):
            raise PrivacyError("a ledger is opened once")
        key, column = entry.key, COLUMN_OF[entry.noise_by]
        budget = self.opening.budgets.get(column)
        if budget is None:
            raise PrivacyError(f"the ledger of {self.opening.subject} grants nothing to {column} noise")
        cost = budget.spent([entry.event])
        spent, waiting, settled = dict(self.spent_by_run), dict(self.waiting), self.settled
        voided = self.voided
        if record.state == "reserved":
            if key in waiting or key in settled:
                raise PrivacyError(f"run {key[0]}, round {key[1]}, attempt {key[2]} was reserved before")
            _require(budget, self.committed(column) + cost, self.opening.subject)
            waiting[key] = (entry, cost)
        else:
            reserved = self._reserved(key)
            _, reserved_cost = waiting.pop(key)
            if replace(entry, event=reserved.event) != reserved:
                raise PrivacyError("a reservation is settled by an entry that differs in more than its event")
            settled |= {key}
            if record.state == "spent":
                if cost.divergence > reserved_cost.divergence:
                    raise PrivacyError("a reservation is spent at more than was reserved")
                by_run = (entry.run, column)
                spent[by_run] = spent.get(by_run, Spending()) + cost
            else:
                voided |= {key}
        after = Ledger(self.opening, record.counter, record_hash(line), spent, waiting, settled, voided)
        if record.state == "spent":
            _require(budget, after.committed(column), self.opening.subject)
        return after


@dataclass(frozen=True)
class Verified:
    """A ledger that its records prove, and how many of them nobody else has countersigned yet."""

    ledger: Ledger
    unanchored: int


def open_ledger(opening: Opening, sign: Signer) -> tuple[Ledger, bytes]:
    """Return a new ledger and its first record.

    Raises:
        PrivacyError: a budget is against another adjacency than its unit asks for.
    """
    record = Record(1, GENESIS, opening.unit, opening.subject, "opened", opening)
    line = replace(record, signature=sign(record.message())).to_bytes()
    return _opened(read_record(line), line), line


def verify(lines: Iterable[bytes], is_signed: Verifier, anchor: Anchor | None = None) -> Verified:
    """Rebuild a ledger from its records, and refuse it if they are not what its owner wrote, in that order, complete.

    A chain alone cannot show that its end was cut off. The anchor does, for everything up to it; what is newer is
    counted in the result and vouched for by nobody but the owner's disk.

    Args:
        lines: the records as they were stored, from the first.
        is_signed: the owner's signature check.
        anchor: the last head that came back countersigned, if any did.

    Raises:
        LedgerBroken: a record was altered, dropped, reordered or forged, or the records end before the anchor.
    """
    ledger: Ledger | None = None
    counter = 0
    for counter, line in enumerate(lines, start=1):
        try:
            ledger = next_state(ledger, line, is_signed)
        except PrivacyError as error:
            raise LedgerBroken(counter, str(error)) from error
        if anchor and counter == anchor.counter and not hmac.compare_digest(ledger.head, anchor.head):
            raise LedgerBroken(counter, "not the record that was countersigned")
    if ledger is None or (anchor and counter < anchor.counter):
        raise LedgerBroken(counter + 1, "missing: the records end before what was countersigned, or there are none")
    return Verified(ledger, counter - (anchor.counter if anchor else 0))


def next_state(ledger: Ledger | None, line: bytes, is_signed: Verifier) -> Ledger:
    """Return the state after one more record, for whoever follows a ledger that grows.

    Args:
        ledger: the state before it; None at the first record.
        line: the record as it was stored.
        is_signed: the owner's signature check.

    Raises:
        PrivacyError: it is no record, not the owner's, or not the next one.
    """
    record = read_record(line)
    if not is_signed(record.signature, record.message()):
        raise PrivacyError("not signed by the owner")
    if ledger is None:
        return _opened(record, line)
    if record.counter != ledger.counter + 1 or not hmac.compare_digest(record.previous, ledger.head):
        raise PrivacyError("does not follow the record before it")
    if (record.unit, record.subject) != (ledger.opening.unit, ledger.opening.subject):
        raise PrivacyError("belongs to another ledger")
    return ledger._after(record, line)


def _opened(record: Record, line: bytes) -> Ledger:
    opening = record.content
    if not isinstance(opening, Opening) or record.counter != 1 or record.previous != GENESIS:
        raise PrivacyError("does not open a ledger")
    replaced = NeighboringRelation.REPLACE_ONE
    usual = NeighboringRelation.REPLACE_SPECIAL if opening.unit == "client" else NeighboringRelation.ADD_OR_REMOVE_ONE
    if any(budget.adjacency not in (usual, replaced) for budget in opening.budgets.values()):
        raise PrivacyError(f"a budget of unit {opening.unit} is against {usual.name} or {replaced.name}")
    return Ledger(opening, 1, record_hash(line))


def _require(budget: RenyiFilter, spending: Spending, subject: str) -> None:
    if budget.allows(spending):
        return
    what = f"privacy budget of {subject}"
    if spending.divergence <= budget.limit:
        raise BudgetTooLarge(largest_epsilon(spending, budget.delta), budget.epsilon, what=what)
    raise BudgetExceeded(budget.epsilon_of(spending), budget.epsilon, what=what)
