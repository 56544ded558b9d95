"""What a run may still ask of its clients' privacy: reserved before an offer goes out, spent when its round is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dp_accounting import dp_event

from tacit.models.noise import NoisePlan, noise_plan
from tacit.models.recipe import Recipe
from tacit.models.spending import Spent, entry, ledger_event, run_budget
from tacit.privacy.calibration import with_spare
from tacit.privacy.errors import PrivacyError
from tacit.privacy.filters import RenyiFilter, renyi_filter
from tacit.privacy.identity import Identity
from tacit.privacy.ledger import Ledger
from tacit.privacy.records import Column, Entry, Key
from tacit.server.checkpoints import RunState
from tacit.server.population_ledger import PopulationLedger
from tacit.server.store import Store
from tacit.server.store.records import LedgerLine


class Accounts(Protocol):
    """The population's ledger, as far as a run writes to it."""

    @property
    def state(self) -> Ledger:
        """Return the ledger as far as it is kept."""
        ...

    def reserve(self, entry: Entry, *, repeated: bool = False) -> None:
        """Reserve what a round costs at most; raises `BudgetExceeded` where that is too much."""
        ...

    def settle(self, key: Key, event: dp_event.DpEvent | None = None) -> LedgerLine:
        """Return the record that spends a reservation, to be kept with its round."""
        ...

    def committed(self, line: LedgerLine) -> None:
        """Go on from a record that is kept now."""
        ...

    def void(self, key: Key) -> None:
        """Give a reservation back of which nothing left."""
        ...


def open_budget(
    store: Store,
    recipe: Recipe,
    run: str,
    parameters: int,
    clients: int,
    identity: Identity,
    *,
    repeatable: bool = False,
) -> Budget:
    """Open what pays for a run: the ledger that its recipe names, or one of the run's own.

    A ledger of the run's own is granted what all rounds and a tenth to spare cost. A named one is granted the recipe's
    `population.epsilon_budget` when it is opened, and pays for every run that names it.

    Args:
        store: where ledgers are.
        recipe: makes a promise.
        run: the run's name.
        parameters: of the model, or at least as many.
        clients: how many the federation has.
        identity: signs the ledger.
        repeatable: see `Budget`.

    Raises:
        InputError: the ledger belongs to another key, or was granted something else.
        LedgerBroken: a record of it is not what was written.
        PrivacyError: no budget could pay for the recipe's noise.
    """
    cohort = min(recipe.training.cohort or clients, clients)
    plan = noise_plan(recipe, parameters, cohort, clients)
    population, unit = recipe.population.ledger or f"run/{run}", plan.terms.unit
    granted = recipe.population.epsilon_budget
    budgets: dict[Column, RenyiFilter] | None
    if granted is not None:
        budgets = {"assured": renyi_filter(granted, plan.terms.delta, plan.terms.adjacency)}
    elif store.ledger_key(population, unit) is None:
        budgets = {"assured": run_budget(plan, with_spare(recipe.training.rounds))}
    else:
        budgets = None
    accounts = PopulationLedger.open(store, population, unit, budgets, identity)
    return Budget(recipe, run, clients, accounts, repeatable)


def fewest_of(plan: NoisePlan) -> int:
    """Return the fewest survivors of a plan's own cohort, also where its noise is for a hypothetical one."""
    return plan.min_survivors * plan.cohort // plan.noise_cohort if plan.noise_cohort else plan.min_survivors


