"""What masks, and noise on top, add to a simulated round: one recipe with and without them, training included.

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
NOISED_BOUND = 2.0

RECIPE = """
name = "masked-round"
task.kind = "image-classification"
data.source = "{source}"
population.clients = 100
model.name = "cnn"
evaluation.validation = 0.0
secure_aggregation.enabled = {masked}
{privacy}

[training]
rounds = {rounds}
cohort = 20
batch_size = 32
learning_rate = 0.05
device = "cpu"
"""


PRIVACY = """
privacy.unit = "client"
privacy.epsilon = 8.0
"""


def recipe_of(masked: bool, rounds: int, noised: bool = False) -> Recipe:
    """Return a hundred clients, of whom twenty train a CNN for one epoch in each round."""
    source = "synthetic:images?rows=60000&size=28&classes=10"
    if "TACIT_DATA" in os.environ:
        source = "idx:${TACIT_DATA}/fashion-mnist"
    privacy = PRIVACY if noised else ""
    return parse_recipe(RECIPE.format(source=source, masked=str(masked).lower(), rounds=rounds, privacy=privacy))


def seconds_of_a_round(recipe: Recipe) -> float:
    """Return the median processor seconds between two rounds' ends, all parties and threads; the first is left out."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        simulate(
            recipe,
            out=Path(folder, "run"),
            db=f"sqlite:///{folder}/tacit.db",
            models=Path(folder, "models"),
            threads=1,
            on_round=lambda report: ends.append(time.process_time()),
        )
    return statistics.median(after - before for before, after in zip(ends, ends[1:], strict=False))


def masked_over_plain(rounds: int, repetitions: int) -> Figure:
    """Return the ratio of a masked to a plain round, alternating."""
    masked, plain = recipe_of(True, rounds + 1), recipe_of(False, rounds + 1)
    return _ratio("round_ratio_masked_to_plain", ("masked", masked), ("plain", plain), BOUND, repetitions)


def noised_over_masked(rounds: int, repetitions: int) -> Figure:
    """Return the ratio of a masked round with noise inside the sum to one without, alternating."""
    noised, masked = recipe_of(True, rounds + 1, noised=True), recipe_of(True, rounds + 1)
    return _ratio("round_ratio_noised_to_masked", ("noised", noised), ("masked", masked), NOISED_BOUND, repetitions)


def _ratio(
    name: str, measured: tuple[str, Recipe], beside: tuple[str, Recipe], bound: float, repetitions: int
) -> Figure:
    pairs = [(seconds_of_a_round(measured[1]), seconds_of_a_round(beside[1])) for _ in range(repetitions)]
    one, other = (statistics.median(pair[at] for pair in pairs) for at in (0, 1))
    return Figure(
        name,
        statistics.median(one / other for one, other in pairs),
        "ratio",
        f"bound {bound}",
        bound,
        "CNN, 20 of 100 clients, processor seconds of a round with training: "
        f"{measured[0]} {one:.3f}, {beside[0]} {other:.3f}",
    )
