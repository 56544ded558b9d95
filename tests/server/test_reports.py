"""A report names the reason that somebody can do something about."""

from __future__ import annotations

import pytest

from tacit.privacy.secagg.policy import ROUND_OVER
from tacit.server.reports import RoundReport
from tacit.server.rounds import Participant, ParticipationOutcome

LATE = ("late", "the round was over")
OVER = ("refused", f"{ROUND_OVER}: an input for this round has left; the next one is a new round")
UNREADABLE = ("failed", "the agent's data source cannot be used")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([], ""),
        ([("reported", "")], ""),
        ([LATE, LATE, LATE], LATE[1]),
        ([LATE, LATE, UNREADABLE], UNREADABLE[1]),
        ([OVER, OVER, OVER, LATE, UNREADABLE], UNREADABLE[1]),
        ([OVER, OVER, LATE], OVER[1]),
    ],
)
def test_the_reason_is_a_cause_and_not_what_follows_from_it(
    said: list[tuple[ParticipationOutcome, str]], reason: str
) -> None:
    members = tuple(Participant(f"m{at}", *one, "mask") for at, one in enumerate(said))
    report = RoundReport(1, 0, False, "too few", 1.0, members)
    assert report.mostly == (f"; most often: {reason}" if reason else "")
