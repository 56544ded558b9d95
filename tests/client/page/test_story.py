"""What an account tells, added up, with no room for a coordinator that talks too much."""

from __future__ import annotations

from typing import Any

from tacit.client.audit import Noted
from tacit.client.page.story import LONGEST_TEXT, MOST_CODES, MOST_DOINGS, MOST_RUNS, Kind, Sent, Story

from .owned import asked


class Told:
    """A story, told entry by entry."""

    def __init__(self) -> None:
        self.story = Story()
        self.counter = 0

    def __call__(self, kind: str, **details: Any) -> None:
        self.counter += 1
        self.story.add(Noted(self.counter, 1000.0 + self.counter, kind, details), 100 * self.counter)

    def round(self, run: str, number: int, *whats: str) -> None:
        for what in whats:
            self("message-left", run=run, round=number, attempt=0, what=what, bytes=10, sha256="")


def test_rounds_are_counted_by_what_left_and_each_once() -> None:
    told = Told()
    told("offer-accepted", **asked("r", 1, "n"))
    told.round("r", 1, "advertise", "share")
    assert told.story.runs["r"].given == 0  # keys say nothing of the data
    told.round("r", 1, "mask", "mask", "sign", "unmask")
    told.round("r", 3, "mask")
    ran = told.story.runs["r"]
    assert (ran.given, ran.newest, ran.rounds) == (2, 3, 2)


def test_a_preparation_is_no_round_and_does_not_hide_the_noise_of_the_training() -> None:
    told = Told()
    told("offer-accepted", **asked("r", 0, "n"))
    told.round("r", 0, "mask")
    told("offer-accepted", **asked("r", 1, "n", noise=2.0, place="distributed"))
    told.round("r", 1, "mask")
    ran = told.story.runs["r"]
    assert (ran.given, ran.prepared, ran.accepted) == (1, True, 2)
    assert told.story.sent == {
        Kind("mask", preparation=True, masked=True): Sent(1, 10),
        Kind("mask", masked=True, noise="distributed"): Sent(1, 10),
    }


def test_figures_of_a_model_are_no_update() -> None:
    told = Told()
    told("offer-accepted", **asked("r", 1, "n", unit="none", evaluates="all"))
    told.round("r", 1, "mask")
    assert set(told.story.sent) == {Kind("mask", masked=True, evaluates=True)}
    assert told.story.runs["r"].rounds == 1


def test_a_message_whose_offer_is_not_known_passes_for_nothing_better_than_it_was() -> None:
    told = Told()
    told.round("r", 1, "mask", "train")
    assert set(told.story.sent) == {Kind("mask"), Kind("train")}


def test_receipts_are_those_of_the_offers_that_were_accepted() -> None:
    told = Told()
    told("offer-accepted", **asked("r", 1, "n"))
    told("receipt-accepted", offer=f"{1:064x}", counter=3)
    told("receipt-accepted", offer=f"{1:064x}", counter=3)
    told("receipt-accepted", offer="00", counter=4)
    assert told.story.runs["r"].receipts == 1


def test_refusals_are_kept_by_run_and_reason_with_the_last_words() -> None:
    told = Told()
    for reason in ("noise-floor: 1", "noise-floor: 2"):
        told("offer-refused", run="r", round=1, code="noise-floor", reason=reason)
    told("offer-refused", run="r", round=2, code="paused", reason="paused: its owner has paused it")
    refused = told.story.runs["r"].refused
    assert {code: (one.count, one.reason) for code, one in refused.items()} == {
        "noise-floor": (2, "noise-floor: 2"),
        "paused": (1, "paused: its owner has paused it"),
    }
    assert told.story.refusals == {"noise-floor": 2, "paused": 1}


def test_steps_and_receipts_that_were_refused_are_told_too() -> None:
    told = Told()
    told(
        "round-failed", run="r", round=1, attempt=0, what="mask", code="changed-message", reason="changed-message: ..."
    )
    told("receipt-refused", run="r", round=1, attempt=0, what="receipt", code="other-sum", reason="other-sum: ...")
    assert {code: one.count for code, one in told.story.runs["r"].refused.items()} == {
        "changed-message": 1,
        "receipt": 1,
    }


def test_a_coordinator_with_many_runs_reasons_and_long_words_fills_no_memory() -> None:
    told = Told()
    for at in range(MOST_RUNS + 50):
        told("offer-accepted", **asked(f"r{at}", 1, "x" * 500))
    for at in range(MOST_CODES + 50):
        told("offer-refused", run="r249", round=1, code=f"c{at}", reason="y" * 500)
    for _ in range(MOST_DOINGS + 50):
        told("paused")
    story = told.story
    assert (len(story.runs), story.forgotten, len(story.doings)) == (MOST_RUNS, 50, MOST_DOINGS)
    assert "r49" not in story.runs and len(story.runs["r249"].refused) == MOST_CODES
    assert len(story._offers) <= MOST_RUNS and story.places.itemsize == 8
    assert all(len(one.code) <= LONGEST_TEXT and len(one.reason) <= 240 for one in story.runs["r249"].refused.values())


def test_entries_of_an_older_version_that_say_less_are_told_all_the_same() -> None:
    told = Told()
    told("offer-accepted", run="r", round=1, attempt=0, recipe="ab")
    told("message-left", run="r", round=1, attempt=0, what="mask", sha256="ab", bytes=5)
    told("message-left")
    told("offer-refused")
    told("receipt-accepted")
    told("something-new", run="r")
    assert told.story.runs["r"].given == 1 and told.story.entries == 6
