"""What an agent's log says: each run once, each reason for a refusal once, and nothing that could break a line."""

from __future__ import annotations

import logging

import pytest

from tacit.client.narration import Narrated
from tacit.models.messages import Instruction, Reply


class Answers:
    """Answers with what it was given, in order."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = iter(replies)

    def handle(self, instruction: Instruction) -> Reply:
        return next(self._replies)


NO = Reply("refused", "cohort-floor: min_cohort 3 is below our 5")


def lines(caplog: pytest.LogCaptureFixture, *asked: tuple[str, str, int, Reply]) -> list[str]:
    caplog.set_level(logging.INFO)
    narrated = Narrated(Answers(*(reply for *_, reply in asked)))
    for action, run, number, reply in asked:
        assert narrated.handle(Instruction(action, run, number, 0, b"")) is reply
    return caplog.messages


def test_a_run_has_one_line_however_many_rounds_it_has(caplog: pytest.LogCaptureFixture) -> None:
    asked = [("mask", "ward", number, Reply()) for number in range(5)] + [("mask", "other", 0, Reply())]
    assert lines(caplog, *asked) == ["takes part in ward, round 0", "takes part in other, round 0"]


def test_a_refusal_is_told_with_its_reason_and_once(caplog: pytest.LogCaptureFixture) -> None:
    assert lines(
        caplog,
        ("advertise", "ward", 0, NO),
        ("advertise", "ward", 0, NO),
        ("advertise", "ward", 1, Reply("refused", "paused: its owner has paused it")),
        ("advertise", "ward", 2, Reply()),
        ("mask", "ward", 2, Reply()),
    ) == [
        "refused in ward, round 0: cohort-floor: min_cohort 3 is below our 5",
        "refused in ward, round 1: paused: its owner has paused it",
        "takes part in ward, round 2",
    ]


def test_a_round_that_begins_well_and_is_refused_is_a_refusal_alone(caplog: pytest.LogCaptureFixture) -> None:
    no = Reply("refused", "too-few-members: 1 members count, at least 3 must")
    asked = [
        (action, "ward", number, reply)
        for number in range(3)
        for action, reply in (("advertise", Reply()), ("share", no))
    ]
    assert lines(caplog, *asked) == ["refused in ward, round 0: too-few-members: 1 members count, at least 3 must"]


def test_a_receipt_for_an_earlier_run_is_no_work(caplog: pytest.LogCaptureFixture) -> None:
    assert lines(caplog, ("receipt", "ward", 3, Reply())) == []


def test_what_a_stranger_calls_a_run_stays_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = lines(caplog, ("advertise", "x\n2026 all is well\x1b[31m" + "y" * 10_000, 0, NO))
    assert "\n" not in line and "\x1b" not in line and len(line) < 500
