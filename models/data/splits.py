"""Divide rows at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def split(rows: int, share: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of a random `share` of the rows, and those of the others, each in rising order."""
    order = rng.permutation(rows)
    held = round(rows * share)
    return np.sort(order[:held]), np.sort(order[held:])
