"""What the result of a round does to the state of a run: the strategy's step, the clip, and the choice of the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tacit.models.broadcast import Arrays, encode
from tacit.models.errors import InputError
from tacit.models.messages import all_finite
from tacit.models.noise import adapted_clip, initial_clip
from tacit.models.plan import Plan, decode_plan
from tacit.models.recipe import Recipe
from tacit.models.tasks import Task
from tacit.models.vector import layout_of, read_vector
from tacit.server.attempts import RunFailed
from tacit.server.checkpoints import RunState
from tacit.server.exchanges import TrainingResult
from tacit.server.strategies import Strategy

Evaluate = Callable[[Plan, NDArray[np.float32]], Mapping[str, float]]


@dataclass(frozen=True)
class Learning:
    """How a run learns.

    Attributes:
        recipe: says clip, selection and patience.
        strategy: makes a step of a mean update.
        task: says by which metric the best round is chosen.
        validate: measures a vector on the validation share; None if there is none.
    """

    recipe: Recipe
    strategy: Strategy
    task: Task
    validate: Evaluate | None

    def beginning(self, plan: Plan, initial: NDArray[np.float32] | None) -> RunState:
        """Return the state before the first round.

        Args:
            plan: the recipe and the data, with the features.
            initial: the vector of a warm start; None to initialise from the seed.

        Raises:
            RunFailed: the plan has no architecture.
            InputError: the warm start is of another size than the model.
        """
        if plan.architecture is None:
            raise RunFailed("the plan has no architecture")
        model = plan.architecture.build(self.recipe.seed)
        vector: NDArray[np.float32] = read_vector(model, layout_of(model)).numpy()
        if initial is not None:
            if initial.shape != vector.shape:
                raise InputError(
                    f"the warm start has {initial.size} parameters, the model {vector.size}", where="model.init"
                )
            # The same memory if possible: a copy would live beside it for the whole run.
            vector = np.require(initial, np.float32, ("C", "W"))
        return RunState(0, plan.encode(), vector, self.strategy.moments(vector.size))

    def travelling(self, state: RunState) -> tuple[Arrays, NDArray[np.float32] | None]:
        """Return the vector as it travels after a state, always the same, and what the next one makes up for.

        Raises:
            RunFailed: it has outgrown the numbers that it travels as.
        """
        try:
            return encode(state.vector, state.carry, self.recipe.training.broadcast)
        except OverflowError as error:
            raise RunFailed(f"round {state.round + 1}: {error}; try a smaller learning rate") from None

    def after(
        self, state: RunState, number: int, result: TrainingResult | None, *, was_sent: bool
    ) -> tuple[RunState, dict[str, float]]:
        """Return the state after a round, and what was measured; the vector and the moments are changed in place.

        Args:
            state: the one before it.
            number: the round.
            result: what came of it; None for nothing, so that the vector stays as it is.
            was_sent: whether anybody was sent the vector: what it lacked then goes with the next one.

        Raises:
            RunFailed: the model diverged.
        """
        metrics: dict[str, float] = {}
        if was_sent:
            state = replace(state, carry=self.travelling(state)[1])
        if result is not None:
            if not math.isnan(result.mean_loss):
                metrics["train_loss"] = result.mean_loss
            with np.errstate(over="ignore", invalid="ignore"):
                self.strategy.step(state.vector, result.mean_update, state.moments)
            if not all(map(all_finite, (state.vector, *state.moments.values()))):
                raise RunFailed(f"round {number}: the model diverged; try a smaller learning rate")
            if result.unclipped is not None:
                clip = state.l2_clip or initial_clip(self.recipe.privacy)
                metrics |= {"l2_clip": clip, "unclipped": result.unclipped}
                state = replace(state, l2_clip=adapted_clip(clip, result.unclipped))
        following = replace(state, round=number, has_result=state.has_result or result is not None)
        last = number == self.recipe.training.rounds
        if self.validate and (number % self.recipe.evaluation.every == 0 or last):
            measured = self.validate(decode_plan(state.plan), state.vector)
            metrics |= {f"validation_{name}": value for name, value in measured.items()}
            self._select(following, measured)
        return following, metrics

    def _select(self, state: RunState, measured: Mapping[str, float]) -> None:
        name, direction = self.task.selection_metric
        value = measured.get(name, math.nan)
        sign = 1 if direction == "max" else -1
        if math.isfinite(value) and (state.best_value is None or sign * value > sign * state.best_value):
            state.best_round, state.best_value = state.round, value
        patience = self.recipe.evaluation.patience
        if patience and state.round - state.best_round >= patience:
            state.stopped = f"no better {name} for {patience} rounds"
