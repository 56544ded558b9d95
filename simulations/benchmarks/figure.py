"""One measured number, beside what it is compared with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A row of a benchmark's output.

    Attributes:
        name: stable, lower case with underscores.
        value: the number; None if it could not be measured, never zero for that.
        unit: the unit of `value`; `ratio` has none.
        baseline: what it is compared with, in words.
        baseline_value: the other number, in the unit of `value` unless `detail` says otherwise; None if there is none.
        detail: how it was measured, or why it is absent.
    """

    name: str
    value: float | None
    unit: str
    baseline: str = ""
    baseline_value: float | None = None
    detail: str = ""


def absent(name: str, unit: str, why: str) -> Figure:
    """Return the figure of something that cannot be run here."""
    return Figure(name, None, unit, detail=f"absent: {why}")


def cpu_seconds(action: Callable[[], object]) -> float:
    """Return the processor time of all threads of this process that an action takes."""
    start = time.process_time()
    action()
    return time.process_time() - start


def median_ratio(
    measured: Callable[[], object], baseline: Callable[[], object], repetitions: int
) -> tuple[float, float, float]:
    """Return the median ratio of two actions' processor times, alternating, and each one's median in seconds."""
    pairs = [(cpu_seconds(measured), cpu_seconds(baseline)) for _ in range(repetitions)]
    return (
        statistics.median(one / other for one, other in pairs),
        statistics.median(one for one, _ in pairs),
        statistics.median(other for _, other in pairs),
    )
