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
            first = asyncio.create_task(memo.get("k", lambda: str(gate.wait(60))))
            second = asyncio.create_task(memo.get("k", lambda: "computed twice"))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            gate.set()
            assert await second == "True"

    asyncio.run(scenario())


def test_an_answer_is_renewed_in_the_background_before_its_time_is_over() -> None:
    async def scenario() -> None:
        clock, results = Clock(), iter([1, 2, LookupError(), 3])

        def compute() -> int:
            result = next(results)
            if isinstance(result, Exception):
                raise result
            return result

        async def asked_twice() -> tuple[int, int]:
            first = await memo.get("k", compute)
            # The pool has one thread: once this is done, so is the renewal, and its callbacks have run a turn later.
            await asyncio.get_running_loop().run_in_executor(pool, lambda: None)
            await asyncio.sleep(0)
            return first, await memo.get("k", compute)

        with ThreadPoolExecutor(1) as pool:
            memo: Memo[int] = Memo(pool, limit=1, seconds=10, clock=clock)
            assert await asked_twice() == (1, 1)
            clock.now = 5
            assert await asked_twice() == (1, 2)
            clock.now = 11
            # This renewal fails, and the old answer holds to its end, at 15.
            assert await asked_twice() == (2, 2)
            clock.now = 15
            assert await asked_twice() == (3, 3)

    asyncio.run(scenario())
