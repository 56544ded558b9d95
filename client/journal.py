"""What an agent must not lose: which rounds it answered, what its data sets have spent, and its account of all that.

Everything is kept in one directory:

    rounds.jsonl                    the rounds that were answered and contributed to, and the survivors that were signed
    audit.jsonl                     the account
    ledgers/NAME.UNIT.ledger        what a data set has spent, as signed records
    ledgers/NAME.UNIT.anchors       the heads of that ledger that came back countersigned
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias, cast, get_args

from tacit.client.audit import AuditLog
from tacit.client.ledger import (
    Budgets,
    DatasetLedger,
    checked,
    ledger_names,
    newest_anchor,
    signer_of,
    verifier_of,
)
from tacit.client.lines import FileLines, Lines, MemoryLines, read_lines
from tacit.models.messages import canonical_json
from tacit.privacy.errors import PrivacyError
from tacit.privacy.identity import Identity
from tacit.privacy.ledger import Verified
from tacit.privacy.terms import Unit

ROUNDS, AUDIT, LEDGERS = "rounds.jsonl", "audit.jsonl", "ledgers"
OpenLines: TypeAlias = Callable[[str], Lines]
"""Opens the lines of a name, a path within the agent's directory."""
ListLedgers: TypeAlias = Callable[[], Sequence[tuple[str, Unit]]]
"""Lists the data sets and units that there is a ledger of from before, in order, without opening them."""


class JournalBroken(PrivacyError):
    """A journal holds a line that no agent wrote; nothing is answered from it."""


@dataclass(frozen=True)
class Signed:
    """The set of survivors that was signed last in a run.

    Attributes:
        round: the round.
        attempt: the attempt at it.
        digest: H(U3).
        survivors: how many are in U3.
    """

    round: int
    attempt: int
    digest: bytes
    survivors: int


