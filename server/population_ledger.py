"""What a population has spent of its privacy, across runs and models, as the coordinator's own signed ledger.

An event is reserved before the offer goes out, and spent in the transaction that commits its round. A coordinator that
stops in between leaves the reservation, which counts as spent for ever.

The chain and its signatures find every record that was altered, dropped, reordered or forged by somebody without the
coordinator's key. A tail that was cut off, or a whole ledger that was removed, leaves no trace in the database: whoever
can do that could also put yesterday's copy of it in its place.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Self

from dp_accounting import dp_event

from tacit.models.errors import InputError
from tacit.privacy.errors import LocalProtocolError, PrivacyError
from tacit.privacy.filters import RenyiFilter
from tacit.privacy.identity import Identity
from tacit.privacy.identity import verify as verify_signature
from tacit.privacy.ledger import Ledger, LedgerBroken, open_ledger, verify
from tacit.privacy.records import Column, Entry, Key, Opening, Signer
from tacit.privacy.terms import Unit
from tacit.server.store import LedgerLine, Store

LABEL = "tacit/ledger/1/population"


class PopulationLedger:
    """The ledger of one population and unit, over the store; one process at a time can write to it.

    What a method was to write is in the database when it returns; when it raises, nothing was written and nothing has
    changed here. `settle` is the exception: its record is the caller's to commit together with the round.
    """

    def __init__(self, store: Store, ledger: Ledger, identity: Identity) -> None:
        """Go on from a verified ledger of this identity's; `open` makes sure of that."""
        self._store = store
        self._ledger = ledger
        self._identity = identity
        self._settling: tuple[LedgerLine, Ledger] | None = None

    @classmethod
    def open(
        cls,
        store: Store,
        population: str,
        unit: Unit,
        budgets: Mapping[Column, RenyiFilter] | None,
        identity: Identity,
    ) -> Self:
        """Open the ledger of a population, and create it at first need.

        Args:
            store: where the records are.
            population: its identifier; the same one in every run that asks the same clients.
            unit: who is protected.
            budgets: what is granted when the ledger is created, and must have been granted to one that exists; None
                for an existing ledger with whatever was granted.
            identity: signs the records; only who opened a ledger can go on with it.

        Raises:
            InputError: the ledger belongs to another key, has other budgets, is closed, or `budgets` is None and
                there is none.
            LedgerBroken: a record is not what was written.
            LedgerConflict: another process created it in this moment.
            PrivacyError: a budget is against another adjacency than its unit asks for.
        """
        where = f"the privacy ledger of population {population} (unit {unit})"
        ledger = read_ledger(store, population, unit)
        if ledger is None:
            if budgets is None:
                raise InputError("is not there", where=where, right="grant a budget to open it")
            ledger, line = open_ledger(Opening(unit, population, dict(budgets)), _signer(identity))
            store.open_ledger(population, unit, identity.public_key, line)
            return cls(store, ledger, identity)
        if not hmac.compare_digest(store.ledger_key(population, unit) or b"", identity.public_key):
            raise InputError(
                "was opened with another key", where=where, right="use that key, or name another population"
            )
        if (why := store.ledger_closed(population, unit)) is not None:
            raise InputError(
                f"is closed: {why}", where=where, right="name another population, with a budget that allows for that"
            )
        if budgets is not None and _granted(budgets) != _granted(ledger.opening.budgets):
            raise InputError(
                f"grants {_in_words(ledger.opening.budgets)}, once and for all, not {_in_words(budgets)}",
                where=where,
                right="ask for what was granted",
            )
        return cls(store, ledger, identity)

    @property
    def state(self) -> Ledger:
        """Return the ledger as far as it is in the database."""
        return self._ledger

    def reserve(self, entry: Entry, *, repeated: bool = False) -> None:
        """Reserve what a round will cost at most; it is in the database when this returns.

        Args:
            entry: the participation, with its highest cost.
            repeated: whether a reservation of the same cost that was never settled may stand for this one. That is
                sound only if nobody saw anything of the round before the crash, or the one after it releases the same.
                The offers may differ: each names the last receipt, which a new process does not have.

        Raises:
            BudgetExceeded: the population would stand above its budget.
            PrivacyError: this attempt was reserved before, its column has no budget, or the event is unknown.
            LedgerConflict: another process writes to the ledger.
        """
        waiting = self._ledger.waiting.get(entry.key)
        if repeated and waiting is not None:
            if replace(waiting[0], offer=entry.offer) != entry:
                raise PrivacyError("a round that is repeated was reserved at another cost")
            return
        self._store_step(*self._ledger.reserve(entry, _signer(self._identity)))

    def settle(self, key: Key, event: dp_event.DpEvent | None = None) -> LedgerLine:
        """Return the record that spends a reservation, to be committed with its round; then say `committed`.

        Args:
            key: `Entry.key` of the reservation.
            event: what the round cost in the end; None for what was reserved.

        Raises:
            PrivacyError: nothing is reserved under the key, or the event costs more than was reserved.
        """
        after, record = self._ledger.spend(key, _signer(self._identity), event)
        line = LedgerLine(after.opening.subject, after.opening.unit, after.counter, record)
        self._settling = (line, after)
        return line

    def committed(self, line: LedgerLine) -> None:
        """Go on from a record of `settle` that is in the database now.

        Raises:
            LocalProtocolError: it is not the newest one that `settle` returned.
        """
        if self._settling is None or self._settling[0] != line:
            raise LocalProtocolError("only the record that was settled last can be committed")
        self._ledger, self._settling = self._settling[1], None

    def void(self, key: Key) -> None:
        """Give a reservation back, which is right only where nothing was asked of anybody.

        Raises:
            PrivacyError: nothing is reserved under the key.
            LedgerConflict: another process writes to the ledger.
        """
        self._store_step(*self._ledger.void(key, _signer(self._identity)))

    def _store_step(self, after: Ledger, line: bytes) -> None:
        opening = after.opening
        self._store.append_ledger(opening.subject, opening.unit, after.counter, line)
        self._ledger, self._settling = after, None


def read_ledger(store: Store, population: str, unit: Unit) -> Ledger | None:
    """Return the ledger of a population, every record verified with the key that it was opened with, or None.

    Raises:
        LedgerBroken: a record is not what was written, or was written for another population or unit.
    """
    public_key = store.ledger_key(population, unit)
    if public_key is None:
        return None

    def is_signed(signature: bytes, message: bytes) -> bool:
        return verify_signature(public_key, LABEL, message, signature)

    ledger = verify(store.ledger_lines(population, unit), is_signed).ledger
    if (ledger.opening.subject, ledger.opening.unit) != (population, unit):
        raise LedgerBroken(1, "belongs to another ledger")
    return ledger


def _signer(identity: Identity) -> Signer:
    return lambda message: identity.sign(LABEL, message)


def _granted(budgets: Mapping[Column, RenyiFilter]) -> dict[Column, tuple[float, float, str]]:
    # Not the order: it was chosen when the ledger was created, and that choice holds.
    return {name: (one.epsilon, one.delta, one.adjacency.name) for name, one in budgets.items()}


def _in_words(budgets: Mapping[Column, RenyiFilter]) -> str:
    each = (f"epsilon {one.epsilon:g} at delta {one.delta:g} ({name})" for name, one in sorted(budgets.items()))
    return " and ".join(each) or "nothing"
