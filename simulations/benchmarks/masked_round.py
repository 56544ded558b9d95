"""What masks add to a simulated round: the same recipe with and without secure aggregation, training included.

The images are Fashion-MNIST's where `TACIT_DATA` names its directory, else noise of the same shape.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from tacit.models.recipe import Recipe, parse_recipe
from tacit.simulations.benchmarks.figure import Figure
from tacit.simulations.simulation import simulate

BOUND = 1.3

RECIPE = """
name = "masked-round"
task.kind = "image-classification"
data.source = "{source}"
population.clients = 100
model.name = "cnn"
evaluation.validation = 0.0
secure_aggregation.enabled = {masked}

[training]
rounds = {rounds}
cohort = 20
batch_size = 32
learning_rate = 0.05
device = "cpu"
"""


def recipe_of(masked: bool, rounds: int) -> Recipe:
    """Return a hundred clients, of whom twenty train a CNN for one epoch in each round."""
    source = "synthetic:images?rows=60000&size=28&classes=10"
    if "TACIT_DATA" in os.environ:
        source = "idx:${TACIT_DATA}/fashion-mnist"
    return parse_recipe(RECIPE.format(source=source, masked=str(masked).lower(), rounds=rounds))


def seconds_of_a_round(masked: bool, rounds: int) -> float:
    """Return the median processor seconds between two rounds' ends, all parties and threads; the first is left out."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        simulate(
            recipe_of(masked, rounds + 1),
            out=Path(folder, "run"),
            db=f"sqlite:///{folder}/tacit.db",
            models=Path(folder, "models"),
            threads=1,
            on_round=lambda report: ends.append(time.process_time()),
        )
    return statistics.median(after - before for before, after in zip(ends, ends[1:], strict=False))


def masked_over_plain(rounds: int, repetitions: int) -> Figure:
    """Return the ratio of a masked to a plain round, alternating."""
    pairs = [(seconds_of_a_round(True, rounds), seconds_of_a_round(False, rounds)) for _ in range(repetitions)]
    masked, plain = (statistics.median(pair[at] for pair in pairs) for at in (0, 1))
    return Figure(
        "round_ratio_masked_to_plain",
        statistics.median(one / other for one, other in pairs),
        "ratio",
        f"bound {BOUND}",
        BOUND,
        f"CNN, 20 of 100 clients, processor seconds of a round with training: masked {masked:.3f}, plain {plain:.3f}",
    )
