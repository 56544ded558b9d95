"""An agent's own work in a round: training on the rows that it holds, and what it remembers of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.models import broadcast
from tacit.models.data.rows import Rows
from tacit.models.errors import InputError
from tacit.models.features import Features
from tacit.models.messages import Instruction
from tacit.models.noise import NoisePlan
from tacit.models.plan import Plan, decode_plan
from tacit.models.tasks import Task
from tacit.models.training import LocalResult, LocalTraining, evaluate, resolve_device, train_locally
from tacit.models.vector import Layout, layout_of, write_vector
from tacit.models.zoo.frozen import frozen_features, split_frozen
from tacit.privacy.randomness import Keystream

if TYPE_CHECKING:  # they bring Opacus
    from tacit.privacy.dp_sgd import Spent
    from tacit.privacy.dp_sgd_passes import Mode

Draws = Callable[[str], Keystream]
"""An agent's own secret words in one attempt, for a purpose; each purpose is asked for once."""


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
    """Rows as tensors on the device, as what is trained takes them: behind the network's frozen start, if any."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, repr=False)
class AgentState:
    """What an agent remembers between instructions; never leaves the process.

    Attributes:
        client: the agent's name in the federation.
        features: the digest of the features and the network that `prepared` was made with.
        prepared: the training rows, transformed once.
        paid: what the examples have paid for private steps, over all rounds and runs of this process; None for nothing.
    """

    client: str
    features: str = ""
    prepared: Prepared | None = None
    paid: Spent | None = None


class Refused(Exception):
    """The agent will not take a step, or not to its end; the text is the reason and goes to the coordinator."""


class NoRows(Refused):
    """There are no rows of the kind that a step asks for."""


class Lent(Protocol):
    """What the owner lends of the machine."""

    def has_room(self, parameters: int) -> bool:
        """Say whether a round over a vector of this size fits into what is left."""
        ...

    def begin(self) -> Callable[[], None]:
        """Begin the work of a round, and return what is called at each step; that raises `Refused` at a limit."""
        ...


class Everything:
    """A machine without limits, as a simulation has it."""

    def has_room(self, parameters: int) -> bool:
        """Say yes."""
        return True

    def begin(self) -> Callable[[], None]:
        """Return what never raises."""
        return lambda: None


class Workbench:
    """The network of the current plan; one is enough for any number of agents that take turns in a process.

    Args:
        own_code: build networks from code that the recipe names (`[model] factory`). A plan comes from outside and
            could name any function on this machine, so this is for whoever wrote the recipe, as in a simulation.
        device: where networks are put, whatever the recipe says; None for where it says.
        lent: what the work of a round may use.
    """

    def __init__(self, *, own_code: bool = False, device: str | None = None, lent: Lent | None = None) -> None:
        """Start without a network."""
        self.lent = lent or Everything()
        self._own_code = own_code
        self._device = device
        self._plan = b""
        self._built: tuple[nn.Module, Layout, Task, torch.device] | None = None
        self._mode: Mode | None = None

    def network(self, encoded: bytes, plan: Plan) -> tuple[nn.Module, Layout, Task, torch.device]:
        """Return network, layout, task and device of a plan, built at first need."""
        if self._built is None or encoded != self._plan:
            if plan.architecture is None:
                raise ValueError("the plan has no architecture yet")
            if plan.architecture.factory and not self._own_code:
                raise InputError("runs code that was not approved here", where="model.factory", right="a model's name")
            device = resolve_device(self._device or plan.recipe.training.device)
            model = plan.architecture.build(plan.recipe.seed).to(device)
            self._built = model, layout_of(model), plan.task(), device
            self._plan = encoded
            self._mode = None
        return self._built

    def fits(self, encoded: bytes, plan: Plan, parameters: int | None) -> bool:
        """Say whether a vector of this size is one of the plan's network, which takes no memory before it is.

        What an owner's own code builds is known once it runs.
        """
        if plan.architecture is None or plan.architecture.factory:
            return True
        if self._built is not None and encoded == self._plan:
            return parameters == self._built[1].size
        return parameters == plan.architecture.size()

    def mode(self, measure: Callable[[], Mode]) -> Mode:
        """Return the fastest way to clip the current network's gradients, measured at first need."""
        if self._mode is None:
            self._mode = measure()
        return self._mode


