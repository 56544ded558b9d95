"""Sums of what clients send, folded as it comes, so that memory does not grow with the cohort."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Real = TypeVar("Real", np.float32, np.float64)

_CHUNK = 1 << 16  # numbers; small enough for the L2 cache, large enough to hide the call


class WeightedSum(Generic[Real]):
    """A running weighted sum of vectors of one size; holds one vector whatever the number of contributions.

    The sum is finite whatever is added: a contribution that could take it out of the range of its type is refused.
    """

    def __init__(self, size: int, dtype: type[Real]) -> None:
        """Start at zero."""
        self._sum: NDArray[Real] = np.zeros(size, dtype=dtype)
        self._scratch: NDArray[Real] = np.empty(min(size, _CHUNK), dtype=dtype)
        self._largest = 0.0  # no entry of the sum is further from zero
        self.weight = 0.0
        self.contributions = 0

    def add(self, vector: NDArray[Real], weight: float = 1.0) -> None:
        """Add `weight * vector`, a chunk at a time so that no second whole vector is made.

        Raises:
            ValueError: the shape or type differs, the weight is negative or not finite, or an entry is not finite or
                so large that the sum might overflow. The sum is then as it was.
        """
        if vector.shape != self._sum.shape or vector.dtype != self._sum.dtype:
            raise ValueError(
                f"{vector.dtype} of shape {vector.shape} cannot be added to {self._sum.dtype} of {self._sum.shape}"
            )
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError("a weight must be finite and not negative")
        largest = self._largest + weight * _largest(vector)
        # Half the range leaves room for what rounding adds to every intermediate result. NaN fails too.
        if not largest < float(np.finfo(self._sum.dtype).max) / 2:
            raise ValueError("an entry is not finite, or too large to be summed")
        factor = self._sum.dtype.type(weight)
        for start in range(0, vector.size, _CHUNK):
            part = vector[start : start + _CHUNK]
            scaled = self._scratch[: part.size]
            np.multiply(part, factor, out=scaled)
            self._sum[start : start + _CHUNK] += scaled
        self._largest = largest
        self.weight += float(weight)
        self.contributions += 1

    def total(self) -> NDArray[Real]:
        """Return the sum itself, not a copy."""
        return self._sum

    def mean(self) -> NDArray[Real]:
        """Turn the sum into the mean, in place, and return it; once, and then nothing can be added.

        Raises:
            ZeroDivisionError: nothing of weight was added.
            RuntimeError: the mean was taken before.
        """
        if self.weight <= 0:
            raise ZeroDivisionError("the mean of contributions without weight does not exist")
        if np.isinf(self._largest):
            raise RuntimeError("the sum is a mean already")
        self._sum /= self._sum.dtype.type(self.weight)
        self._largest = np.inf
        return self._sum


def _largest(vector: NDArray[Real]) -> float:
    """Return the largest magnitude, NaN if there is one, without a copy of the vector."""
    extremes = [float(end) for part in _parts(vector) for end in (part.min(), part.max())]
    return float(np.abs(extremes).max(initial=0.0))


def _parts(vector: NDArray[Real]) -> Iterator[NDArray[Real]]:
    return (vector[start : start + _CHUNK] for start in range(0, vector.size, _CHUNK))
