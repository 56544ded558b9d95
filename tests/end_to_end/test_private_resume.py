"""Runs with a promise that are killed and go on: nothing that left is forgotten, and no draw serves two inputs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tacit.server.checkpoints import RunState
from tacit.server.reports import RoundReport
from tacit.server.store import LedgerLine

from .masked import Masked, Memory

LOCAL = (
    "secure_aggregation.enabled=false",
    "privacy.unit=client",
    "privacy.noise=local",
    "privacy.noise_multiplier=4",
    "training.rounds=2",
    "training.quorum=0.8",
)


class Killed(BaseException):
    """The process is gone."""


class Dying(Memory):
    """A recorder whose process dies at an attempt, before it is kept."""

    def __init__(self, number: int, attempt: int) -> None:
        super().__init__()
        self.at: tuple[int, int] | None = (number, attempt)

    def commit(self, report: RoundReport, state: RunState | None, ledger: Sequence[LedgerLine] = ()) -> None:
        if (report.number, report.attempt) == self.at:
            self.at = None
            raise Killed
        super().commit(report, state, ledger)


def half_silent_at_first(client: int, action: str, number: int, attempt: int) -> bool:
    return (number, attempt) == (1, 0) and client < 5


def test_an_attempt_that_ended_without_a_sum_is_not_forgotten_by_a_crash_in_the_next_one() -> None:
    straight = Masked(LOCAL, vanish=half_silent_at_first).execute()
    assert len(straight.spent) == 3  # the attempt that half of the clients answered, and two rounds
    recorder = Dying(1, 1)
    dying = Masked(LOCAL, vanish=half_silent_at_first, recorder=recorder)
    with pytest.raises(Killed):
        dying.execute()
    resumed = Masked(LOCAL, vanish=half_silent_at_first, recorder=recorder)
    resumed.store = recorder.store = dying.store
    state = resumed.execute()
    assert state.spent == straight.spent
    # Who answered the attempt is gone with the process, so everybody counts.
    assert all(state.taken[client] >= times for client, times in straight.taken.items())
