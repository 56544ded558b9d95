"""The agent's step: `(state, instruction) -> (state, reply)`, without a transport."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.models.data.rows import Rows
from tacit.models.errors import InputError
from tacit.models.features import Features
from tacit.models.messages import ACTIONS, Instruction, Reply, float32_vector
from tacit.models.plan import Plan, decode_plan
from tacit.models.preparation import preparation_sums
from tacit.models.tasks import Task
from tacit.models.training import LocalTraining, TrainingDiverged, evaluate, resolve_device, train_locally
from tacit.models.vector import Layout, layout_of, write_vector


class Holdings(Protocol):
    """The rows that one owner holds, seen through the dictionary of a plan; nothing but the agent reads them."""

    def training(self, plan: Plan) -> Rows:
        """Return the rows to train on."""
        ...

    def test(self, plan: Plan) -> Rows | None:
        """Return the rows that are never trained on, or None if there are none."""
        ...


@dataclass(frozen=True, repr=False)
class Prepared:
    """Rows as tensors on the device, for one set of features."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, repr=False)
class AgentState:
    """What an agent remembers between instructions; never leaves the process.

    Attributes:
        client: the agent's name in the federation.
        features: the digest of the features that `prepared` was made with.
        prepared: the training rows, transformed once.
    """

    client: str
    features: str = ""
    prepared: Prepared | None = None


class Workbench:
    """The network of the current plan; one is enough for any number of agents that take turns in a process.

    Args:
        own_code: build networks from code that the recipe names (`[model] factory`). A plan comes from outside and
            could name any function on this machine, so this is for whoever wrote the recipe, as in a simulation.
    """

    def __init__(self, *, own_code: bool = False) -> None:
        """Start without a network."""
        self._own_code = own_code
        self._plan = b""
        self._built: tuple[nn.Module, Layout, Task, torch.device] | None = None

    def network(self, encoded: bytes, plan: Plan) -> tuple[nn.Module, Layout, Task, torch.device]:
        """Return network, layout, task and device of a plan, built at first need."""
        if self._built is None or encoded != self._plan:
            if plan.architecture is None:
                raise ValueError("the plan has no architecture yet")
            if plan.architecture.factory and not self._own_code:
                raise InputError("runs code that was not approved here", where="model.factory", right="a model's name")
            device = resolve_device(plan.recipe.training.device)
            model = plan.architecture.build(plan.recipe.seed).to(device)
            self._built = model, layout_of(model), plan.task(), device
            self._plan = encoded
        return self._built


def step(state: AgentState, instruction: Instruction, holdings: Holdings, bench: Workbench) -> tuple[AgentState, Reply]:
    """Take one step; whatever goes wrong with it is part of the reply, in words that hold no data."""
    if instruction.action not in ACTIONS:
        return state, Reply("refused", "the step is not known here")
    try:
        plan = decode_plan(instruction.plan)
        if instruction.action == "prepare":
            rows = holdings.training(plan)
            if not len(rows):
                return state, Reply("refused", "no rows")
            return state, Reply(arrays={"statistics": preparation_sums(rows, plan.schema)})
        if instruction.action == "train":
            return _train(state, instruction, plan, holdings, bench)
        return _evaluate(state, instruction, plan, holdings, bench)
    except TrainingDiverged:
        return state, Reply("failed", "the training diverged")
    except InputError as error:
        return state, Reply("failed", str(error))
    except Exception as error:  # anything that got past here would reach the coordinator with its text
        return state, Reply("failed", f"{type(error).__name__} in the step {instruction.action}")


def training_seed(recipe_seed: int, client: str, round_number: int, attempt: int) -> int:
    """Return the seed of a client's shuffling in one attempt of one round; it drives nothing secret."""
    text = f"shuffle/{recipe_seed}/{client}/{round_number}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _train(
    state: AgentState, instruction: Instruction, plan: Plan, holdings: Holdings, bench: Workbench
) -> tuple[AgentState, Reply]:
    features = _features(plan)
    model, layout, task, device = bench.network(instruction.plan, plan)
    vector = float32_vector(instruction.arrays, "vector", layout.size)
    state = _prepare(state, plan, features, holdings, task, device)
    if state.prepared is None:
        return state, Reply("refused", "no rows")
    settings = plan.recipe.training
    result = train_locally(
        model,
        layout,
        _tensor(vector).to(device),
        state.prepared.inputs,
        state.prepared.targets,
        task,
        LocalTraining(
            epochs=settings.local_epochs,
            steps=settings.local_steps,
            batch_size=settings.batch_size,
            optimizer=settings.optimizer,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            proximal_mu=plan.proximal_mu,
        ),
        training_seed(plan.recipe.seed, state.client, instruction.round, instruction.attempt),
    )
    return state, Reply(
        body={"examples": result.examples, "loss": result.loss}, arrays={"update": result.delta.cpu().numpy()}
    )


def _evaluate(
    state: AgentState, instruction: Instruction, plan: Plan, holdings: Holdings, bench: Workbench
) -> tuple[AgentState, Reply]:
    rows = holdings.test(plan)
    if rows is None or not len(rows):
        return state, Reply("refused", "no test rows")
    features = _features(plan)
    model, layout, task, device = bench.network(instruction.plan, plan)
    write_vector(model, layout, _tensor(float32_vector(instruction.arrays, "vector", layout.size)).to(device))
    held = _tensors(rows, features, task, device)
    metrics: Mapping[str, Any] = evaluate(model, held.inputs, held.targets, task, plan.schema)
    return state, Reply(body={"examples": len(rows), "metrics": metrics})


def _features(plan: Plan) -> Features:
    if plan.features is None:
        raise ValueError("the plan has no features yet")
    return plan.features


def _prepare(
    state: AgentState, plan: Plan, features: Features, holdings: Holdings, task: Task, device: torch.device
) -> AgentState:
    if state.prepared is not None and state.features == features.digest:
        return state
    rows = holdings.training(plan)
    prepared = _tensors(rows, features, task, device) if len(rows) else None
    return replace(state, features=features.digest, prepared=prepared)


def _tensors(rows: Rows, features: Features, task: Task, device: torch.device) -> Prepared:
    inputs = torch.from_numpy(features.transform(rows)).to(device)
    return Prepared(inputs, torch.from_numpy(np.asarray(rows.labels)).to(task.target_dtype).to(device))


def _tensor(vector: NDArray[np.float32]) -> Tensor:
    """Wrap a vector that may be read-only without copying it; nothing writes to it."""
    return torch.frombuffer(vector, dtype=torch.float32) if vector.flags.writeable else torch.from_numpy(vector.copy())
