"""FedProx: Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020."""

from __future__ import annotations

from dataclasses import dataclass

from tacit.server.strategies import Moments, Vector


@dataclass(frozen=True, kw_only=True)
class FedProx:
    """FedAvg whose clients also pay `proximal_mu / 2 * |w - w_global|^2` for drifting away (equation 2)."""

    proximal_mu: float = 0.01

    def moments(self, size: int) -> Moments:
        """Return nothing: the strategy has no memory."""
        return {}

    def step(self, vector: Vector, mean: Vector, moments: Moments) -> None:
        """Apply one round."""
        vector += mean
