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

    Callers that ask for the same key at the same time share one computation, also its failure. An answer that is
    asked for in the second half of its time is computed anew in the background, so that under load nobody waits. Must
    be used from one event loop.

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
        now = self._clock()
        if pending is None or now >= pending.holds_until:
            pending = self._start(compute)
            self._answers[key] = pending
        elif now >= pending.renew_at:
            self._renew(key, pending, compute)
        self._answers.move_to_end(key)
        while len(self._answers) > self._limit:
            self._answers.popitem(last=False)
        if pending.future.done():
            return pending.future.result()
        # One caller that goes away must not take the answer from the others.
        return await asyncio.shield(pending.future)

    def _start(self, compute: Callable[[], Answer]) -> _Pending[Answer]:
        pending = _Pending(asyncio.get_running_loop().run_in_executor(self._pool, compute))
        pending.future.add_done_callback(lambda _: self._settle(pending))
        return pending

    def _settle(self, pending: _Pending[Answer]) -> None:
        now = self._clock()
        if pending.failed:
            pending.holds_until = now + self._failure_seconds
        else:
            pending.holds_until = now + self._seconds
            pending.renew_at = now + self._seconds / 2

    def _renew(self, key: Hashable, old: _Pending[Answer], compute: Callable[[], Answer]) -> None:
        old.renew_at = math.inf
        renewed = self._start(compute)

        def replace(_: asyncio.Future[Answer]) -> None:
            # After a failure the old answer holds to its end; the next caller then sees what is wrong.
            if not renewed.failed and self._answers.get(key) is old:
                self._answers[key] = renewed

        renewed.future.add_done_callback(replace)


class _Pending(Generic[Answer]):
    """An answer that is being computed or was; while it is being computed it holds."""

    def __init__(self, future: asyncio.Future[Answer]) -> None:
        self.future = future
        self.holds_until = math.inf
        self.renew_at = math.inf

    @property
    def failed(self) -> bool:
        """Tell whether there is no answer, once the future is done."""
        return self.future.cancelled() or self.future.exception() is not None
