"""Answers of slow functions, kept for a while: computed once at a time, off the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Memo(Generic[Answer]):
    """Remember answers by key, the least recently used one is forgotten first.

    Callers that ask for the same key at the same time share one computation, also its failure. Must be used from one
    event loop.

    Args:
        pool: where answers are computed.
        limit: how many answers are kept.
        seconds: how long an answer holds.
        failure_seconds: how long a failure holds.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        pool: Executor,
        *,
        limit: int,
        seconds: float = math.inf,
        failure_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty."""
        self._pool = pool
        self._limit = limit
        self._seconds = seconds
        self._failure_seconds = failure_seconds
        self._clock = clock
        self._answers: OrderedDict[Hashable, _Pending[Answer]] = OrderedDict()

    async def get(self, key: Hashable, compute: Callable[[], Answer]) -> Answer:
        """Return the answer for `key`, from memory or from `compute`, whose exceptions are raised here."""
        pending = self._answers.get(key)
        if pending is None or self._clock() >= pending.holds_until:
            pending = _Pending(asyncio.get_running_loop().run_in_executor(self._pool, compute))
            pending.future.add_done_callback(lambda _: self._settle(pending))
            self._answers[key] = pending
        self._answers.move_to_end(key)
        while len(self._answers) > self._limit:
            self._answers.popitem(last=False)
        # One caller that goes away must not take the answer from the others.
        return await asyncio.shield(pending.future)

    def _settle(self, pending: _Pending[Answer]) -> None:
        failed = pending.future.cancelled() or pending.future.exception() is not None
        pending.holds_until = self._clock() + (self._failure_seconds if failed else self._seconds)


class _Pending(Generic[Answer]):
    """An answer that is being computed or was; while it is being computed it holds."""

    def __init__(self, future: asyncio.Future[Answer]) -> None:
        self.future = future
        self.holds_until = math.inf
