"""What privacy costs: a DP-SGD step beside plain ones, draws of noise, and a noised round beside a masked one.

A step is that of the small CNN of the zoo on 256 images of 28x28: pick a batch by index, forward, backward, optimizer.
The private one is `train_privately` with all that belongs to it: Poisson batches of 256 expected, noise from AES, the
accountant, the way of clipping that is measured as fastest; a training of several steps, its set-up included. The plain
ones are the bare loop that one would write, with weights as PyTorch makes them (default) and with weights and images
channels last, which is the fastest. Beside them stand Opacus' own hooks and optimizer in such a loop.

Processor time on one thread, alternating in one run; the ratios are medians of pairs. What the images show does not
matter for time, so they are noise.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.models.zoo import initial_model
from tacit.models.zoo.architecture import Architecture
from tacit.privacy.dp_sgd import DpSgd, Spent, fastest_mode, train_privately
from tacit.privacy.dp_sgd_passes import Mode
from tacit.privacy.randomness import Keystream, SystemRandomness
from tacit.privacy.terms import RecordNoise
from tacit.simulations.benchmarks import skellam
from tacit.simulations.benchmarks.figure import Figure, absent

BOUND, BATCH, RECORDS = 1.6, 256, 2560
LEARNING_RATE = 0.05
ARCHITECTURE = Architecture("cnn", "", (1, 28, 28), 10)

Steps = Callable[[nn.Module, Tensor, Tensor, int], None]
"""Takes a network, the images, their classes and the number of steps to train."""


def private_steps(mode: Mode) -> Steps:
    """Return training by DP-SGD with this way of clipping."""

    def train(network: nn.Module, images: Tensor, classes: Tensor, steps: int) -> None:
        randomness = SystemRandomness()
        train_privately(
            network,
            torch.optim.SGD(network.parameters(), lr=LEARNING_RATE),
            F.cross_entropy,
            images,
            classes,
            settings(len(images), steps, mode),
            Spent(),
            sampling=Keystream(randomness.key("sampling")),
            noise=Keystream(randomness.key("noise")),
        )

    return train


def settings(records: int, steps: int, mode: Mode = "direct") -> DpSgd:
    """Return settings of a batch of 256 expected."""
    return DpSgd(RecordNoise(1.0, min(1.0, BATCH / records), steps), 1.0, BATCH, mode=mode)


def default_steps(network: nn.Module, images: Tensor, classes: Tensor, steps: int) -> None:
    """Train by the bare loop, with tensors laid out as PyTorch makes them."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    for batch in _batches(len(images), steps):
        optimizer.zero_grad()
        F.cross_entropy(network(images.index_select(0, batch)), classes.index_select(0, batch)).backward()
        optimizer.step()


def channels_last_steps(network: nn.Module, images: Tensor, classes: Tensor, steps: int) -> None:
    """Train by the bare loop, with weights and images channels last."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's types leave out
    default_steps(network, images.to(memory_format=torch.channels_last), classes, steps)


def opacus_steps(network: nn.Module, images: Tensor, classes: Tensor, steps: int) -> None:
    """Train by Opacus' wrapped module and optimizer, with its default noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations in what Opacus imports, and of its hooks on the first layer
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        wrapped = GradSampleModule(network)
        optimizer = DPOptimizer(
            torch.optim.SGD(network.parameters(), lr=LEARNING_RATE),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            expected_batch_size=BATCH,
        )
        for batch in _batches(len(images), steps):
            optimizer.zero_grad()
            F.cross_entropy(wrapped(images.index_select(0, batch)), classes.index_select(0, batch)).backward()
            optimizer.step()
        wrapped.remove_hooks()


def _batches(records: int, steps: int) -> list[Tensor]:
    order = torch.Generator().manual_seed(0)
    return [torch.randint(0, records, (BATCH,), generator=order) for _ in range(steps)]


def milliseconds(training: Steps, images: Tensor, classes: Tensor, steps: int) -> float:
    """Return the processor time of a step, on one thread, from the same initial network."""
    network = initial_model(ARCHITECTURE, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        training(network, images, classes, steps)
        return (time.process_time() - start) / steps * 1e3
    finally:
        torch.set_num_threads(threads)


def compare(trainings: Mapping[str, Steps], steps: int, repetitions: int) -> dict[str, list[float]]:
    """Return the milliseconds of a step for each training, measured in turns after one turn that does not count."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(RECORDS, 1, 28, 28, generator=generator)
    classes = torch.randint(0, 10, (RECORDS,), generator=generator)
    turns = [
        {name: milliseconds(training, images, classes, steps) for name, training in trainings.items()}
        for _ in range(repetitions + 1)
    ]
    return {name: [turn[name] for turn in turns[1:]] for name in trainings}


def chosen_mode() -> Mode:
    """Return the way of clipping that is measured as fastest for this network and batch, as a client does."""
    images, classes = torch.rand(BATCH, 1, 28, 28), torch.zeros(BATCH, dtype=torch.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = initial_model(ARCHITECTURE, seed=0)
        return fastest_mode(network, F.cross_entropy, images, classes, settings(RECORDS, 1), time.process_time)
    finally:
        torch.set_num_threads(threads)


def step_figures(quick: bool) -> list[Figure]:
    """Measure private steps against plain ones; `quick` leaves Opacus' own loop out."""
    mode = chosen_mode()
    trainings: dict[str, Steps] = {
        "private": private_steps(mode),
        "channels last": channels_last_steps,
        "default": default_steps,
    }
    if not quick:
        trainings["hooks"] = opacus_steps
    times = compare(trainings, steps=40, repetitions=3 if quick else 11)
    fastest = min("channels last", "default", key=lambda name: statistics.median(times[name]))
    in_words = ", ".join(f"{name} {statistics.median(times[name]):.1f} ms" for name in times)
    detail = f"CNN, batch {BATCH}, {mode} clipping, one thread: {in_words}"
    hooks = "opacus_hooks_step_ratio"
    return [
        Figure(
            "step_ratio_dp_to_fastest_plain",
            _ratio(times["private"], times[fastest]),
            "ratio",
            f"bound {BOUND}, goal 1.3",
            BOUND,
            f"{detail}; fastest plain: {fastest}",
        ),
        Figure(
            "step_ratio_dp_to_default_plain",
            _ratio(times["private"], times["default"]),
            "ratio",
            "Opacus' hooks" if "hooks" in times else "",
            _ratio(times["hooks"], times["default"]) if "hooks" in times else None,
            detail,
        ),
        Figure(hooks, _ratio(times["hooks"], times["default"]), "ratio", "the default plain step", 1.0, detail)
        if "hooks" in times
        else absent(hooks, "ratio", "competitors are left out when it must be quick"),
    ]


def _ratio(measured: list[float], beside: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(measured, beside, strict=True))


def figures(quick: bool) -> list[Figure]:
    """Return the figures of a private step, of the noise of distributed mechanisms, and of a noised round."""
    found = [*step_figures(quick), *skellam.figures(quick)]
    # Imported here, for it brings Flower, whose threads and memory the figures above do without.
    from tacit.simulations.benchmarks.masked_round import noised_over_masked

    return [*found, noised_over_masked(rounds=1 if quick else 4, repetitions=1 if quick else 3)]
