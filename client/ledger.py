"""The owner's ledger of one data set: what every participation costs it, whoever asks, on disk before anything leaves.

A ledger is known by the name of the data set in the agent's register and by its unit. The data themselves have no say:
with a hash of the rows in its name, one new row would open a new budget.

A reservation that a crash left open counts as spent, so that a crash costs at most one round and never forgets one.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from dp_accounting import dp_event

from tacit.client.lines import Lines, StorageError
from tacit.models.errors import InputError
from tacit.models.messages import canonical_json
from tacit.privacy import identity as identities
from tacit.privacy.errors import BudgetExceeded, BudgetTooLarge, PrivacyError
from tacit.privacy.filters import RenyiFilter
from tacit.privacy.identity import Identity, check_name
from tacit.privacy.ledger import Anchor, Ledger, LedgerBroken, Verified, Verifier, open_ledger, verify
from tacit.privacy.records import COLUMN_OF, Column, Entry, Key, Opening, Signer, read_record, record_hash
from tacit.privacy.terms import Unit

LEDGER_LABEL = "tacit/ledger/1/record"
Budgets: TypeAlias = Mapping[Column, RenyiFilter]


class DatasetLedger:
    """The ledger of one data set and unit, with the lines that it is kept in.

    Args:
        dataset: the name of the data set in the register.
        unit: who is protected.
        lines: the records.
        anchors: the heads that came back countersigned.
        sign: signs a record.
        is_signed: says whether a signature is the owner's.
        budgets: what is granted if there is no ledger yet; one that is there keeps what it was opened with.

    Raises:
        LedgerBroken: the records are not what the owner wrote, or end before what was countersigned last.
        InputError: there is no ledger yet and nothing is granted.
    """

    def __init__(
        self,
        dataset: str,
        unit: Unit,
        lines: Lines,
        anchors: Lines,
        sign: Signer,
        is_signed: Verifier,
        budgets: Budgets,
    ) -> None:
        """Open the ledger, and check all of it; or begin it."""
        self._lines, self._anchors, self._sign = lines, anchors, sign
        self._heads: list[bytes] = []
        self._events: dict[str, dict[Key, dp_event.DpEvent]] = {}
        self._reservations: dict[bytes, Anchor] = {}  # by the digest of the offer that they are for
        kept = lines.read()
        self._anchor = newest_anchor(anchors.read())
        if kept or self._anchor:
            self._ledger = checked(dataset, unit, kept, is_signed, self._anchor).ledger
            for line in kept:
                record = read_record(line)
                self._heads.append(record_hash(line))
                if isinstance(record.content, Entry):
                    if record.state == "reserved":
                        self._reservations[record.content.offer] = Anchor(record.counter, self._heads[-1])
                    self._know(record.content.key, record.content.event, void=record.state == "void")
            return
        if not budgets:
            raise InputError("has no privacy budget", where=f"data set {dataset}", right="grant one in the policy")
        ledger, line = open_ledger(Opening(unit, dataset, dict(budgets)), sign)
        self._store(ledger, line)

    @property
    def state(self) -> Ledger:
        """Return what the ledger stands at; as a value, it never changes."""
        return self._ledger

    @property
    def unanchored(self) -> int:
        """Return how many records nobody else has countersigned yet."""
        return self._ledger.counter - (self._anchor.counter if self._anchor else 0)

    def events_of(self, run: str) -> Mapping[Column, tuple[dp_event.DpEvent, ...]]:
        """Return what a run has used by column, open reservations included, for a limit on each run."""
        events: dict[Column, list[dp_event.DpEvent]] = {}
        for key, event in self._events.get(run, {}).items():
            events.setdefault(key[3], []).append(event)
        return {column: tuple(costs) for column, costs in events.items()}

    def reserved_for(self, offer: bytes) -> Anchor | None:
        """Return the head and counter that went out with the input that an offer was answered with, if one was."""
        return self._reservations.get(offer)

    def allows(self, entries: Sequence[Entry]) -> bool:
        """Say whether all of these could be reserved together."""
        try:
            self._reserved(entries, lambda message: b"")
        except PrivacyError:
            return False
        return True

    def reserve(self, entries: Sequence[Entry]) -> Anchor:
        """Reserve what one participation costs, all of it or nothing; it is on disk when this returns.

        Returns:
            The head and counter that go out with the masked input. With nothing to reserve, those that stand.

        Raises:
            BudgetExceeded: a column would stand above its budget; nothing was written.
            PrivacyError: an entry cannot be reserved; nothing was written.
            StorageError: a record could not be written. Those before it are given back; where that fails too, they
                count as spent.
        """
        steps = self._reserved(entries, self._sign)
        stored: list[Key] = []
        try:
            for entry, ledger, line in steps:
                self._store(ledger, line)
                self._know(entry.key, entry.event)
                self._reservations[entry.offer] = ledger.anchor
                stored.append(entry.key)
        except BaseException:
            with suppress(StorageError):
                for key in stored:
                    self.void(key)
            raise
        return self._ledger.anchor

    def spend(self, key: Key, event: dp_event.DpEvent | None = None) -> None:
        """Settle a reservation as spent: at `event`, such as with the noise of all who survived, or as reserved.

        Raises:
            PrivacyError: nothing is reserved under the key, or the event costs more than was reserved.
            StorageError: it could not be written; the reservation stays, and counts as spent.
        """
        self._store(*self._ledger.spend(key, self._sign, event))
        if event is not None:
            self._know(key, event)

    def void(self, key: Key) -> None:
        """Give a reservation back: only where nothing has left.

        Raises:
            PrivacyError: nothing is reserved under the key.
            StorageError: it could not be written; the reservation stays, and counts as spent.
        """
        self._store(*self._ledger.void(key, self._sign))
        self._know(key, void=True)

    def countersigned(self, anchor: Anchor) -> None:
        """Keep a head that came back in a receipt: from now on the ledger cannot be cut off before it unseen.

        Raises:
            LedgerBroken: the head is none of this ledger's; its end was lost before it was opened, or the receipt is
                about another one.
        """
        known = anchor.counter <= len(self._heads)
        if not known or not hmac.compare_digest(self._heads[anchor.counter - 1], anchor.head):
            raise LedgerBroken(anchor.counter, "not the record that was countersigned")
        if self._anchor is None or anchor.counter > self._anchor.counter:
            self._anchors.append(canonical_json({"counter": anchor.counter, "head": anchor.head.hex()}))
            self._anchor = anchor

    def _reserved(self, entries: Sequence[Entry], sign: Signer) -> list[tuple[Entry, Ledger, bytes]]:
        """Return each entry with the state after it and its record; nothing is stored."""
        steps, ledger = [], self._ledger
        for entry in entries:
            column = COLUMN_OF[entry.noise_by]
            if column not in ledger.opening.budgets:
                raise PrivacyError(f"nothing is granted to {column} noise")
            try:
                ledger, line = ledger.reserve(entry, sign)
            except BudgetTooLarge as error:  # a coordinator gets to read why, and not what the data set is called
                raise BudgetTooLarge(error.most, error.budget) from None
            except BudgetExceeded as error:
                raise BudgetExceeded(error.requested, error.budget) from None
            steps.append((entry, ledger, line))
        return steps

    def _store(self, ledger: Ledger, line: bytes) -> None:
        self._lines.append(line)
        self._ledger = ledger
        self._heads.append(record_hash(line))

    def _know(self, key: Key, event: dp_event.DpEvent | None = None, *, void: bool = False) -> None:
        """Keep what a run has used, for `events_of`."""
        events = self._events.setdefault(key[0], {})
        if void:
            events.pop(key, None)
        elif event is not None:
            events[key] = event


def signer_of(identity: Identity) -> Signer:
    """Return what signs ledger records with an agent's key."""
    return lambda message: identity.sign(LEDGER_LABEL, message)


