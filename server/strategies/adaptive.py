"""The step that the adaptive server optimizers share: Reddi et al., Adaptive Federated Optimization, ICLR 2021."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tacit.server.strategies import Moments, Vector

_CHUNK = 1 << 16  # numbers


@dataclass(frozen=True)
class Adaptive:
    """Algorithm 2: `m <- b1 m + (1 - b1) mean`; `v` by the variant; `w <- w + lr m / (sqrt(v) + tau)`.

    `v` starts at `tau^2`, as the paper's analysis asks.
    """

    server_learning_rate: float = 0.03
    beta_1: float = 0.9
    tau: float = 1e-3

    @property
    def proximal_mu(self) -> float:
        """Return 0: clients minimise their own loss alone."""
        return 0.0

    def moments(self, size: int) -> Moments:
        """Return the first moment at zero and the second at `tau^2`."""
        return {
            "first": np.zeros(size, dtype=np.float32),
            "second": np.full(size, self.tau**2, dtype=np.float32),
        }

    def step(self, vector: Vector, mean: Vector, moments: Moments) -> None:
        """Apply one round, a chunk at a time so that no further whole vector is made."""
        for start in range(0, vector.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            self._step(vector[part], mean[part], moments["first"][part], moments["second"][part])

    def _step(self, vector: Vector, mean: Vector, first: Vector, second: Vector) -> None:
        self.second_moment(second, mean * mean)
        first *= np.float32(self.beta_1)
        mean *= np.float32(1.0 - self.beta_1)
        first += mean
        np.sqrt(second, out=mean)
        mean += np.float32(self.tau)
        np.divide(first, mean, out=mean)
        mean *= np.float32(self.server_learning_rate)
        vector += mean

    def second_moment(self, second: Vector, square: Vector) -> None:
        """Update `second` in place from the squared mean update, which may be overwritten."""
        raise TypeError(f"{type(self).__name__} has no second moment of its own")
