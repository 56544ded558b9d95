"""The agent's step: `(state, instruction) -> (state, reply)`, without a transport."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.client.masked import Draws, Integers, MaskedMember, Membership, Values
from tacit.models.contributions import (
    COUNTS,
    asks_for_statistics,
    preparation_layout,
    preparation_values,
    training_layout,
    training_values,
)
from tacit.models.data.rows import Rows
from tacit.models.errors import InputError
from tacit.models.features import Features
from tacit.models.messages import ACTIONS, PLAIN_ACTIONS, Instruction, Reply, float32_vector
from tacit.models.noise import MECHANISM, NoisePlan, noise_plan
from tacit.models.plan import Plan, decode_plan
from tacit.models.preparation import preparation_sums
from tacit.models.tasks import Task
from tacit.models.training import (
    LocalResult,
    LocalTraining,
    TrainingDiverged,
    evaluate,
    resolve_device,
    train_locally,
)
from tacit.models.vector import Layout, layout_of, write_vector
from tacit.privacy.errors import PrivacyError, RemoteProtocolError
from tacit.privacy.secagg.layout import Layout as MaskedLayout
from tacit.privacy.secagg.offer import Offer


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


class Refused(Exception):
    """The agent will not take a step; the text is the reason and goes to the coordinator."""


class Agent:
    """An agent's state, rows and part in masked rounds, for as long as a process lives.

    Args:
        client: the agent's name in the federation.
        holdings: its rows.
        bench: where its network is built.
    """

    def __init__(self, client: str, holdings: Holdings, bench: Workbench) -> None:
        """Start an agent that has taken no step."""
        self._state = AgentState(client)
        self._holdings = holdings
        self._bench = bench
        self._member: MaskedMember | None = None

    def join(self, membership: Membership) -> None:
        """Become a member of a federation that masks: from now on the agent takes no plain step, before no other."""
        self._member = MaskedMember(membership, self._contribute)

    def handle(self, instruction: Instruction) -> Reply:
        """Take one step; whatever goes wrong with it is part of the reply, in words that hold no data."""
        if self._member is None:
            self._state, reply = step(self._state, instruction, self._holdings, self._bench)
            return reply
        # Whoever joined decided for good: the plan, which the coordinator writes, has no say in it.
        if instruction.action in PLAIN_ACTIONS:
            return Reply("refused", "what this agent computes leaves masked or not at all")
        if instruction.action not in ACTIONS:
            return Reply("refused", "the step is not known here")
        try:
            return self._member.take(instruction)
        except Exception as error:
            return excuse(error, instruction.action)

    @property
    def client(self) -> str:
        """Return the agent's name in the federation."""
        return self._state.client

    @property
    def receipts_checked(self) -> int:
        """Return how many receipts for masked rounds came and were right."""
        return self._member.receipts_checked if self._member is not None else 0

    def measure(self, encoded_plan: bytes, vector: NDArray[np.float32]) -> tuple[dict[str, float], int]:
        """Return a model's metrics on the agent's own test rows, and how many these are; nothing of it is sent.

        Raises:
            Refused: there are no test rows.
        """
        plan = decode_plan(encoded_plan)
        rows = self._holdings.test(plan)
        if rows is None or not len(rows):
            raise Refused("no test rows")
        model, layout, task, device = self._bench.network(encoded_plan, plan)
        write_vector(model, layout, _tensor(vector).to(device))
        held = _tensors(rows, _features(plan), task, device)
        return evaluate(model, held.inputs, held.targets, task, plan.schema), len(rows)

    def _contribute(self, instruction: Instruction, offer: Offer, draws: Draws) -> Values | Integers:
        self._state, given = masked_contribution(self._state, instruction, offer, draws, self._holdings, self._bench)
        return given


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
    """Take one plain step; whatever goes wrong with it is part of the reply, in words that hold no data.

    A plan that asks for secure aggregation has no plain steps: what they return would go to the coordinator as it is.
    """
    if instruction.action not in PLAIN_ACTIONS:
        return state, Reply("refused", "the step is not known here")
    try:
        plan = decode_plan(instruction.plan)
        if plan.recipe.secure_aggregation.enabled:
            return state, Reply("refused", "this run's updates leave masked or not at all")
        if instruction.action == "prepare":
            return state, Reply(arrays={"statistics": preparation_sums(_rows(holdings, plan), plan.schema)})
        state, result = train(state, instruction, plan, holdings, bench)
    except Exception as error:
        return state, excuse(error, instruction.action)
    return state, Reply(
        body={"examples": result.examples, "loss": result.loss}, arrays={"update": result.delta.cpu().numpy()}
    )


