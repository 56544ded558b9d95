"""Answers are kept as long as they hold, and computed once at a time."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tacit.server.serving.memo import Memo


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_holds_for_its_time_and_a_failure_for_its_own() -> None:
    async def scenario() -> None:
        clock, calls = Clock(), []

        def compute() -> int:
            calls.append(clock.now)
            if len(calls) == 2:
                raise LookupError
            return len(calls)

        with ThreadPoolExecutor(1) as pool:
            memo: Memo[int] = Memo(pool, limit=1, seconds=10, failure_seconds=5, clock=clock)
            assert [await memo.get("k", compute) for _ in range(3)] == [1, 1, 1]
            clock.now = 10
            for _ in range(2):
                with pytest.raises(LookupError):
                    await memo.get("k", compute)
            clock.now = 15
            assert await memo.get("k", compute) == 3
        assert calls == [0, 10, 15]

    asyncio.run(scenario())


def test_a_caller_that_goes_away_does_not_take_the_answer_from_the_others() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            memo: Memo[str] = Memo(pool, limit=1)
            first = asyncio.create_task(memo.get("k", lambda: str(gate.wait(10))))
            second = asyncio.create_task(memo.get("k", lambda: "computed twice"))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            gate.set()
            assert await second == "True"

    asyncio.run(scenario())
