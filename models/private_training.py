"""One client's local pass under a promise about each of its examples: DP-SGD from the global vector."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tacit.models.errors import InputError
from tacit.models.noise import NoisePlan
from tacit.models.sections import TrainingSection
from tacit.models.tasks import Task
from tacit.models.training import LocalResult, TrainingDiverged
from tacit.models.vector import Layout, read_vector, write_vector
from tacit.privacy.dp_sgd import DpSgd, Spent, fastest_mode, train_privately
from tacit.privacy.dp_sgd_passes import Mode
from tacit.privacy.errors import LocalProtocolError
from tacit.privacy.skellam import Words
from tacit.privacy.terms import RecordNoise

LARGEST_MEASURED = 256  # examples of the made-up batch that shows which way of clipping is fastest


def private_settings(plan: NoisePlan, training: TrainingSection, mode: Mode = "hooks") -> DpSgd:
    """Return the public settings of a round's private steps: nothing of them is counted from anybody's data."""
    if not isinstance(plan.terms.noise, RecordNoise):
        raise InputError("asks for no noise in single steps", where="privacy.unit")
    return DpSgd(plan.terms.noise, plan.l2_clip, float(training.batch_size), mode=mode)


def fastest(model: nn.Module, task: Task, inputs: Tensor, targets: Tensor, settings: DpSgd) -> Mode:
    """Measure on made-up examples which way of clipping is fastest for a model on its device."""
    size = min(LARGEST_MEASURED, max(1, int(settings.expected_batch_size)))
    made_up = torch.zeros((size, *inputs.shape[1:]), dtype=inputs.dtype, device=inputs.device).normal_()
    return fastest_mode(model, task.loss, made_up, targets.new_zeros(size), settings, time.perf_counter)


def train_locally_private(
    model: nn.Module,
    layout: Layout,
    global_vector: Tensor,
    inputs: Tensor,
    targets: Tensor,
    task: Task,
    training: TrainingSection,
    settings: DpSgd,
    paid: Spent | None,
    *,
    sampling: Words,
    noise: Words,
    each_step: Callable[[], None] = lambda: None,
) -> tuple[LocalResult, Spent]:
    """Train `model` privately from `global_vector` and return the change, and what its examples have paid by then.

    Neither a loss nor a number of examples is part of the result: both would tell about the data beside the noise.

    Args:
        model: the network; it holds the trained weights afterwards.
        layout: the network's layout.
        global_vector: the vector to start from, shape `(layout.size,)`.
        inputs: float32, shape `(examples, *input_shape)`.
        targets: shape `(examples,)`.
        task: gives the loss.
        training: the recipe's optimizer; its state begins anew with every round.
        settings: noise, clip and steps.
        paid: what earlier rounds returned; None before the first.
        sampling: secret words for the batches.
        noise: secret words for the noise.
        each_step: called after each step; what it raises ends the training, of which nothing may be sent then.

    Raises:
        PrivacyError: a layer cannot be trained privately.
        TrainingDiverged: a weight is no finite number any more.
    """
    write_vector(model, layout, global_vector)
    optimizer = _optimizer(model, training)
    optimizer.register_step_post_hook(lambda *stepped: each_step())
    try:
        paid = train_privately(
            model, optimizer, task.loss, inputs, targets.to(task.target_dtype), settings, paid or Spent(),
            sampling=sampling, noise=noise,
        )  # fmt: skip
    except LocalProtocolError as error:
        raise TrainingDiverged(str(error)) from None
    delta = read_vector(model, layout).sub_(global_vector.to(inputs.device))
    return LocalResult(delta, 0, 0.0), paid


def _optimizer(model: nn.Module, training: TrainingSection) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("the model has no parameter to train")
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=rate, momentum=training.momentum, weight_decay=decay)
    if training.optimizer == "adam":
        return torch.optim.Adam(trained, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(trained, lr=rate, weight_decay=decay)
