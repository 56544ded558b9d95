"""How a model fares at each simulated client; nobody could know this of a real federation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tacit.client.agent import Agent
from tacit.client.training import Refused
from tacit.server.checkpoints import RunState

LOWER_IS_BETTER = frozenset({"loss", "mae", "rmse", "expected_calibration_error"})


def measure_at_clients(agents: Iterable[Agent], state: RunState) -> dict[str, dict[str, float]]:
    """Return for each client that has test rows its metrics and their number, past every coordinator."""
    measured = {}
    for agent in agents:
        try:
            metrics, rows = agent.measure(state.plan, state.vector)
        except Refused:
            continue
        measured[agent.client] = metrics | {"examples": float(rows)}
    return measured


def per_client_summary(by_client: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return for each metric the mean weighted by test rows, the plain mean, and the mean of the worst tenth.

    A client at which a metric is undefined does not count in it. The worst tenth is at least one client.
    """
    if not by_client:
        return {}
    names = [name for name in next(iter(by_client.values())) if name != "examples"]
    weighted, mean, worst = {}, {}, {}
    for name in names:
        pairs = [
            (metrics["examples"], metrics[name])
            for metrics in by_client.values()
            if math.isfinite(metrics.get(name, math.nan))
        ]
        if not pairs:
            continue
        weights, values = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
        ranked = np.sort(values)[:: -1 if name in LOWER_IS_BETTER else 1]
        weighted[name] = float(np.average(values, weights=weights))
        mean[name] = float(values.mean())
        worst[name] = float(ranked[: max(1, len(ranked) // 10)].mean())
    return {"weighted_mean": weighted, "mean": mean, "worst_decile": worst}
