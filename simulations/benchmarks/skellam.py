"""How long one draw of distributed noise takes: exact to 2^-100, from AES, on one thread."""

from __future__ import annotations

import numpy as np

from tacit.privacy.randomness import Keystream, SystemRandomness
from tacit.privacy.skellam import SkellamSampler
from tacit.simulations.benchmarks.figure import Figure, cpu_seconds, median_ratio

_SIGMAS = {
    30: "skellam_ns_per_coordinate",
    300: "skellam_ns_per_coordinate_sigma300",
    3000: "skellam_ns_per_coordinate_sigma3000",
}
_COORDINATES = 1_000_000


def figures(quick: bool) -> list[Figure]:
    """Return the processor time of a draw at three sizes of noise, beside numpy's inexact Poisson difference."""
    return [_figure(sigma, name, 3 if quick else 15) for sigma, name in _SIGMAS.items()]


def _figure(sigma: int, name: str, repetitions: int) -> Figure:
    made: list[SkellamSampler] = []
    table_seconds = cpu_seconds(lambda: made.append(SkellamSampler(float(sigma) ** 2)))
    stream = Keystream(SystemRandomness().key("benchmark"))
    generator = np.random.default_rng(0)
    mean = sigma**2 / 2
    _, exact, inexact = median_ratio(
        lambda: made[0].draw(stream, _COORDINATES),
        lambda: generator.poisson(mean, _COORDINATES) - generator.poisson(mean, _COORDINATES),
        repetitions,
    )
    nanoseconds = 1e9 / _COORDINATES
    return Figure(
        name,
        exact * nanoseconds,
        "ns",
        "difference of two numpy Poisson draws, neither exact nor cryptographic",
        inexact * nanoseconds,
        f"sigma {sigma}, {_COORDINATES} coordinates a call; the table takes {table_seconds * 1e3:.1f} ms once",
    )
