"""FedYogi: Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tacit.server.strategies import Vector
from tacit.server.strategies.adaptive import Adaptive


@dataclass(frozen=True)
class FedYogi(Adaptive):
    """`v <- v - (1 - b2) mean^2 sign(v - mean^2)` (line 12, FedYogi): `v` shrinks slowly when updates get small."""

    beta_2: float = 0.99

    def second_moment(self, second: Vector, square: Vector) -> None:
        """Update `second` in place."""
        direction = np.sign(second - square)
        square *= np.float32(1.0 - self.beta_2)
        square *= direction
        second -= square
