"""A masked run that is killed at any moment goes on as if it had not been, also in the middle of a round."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tacit.models.messages import Instruction, Reply
from tacit.server.checkpoints import RunState
from tacit.server.reports import RoundReport

from .masked import Masked, Memory

SETTINGS = [
    "strategy.name=fedadam",
    "training.cohort=5",
    "secure_aggregation.min_cohort=4",
    "evaluation.validation=0.1",
    "training.broadcast=int8",
]


class Killed(BaseException):
    """Stands for SIGKILL: nothing that would clean up is allowed to know it."""


class Deadly:
    """Kills the process at the n-th moment that is worth dying at; counts the moments."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.moments = at, 0

    def __call__(self) -> None:
        self.moments += 1
        if self.moments == self.at:
            raise Killed


class DeadlyMemory(Memory):
    """A memory that outlives the process; a moment before and a moment after everything that it keeps."""

    moment: Callable[[], None] = staticmethod(lambda: None)

    def commit(self, report: RoundReport, state: RunState | None, ledger: object = ()) -> None:
        self.moment()
        super().commit(report, state)
        self.moment()


def execute(memory: DeadlyMemory, moment: Deadly, *overrides: str) -> RunState:
    """Start or resume the run with agents that remember nothing, from the run's secret seed."""
    asked: dict[tuple[int, int], list[str]] = {}

    def handler(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        moment()
        reply = agent(instruction)
        moment()  # it was handled, and nobody knows
        return reply

    def vanish(client: int, action: str, number: int, attempt: int) -> bool:
        """The first attempt at round 2 loses two of five when some inputs have left already."""
        chosen = asked.setdefault((number, attempt), [])
        if action in ("advertise", "contribute"):
            chosen.append(f"c{client:02d}")
        lost = action in ("mask", "contribute") and (number, attempt) == (2, 0)
        return lost and f"c{client:02d}" in chosen[1:4:2]

    memory.moment = moment
    federation = Masked([*SETTINGS, *overrides], clients=12, handler=handler, vanish=vanish, recorder=memory)
    return federation.execute(
        validate=lambda plan, vector: {"accuracy": float(np.abs(vector).sum() % 1.0), "loss": 1.0}
    )


def history(memory: Memory) -> list[Any]:
    return [(r.number, r.attempt, r.committed, r.reason, r.participants, dict(r.metrics)) for r in memory.reports]


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[DeadlyMemory, RunState, int]:
    memory, moment = DeadlyMemory(), Deadly()
    state = execute(memory, moment)
    assert [(r.number, r.attempt, r.committed, r.reported) for r in memory.reports] == [
        (0, 0, True, 12), (1, 0, True, 5), (2, 0, False, 3), (2, 1, True, 5)
    ]  # fmt: skip
    return memory, state, moment.moments


def assert_the_same(memory: Memory, state: RunState, expected: tuple[DeadlyMemory, RunState, int]) -> None:
    assert state.vector.tobytes() == expected[1].vector.tobytes()
    assert state.carry is not None and expected[1].carry is not None
    assert state.carry.tobytes() == expected[1].carry.tobytes()
    assert {name: moment.tobytes() for name, moment in state.moments.items()} == {
        name: moment.tobytes() for name, moment in expected[1].moments.items()
    }
    assert (state.round, state.plan, state.best_round) == (expected[1].round, expected[1].plan, expected[1].best_round)
    assert history(memory) == history(expected[0])


def killed_and_resumed(at: int, expected: tuple[DeadlyMemory, RunState, int]) -> None:
    memory = DeadlyMemory()
    with pytest.raises(Killed):
        execute(memory, Deadly(at))
    assert_the_same(memory, execute(memory, Deadly()), expected)


def test_a_masked_run_killed_at_some_moment_ends_as_if_it_had_not_been(
    uninterrupted: tuple[DeadlyMemory, RunState, int],
) -> None:
    moments = uninterrupted[2]
    assert moments > 200
    for at in range(3, moments + 1, 29):
        killed_and_resumed(at, uninterrupted)


@pytest.mark.slow
def test_a_masked_run_killed_at_one_moment_in_four_ends_as_if_it_had_not_been(
    uninterrupted: tuple[DeadlyMemory, RunState, int],
) -> None:
    for at in range(1, uninterrupted[2] + 1, 4):
        killed_and_resumed(at, uninterrupted)


def test_a_masked_run_killed_again_and_again_ends_as_if_it_had_not_been(
    uninterrupted: tuple[DeadlyMemory, RunState, int],
) -> None:
    """A process that lives long enough for one round gets on."""
    memory = DeadlyMemory()
    for _ in range(20):
        try:
            state = execute(memory, Deadly(125))
            break
        except Killed:
            continue
    assert_the_same(memory, state, uninterrupted)


def test_whose_input_left_before_the_restart_is_not_asked_in_the_round_again(
    uninterrupted: tuple[DeadlyMemory, RunState, int],
) -> None:
    memory = DeadlyMemory()
    moments = uninterrupted[2]
    for at in range(moments - 60, moments):
        memory = DeadlyMemory()
        with pytest.raises(Killed):
            execute(memory, Deadly(at))
        if [(r.number, r.attempt) for r in memory.reports][-1] == (2, 0):
            break  # the attempt that failed was kept, and the next one was not
    else:
        pytest.fail("no such moment")
    spent = {p.client for p in memory.reports[-1].participants if p.outcome == "reported"}
    execute(memory, Deadly())
    assert len(spent) == 3
    assert spent.isdisjoint(p.client for p in memory.reports[-1].participants)


def test_an_elided_run_that_was_killed_goes_on_as_the_masked_one(
    uninterrupted: tuple[DeadlyMemory, RunState, int],
) -> None:
    counted = Deadly()
    execute(DeadlyMemory(), counted, "secure_aggregation.mode=elided")
    for at in range(1, counted.moments + 1, 7):
        memory = DeadlyMemory()
        with pytest.raises(Killed):
            execute(memory, Deadly(at), "secure_aggregation.mode=elided")
        state = execute(memory, Deadly(), "secure_aggregation.mode=elided")
        assert state.vector.tobytes() == uninterrupted[1].vector.tobytes()
