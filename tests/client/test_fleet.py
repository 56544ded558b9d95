"""A resident agent's loop, without a network: how often it asks, and what it does when nothing works."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from itertools import accumulate

import pytest

from tacit.client.connection import TurnedAway, Unreachable
from tacit.client.fleet import Pace, Resident
from tacit.models.messages import Instruction, Reply


class Nobody:
    """An agent that is never asked."""

    def handle(self, instruction: Instruction) -> Reply:
        raise AssertionError("asked")


class Line:
    """A connection whose pulls do what a script says, the last line of it again and again."""

    def __init__(self, *script: Callable[[], list[bytes] | None]) -> None:
        self.script = list(script)
        self.waits: list[float] = []
        self.closed = False
        self.pushed: list[list[bytes]] = []

    def pull(self, wait: float) -> list[bytes] | None:
        self.waits.append(wait)
        return (self.script.pop(0) if len(self.script) > 1 else self.script[0])()

    def interrupt(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True


def fails(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def run(line: Line, pulls: int, draw: Callable[[float, float], float], pace: Pace) -> list[float]:
    """Run the loop for a number of pulls and return the pauses between them."""
    resident = Resident(lambda: line, Nobody(), pace=pace, draw=draw)  # type: ignore[arg-type,return-value]
    pauses: list[float] = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return self.is_set()

        def is_set(self) -> bool:
            return len(line.waits) >= pulls

    resident._stopped = Clock()
    resident.run()
    return pauses


def lowest(low: float, high: float) -> float:
    return low


def highest(low: float, high: float) -> float:
    return high


def test_a_coordinator_that_is_gone_is_asked_less_and_less_often() -> None:
    pace = Pace(first_pause=0.2, longest_pause=30.0)
    pauses = run(Line(fails(Unreachable("gone"))), 10, highest, pace)
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])


def test_agents_that_lost_their_coordinator_together_do_not_come_back_together() -> None:
    pace = Pace()
    early = run(Line(fails(Unreachable("gone"))), 9, lowest, pace)
    late = run(Line(fails(Unreachable("gone"))), 9, highest, pace)
    assert all(one < 0.31 * other for one, other in zip(early, late, strict=True))
    assert sum(late) - sum(early) > 50  # seconds over which a fleet's return is spread


def test_pauses_start_again_once_the_coordinator_answered() -> None:
    line = Line(*[fails(Unreachable("gone"))] * 4, lambda: None, fails(Unreachable("gone")))
    pauses = run(line, 6, highest, Pace(first_pause=1.0))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 1.0]


def test_an_agent_that_is_turned_away_keeps_asking_but_seldom() -> None:
    pauses = run(Line(fails(TurnedAway(403, "revoked"))), 3, lowest, Pace(turned_away_pause=15.0))
    assert pauses == pytest.approx([4.5, 4.5, 4.5])


def test_nothing_is_waited_for_between_two_pulls_that_brought_nothing() -> None:
    line = Line(lambda: None)
    assert run(line, 5, lowest, Pace(wait=20.0)) == []
    assert line.waits == [14.0] * 5 and line.closed


@pytest.mark.parametrize("payloads", [[b""], [b"noise"], [b"\xff" * 100, b"more"], [b"", b""]])
def test_a_message_of_noise_is_dropped_with_a_pause(payloads: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    line = Line(lambda: payloads)
    assert run(line, 2, highest, Pace(first_pause=0.2)) == [0.2, 0.2]
    assert "cannot be read" in caplog.text


def test_an_agent_that_can_answer_no_more_asks_for_nothing_more() -> None:
    line, answered = Line(lambda: None, lambda: [b"noise"], lambda: None), list[bool]()

    def able() -> bool:
        answered.append(True)
        return False

    pace = Pace(first_pause=0.0)
    Resident(lambda: line, Nobody(), pace=pace, draw=lowest, able=able).run()  # type: ignore[arg-type,return-value]
    assert len(line.waits) == 2 and len(answered) == 1 and line.closed


def test_the_same_trouble_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    line = Line(*[fails(Unreachable("gone"))] * 5, lambda: None)
    run(line, 6, highest, Pace())
    assert [record.getMessage() for record in caplog.records] == [
        "the coordinator cannot be reached: gone; trying again",
        "the coordinator is there again",
    ]


def returns(agents: int, away: float) -> list[float]:
    """Return when each agent of a fleet asks for the first time after a coordinator was away for some seconds.

    All of them lost it at the same moment, which is the worst that can happen.
    """
    found = []
    for seed in range(agents):
        pauses = run(Line(fails(Unreachable("gone"))), 12 + int(away / 9), random.Random(seed).uniform, Pace())
        found.append(next(moment for moment in accumulate(pauses) if moment >= away))
    return found


@pytest.mark.parametrize(("away", "most"), [(2.0, 40), (10.0, 16), (60.0, 12), (600.0, 12)])
def test_two_hundred_agents_do_not_fall_upon_a_coordinator_that_is_back(away: float, most: int) -> None:
    moments = returns(200, away)
    busiest = max(Counter(int(10 * moment) for moment in moments).values())  # in a tenth of a second
    assert busiest <= most
    assert max(moments) <= away + Pace().longest_pause


@pytest.mark.parametrize("seconds", [300, 900])
def test_the_same_trouble_with_other_figures_is_said_once(seconds: int, caplog: pytest.LogCaptureFixture) -> None:
    told = "the agent's clock is {} s behind the coordinator's"
    script = [fails(TurnedAway(401, told.format(seconds + at))) for at in range(5)]
    run(Line(*script, lambda: None), 7, highest, Pace())
    assert [record.getMessage() for record in caplog.records] == [
        f"the coordinator turned the agent away: {told.format(seconds)}; trying again",
        "the coordinator is there again",
    ]


def test_a_line_that_broke_is_made_anew_from_what_is_known_by_then() -> None:
    lines = [Line(fails(Unreachable("gone"))), Line(lambda: None)]
    made = iter(lines)
    pulls = 0

    def connect() -> Line:
        return next(made)

    resident = Resident(connect, Nobody(), draw=lowest)  # type: ignore[arg-type]

    class Clock(threading.Event):
        def is_set(self) -> bool:
            nonlocal pulls
            pulls += 1
            return pulls > 4

        def wait(self, timeout: float | None = None) -> bool:
            return False

    resident._stopped = Clock()
    resident.run()
    assert len(lines[0].waits) == 1 and len(lines[1].waits) >= 1 and lines[1].closed
