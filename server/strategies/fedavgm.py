"""FedAvgM: Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution, 2019 (arXiv:1909.06335)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tacit.server.strategies import Moments, Vector


@dataclass(frozen=True)
class FedAvgM:
    """Heavy-ball momentum over rounds: `v <- beta v + mean; w <- w + lr v`."""

    server_learning_rate: float = 1.0
    server_momentum: float = 0.9

    @property
    def proximal_mu(self) -> float:
        """Return 0: clients minimise their own loss alone."""
        return 0.0

    def moments(self, size: int) -> Moments:
        """Return the momentum."""
        return {"momentum": np.zeros(size, dtype=np.float32)}

    def step(self, vector: Vector, mean: Vector, moments: Moments) -> None:
        """Apply one round."""
        momentum = moments["momentum"]
        momentum *= np.float32(self.server_momentum)
        momentum += mean
        np.multiply(momentum, np.float32(self.server_learning_rate), out=mean)
        vector += mean
