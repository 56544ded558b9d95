"""A run waits for members that are away, tells them from those that fail, and neither waits nor tries for ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tacit.models.recipe import parse_recipe
from tacit.server.attempts import MOST_LOST, RunFailed, RunStopped, Tally
from tacit.server.attendance import FIRST_REST_SECONDS, LONGEST_REST_SECONDS, RECONNECT_SECONDS, Attendance
from tacit.server.flower import UNSENT
from tacit.server.kept_run import Stopped
from tacit.server.reports import RoundReport
from tacit.server.rounds import Participant, ParticipationOutcome

EVERYBODY = "abcde"
RECIPE = parse_recipe("""
name = "ward"
[task]
kind = "tabular-classification"
[data]
source = "csv:rows.csv"
label = "y"
[population]
clients = 5
[training]
deadline_seconds = 10
[secure_aggregation]
min_cohort = 4
""")


@dataclass
class Federation:
    """Time that passes in pauses alone, and members that are there as a test says.

    Attributes:
        there: who is there at a time; of those that are not, the port still believes so for some seconds.
        lag: how many.
        asks: how often whoever is there asks, in seconds.
    """

    there: Callable[[float], str]
    lag: float = 0.0
    asks: float = 1.0
    passed: float = 0.0
    until: Callable[[], bool] = lambda: False
    stop: Callable[[], str] = lambda: ""
    brought: int = 0
    seen: dict[str, float] = field(default_factory=lambda: dict.fromkeys(EVERYBODY, 0.0))

    @property
    def attendance(self) -> Attendance:
        return Attendance(self, self, self.until, self.pause, lambda: self.passed, lambda: self.passed)  # type: ignore[arg-type]

    def bring(self, link: object) -> None:
        self.brought += 1

    def pause(self, seconds: float) -> None:
        self.passed += seconds

    def presence(self) -> Mapping[str, Any]:
        for name in self.there(self.passed):
            self.seen[name] = self.passed // self.asks * self.asks
        online = {name for name in EVERYBODY if name in self.there(max(0.0, self.passed - self.lag))}
        online |= set(self.there(self.passed))
        return {name: SimpleNamespace(online=name in online, seen=self.seen[name]) for name in EVERYBODY}

    def ready(self, failed: RoundReport | None = None, lost: int = 0) -> bool:
        return self.attendance.ready(RECIPE, lambda most: most - 1, self.stop, failed, lost)


def report(**outcomes: tuple[ParticipationOutcome, str]) -> RoundReport:
    found = {name: outcomes.get(name, ("reported", "")) for name in EVERYBODY}
    return RoundReport(1, 0, False, "", 1.0, tuple(Participant(name, *one, "mask") for name, one in found.items()))


LATE = dict.fromkeys("abc", ("late", "no answer within 10 s"))
VANISHED = dict.fromkeys("abc", ("dropped", UNSENT))
FAILING = dict.fromkeys("abc", ("dropped", "out of memory"))
REFUSING = dict.fromkeys("abc", ("refused", "noise-floor: less than the policy asks for"))


def test_a_run_goes_on_at_once_where_enough_are_there() -> None:
    federation = Federation(lambda at: "abcd")
    assert not federation.ready() and federation.passed == 0 and federation.brought == 1


@pytest.mark.parametrize("failed", [None, report(**LATE)], ids=["before a round", "after a failed attempt"])
def test_a_run_waits_for_members_as_long_as_it_takes(failed: RoundReport | None) -> None:
    federation = Federation(lambda at: EVERYBODY if at > 86_400 else "ab")
    # One that failed because of that does not count.
    assert federation.ready(failed) == (failed is not None)
    assert federation.passed > 86_400


def test_a_run_goes_on_without_a_few_who_do_not_come_back() -> None:
    federation = Federation(lambda at: "abcd")
    assert not federation.ready(report(e=("late", "no answer within 10 s")))
    assert 10 <= federation.passed < 12  # the deadline's patience


def test_who_is_late_and_not_known_to_be_away_is_told_by_whether_it_asks_again() -> None:
    """A line that is cut without a word looks like one that is slow, for longer than three short attempts take."""
    cut = Federation(lambda at: "de" if at < 600 else EVERYBODY, lag=40.0, passed=10.0)
    assert cut.ready(report(**LATE)) and cut.passed >= 600
    slow = Federation(lambda at: EVERYBODY, asks=20.0, passed=10.0)
    assert not slow.ready(report(**LATE)) and 10 < slow.passed <= 21


@pytest.mark.parametrize("outcomes", [FAILING, REFUSING], ids=["failing", "refusing"])
def test_an_attempt_that_fails_with_everybody_there_counts(outcomes: Any) -> None:
    federation = Federation(lambda at: EVERYBODY)
    assert not federation.ready(report(**outcomes)) and federation.passed == 0


def test_an_attempt_whose_members_vanished_does_not_count_though_they_are_back() -> None:
    assert Federation(lambda at: EVERYBODY).ready(report(**VANISHED))


def test_members_that_vanish_again_and_again_are_asked_more_and_more_seldom_and_then_given_up() -> None:
    federation = Federation(lambda at: EVERYBODY)
    tally, times = Tally(lambda failed, lost: federation.ready(failed, lost), 3), [0.0]
    while not tally.note(report(**VANISHED)):
        times.append(federation.passed)
    rests = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    expected = [min(FIRST_REST_SECONDS * 2**at, LONGEST_REST_SECONDS) for at in range(MOST_LOST - 2)]
    assert rests == pytest.approx([0.0, *expected], abs=0.3)
    assert (tally.lost, tally.failed) == (MOST_LOST, 0)


def test_failures_are_counted_apart_from_absences_and_from_refusals_that_are_news() -> None:
    federation = Federation(lambda at: EVERYBODY)
    tally = Tally(lambda failed, lost: federation.ready(failed, lost), 3)
    happened = [VANISHED, FAILING, VANISHED, REFUSING, REFUSING, VANISHED, FAILING]
    assert [tally.note(report(**one)) for one in happened] == [False] * 6 + [True]
    assert (tally.lost, tally.failed) == (3, 3)


def test_whoever_waits_hears_that_the_run_or_the_coordinator_is_to_stop() -> None:
    federation = Federation(lambda at: "a")
    federation.stop = lambda: "stopped by hand" if federation.passed > 30 else ""
    federation.ready()
    federation.ready(report(**LATE))
    assert 30 < federation.passed < 32
    with pytest.raises(RunStopped, match="stopped by hand"):
        federation.attendance.gather(RECIPE, 600.0, stop=federation.stop)
    federation.until, federation.stop = lambda: federation.passed > 60, lambda: ""
    with pytest.raises(Stopped):
        federation.ready(report(**LATE))


def test_a_run_that_has_not_begun_does_not_wait_for_ever() -> None:
    with pytest.raises(RunFailed, match="2 of 5 clients were there after 600 s"):
        Federation(lambda at: "ab").attendance.gather(RECIPE, 600.0)


def test_a_run_does_not_go_on_with_too_few_because_some_went_while_others_were_waited_for() -> None:
    def there(at: float) -> str:
        """Four of five are there; of these two go after the first patience, and come back after the second."""
        return "ab" if 1.2 < at / RECONNECT_SECONDS < 2.5 else "abcd"

    federation = Federation(there)
    federation.attendance.reconnect(RECIPE, lambda most: most - 1, ("a", "e"))
    assert len(federation.attendance.there()) == 4
