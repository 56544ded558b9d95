"""FedAdagrad: Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass

from tacit.server.strategies import Vector
from tacit.server.strategies.adaptive import Adaptive


@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """`v <- v + mean^2` (line 11, FedAdagrad): steps only ever get smaller."""

    def second_moment(self, second: Vector, square: Vector) -> None:
        """Update `second` in place."""
        second += square
