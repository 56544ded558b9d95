"""Waiting for what is to come, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

HANGS_SECONDS = 60.0  # what has not happened by then never will; no machine is as busy as that


def settle(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + HANGS_SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
