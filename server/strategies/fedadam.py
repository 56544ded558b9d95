"""FedAdam: Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tacit.server.strategies import Vector
from tacit.server.strategies.adaptive import Adaptive


@dataclass(frozen=True)
class FedAdam(Adaptive):
    """`v <- b2 v + (1 - b2) mean^2` (line 13, FedAdam)."""

    beta_2: float = 0.99

    def second_moment(self, second: Vector, square: Vector) -> None:
        """Update `second` in place."""
        second *= np.float32(self.beta_2)
        square *= np.float32(1.0 - self.beta_2)
        second += square
