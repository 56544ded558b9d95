"""The limits of one serving process."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ServingSettings:
    """How much one process accepts, keeps and does at once.

    Attributes:
        body_bytes: a longer request body is refused with 413 before it has been read.
        body_seconds: a body that takes longer to arrive is refused with 408.
        rows: a prediction request with more rows is refused.
        in_flight: prediction requests in progress; one more is refused with 503.
        loaded_versions: model versions kept in memory, the least recently used one goes first.
        refresh_seconds: how long an answer of the store (which version, which key) is believed.
        failure_seconds: how long a version that failed to load is not tried again.
        threads: prediction threads.
        require_key: whether requests need an API key.
    """

    body_bytes: int = 8 * 2**20
    body_seconds: float = 30.0
    rows: int = 10_000
    in_flight: int = 64
    loaded_versions: int = 8
    refresh_seconds: float = 1.0
    failure_seconds: float = 5.0
    threads: int = field(default_factory=_cores)
    require_key: bool = True

    def __post_init__(self) -> None:
        """Refuse limits that would refuse everything."""
        for name in ("body_bytes", "body_seconds", "rows", "in_flight", "loaded_versions", "threads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if self.refresh_seconds < 0 or self.failure_seconds < 0:
            raise ValueError("refresh_seconds and failure_seconds must not be negative")
