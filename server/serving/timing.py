"""Where the time of a request went, for the `Server-Timing` header."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Timing:
    """Seconds by phase, in the order in which the phases began."""

    def __init__(self) -> None:
        """Start the clock of the whole request."""
        self._began = perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the phase `name`."""
        began = perf_counter()
        self._seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._seconds[name] += perf_counter() - began

    @property
    def total_seconds(self) -> float:
        """Return the time since the request arrived."""
        return perf_counter() - self._began

    def header(self) -> str:
        """Write the phases and the total in milliseconds, as `Server-Timing` wants them."""
        phases = [*self._seconds.items(), ("total", self.total_seconds)]
        return ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in phases)