@dataclass
class Budget:
    """The privacy of one run's rounds.

    Attributes:
        recipe: says the promise; there is one.
        run: the run's name.
        clients: how many the federation has, whoever of them can be asked now: what cohorts are drawn from.
        accounts: the population's ledger.
        repeatable: whether an attempt that a crash broke off is made again with the very same bytes, as only a
            simulation can, so that it costs nothing more.
    """

    recipe: Recipe
    run: str
    clients: int
    accounts: Accounts
    repeatable: bool = False

    def plan(self, state: RunState, cohort: int) -> NoisePlan:
        """Return the noise of a round that is offered to so many.

        Raises:
            PrivacyError: no noise keeps the promise with so few.
        """
        return noise_plan(self.recipe, state.vector.size, cohort, self.clients, l2_clip=state.l2_clip)

    def could_promise(self, state: RunState, cohort: int) -> bool:
        """Return whether there is noise that keeps the promise with so few."""
        try:
            self.plan(state, cohort)
        except PrivacyError:
            return False
        return True

    def next_attempt(self, number: int, kept: int) -> int:
        """Return the first attempt at a round that asks nobody for a second input under the same draws.

        Args:
            number: the round.
            kept: the first attempt that is not in the store.
        """
        ledger, at = self.accounts.state, (self.run, number)
        # A crash between giving back and keeping the report leaves an attempt that only the ledger knows.
        used = ledger.settled if self.repeatable else ledger.settled | set(ledger.waiting)
        return max([kept, *(key[2] + 1 for key in used if key[:2] == at)])

    def resume(
        self,
        state: RunState,
        number: int,
        left: Mapping[str, int],
        everybody: Iterable[str],
        *,
        going_on: int | None = None,
    ) -> RunState:
        """Count what left before a crash in the middle of a round as spent, at the fewest survivors.

        That is every attempt that ended without a sum, which no state was kept of, and the one that was broken off,
        unless it is repeated or gone on with. Who took part in those that ended was kept with them, also of clients
        that are away now; in one that was broken off without a word of whom it asked, everybody may have.

        Args:
            state: the run's.
            number: the round.
            left: how many inputs of each client have left in attempts that ended.
            everybody: all clients that are known.
            going_on: the attempt that is gone on with where it was; it is counted when it ends.
        """
        ledger, at = self.accounts.state, (self.run, number)
        ended = sum(key[:2] == at for key in ledger.settled - ledger.voided)
        broken_off = [] if self.repeatable else [one for one in self._broken_off(number) if one != going_on]
        lost = ended + len(broken_off)
        if not lost:
            return state
        # Whatever the cohorts were: the noise of the fewest survivors that counts is the same for all of them.
        cohort = min(self.recipe.training.cohort or self.clients, self.clients)
        fewest = Spent(cohort, fewest_of(self.plan(state, cohort)))
        taken = Counter(state.taken)
        taken.update(left)
        if broken_off:
            taken.update({client: len(broken_off) for client in everybody})
        return replace(state, spent=(*state.spent, *lost * (fewest,)), taken=dict(taken))

    def void_unannounced(self, number: int, *, announced: int | None) -> None:
        """Give back what was reserved for attempts at a round whose offers never went out.

        Args:
            number: the round.
            announced: the attempt that was announced and has not ended, if there is one. Of all others none has left
                anything open: an attempt is announced before its first offer goes out, and settled when it is over.
        """
        for key in tuple(self.accounts.state.waiting):
            if key[:2] == (self.run, number) and key[2] != announced:
                self.accounts.void(key)

    def gave_back(self, number: int, attempt: int) -> bool:
        """Return whether an attempt was given back: it had ended, and nothing had left for it."""
        return any(key[:3] == (self.run, number, attempt) for key in self.accounts.state.voided)

    def able(self, state: RunState, clients: Iterable[str]) -> tuple[str, ...]:
        """Return the clients that have not taken part as often as the noise was calibrated for."""
        most = with_spare(self.recipe.privacy.max_participations or self.recipe.training.rounds)
        return tuple(client for client in clients if state.taken.get(client, 0) < most)

    def reserve(self, plan: NoisePlan, number: int, attempt: int, offer: bytes, *, going_on: bool = False) -> Key:
        """Reserve an attempt at a round; it is on the disk when this returns, and nothing was offered before.

        Args:
            plan: the attempt's noise.
            number: the round.
            attempt: the attempt at it.
            offer: H(Offer).
            going_on: the attempt was reserved by another process, and is gone on with.

        Raises:
            BudgetExceeded: the population cannot pay.
        """
        reserved = entry(plan, self.run, number, attempt, offer, "own")
        self.accounts.reserve(reserved, repeated=self.repeatable or going_on)
        return reserved.key

    def settle(
        self,
        state: RunState,
        plan: NoisePlan,
        key: Key,
        *,
        may_have_left: bool,
        left: Collection[str],
        survivors: int | None,
    ) -> tuple[RunState, tuple[LedgerLine, ...]]:
        """Count an attempt: at its survivors, at the fewest where no sum came of it, not at all where nothing left.

        Args:
            state: the run's.
            plan: the attempt's noise.
            key: what was reserved for it.
            may_have_left: whether anybody was asked for an input, answered or not.
            left: the clients whose input is known to have left.
            survivors: how many were summed, None if there was no sum.

        Returns:
            The state with the attempt counted, and what to keep in the transaction that keeps the round.
        """
        if not may_have_left:
            self.accounts.void(key)
            return state, ()
        counted = fewest_of(plan) if survivors is None else survivors
        line = self.accounts.settle(key, ledger_event(plan, survivors))
        taken = Counter(state.taken)
        taken.update(left)
        spent = (*state.spent, Spent(plan.cohort, counted))
        return replace(state, spent=spent, taken=dict(taken)), (line,)

    def facts(self) -> dict[str, Any]:
        """Return what the ledger stands at, over all runs that it has paid for."""
        ledger = self.accounts.state
        granted = ledger.opening.budgets["assured"]
        return {
            "population": ledger.opening.subject,
            "granted_epsilon": granted.epsilon,
            "delta": granted.delta,
            "epsilon_committed": ledger.epsilon_committed("assured"),
            "records": ledger.counter,
            "head": ledger.head.hex(),
        }

    def _broken_off(self, number: int) -> tuple[int, ...]:
        waiting = self.accounts.state.waiting
        return tuple(attempt for run, of_round, attempt, _ in waiting if (run, of_round) == (self.run, number))
