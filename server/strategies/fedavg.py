"""FedAvg: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tacit.server.strategies import Moments, Vector


@dataclass(frozen=True)
class FedAvg:
    """Move by the mean update: `w <- w + lr * mean`; with a server learning rate of 1 this is the mean model."""

    server_learning_rate: float = 1.0

    @property
    def proximal_mu(self) -> float:
        """Return 0: clients minimise their own loss alone."""
        return 0.0

    def moments(self, size: int) -> Moments:
        """Return nothing: the strategy has no memory."""
        return {}

    def step(self, vector: Vector, mean: Vector, moments: Moments) -> None:
        """Apply one round."""
        if self.server_learning_rate != 1.0:
            mean *= np.float32(self.server_learning_rate)
        vector += mean