def excuse(error: Exception, action: str) -> Reply:
    """Return what the coordinator is told about a step that went wrong: a reason without a word of data."""
    match error:
        case Refused():
            return Reply("refused", str(error))
        case TrainingDiverged():
            return Reply("failed", "the training diverged")
        case PrivacyError():
            return Reply("refused", str(error))
        case InputError():
            return Reply("failed", str(error))
    # Anything that got past here would reach the coordinator with its text.
    return Reply("failed", f"{type(error).__name__} in the step {action}")


def masked_contribution(
    state: AgentState, instruction: Instruction, offer: Offer, draws: Draws, holdings: Holdings, bench: Workbench
) -> tuple[AgentState, Values | Integers]:
    """Compute what a masked round asks for, with noise if the plan promises any.

    Args:
        state: the agent's.
        instruction: what offered the round.
        offer: the accepted offer.
        draws: secret words of this member in this attempt, for rounding and noise.
        holdings: the agent's rows.
        bench: where the network is built.

    Raises:
        RemoteProtocolError: the offer is not what the plan says, such as one with less noise.
    """
    plan = decode_plan(instruction.plan)
    if asks_for_statistics(plan):
        _check_offer(offer, preparation_layout(plan))
        rows = _rows(holdings, plan)
        if plan.features is not None:
            return state, {COUNTS: np.array([float(len(rows))])}
        return state, preparation_values(preparation_sums(rows, plan.schema), plan.schema)
    _, layout, _, _ = bench.network(instruction.plan, plan)
    if plan.recipe.privacy.unit == "client":
        noise = noise_plan(plan.recipe, layout.size, offer.cohort)
        _check_offer(offer, noise.layout, noise)
        state, result = train(state, instruction, plan, holdings, bench)
        update = result.delta.cpu().numpy()
        return state, noise.integers(update, offer.rotation_seed, draws("grid-rounding"), draws("noise"))
    _check_offer(offer, training_layout(layout.size, offer.cohort))
    by_examples = plan.recipe.strategy.weighting in ("auto", "examples")
    state, result = train(state, instruction, plan, holdings, bench)
    update = result.delta.cpu().numpy()
    return state, training_values(update, result.loss, result.examples, plan.mean_examples, by_examples)


def _check_offer(offer: Offer, layout: MaskedLayout, noise: NoisePlan | None = None) -> None:
    """Refuse an offer whose vector or noise is not what the plan that came with it says."""
    if offer.layout != layout:
        raise RemoteProtocolError("other-layout", "the vector is not the one that the plan has")
    promised = (MECHANISM, noise.share_variance, noise.parameters) if noise else ("none", 0.0, ())
    if (offer.mechanism, offer.noise_variance, offer.mechanism_parameters) != promised:
        raise RemoteProtocolError("other-noise", "the noise is not what the plan promises")
    if noise and (offer.min_survivors, offer.colluders) != (noise.min_survivors, noise.colluders):
        raise RemoteProtocolError("other-noise", "fewer shares of noise would count than the plan promises")


def training_seed(recipe_seed: int, client: str, round_number: int, attempt: int) -> int:
    """Return the seed of a client's shuffling in one attempt of one round; it drives nothing secret."""
    text = f"shuffle/{recipe_seed}/{client}/{round_number}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def train(
    state: AgentState, instruction: Instruction, plan: Plan, holdings: Holdings, bench: Workbench
) -> tuple[AgentState, LocalResult]:
    """Train from the instruction's vector on the agent's own rows.

    Raises:
        Refused: there are no rows.
        ValueError: the plan or the vector cannot be used.
        TrainingDiverged: the loss or the weights stopped being finite.
    """
    features = _features(plan)
    model, layout, task, device = bench.network(instruction.plan, plan)
    vector = float32_vector(instruction.arrays, "vector", layout.size)
    state = _prepare(state, plan, features, holdings, task, device)
    if state.prepared is None:
        raise Refused("no rows")
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
    return state, result


def _rows(holdings: Holdings, plan: Plan) -> Rows:
    rows = holdings.training(plan)
    if not len(rows):
        raise Refused("no rows")
    return rows


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
