"""Server optimizers: what a round does with the mean update, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.models.spelling import unknown

Vector = NDArray[np.float32]
Moments = dict[str, Vector]


class Strategy(Protocol):
    """A server optimizer.

    `moments(size)` returns the vectors that it keeps between rounds (none for a memoryless one); `step(vector, mean,
    moments)` moves `vector`, shape `(parameters,)`, in place by what it makes of `mean`, the mean update of the
    cohort, and updates `moments` in place. `mean` may be overwritten: at large models every copy counts.
    `proximal_mu` is the weight of the proximal term at the clients, 0 for none.
    """

    @property
    def proximal_mu(self) -> float:
        """Return the weight of the clients' proximal term."""

    def moments(self, size: int) -> Moments:
        """Return zeroed state for a model of `size` parameters."""

    def step(self, vector: Vector, mean: Vector, moments: Moments) -> None:
        """Apply one round."""


def strategy_named(name: str, options: Mapping[str, float]) -> Strategy:
    """Build the strategy that a recipe names.

    Raises:
        InputError: the name is unknown, or the strategy does not have one of the options.
    """
    from tacit.server.strategies.fedadagrad import FedAdagrad
    from tacit.server.strategies.fedadam import FedAdam
    from tacit.server.strategies.fedavg import FedAvg
    from tacit.server.strategies.fedavgm import FedAvgM
    from tacit.server.strategies.fedprox import FedProx
    from tacit.server.strategies.fedyogi import FedYogi

    known: dict[str, Any] = {
        "fedavg": FedAvg,
        "fedprox": FedProx,
        "fedavgm": FedAvgM,
        "fedadam": FedAdam,
        "fedyogi": FedYogi,
        "fedadagrad": FedAdagrad,
    }
    if name not in known:
        raise unknown("strategy", name, known, where="strategy.name")
    own = [field.name for field in fields(known[name])]
    for option in options:
        if option not in own:
            raise unknown(f"option of {name}", option, own, where="strategy")
    strategy: Strategy = known[name](**options)
    return strategy
