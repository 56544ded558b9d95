"""One client's local pass over its own data, and the evaluation of a model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tacit.models.data.rows import Schema
from tacit.models.errors import InputError
from tacit.models.optimizers import Adam, Optimizer, Sgd
from tacit.models.tasks import Task
from tacit.models.vector import Layout, read_vector, write_vector

_OPTIMIZERS = ("sgd", "adam", "adamw")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,4})?")


class TrainingDiverged(ArithmeticError):
    """The loss or the weights stopped being finite numbers."""


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains.

    Attributes:
        epochs: passes over the client's data; without meaning where `steps` is given.
        steps: minibatches, cycling through the data, or None.
        batch_size: examples of a minibatch; the last one of a pass may be smaller.
        optimizer: `sgd`, `adam` or `adamw`; its state begins anew with every pass.
        learning_rate: of the optimizer.
        momentum: of `sgd`.
        weight_decay: of the optimizer; decoupled in `adamw`.
        proximal_mu: weight of the pull towards the global vector (FedProx); 0 is FedAvg.

    Raises:
        InputError: a value is out of its range.
    """

    epochs: int
    steps: int | None
    batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what nobody can train with."""
        for name in ("epochs", "batch_size") if self.steps is None else ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"is {getattr(self, name)}", where=f"training.{name}", right="expected 1 or more")
        if self.optimizer not in _OPTIMIZERS:
            known = f"expected {', '.join(_OPTIMIZERS)}"
            raise InputError(f"unknown optimizer {self.optimizer!r}", where="training.optimizer", right=known)
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"is {self.learning_rate}", where="training.learning_rate", right="expected more than 0")
        if not 0 <= self.momentum < 1:
            raise InputError(f"is {self.momentum}", where="training.momentum", right="expected 0 up to below 1")
        if self.momentum and self.optimizer != "sgd":
            raise InputError(f"{self.optimizer} has none", where="training.momentum", right="leave it out, or use sgd")
        for name in ("weight_decay", "proximal_mu"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"is {getattr(self, name)}", where=f"training.{name}", right="expected 0 or more")

    def new_optimizer(self) -> Optimizer:
        """Return an optimizer that has not moved yet."""
        if self.optimizer == "sgd":
            return Sgd(self.learning_rate, self.momentum, self.weight_decay)
        return Adam(self.learning_rate, self.weight_decay, decoupled=self.optimizer == "adamw")


@dataclass(frozen=True, repr=False)
class LocalResult:
    """What a pass gives.

    Attributes:
        delta: the trained minus the global vector, shape `(layout.size,)`.
        examples: how many examples the client holds.
        loss: the mean loss of the examples seen, each at the moment it was trained on, without the proximal term.
    """

    delta: Tensor
    examples: int
    loss: float


def train_locally(
    model: nn.Module,
    layout: Layout,
    global_vector: Tensor,
    inputs: Tensor,
    targets: Tensor,
    task: Task,
    settings: LocalTraining,
    seed: int,
    *,
    each_step: Callable[[], None] = lambda: None,
) -> LocalResult:
    """Train `model` from `global_vector` on one client's data, where these tensors lie, and return the change.

    The order of the examples and the model's own randomness (dropout) follow from `seed` alone; torch's global
    generators are left as they were found. On one machine with the same number of threads the result is the same to
    the last bit, as far as torch's kernels are (on a GPU: with `torch.use_deterministic_algorithms`).

    With `proximal_mu` = mu the loss gains `mu/2 ||w - w_global||^2` (Li et al. 2020, FedProx, section 3.2), whose
    gradient mu (w - w_global) is added to that of the loss.

    Args:
        model: the network; it holds the trained weights afterwards.
        layout: the network's layout.
        global_vector: the vector to start from, shape `(layout.size,)`.
        inputs: float32, shape `(examples, *input_shape)`.
        targets: shape `(examples,)`.
        task: gives the loss.
        settings: how long and with which optimizer.
        seed: at least 0.
        each_step: called before each batch; what it raises ends the training.

    Raises:
        InputError: there is no example, not one target an example, or nothing to train.
        TrainingDiverged: the loss or a weight is no finite number any more.
    """
    examples = len(inputs)
    if examples == 0 or len(targets) != examples:
        raise InputError(f"{examples} examples and {len(targets)} targets", where="training data")
    write_vector(model, layout, global_vector)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("the model has no parameter to train")
    # Weights and gradients become two flat vectors that the parameters are views of, so that a step of the optimizer is
    # a few operations instead of a few for every layer.
    weights = parameters_to_vector(parameters).detach()
    vector_to_parameters(weights, parameters)
    gradient = torch.zeros_like(weights)
    for parameter, piece in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)
    anchor = weights.clone() if settings.proximal_mu else None

    optimizer = settings.new_optimizer()
    targets = targets.to(task.target_dtype)
    order_seed, model_seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(2))
    order = torch.Generator().manual_seed(order_seed)
    total_loss, total_seen = 0.0, 0
    model.train()
    with torch.random.fork_rng(devices=_generators_of(weights.device), device_type=weights.device.type):
        _seed_model(weights.device, model_seed)
        for batches in _passes(examples, settings, order, inputs.device):
            losses = []
            for rows in batches:
                each_step()
                gradient.zero_()
                loss = task.loss(model(inputs.index_select(0, rows)), targets.index_select(0, rows))
                loss.backward()
                if anchor is not None:
                    gradient.add_(weights - anchor, alpha=settings.proximal_mu)
                optimizer.step(weights, gradient)
                losses.append(loss.detach())
            # One look at the numbers for each pass: reading each loss would make a GPU wait at every step.
            sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.float32)
            total_loss += float(torch.stack(losses).cpu() @ sizes)
            total_seen += int(sizes.sum())
            if not math.isfinite(total_loss):
                break
    for parameter in parameters:
        parameter.grad = None
    delta = read_vector(model, layout).sub_(global_vector.to(weights.device))
    if not math.isfinite(total_loss) or not bool(torch.isfinite(delta).all()):
        raise TrainingDiverged("the loss is no finite number any more; lower training.learning_rate")
    return LocalResult(delta, examples, total_loss / total_seen)


def _passes(
    examples: int, settings: LocalTraining, order: torch.Generator, device: torch.device
) -> Iterator[list[Tensor]]:
    """Yield for each pass over the data its batches, as indices."""
    per_pass = -(-examples // settings.batch_size)
    remaining = settings.epochs * per_pass if settings.steps is None else settings.steps
    while remaining > 0:
        indices = torch.randperm(examples, generator=order).to(device)
        batches = list(indices.split(settings.batch_size))[:remaining]
        remaining -= len(batches)
        yield batches


def _generators_of(device: torch.device) -> list[int]:
    """Return the devices besides the CPU whose generator a model on `device` draws from."""
    return [] if device.type == "cpu" else [device.index or 0]


def _seed_model(device: torch.device, seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def evaluate(
    model: nn.Module, inputs: Tensor, targets: Tensor, task: Task, schema: Schema, batch_size: int = 1024
) -> dict[str, float]:
    """Return the task's metrics of `model` on these examples, by name; numbers that are undefined are NaN.

    Raises:
        InputError: there is no example, or not one target an example.
    """
    metrics = task.metrics(schema)
    feed(model, inputs, targets.to(task.target_dtype), metrics.update, batch_size)
    return metrics.compute()


def feed(
    model: nn.Module, inputs: Tensor, targets: Tensor, update: Callable[[Tensor, Tensor], None], batch_size: int = 1024
) -> None:
    """Give `update` the outputs of `model` and the targets, batch by batch; nothing is trained.

    Raises:
        InputError: there is no example, or not one target an example.
    """
    if len(inputs) == 0 or len(targets) != len(inputs):
        raise InputError(f"{len(inputs)} examples and {len(targets)} targets", where="evaluation data")
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(inputs), batch_size):
                update(model(inputs[start : start + batch_size]), targets[start : start + batch_size])
    finally:
        model.train(was_training)


def resolve_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` names; `auto` is the first GPU, if any.

    Raises:
        InputError: the name is none of these, or the machine has no such device.
    """
    if not _DEVICE.fullmatch(name):
        raise InputError(f"unknown device {name!r}", where="device", right="expected auto, cpu, cuda[:N] or mps")
    kind, _, index = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("this machine has no mps device", where="device", right="use cpu or auto")
        return torch.device("mps", 0)
    number = int(index or 0)
    if number >= torch.cuda.device_count():
        found = f"this machine has {torch.cuda.device_count()} CUDA devices"
        raise InputError(f"no {name}: {found}", where="device", right="use cpu or auto")
    return torch.device("cuda", number)
