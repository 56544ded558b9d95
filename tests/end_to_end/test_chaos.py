"""A federation that nobody watches, to which everything happens that can: it trains every round, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .chaos import chaos
from .mishaps import KINDS, LAST, mishaps

ROUNDS, SEED = 20, 20
SECONDS = 1800.0  # what takes longer hangs


def test_a_seed_says_what_happens_when_and_everything_happens() -> None:
    drawn = mishaps(ROUNDS, SEED, KINDS)
    assert drawn == mishaps(ROUNDS, SEED, KINDS) != mishaps(ROUNDS, SEED + 1, KINDS)
    assert [one.round for one in drawn] == [*range(1, ROUNDS + 1), *[ROUNDS + 1] * len(LAST)]
    assert {one.kind for one in drawn} == set(KINDS)


@pytest.mark.slow
def test_a_federation_in_chaos_loses_no_round_spends_nothing_twice_and_needs_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = chaos(tmp_path, rounds=ROUNDS, seconds=SECONDS, seed=SEED)
    with capsys.disabled():
        print(json.dumps(figures.shown()))
    books = figures.books
    assert not books.faults
    assert (books.rounds, books.lost_rounds, books.double_spends) == (ROUNDS, 0, 0)
    assert min(figures.kills["coordinator"], figures.kills["agents"]) >= 3
    # And yet most rounds trained a model, with most of the members.
    assert books.without_sum < ROUNDS / 2
    assert books.inputs >= 3 * (ROUNDS - books.without_sum)