def training_seed(recipe_seed: int, client: str, round_number: int, attempt: int) -> int:
    """Return the seed of a client's shuffling in one attempt of one round; it drives nothing secret."""
    text = f"shuffle/{recipe_seed}/{client}/{round_number}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def train(
    state: AgentState, instruction: Instruction, plan: Plan, holdings: Holdings, bench: Workbench
) -> tuple[AgentState, LocalResult]:
    """Train from the instruction's vector on the agent's own rows.

    Raises:
        NoRows: there are none.
        Refused: what the owner lends is used up.
        ValueError: the plan or the vector cannot be used.
        TrainingDiverged: the loss or the weights stopped being finite.
    """
    step = bench.lent.begin()
    model, layout, task, device = bench.network(instruction.plan, plan)
    vector = broadcast.decode(instruction.arrays, layout.size)
    state, prepared = _prepare(state, plan, holdings, model, task, device)
    if not len(prepared.inputs):
        raise NoRows("no rows")
    model, layout = _trained(model, layout)
    settings = plan.recipe.training
    result = train_locally(
        model,
        layout,
        as_tensor(vector).to(device),
        prepared.inputs,
        prepared.targets,
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
        each_step=step,
    )
    return state, result


def train_examples(
    state: AgentState,
    instruction: Instruction,
    plan: Plan,
    promised: NoisePlan,
    draws: Draws,
    holdings: Holdings,
    bench: Workbench,
) -> tuple[AgentState, LocalResult]:
    """Train as `train` does, under a promise about each of the agent's examples; raises what that does.

    Without any it gives noise alone: nobody is to see whether there is one.
    """
    # Imported here: it brings Opacus, a second and tens of megabytes that promises about clients do without.
    from tacit.models.private_training import fastest, private_settings, train_locally_private

    step = bench.lent.begin()
    model, layout, task, device = bench.network(instruction.plan, plan)
    vector = broadcast.decode(instruction.arrays, layout.size)
    state, prepared = _prepare(state, plan, holdings, model, task, device)
    model, layout = _trained(model, layout)
    inputs, targets = prepared.inputs, prepared.targets
    settings = private_settings(promised, plan.recipe.training)
    settings = replace(settings, mode=bench.mode(lambda: fastest(model, task, inputs, targets, settings)))
    start = as_tensor(vector).to(device)
    result, paid = train_locally_private(
        model, layout, start, inputs, targets, task, plan.recipe.training, settings, state.paid,
        sampling=draws("batches"), noise=draws("noise"), each_step=step,
    )  # fmt: skip
    return replace(state, paid=paid), result


def rows_of(holdings: Holdings, plan: Plan) -> Rows:
    """Return the rows to train on; `NoRows` where there are none."""
    rows = holdings.training(plan)
    if not len(rows):
        raise NoRows("no rows")
    return rows


def _features(plan: Plan) -> Features:
    if plan.features is None:
        raise ValueError("the plan has no features yet")
    return plan.features


def _prepare(
    state: AgentState, plan: Plan, holdings: Holdings, model: nn.Module, task: Task, device: torch.device
) -> tuple[AgentState, Prepared]:
    """Return the training rows as tensors, if any, and the state that remembers them."""
    features = _features(plan)
    digest = features.digest
    start, _ = split_frozen(model)
    if len(start) and plan.architecture is not None:
        digest += json.dumps(plan.architecture.to_json_dict(), sort_keys=True)
    if state.prepared is not None and state.features == digest:
        return state, state.prepared
    held = as_tensors(holdings.training(plan), features, task, device)
    # Nothing trains it, so it is computed once for each row and not once for each step.
    prepared = Prepared(frozen_features(start, held.inputs), held.targets)
    return replace(state, features=digest, prepared=prepared), prepared


def _trained(model: nn.Module, layout: Layout) -> tuple[nn.Module, Layout]:
    """Return what is trained of a network, behind its frozen start: its vector is the network's own."""
    _, rest = split_frozen(model)
    return rest, layout if rest is model else layout_of(rest)


def as_tensors(rows: Rows, features: Features, task: Task, device: torch.device) -> Prepared:
    """Return rows as a network takes them, on a device."""
    inputs = torch.from_numpy(features.transform(rows)).to(device)
    return Prepared(inputs, torch.from_numpy(np.asarray(rows.labels)).to(task.target_dtype).to(device))


def as_tensor(vector: NDArray[np.float32]) -> Tensor:
    """Wrap a vector that may be read-only without copying it; nothing writes to it."""
    return torch.frombuffer(vector, dtype=torch.float32) if vector.flags.writeable else torch.from_numpy(vector.copy())


def measure(
    encoded_plan: bytes, vector: NDArray[np.float32], holdings: Holdings, bench: Workbench
) -> tuple[dict[str, float], int]:
    """Return a model's metrics on the agent's own test rows, and how many these are; nothing of it is sent.

    Raises:
        Refused: there are no test rows.
    """
    plan = decode_plan(encoded_plan)
    rows = holdings.test(plan)
    if rows is None or not len(rows):
        raise Refused("no test rows")
    model, layout, task, device = bench.network(encoded_plan, plan)
    write_vector(model, layout, as_tensor(vector).to(device))
    held = as_tensors(rows, _features(plan), task, device)
    return evaluate(model, held.inputs, held.targets, task, plan.schema), len(rows)
