"""Turns for large answers: a round has a masked vector of every member, and memory for a few of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LARGE = 1 << 20  # bytes of an answer that takes a turn
AT_A_TIME = 2
PATIENCE_SECONDS = 12.0  # of others with somebody who is slow on purpose; less than a sender waits to be read


class Turns:
    """Who may bring a large answer now; to be taken in the event loop, and given back from any thread.

    A turn lasts until the answer was added up and forgotten, not only until it has come: what has come is in memory.
    """

    def __init__(self, at_a_time: int = AT_A_TIME, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Let so many answers be there at a time; whoever has waited too long goes on without a turn."""
        self._free = asyncio.Semaphore(at_a_time)
        self._patience_seconds = patience_seconds

    async def take(self, size: int) -> Callable[[], None]:
        """Return what gives the turn back, once it is there; a second call does nothing.

        Args:
            size: bytes of the answer; a small one needs no turn.
        """
        if size < LARGE:
            return lambda: None
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._free.acquire()
        except TimeoutError:
            return lambda: None
        loop, given = asyncio.get_running_loop(), list[bool]()

        def give_back() -> None:
            if not given:
                given.append(True)
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._free.release)

        return give_back