class AgentJournal:
    """A durable `privacy.secagg.policy.Journal`, and the door to the agent's ledgers and account.

    The rounds of a run follow each other, so of each run only the last round is known: whatever does not come after it
    counts as answered, and as contributed to.

    Args:
        open_lines: where lines are kept.
        identity: the agent's key, which signs its ledgers.
        now: the clock of the account, in seconds since 1970.
        kept: lists the ledgers from before.

    Raises:
        JournalBroken: a line of the journal is none that was written here.
        AuditBroken: the account is not what was written here.
    """

    def __init__(
        self, open_lines: OpenLines, identity: Identity, now: Callable[[], float], kept: ListLedgers = tuple
    ) -> None:
        """Read what is known already."""
        self._open_lines, self._identity, self._kept = open_lines, identity, kept
        self._answers: dict[str, tuple[int, int]] = {}
        self._contributions: dict[str, int] = {}
        self._participations: dict[str, int] = {}
        self._survivors: dict[str, Signed] = {}
        self._ledgers: dict[tuple[str, Unit], DatasetLedger] = {}
        self._lines: dict[str, Lines] = {}
        try:
            self._rounds = self._open(ROUNDS)
            for number, line in enumerate(self._rounds.read(), start=1):
                self._learn(number, line)
            self.audit = AuditLog(self._open(AUDIT), now)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, directory: Path, identity: Identity, *, now: Callable[[], float] = time.time) -> Self:
        """Open the journal of a directory; nobody else can until it is closed, or the process is gone.

        Raises:
            InputError: another process has it open, or a file or directory is open to other users.
            JournalBroken, AuditBroken: see the class.
        """
        return cls(lambda name: FileLines(directory / name), identity, now, lambda: list_ledgers(directory))

    @classmethod
    def in_memory(cls, identity: Identity, *, now: Callable[[], float] = time.time) -> Self:
        """Return a journal that ends with the process, for simulations."""
        return cls(lambda name: MemoryLines(), identity, now)

    def close(self) -> None:
        """Give everything back to whoever opens it next; nothing is recorded any more."""
        for lines in self._lines.values():
            lines.close()

    def __enter__(self) -> Self:
        """Return the journal, to be closed at the end of the block."""
        return self

    def __exit__(self, *unused: object) -> None:
        """Close it."""
        self.close()

    def ledger(self, dataset: str, unit: Unit, budgets: Budgets) -> DatasetLedger:
        """Return the ledger of a data set, opened at first need; see `DatasetLedger`.

        Raises:
            LedgerBroken: it is not what was written here, or was cut or rolled back behind what was countersigned.
            InputError: it does not exist and nothing is granted, or is in use.
            ValueError: the name of the data set is none that a register has.
        """
        if (dataset, unit) not in self._ledgers:
            records, anchors = (self._open(f"{LEDGERS}/{name}") for name in ledger_names(dataset, unit))
            is_signed = verifier_of(self._identity.public_key)
            self._ledgers[dataset, unit] = DatasetLedger(
                dataset, unit, records, anchors, signer_of(self._identity), is_signed, budgets
            )
        return self._ledgers[dataset, unit]

    def kept_ledgers(self) -> list[DatasetLedger]:
        """Return all ledgers that were ever opened here, in this process or an earlier one.

        Raises:
            LedgerBroken, InputError: see `ledger`.
        """
        for dataset, unit in self._kept():
            self.ledger(dataset, unit, {})
        return list(self._ledgers.values())

    @property
    def usable(self) -> bool:
        """Say whether anything may be written down yet; once it is not so, the journal has to be opened again."""
        return all(lines.usable for lines in self._lines.values())

    def participations(self, run: str) -> int:
        """Return how many training rounds of a run a masked input left for; round 0 is the preparation."""
        return self._participations.get(run, 0)

    def signed(self, run: str) -> Signed | None:
        """Return the survivors of a run that were signed last, if any were."""
        return self._survivors.get(run)

    def answered(self, run: str, round: int, attempt: int) -> bool:
        """Say whether this attempt's offer was answered, or a later one's."""
        return (round, attempt) <= self._answers.get(run, (-1, -1))

    def contributed(self, run: str, round: int) -> bool:
        """Say whether a masked input left for this round, or for a later one."""
        return round <= self._contributions.get(run, -1)

    def record_answer(self, run: str, round: int, attempt: int) -> None:
        """Remember that this attempt's offer is about to be answered."""
        self._rounds.append(canonical_json(["answer", run, round, attempt]))
        self._know_answer(run, round, attempt)

    def record_contribution(self, run: str, round: int) -> None:
        """Remember that a masked input is about to leave for this round."""
        self._rounds.append(canonical_json(["contribution", run, round]))
        self._know_contribution(run, round)

    def record_survivors(self, run: str, round: int, attempt: int, digest: bytes, survivors: int) -> None:
        """Remember H(U3), and how many are in U3, that are about to be signed."""
        self._rounds.append(canonical_json(["survivors", run, round, attempt, digest.hex(), survivors]))
        self._survivors[run] = Signed(round, attempt, digest, survivors)

    def _open(self, name: str) -> Lines:
        if name not in self._lines:
            self._lines[name] = self._open_lines(name)
        return self._lines[name]

    def _know_answer(self, run: str, round: int, attempt: int) -> None:
        self._answers[run] = max((round, attempt), self._answers.get(run, (-1, -1)))

    def _know_contribution(self, run: str, round: int) -> None:
        if round > max(0, self._contributions.get(run, 0)):
            self._participations[run] = self._participations.get(run, 0) + 1
        self._contributions[run] = max(round, self._contributions.get(run, -1))

    def _learn(self, number: int, line: bytes) -> None:
        try:
            what, run, *values = json.loads(line)
            if what == "survivors":
                round, attempt, digest, survivors = values
                values = [round, attempt, survivors]
                self._survivors[run] = Signed(round, attempt, bytes.fromhex(digest), survivors)
            elif what == "answer":
                self._know_answer(run, *values)
            elif what == "contribution":
                self._know_contribution(run, *values)
            else:
                raise ValueError(what)
            if any(type(value) is not int for value in values) or type(run) is not str:
                raise TypeError(what)
        except (TypeError, ValueError, RecursionError):
            raise JournalBroken(f"line {number} of the journal is none that was written here") from None


def list_ledgers(directory: Path) -> list[tuple[str, Unit]]:
    """Return the data sets and units that there is a ledger of in a directory, in order; empty files do not count."""
    found = []
    for path in sorted((directory / LEDGERS).glob("*.ledger")):
        name, _, unit = path.name.removesuffix(".ledger").rpartition(".")
        if name and unit in get_args(Unit) and path.lstat().st_size:
            found.append((name, cast(Unit, unit)))
    return found


def read_ledger(directory: Path, dataset: str, unit: Unit, public_key: bytes) -> Verified:
    """Return a ledger, checked, without taking it from the agent that may be writing it.

    Raises:
        LedgerBroken: it is not what the agent wrote, or there is none.
        InputError: a file cannot be read.
        ValueError: the name of the data set is none that a register has.
    """
    records, anchors = (directory / LEDGERS / name for name in ledger_names(dataset, unit))
    anchor = newest_anchor(read_lines(anchors))  # before the records: whatever it says, they say already
    return checked(dataset, unit, read_lines(records), verifier_of(public_key), anchor)
