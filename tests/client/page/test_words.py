"""The words of the page: none is missing, and no number is smaller than it is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.asked import CODES
from tacit.client.audit import KINDS
from tacit.client.page import words
from tacit.client.page.story import DOINGS, Kind, Ran, Refused
from tacit.client.policy import Policy
from tacit.models.messages import ACTIONS, RECEIPT_ACTION
from tacit.privacy.terms import Place


def test_every_message_that_an_agent_sends_has_words() -> None:
    assert set(words.MESSAGES) >= set(ACTIONS) - {RECEIPT_ACTION}


def test_every_doing_of_the_owner_is_one_that_the_account_can_hold_and_has_words() -> None:
    assert set(DOINGS) <= set(KINDS) and set(words.DOINGS) == set(DOINGS)


@pytest.mark.parametrize("code", CODES)
def test_every_refusal_is_a_sentence_to_the_owner(code: str) -> None:
    sentence = words.meaning(code)
    assert sentence[0].isupper() and sentence.endswith(".")
    assert "the owner" not in sentence


def test_every_clause_that_is_named_is_a_key_of_the_policy() -> None:
    assert set(words.CLAUSES) <= set(CODES)
    for clause in words.CLAUSES.values():
        section, _, key = clause.partition(".")
        table = getattr(Policy(), section)
        assert not key or key in type(table).model_fields


@given(st.floats(0.0, 60.0))
def test_no_epsilon_is_written_as_less_than_it_is(epsilon: float) -> None:
    written = float(words.figure(epsilon))
    assert epsilon - 1e-9 <= written <= epsilon + 0.01 + 1e-9


@given(st.floats(0.0, 700.0))
def test_nobody_is_said_to_be_less_sure_than_epsilon_lets_them_be(epsilon: float) -> None:
    # From even odds, the odds can become exp(epsilon) at most.
    share = math.exp(epsilon) / (1.0 + math.exp(epsilon))
    said = words.sureness(epsilon)
    if said == words.ALL_BUT_CERTAIN:
        assert share > 0.99
    else:
        assert share - 1e-9 <= float(said.partition(" ")[0]) / 100.0 <= share + 0.01 + 1e-9


def test_the_help_text_has_the_numbers_that_follow_from_epsilon() -> None:
    assert (words.sureness(1.0), words.sureness(3.0)) == ("74 % sure", "96 % sure")
    assert words.sureness(4.5) != words.ALL_BUT_CERTAIN == words.sureness(5.0)


@pytest.mark.parametrize("place", ["", *Place.__args__])
def test_what_was_not_masked_is_never_called_masked(place: str) -> None:
    for what in ("train", "prepare", "contribute", "mask"):
        title, sentence = words.protection(Kind(what, what == "prepare", False, place))
        assert title in ("Not masked", "With noise") and "Nobody can read" not in sentence
    assert words.protection(Kind("mask", False, True, place))[0].startswith("Masked")


def test_a_message_of_an_unknown_kind_is_not_called_protected() -> None:
    assert words.protection(Kind("gossip"))[0] == "Unknown"
    assert words.title(Kind("gossip")) == "gossip" and words.title(Kind("")) == "message"


def ran(**more: object) -> Ran:
    return Ran("r", 0.0, 1000.0, {"rounds": 3}, **more)  # type: ignore[arg-type]


REFUSED = {"noise-floor": Refused("noise-floor", "noise-floor: ...", 1, 1000.0)}


@pytest.mark.parametrize(
    ("one", "now", "state"),
    [
        (ran(given=3), 1001.0, "given"),
        (ran(given=2), 1001.0, "going"),
        (ran(given=2), 1e6, "part"),
        (ran(given=2, refused=REFUSED), 1001.0, "part"),
        (ran(refused=REFUSED), 1001.0, "refused"),
        (ran(), 1e6, "asked"),
        (ran(given=3, refused=REFUSED), 1001.0, "given"),
    ],
)
def test_what_became_of_a_run_follows_from_what_left_for_it(one: Ran, now: float, state: str) -> None:
    assert words.outcome(one, now).state == state


def test_an_evaluation_is_not_called_learning() -> None:
    one = Ran("r", 0.0, 1000.0, {"rounds": 100, "evaluates": "held-out"}, given=1)
    assert words.outcome(one, 1001.0).sentence == "A model was measured on your data; nothing was learned from them."
    kind = Kind("mask", masked=True, evaluates=True)
    assert "learning" not in words.purpose(kind) and "exact" in words.protection(kind)[1]


def test_a_refused_run_says_if_sums_had_left_before() -> None:
    assert "Nothing of your data left" in words.outcome(ran(refused=REFUSED), 0.0).sentence
    assert "had left before" in words.outcome(ran(refused=REFUSED, prepared=True), 0.0).sentence


SIZES = {0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1000: "1 kB", 1234: "1.23 kB", 20_400_000: "20.4 MB",
         5 * 10**12: "5,000 GB"}  # fmt: skip


@pytest.mark.parametrize(("count", "written"), SIZES.items())
def test_sizes_are_written_for_people(count: int, written: str) -> None:
    assert words.size(count) == written


@pytest.mark.parametrize("at", [float("nan"), float("inf"), 1e300, "x", None])
def test_a_time_that_is_none_is_said_to_be_unknown(at: float) -> None:
    assert words.moment(at) == "at an unknown time"
