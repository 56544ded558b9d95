"""What each data set has spent, as the page follows its ledger: every record checked once, as it is added."""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass
from pathlib import Path

from tacit.client.journal import LEDGERS
from tacit.client.ledger import ledger_names, newest_anchor, verifier_of
from tacit.client.lines import Rewritten, Tail, read_lines
from tacit.models.errors import InputError
from tacit.privacy.errors import PrivacyError
from tacit.privacy.ledger import Anchor, Ledger, LedgerBroken, next_state
from tacit.privacy.records import Column
from tacit.privacy.terms import Unit


@dataclass(frozen=True)
class Spent:
    """What stands in one column of a ledger.

    Attributes:
        column: whose noise it counts.
        epsilon: what it stands at; infinite if it cannot be said.
        granted: what it was opened with.
        delta: what both hold at.
        share: how much of it is used, from 0 to 1: of what adds up, which epsilons do not.
        by_run: what each run alone has used, newest last.
    """

    column: Column
    epsilon: float
    granted: float
    delta: float
    share: float
    by_run: dict[str, float]


class Purse:
    """One ledger; to be used by one thread at a time.

    Args:
        directory: the agent's.
        dataset: the name of the data set.
        unit: who is protected.
        public_key: the agent's.
    """

    def __init__(self, directory: Path, dataset: str, unit: Unit, public_key: bytes) -> None:
        """Read nothing yet."""
        self.dataset, self.unit = dataset, unit
        records, anchors = (directory / LEDGERS / name for name in ledger_names(dataset, unit))
        self._records, self._anchors = records, anchors
        self._is_signed = verifier_of(public_key)
        self.broken = ""
        self._begin()

    def refresh(self) -> None:
        """Read what was added, or all of it if that is not all that changed."""
        if self.broken:
            self._begin()
        try:
            self._read_on()
        except Rewritten:
            self._begin()
            try:
                self._read_on()
            except Rewritten:
                self.broken = "the file changes while it is read"

    @property
    def spent(self) -> list[Spent]:
        """Return what each column stands at."""
        ledger = self._ledger
        return [_spent(ledger, column) for column in ledger.opening.budgets] if ledger is not None else []

    @property
    def records(self) -> int:
        """Return how many records there are."""
        return self._ledger.counter if self._ledger is not None else 0

    @property
    def confirmed(self) -> int:
        """Return up to which record the coordinator has signed that it knows them."""
        return self._anchor.counter if self._anchor is not None else 0

    def _begin(self) -> None:
        self._tail = Tail(self._records)
        self._ledger: Ledger | None = None
        self._anchor: Anchor | None = None
        self._heads: list[bytes] = []
        self.broken = ""

    def _read_on(self) -> None:
        try:
            self._anchor = newest_anchor(read_lines(self._anchors))  # before the records: they know it already
            for _, line in self._tail.read():
                self._ledger = next_state(self._ledger, line, self._is_signed)
                self._heads.append(self._ledger.head)
            self._check()
        except LedgerBroken as error:
            self.broken = str(error)
        except (PrivacyError, InputError) as error:
            self.broken = f"record {len(self._heads) + 1}: {error}"

    def _check(self) -> None:
        ledger, anchor = self._ledger, self._anchor
        if ledger is not None and (ledger.opening.subject, ledger.opening.unit) != (self.dataset, self.unit):
            raise LedgerBroken(1, f"opens the ledger of {ledger.opening.subject!r}, unit {ledger.opening.unit}")
        if ledger is None or (anchor and anchor.counter > ledger.counter):
            raise LedgerBroken(len(self._heads) + 1, "missing: the records end before what was countersigned")
        if anchor and not hmac.compare_digest(self._heads[anchor.counter - 1], anchor.head):
            raise LedgerBroken(anchor.counter, "not the record that was countersigned")


def _spent(ledger: Ledger, column: Column) -> Spent:
    budget, committed = ledger.opening.budgets[column], ledger.committed(column)
    runs = dict.fromkeys([run for run, paid in ledger.spent_by_run if paid == column])
    runs |= dict.fromkeys([key[0] for key in ledger.waiting if key[3] == column])
    epsilon = ledger.epsilon_committed(column)
    share = committed.divergence / budget.limit if math.isfinite(epsilon) else 1.0
    return Spent(
        column=column,
        epsilon=epsilon,
        granted=budget.epsilon,
        delta=budget.delta,
        share=min(1.0, max(0.0, share)),
        by_run={run: ledger.epsilon_committed(column, run) for run in runs},
    )
