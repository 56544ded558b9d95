"""Sums of what clients send, folded as it comes, so that memory does not grow with the cohort."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class WeightedSum:
    """A running weighted sum of vectors of one size; holds one vector whatever the number of contributions."""

    def __init__(self, size: int, dtype: type[np.float32] | type[np.float64] = np.float32) -> None:
        """Start at zero."""
        self._sum: NDArray[np.floating] = np.zeros(size, dtype=dtype)
        self._scratch: NDArray[np.floating] = np.empty(min(size, _CHUNK), dtype=dtype)
        self.weight = 0.0
        self.contributions = 0

    def add(self, vector: NDArray[np.floating], weight: float = 1.0) -> None:
        """Add `weight * vector`, a chunk at a time so that no second whole vector is made.

        Raises:
            ValueError: the shape differs, or the weight is negative or not finite.
        """
        if vector.shape != self._sum.shape:
            raise ValueError(f"a vector of shape {vector.shape} cannot be added to one of {self._sum.shape}")
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError("a weight must be finite and not negative")
        factor = self._sum.dtype.type(weight)
        for start in range(0, vector.size, _CHUNK):
            part = vector[start : start + _CHUNK]
            scaled = self._scratch[: part.size]
            np.multiply(part, factor, out=scaled)
            self._sum[start : start + _CHUNK] += scaled
        self.weight += float(weight)
        self.contributions += 1

    def total(self) -> NDArray[np.floating]:
        """Return the sum itself, not a copy."""
        return self._sum

    def mean(self) -> NDArray[np.floating]:
        """Divide the sum by the weight in place and return it.

        Raises:
            ZeroDivisionError: nothing of weight was added.
        """
        if self.weight <= 0:
            raise ZeroDivisionError("the mean of contributions without weight does not exist")
        self._sum /= self._sum.dtype.type(self.weight)
        return self._sum


_CHUNK = 1 << 16
