"""Whole federations on one machine, over the same client and server code as a deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tacit.simulations.simulation import Simulation, simulate

__all__ = ["Simulation", "simulate"]


def __getattr__(name: str) -> Any:
    """Import the simulator when somebody asks for it: PyTorch and Flower take seconds that `tacit --help` has not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tacit.simulations import simulation

    return getattr(simulation, name)