def verifier_of(public_key: bytes) -> Verifier:
    """Return what says whether ledger records are signed with this key."""
    return lambda signature, message: identities.verify(public_key, LEDGER_LABEL, message, signature)


def ledger_names(dataset: str, unit: Unit) -> tuple[str, str]:
    """Return the names of the two files of a ledger: its records, and the heads that came back countersigned.

    Raises:
        ValueError: the name of the data set is none that a register has.
    """
    check_name(dataset)
    return f"{dataset}.{unit}.ledger", f"{dataset}.{unit}.anchors"


def checked(
    dataset: str, unit: Unit, lines: Sequence[bytes], is_signed: Verifier, anchor: Anchor | None = None
) -> Verified:
    """Return a ledger that its records prove to be this data set's.

    Raises:
        LedgerBroken: they do not.
    """
    verified = verify(lines, is_signed, anchor)
    opening = verified.ledger.opening
    if (opening.subject, opening.unit) != (dataset, unit):
        raise LedgerBroken(1, f"opens the ledger of {opening.subject!r}, unit {opening.unit}")
    return verified


def newest_anchor(lines: Sequence[bytes]) -> Anchor | None:
    """Return the last head that came back countersigned, if any did.

    Raises:
        LedgerBroken: a line is none that `DatasetLedger` writes, or they do not follow each other.
    """
    newest: Anchor | None = None
    for line in lines:
        try:
            values = json.loads(line)
            anchor = Anchor(values["counter"], bytes.fromhex(values["head"]))
        except (KeyError, TypeError, ValueError, RecursionError, PrivacyError):
            raise LedgerBroken(newest.counter if newest else 1, "what was countersigned cannot be read") from None
        if type(anchor.counter) is not int or (newest and anchor.counter <= newest.counter):
            raise LedgerBroken(newest.counter if newest else 1, "what was countersigned is out of order")
        newest = anchor
    return newest
