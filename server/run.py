"""A run: the preparation, the rounds and their checkpoints, until the recipe or the data says stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.models.errors import InputError
from tacit.models.messages import all_finite
from tacit.models.plan import Plan, decode_plan
from tacit.models.preparation import prepared_plan
from tacit.models.tasks import task_named
from tacit.models.vector import layout_of, read_vector
from tacit.models.zoo.catalogue import check_options
from tacit.server.checkpoints import RunState
from tacit.server.exchanges import Evaluation, Occasion, Preparation, Training
from tacit.server.rounds import Exchanges, Participant, Round, RoundState
from tacit.server.strategies import strategy_named
from tacit.server.transport import Transport, drive

ATTEMPTS = 3

Evaluate = Callable[[Plan, NDArray[np.float32]], Mapping[str, float]]


class RunFailed(Exception):
    """The run cannot go on; the text says why. What was committed stays."""


@dataclass(frozen=True)
class RoundReport:
    """What one attempt of a round did; round 0 is the preparation."""

    number: int
    attempt: int
    committed: bool
    reason: str
    seconds: float
    participants: tuple[Participant, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def reported(self) -> int:
        """Return how many clients are in the result."""
        return sum(participant.outcome == "reported" for participant in self.participants)


class Recorder(Protocol):
    """Where a run leaves what must survive it."""

    def resume_point(self) -> RunState | None:
        """Return the state after the last committed round, or None for a run that has not begun."""
        ...

    def commit(self, report: RoundReport, state: RunState | None) -> None:
        """Keep a round and, if it was committed, its state, both or neither."""
        ...

    def state_of(self, round_number: int) -> RunState:
        """Return the kept state of an earlier round."""
        ...

    def attempts(self, round_number: int) -> int:
        """Return how many attempts at a round were kept."""
        ...


class Cohorts(Protocol):
    """Whom a round asks."""

    def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
        """Return the clients to ask, and how many reports are enough."""
        ...


@dataclass
class Run:
    """One run over one transport.

    Attributes:
        name: the run's identifier, part of every message.
        plan: the recipe and the dictionary of the data; the preparation adds the features.
        transport: the way to the agents.
        recorder: where rounds are kept.
        cohorts: draws whom a round asks.
        validate: measures a vector on the validation share; None if there is none.
        initial: the vector of a warm start, whose plan then comes with features; None to initialise from the seed.
        on_round: called after every attempt.
        clock: seconds for the reported durations.
    """

    name: str
    plan: Plan
    transport: Transport
    recorder: Recorder
    cohorts: Cohorts
    validate: Evaluate | None = None
    initial: NDArray[np.float32] | None = None
    on_round: Callable[[RoundReport], None] = lambda report: None
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        """Build what the recipe names, so that a wrong name is found before anything runs."""
        recipe = self.plan.recipe
        self._strategy = strategy_named(recipe.strategy.name, recipe.strategy.options)
        self._task = task_named(recipe.task.kind)
        self._task.check(self.plan.schema)
        if not recipe.model.factory:
            check_options(recipe.model.name, recipe.model.options)
        self._by_examples = recipe.strategy.weighting in ("auto", "examples")

    def execute(self) -> RunState:
        """Run to the end and return the final state: the best one where there is a validation share.

        Raises:
            RunFailed: too few clients reported several times in a row, or the model diverged.
        """
        state = self.recorder.resume_point() or self._prepare()
        while state.round < self.plan.recipe.training.rounds and not state.stopped:
            state = self._round(state)
        if state.best_round and state.best_round != state.round:
            return self.recorder.state_of(state.best_round)
        return state

    def evaluate_at_clients(self, state: RunState) -> dict[str, dict[str, float]]:
        """Measure a model on every client's own test rows, for a simulation's eyes only."""
        exchanges = Evaluation(Occasion(self.name, state.round, 0, state.plan), state.vector)
        self._attempt(exchanges, self._clients(), state.round, 0, quorum=1e-9)
        return exchanges.by_client

    def _prepare(self) -> RunState:
        recipe, schema = self.plan.recipe, self.plan.schema
        if self.plan.features is not None:
            report = RoundReport(0, self.recorder.attempts(0), True, "the warm start's preparation", 0.0, ())
            return self._begin(replace(self.plan, proximal_mu=self._strategy.proximal_mu), report)
        plan_bytes = self.plan.encode()
        clients = self._clients()
        first = self.recorder.attempts(0)
        for attempt in range(first, first + ATTEMPTS):
            exchanges = Preparation(Occasion(self.name, 0, attempt, plan_bytes), schema)
            report, done = self._attempt(exchanges, clients, 0, attempt, quorum=recipe.training.quorum)
            if done:
                break
            self._keep(report, None)
        else:
            raise RunFailed(f"the preparation failed {ATTEMPTS} times: {report.reason}")
        plan = prepared_plan(self.plan, exchanges.total(), self._task.outputs(schema), self._strategy.proximal_mu)
        return self._begin(plan, report)

    def _begin(self, plan: Plan, report: RoundReport) -> RunState:
        vector = self._initial_vector(plan)
        state = RunState(0, plan.encode(), vector, self._strategy.moments(vector.size))
        self._keep(report, state)
        return state

    def _initial_vector(self, plan: Plan) -> NDArray[np.float32]:
        if plan.architecture is None:
            raise RunFailed("the plan has no architecture")
        model = plan.architecture.build(plan.recipe.seed)
        vector: NDArray[np.float32] = read_vector(model, layout_of(model)).numpy()
        if self.initial is None:
            return vector
        if self.initial.shape != vector.shape:
            raise InputError(
                f"the warm start has {self.initial.size} parameters, the model {vector.size}", where="model.init"
            )
        return self.initial.astype(np.float32)

    def _round(self, state: RunState) -> RunState:
        number = state.round + 1
        first = self.recorder.attempts(number)
        for attempt in range(first, first + ATTEMPTS):
            cohort, wanted = self.cohorts.draw(self._clients(), number, attempt)
            occasion = Occasion(self.name, number, attempt, state.plan)
            exchanges = Training(occasion, state.vector, self._by_examples)
            if not cohort:
                report, done = RoundReport(number, attempt, True, "the cohort was empty", 0.0, ()), True
            else:
                quorum = self.plan.recipe.training.quorum
                report, done = self._attempt(exchanges, cohort, number, attempt, quorum=quorum, wanted=wanted)
            if done:
                return self._apply(state, report, exchanges)
            self._keep(report, None)
        raise RunFailed(f"round {number} failed {ATTEMPTS} times: {report.reason}")

    def _attempt(
        self,
        exchanges: Exchanges,
        cohort: tuple[str, ...],
        number: int,
        attempt: int,
        *,
        quorum: float,
        wanted: int | None = None,
    ) -> tuple[RoundReport, bool]:
        deadline = self.plan.recipe.training.deadline_seconds
        current = Round(cohort, wanted or len(cohort), exchanges, deadline_seconds=deadline, quorum=quorum)
        started = self.clock()
        drive(current, self.transport)
        done = current.state is RoundState.COMPLETE
        seconds = self.clock() - started
        return RoundReport(number, attempt, done, current.reason, seconds, current.participation()), done

    def _apply(self, state: RunState, report: RoundReport, exchanges: Training) -> RunState:
        started = self.clock()
        metrics: dict[str, float] = {}
        if report.reported:
            metrics["train_loss"] = exchanges.mean_loss()
            with np.errstate(over="ignore", invalid="ignore"):
                self._strategy.step(state.vector, exchanges.mean_update(), state.moments)
            if not all(map(all_finite, (state.vector, *state.moments.values()))):
                raise RunFailed(f"round {report.number}: the model diverged; try a smaller learning rate")
        following = replace(state, round=report.number)
        evaluation, plan = self.plan.recipe.evaluation, decode_plan(state.plan)
        last = report.number == plan.recipe.training.rounds
        if self.validate and (report.number % evaluation.every == 0 or last):
            measured = self.validate(plan, state.vector)
            metrics |= {f"validation_{name}": value for name, value in measured.items()}
            self._select(following, measured)
        report = replace(report, metrics=metrics, seconds=report.seconds + self.clock() - started)
        self._keep(report, following)
        return following

    def _select(self, state: RunState, measured: Mapping[str, float]) -> None:
        name, direction = self._task.selection_metric
        value = measured.get(name, math.nan)
        sign = 1 if direction == "max" else -1
        if math.isfinite(value) and (state.best_value is None or sign * value > sign * state.best_value):
            state.best_round, state.best_value = state.round, value
        patience = self.plan.recipe.evaluation.patience
        if patience and state.round - state.best_round >= patience:
            state.stopped = f"no better {name} for {patience} rounds"

    def _clients(self) -> tuple[str, ...]:
        clients = self.transport.clients()
        if not clients:
            raise RunFailed("no client can be reached")
        return clients

    def _keep(self, report: RoundReport, state: RunState | None) -> None:
        self.recorder.commit(report, state)
        self.on_round(report)
