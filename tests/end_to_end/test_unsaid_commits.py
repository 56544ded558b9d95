"""A database that breaks off at a write, done or not: nobody is told which, and nothing is spent twice or lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tacit.server.store import StoreUnavailable

from .test_over_before_it_was_kept import Fickle
from .test_phase_recovery import NOISED, Federation, spent

KINDS = {"all well": Federation, "an attempt given back": Fickle}


class BreakingOff:
    """The writes of a store, of which one is lost, or done and not answered."""

    def __init__(self, federation: Federation, at: int, *, done: bool) -> None:
        self.writes, self.at, self.done = 0, at, done
        self.write = federation.store._write
        federation.store._write = self  # type: ignore[method-assign, assignment]

    @contextmanager
    def __call__(self) -> Iterator[Any]:
        self.writes += 1
        breaks = self.writes == self.at
        if breaks and not self.done:
            raise StoreUnavailable("the connection broke")
        with self.write() as opened:
            yield opened
        if breaks:
            raise StoreUnavailable("the connection broke")


def assert_spent_once_wherever_it_breaks(path: Path, kind: type[Federation], *, done: bool, step: int) -> None:
    whole = kind(path / "whole", NOISED)
    counted = BreakingOff(whole, 0, done=done)
    expected = whole.coordinate()
    assert counted.writes > 20
    for at in range(2, counted.writes + 1, step):
        federation = kind(path / str(at), NOISED)
        BreakingOff(federation, at, done=done)
        with pytest.raises(StoreUnavailable):
            federation.coordinate()
        state = federation.coordinate()
        assert (state.round, state.spent, state.taken) == (expected.round, expected.spent, expected.taken)
        assert spent(federation.store) == spent(whole.store)
        assert [one[0] for one in federation.history() if one[2] == "committed"] == [0, 1, 2]
        # Asked again in the same attempt, a member gives what it gave; it gives an input in one attempt alone.
        assert all(len(answers) == 1 for answers in federation.answers.values())
        given = [(client, number) for client, action, number, _ in federation.answers if action == "mask"]
        assert len(given) == len(set(given))


@pytest.mark.parametrize("done", [True, False], ids=["done", "lost"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_was_not_answered_is_spent_once(tmp_path: Path, kind: str, done: bool) -> None:
    assert_spent_once_wherever_it_breaks(tmp_path, KINDS[kind], done=done, step=11)


@pytest.mark.slow
@pytest.mark.parametrize("done", [True, False], ids=["done", "lost"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_write_that_was_not_answered_is_spent_once(tmp_path: Path, kind: str, done: bool) -> None:
    assert_spent_once_wherever_it_breaks(tmp_path, KINDS[kind], done=done, step=1)
