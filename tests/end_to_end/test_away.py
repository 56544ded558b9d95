"""Members that are away for a while, without a word: a run waits for them, and can be ended meanwhile."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tacit.__main__ import run as tacit
from tacit.server.run import ATTEMPTS

from .wards import NAMES, Commands, Wards, until  # noqa: TID252 - tests are no package that could be named

ROUNDS = 60  # so many that it is in the middle of them when its members are held, on any machine
SECONDS = 10  # of an exchange: far fewer than the port takes a silent member to be there
SHORT = f"training.deadline_seconds={SECONDS}"


@contextmanager
def suspended(wards: Wards) -> Iterator[None]:
    """Hold three of five agents in the middle of whatever they do; their connections stay open."""
    held = [wards.agents[name] for name in NAMES[:3]]
    for agent in held:
        agent.kill(signal.SIGSTOP)
    try:
        yield
    finally:
        for agent in held:
            agent.kill(signal.SIGCONT)


def late(wards: Wards) -> int:
    """Return how many attempts somebody was late in."""
    attempts = wards.attempts(wards.runs()[0].run)
    return sum(any(member.outcome == "late" for member in one.participation) for one in attempts)


@pytest.mark.slow
def test_a_run_outlives_an_absence_that_is_longer_than_its_attempts(tmp_path: Path, seeded_commands: Commands) -> None:
    wards = Wards(tmp_path, seeded_commands, rounds=ROUNDS, overrides=[SHORT])
    try:
        wards.up()
        wards.enrol()
        wards.join()
        wards.begin()
        until(lambda: "round 2 " in wards.log, why=lambda: wards.log)
        with suspended(wards):
            before = late(wards)
            until(lambda: late(wards) > before, why=lambda: wards.log)
            time.sleep(ATTEMPTS * SECONDS + 50.0)
            assert late(wards) == before + 1  # it was not tried again while nobody could answer
        run = wards.finish()
    finally:
        wards.close()
    attempts = wards.attempts(run)
    assert [one.number for one in attempts if one.outcome == "committed"] == list(range(ROUNDS + 1))


@pytest.mark.slow
def test_a_run_that_waits_for_its_first_round_is_ended_and_leaves_no_model(
    tmp_path: Path, seeded_commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    wards = Wards(tmp_path, seeded_commands, rounds=ROUNDS, overrides=[SHORT])
    hub = str(wards.hub.path)
    try:
        wards.up()
        wards.enrol()
        wards.join()
        until(lambda: wards.online() == set(NAMES), why=lambda: wards.log)
        with suspended(wards):
            wards.begin()
            until(lambda: "attempt 0 failed" in wards.log, why=lambda: wards.log)
            (record,) = wards.runs()
            capsys.readouterr()
            assert tacit(["coordinator", "stop", record.run, "--dir", hub]) == 0
            assert "ends after the attempt that is going" in capsys.readouterr().out
            until(lambda: f"{record.run} was ended before anything was trained" in wards.log, why=lambda: wards.log)
    finally:
        wards.close()
    assert tacit(["coordinator", "status", "--dir", hub, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (ended,) = found["recent"]
    assert (ended["status"], ended["reason"]) == ("stopped", "stopped by hand, before anything was trained")
    assert ended["model"] == "" and found["waiting"] == found["put_aside"] == [] and found["run"] is None
    assert not list((wards.hub.path / "queue").iterdir())
