"""A run: the preparation, the rounds and their checkpoints, until the recipe or the data says stop."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.noise import NoisePlan
from tacit.models.plan import Plan
from tacit.models.preparation import has_public_features, prepared_plan, public_plan
from tacit.models.tasks import task_named
from tacit.privacy.errors import BudgetExceeded, BudgetTooLarge, PrivacyError
from tacit.privacy.randomness import Keystream, Randomness, SystemRandomness
from tacit.privacy.records import Key
from tacit.privacy.secagg.layout import Infeasible
from tacit.server.attempts import (
    Attempts,
    Ready,
    RunFailed,
    RunStopped,
    Summing,
    Tally,
    at_attempt,
    snapshot_of,
)
from tacit.server.budget import Budget
from tacit.server.checkpoints import RunState
from tacit.server.exchanges import Occasion, Preparation, ProtectedTraining, Training
from tacit.server.feasibility import check_cohorts, check_network
from tacit.server.learning import Evaluate, Learning
from tacit.server.masked import (
    MaskedPreparation,
    MaskedTraining,
    NoisedTraining,
    inputs_left,
)
from tacit.server.masking import Masking
from tacit.server.names import check_names
from tacit.server.phases import Phases
from tacit.server.reports import Recorder, RoundReport, refusers_of
from tacit.server.rounds import Exchanges, Participant
from tacit.server.sampling import Cohorts
from tacit.server.store.records import LedgerLine
from tacit.server.strategies import strategy_named
from tacit.server.transport import Transport

ATTEMPTS = 3
BUDGET_SPENT = "the privacy budget is spent"


@dataclass
class Run:
    """One run over one transport.

    Attributes:
        name: the run's identifier, part of every message.
        plan: the recipe and the dictionary of the data; the preparation adds the features.
        transport: the way to the agents.
        recorder: where rounds are kept.
        cohorts: draws whom a round asks.
        masking: the coordinator's part in masked rounds; None for rounds in which it sees every update.
        budget: what pays for a promise; there is one exactly if the recipe makes one.
        randomness: where noise that the coordinator makes comes from.
        phases: where the phases of rounds are announced before anybody is asked, so that a new process goes on with an
            attempt; None for a run that repeats it.
        ready: called before every attempt: waits until there are clients enough, where clients come and go.
        stop: asked before every attempt: why the run is to end with what it has; empty to go on.
        validate: measures a vector on the validation share; None if there is none.
        initial: the vector of a warm start, whose plan then comes with features; None to initialise from the seed. The
            run trains it in place.
        on_round: called after every attempt.
        clock: seconds for the reported durations.
    """

    name: str
    plan: Plan
    transport: Transport
    recorder: Recorder
    cohorts: Cohorts
    masking: Masking | None = None
    budget: Budget | None = None
    randomness: Randomness = field(default_factory=SystemRandomness)
    phases: Phases | None = None
    ready: Ready = lambda failed, lost: False
    stop: Callable[[], str] = lambda: ""
    validate: Evaluate | None = None
    initial: NDArray[np.float32] | None = None
    on_round: Callable[[RoundReport], None] = lambda report: None
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        """Build what the recipe names, so that a wrong name is found before anything runs."""
        recipe = self.plan.recipe
        check_names(recipe)
        self._strategy = strategy_named(recipe.strategy.name, recipe.strategy.options)
        self._task = task_named(recipe.task.kind)
        self._task.check(self.plan.schema)
        self._learning = Learning(recipe, self._strategy, self._task, self.validate)
        if recipe.secure_aggregation.enabled != (self.masking is not None):
            raise ValueError("a run masks exactly if its recipe says so")
        self._noised = recipe.privacy.unit != "none"
        if self._noised != (self.budget is not None):
            raise ValueError("a run has a budget exactly if its recipe promises something")
        if self.phases is not None and self.masking is None:
            # Nothing announces their attempts: a reservation would be given back as if nobody had been asked.
            raise ValueError("only masked rounds have phases")
        self._by_examples = recipe.strategy.weighting in ("auto", "examples")
        self._fruitless = Tally(self.ready, ATTEMPTS)  # rounds that ended without a sum
        self._attempts = Attempts(recipe.training, self.transport, self.masking, self.phases, self.clock)

    def execute(self) -> RunState:
        """Run to the end and return the final state: the best one where there is a validation share.

        Raises:
            RunStopped: it was told to end before anything was trained.
            RunFailed: too few clients reported several times in a row, the model diverged, or nothing was trained, as
                where not even the first round could be paid for.
        """
        try:
            if self.phases is not None and self.masking is not None:
                self.masking.recall(self.phases.recall())
            state = self.recorder.resume_point() or self._prepared()
            while state.round < self.plan.recipe.training.rounds and not state.stopped:
                state = self._round(state)
            if not state.has_result:
                raise RunFailed("no round had a result")
        except RunFailed:
            self._attempts.deliver_receipts(self.name, self.plan.recipe.training.rounds)
            raise
        self._attempts.deliver_receipts(self.name, state.round)
        if state.best_round and state.best_round != state.round:
            best = self.recorder.state_of(state.best_round)
            # Every round was released to somebody, whichever of them gave the best model.
            return replace(best, spent=state.spent, taken=state.taken, stopped=state.stopped)
        return state

    def _prepared(self) -> RunState:
        """Return the state after the preparation, which begins once there are clients that rounds can be made of."""
        self.ready(None, 0)
        if self.masking is not None:
            check_cohorts(self.plan.recipe, self.masking, len(self._attempts.clients()), check_network(self.plan))
        return self._prepare()

    def _prepare(self) -> RunState:
        plan, schema = replace(self.plan, proximal_mu=self._strategy.proximal_mu), self.plan.schema
        if plan.features is not None:
            if self.masking is None or self._noised or not self._by_examples:
                report = RoundReport(0, self.recorder.attempts(0), True, "the warm start's preparation", 0.0, ())
                return self._begin(plan, report)
            plan = replace(plan, mean_examples=0.0)  # of this federation, which the earlier one's model cannot know
        elif self._noised and has_public_features(schema):
            plan = public_plan(plan, self._task.outputs(schema), plan.proximal_mu)
            return self._begin(plan, RoundReport(0, self.recorder.attempts(0), True, "nothing to prepare", 0.0, ()))
        exchanges, report = self._statistics(plan)
        if plan.features is not None and isinstance(exchanges, MaskedPreparation):
            mean_examples = max(exchanges.rows() / report.reported, 1.0)
            return self._begin(replace(plan, mean_examples=mean_examples), report)
        plan = prepared_plan(plan, exchanges.total(), report.reported, self._task.outputs(schema), plan.proximal_mu)
        return self._begin(plan, report)

    def _statistics(self, plan: Plan) -> tuple[Preparation | MaskedPreparation, RoundReport]:
        encoded, broken_off = plan.encode(), self._attempts.broken_off(0)
        first, tally = self.recorder.attempts(0), Tally(self.ready, ATTEMPTS, refusers_of(self._asked(0)))
        attempts, left = itertools.count(first), self._left(0)
        while True:
            attempt = next(attempts)
            at, resumed = Occasion(self.name, 0, attempt, encoded), at_attempt(broken_off, attempt)
            if resumed is None and (asked := self.stop()):
                raise RunStopped(asked)
            if resumed is None:
                clients = self._attempts.willing(self._attempts.clients(left), tally.refused)
            else:
                clients = resumed.progress.cohort
            try:
                exchanges = self._preparation(at, plan, clients, snapshot_of(resumed))
            except Infeasible as error:
                report = RoundReport(0, attempt, False, str(error), 0.0, ())
            else:
                report, done = self._attempts.make(exchanges, clients, 0, attempt, broken_off=resumed)
                if done:
                    return exchanges, report
            self._keep(report, None)
            if self.masking is not None:
                # Two sums that share members would show, as a difference, what one of them holds.
                left |= inputs_left(report.participants)
                if left and not self.masking.could_sum(len(set(clients) - left)):
                    why = f"{report.reason}{report.mostly}; it can be started anew"
                    raise RunFailed(f"the preparation failed after statistics had left: {why}")
            if not self.stop() and tally.note(report):
                raise RunFailed(f"the preparation failed {attempt + 1 - first} times: {report.reason}{report.mostly}")

    def _preparation(
        self, at: Occasion, plan: Plan, clients: tuple[str, ...], snapshot: bytes
    ) -> Preparation | MaskedPreparation:
        return (
            MaskedPreparation(at, plan, clients, self.masking, snapshot)
            if self.masking
            else Preparation(at, plan.schema)
        )

    def _begin(self, plan: Plan, report: RoundReport) -> RunState:
        state = self._learning.beginning(plan, self.initial)
        self._keep(report, state)
        return state

    def _round(self, state: RunState) -> RunState:
        number = state.round + 1
        first = self.recorder.attempts(number)
        left = self._left(number)
        broken_off = self._attempts.broken_off(number)
        if self.budget is not None:
            if broken_off is not None and self.budget.gave_back(number, broken_off.attempt):
                broken_off = None  # it had ended, and the process too before its report was kept
            announced = broken_off.attempt if broken_off else None
            if self.phases is not None:
                self.budget.void_unannounced(number, announced=announced)
            state = self.budget.resume(state, number, self._taken(number), self._everybody(number), going_on=announced)
            first = self.budget.next_attempt(number, first) if announced is None else announced
        if broken_off is None:
            self.ready(None, 0)
        attempts, tally = itertools.count(first), Tally(self.ready, ATTEMPTS, refusers_of(self._asked(number)))
        while True:
            attempt = next(attempts)
            resumed = at_attempt(broken_off, attempt)
            if resumed is not None:
                cohort, wanted = resumed.progress.cohort, resumed.progress.wanted
            else:
                if asked := self.stop():
                    return self._stopped(state, asked)
                able = self._willing(state, self._able(state, left), tally.refused)
                if not able:
                    return self._unpaid(state, BUDGET_SPENT)
                cohort, wanted = self.cohorts.draw(able, number, attempt)
            at = Occasion(self.name, number, attempt, state.plan)
            if not cohort:
                report = RoundReport(number, attempt, True, "the cohort was empty", 0.0, ())
                return self._apply(state, report, None)
            try:
                exchanges, noise = self._training(at, state, cohort, wanted, snapshot_of(resumed))
            except Infeasible as error:
                if resumed is not None:  # its inputs may have left: it is never forgotten as one that was not offered
                    raise RunFailed(f"round {number} cannot be gone on with: {error}") from None
                report = RoundReport(number, attempt, False, str(error), 0.0, ())
                self._keep(report, None)
                self._check_again(tally, report, attempt + 1 - first)
                continue
            try:
                reserved = self._reserve(exchanges, noise, at, going_on=resumed is not None)
            except BudgetTooLarge as error:
                return self._unpaid(state, str(error))
            except BudgetExceeded as error:
                return self._unpaid(state, f"{BUDGET_SPENT}: {error}{tally.cause}")
            report, done = self._attempts.make(exchanges, cohort, number, attempt, wanted=wanted, broken_off=resumed)
            state, lines = self._settle(state, exchanges, noise, reserved, report, done)
            if done:
                try:
                    result = exchanges.result()
                except ZeroDivisionError as error:  # every weight was rounded to zero, or somebody's was negative
                    return self._over(state, replace(report, reason=str(error)), lines)
                self._fruitless = Tally(self.ready, ATTEMPTS)
                return self._apply(state, report, result, lines)
            if self.masking is not None:
                left |= inputs_left(report.participants)
            if left and self._attempts.there(left) < wanted:
                return self._over(state, report, lines)
            self._keep(report, None, lines)
            self._check_again(tally, report, attempt + 1 - first)

    def _check_again(self, tally: Tally, report: RoundReport, times: int) -> None:
        """Let another attempt be made once there are clients enough, unless too many have failed."""
        if not self.stop() and tally.note(report):
            raise RunFailed(f"round {report.number} failed {times} times: {report.reason}{report.mostly}")

    def _stopped(self, state: RunState, asked: str) -> RunState:
        """End with the model so far, if there is one."""
        if not state.has_result:
            raise RunStopped(asked)
        return replace(state, stopped=asked)

    def _left(self, number: int) -> frozenset[str]:
        """Return whose masked input has left for a round: they take part in no other attempt, also after a restart."""
        return inputs_left(self._asked(number)) if self.masking is not None else frozenset()

    def _taken(self, number: int) -> Mapping[str, int]:
        """Return how many inputs of each client have left for a round in attempts that were kept."""
        asked = self._asked(number)
        return Counter(
            inputs_left(asked) if self.masking else (one.client for one in asked if one.outcome != "refused")
        )

    def _asked(self, number: int) -> Sequence[Participant]:
        """Return what became of everybody that the kept attempts at a round asked; most often there are none."""
        return self.recorder.asked(number) if self.recorder.attempts(number) else ()

    def _everybody(self, number: int) -> Iterator[str]:
        """Yield every client that is there, or was ever asked, once."""
        earlier = (one.client for at in range(number + 1) for one in self.recorder.asked(at))
        yield from dict.fromkeys([*self.transport.clients(), *earlier])

    def _able(self, state: RunState, left: Collection[str]) -> tuple[str, ...]:
        """Return who may be asked; nobody, where too few are left that have not taken part as often as they may."""
        clients = self._attempts.clients(left)
        if self.budget is None or self.plan.recipe.training.sampling == "poisson":
            return clients
        able, everybody = self.budget.able(state, clients), len(self._attempts.clients())
        wanted = min(self.plan.recipe.training.cohort or everybody, everybody)
        return able if len(able) == len(clients) or len(able) >= wanted else ()

    def _willing(self, state: RunState, able: tuple[str, ...], refused: Collection[str]) -> tuple[str, ...]:
        """Return which of those who may be asked another attempt asks."""
        budget, most = self.budget, self.plan.recipe.training.cohort
        promised = partial(budget.could_promise, state) if budget is not None else None
        return self._attempts.willing(able, refused, most, promised)

    def _unpaid(self, state: RunState, why: str) -> RunState:
        """End with the model so far; where nothing was trained, there is none, and the run has failed."""
        if not state.has_result:
            raise RunFailed(why)
        return replace(state, stopped=BUDGET_SPENT)

    def _reserve(self, exchanges: Summing, noise: NoisePlan | None, at: Occasion, *, going_on: bool) -> Key | None:
        if self.budget is None or noise is None or not isinstance(exchanges, NoisedTraining | ProtectedTraining):
            return None
        return self.budget.reserve(noise, at.round, at.attempt, exchanges.offer_digest, going_on=going_on)

    def _settle(
        self,
        state: RunState,
        exchanges: Exchanges,
        noise: NoisePlan | None,
        reserved: Key | None,
        report: RoundReport,
        done: bool,
    ) -> tuple[RunState, tuple[LedgerLine, ...]]:
        """Count what an attempt released, if there is a promise to count for."""
        if self.budget is None or noise is None or reserved is None:
            return state, ()
        if isinstance(exchanges, NoisedTraining):
            may_have_left = done or exchanges.may_retry is not None
            left = inputs_left(report.participants) | (exchanges.survivors if done else frozenset())
        else:  # every answer is an input, and one that comes too late has left all the same
            may_have_left = True
            left = frozenset(member.client for member in report.participants if member.outcome != "refused")
        return self.budget.settle(
            state, noise, reserved, may_have_left=may_have_left, left=left, survivors=report.reported if done else None
        )

    def _over(self, state: RunState, report: RoundReport, lines: Sequence[LedgerLine]) -> RunState:
        """End a round without a sum: too many inputs have left to ask again, so whatever comes next is a new round."""
        report = replace(report, committed=True, reason=f"over without a sum: {report.reason}")
        following, tally = self._apply(state, report, None, lines), self._fruitless
        is_last = following.round == self.plan.recipe.training.rounds
        if not is_last and not self.stop() and tally.note(report):
            raise RunFailed(f"{tally.failed + tally.lost} rounds in a row were {report.reason}{report.mostly}")
        return following

    def _training(
        self, at: Occasion, state: RunState, cohort: tuple[str, ...], wanted: int, snapshot: bytes
    ) -> tuple[Summing, NoisePlan | None]:
        arrays, _ = self._learning.travelling(state)
        if self.budget is None:
            if self.masking is None:
                return Training(at, arrays, self._by_examples), None
            return MaskedTraining(at, arrays, cohort, self.masking, snapshot, wanted), None
        try:
            noise = self.budget.plan(state, wanted)
        except PrivacyError as error:
            raise Infeasible(str(error), "ask more clients") from None
        words = Keystream(self.randomness.key("central-noise", at.run, at.round, at.attempt))
        if self.masking is None:
            return ProtectedTraining(at, arrays, noise, words), noise
        return NoisedTraining(at, arrays, cohort, self.masking, noise, words, snapshot, wanted), noise

    def _apply(self, state: RunState, report: RoundReport, result: Any, lines: Sequence[LedgerLine] = ()) -> RunState:
        started = self.clock()
        following, metrics = self._learning.after(state, report.number, result, was_sent=bool(report.participants))
        report = replace(report, metrics=metrics, seconds=report.seconds + self.clock() - started)
        self._keep(report, following, lines)
        return following

    def _keep(self, report: RoundReport, state: RunState | None, lines: Sequence[LedgerLine] = ()) -> None:
        self.recorder.commit(report, state, lines)
        if self.budget is not None:
            for line in lines:
                self.budget.accounts.committed(line)
        self.on_round(report)
