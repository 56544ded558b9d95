"""A coordinator that dies between two things that it keeps, or that is told to stop before it has gone on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tacit.server.attempts import RunStopped
from tacit.server.population_ledger import read_ledger

from .test_phase_recovery import CLIENTS, NOISED, PLAIN, Federation, Killed, spent


class Fickle(Federation):
    """Of the first attempt at round 1 too many are lost before anybody was asked for an input."""

    exchange = "share"

    def _vanish(self, client: int, action: str, number: int, attempt: int) -> bool:
        return (action, number, attempt) == (self.exchange, 1, 0) and client < CLIENTS - 1


@pytest.mark.parametrize("exchange", ["advertise", "share"])
def test_a_coordinator_killed_after_giving_back_an_attempt_makes_the_next_one(tmp_path: Path, exchange: str) -> None:
    whole, killed = Fickle(tmp_path / "whole", NOISED), Fickle(tmp_path / "killed", NOISED)
    whole.exchange = killed.exchange = exchange
    expected = whole.coordinate()
    assert [one[:3] for one in whole.history()][1:3] == [(1, 0, "aborted"), (1, 1, "committed")]

    def die_once_it_was_given_back() -> None:
        ledger = read_ledger(killed.store, "run/run", "client")
        if ledger is not None and ledger.voided:
            raise Killed

    with pytest.raises(Killed):
        killed.coordinate(moment=die_once_it_was_given_back)
    state = killed.coordinate()
    assert (state.round, state.spent, state.taken) == (expected.round, expected.spent, expected.taken)
    assert [one[:3] for one in killed.history()][1:] == [(1, 1, "committed"), (2, 0, "committed")]
    assert spent(killed.store) == spent(whole.store)


class Thinned(Federation):
    """Of the first cohort at a round one is lost when its input is asked for, and with it the attempt."""

    number = 1

    def _vanish(self, client: int, action: str, number: int, attempt: int) -> bool:
        if (action, number, attempt) != ("mask", self.number, 0):
            return False
        return f"c{client:02d}" == min(name for name, *at in self.answers if at == ["advertise", self.number, 0])


def test_whose_input_left_before_a_crash_is_counted_also_while_it_is_away_and_nobody_else_is(tmp_path: Path) -> None:
    federation = Thinned(tmp_path / "run", [*NOISED, "training.cohort=3", "secure_aggregation.min_cohort=3"])

    def die_once_the_attempt_was_kept() -> None:
        if federation.store.next_attempt("run", 1) == 1:
            raise Killed

    with pytest.raises(Killed):
        federation.coordinate(moment=die_once_the_attempt_was_kept)
    asked = sorted(name for name, *at in federation.answers if at == ["advertise", 1, 0])
    assert len(asked) == 3
    # One of the two whose inputs left is away when the coordinator is back.
    members = federation.members
    (node,) = [at for at, name in members.names.items() if name == asked[1]]
    del members.names[node], members.agents[node]
    state = federation.coordinate()
    left = Counter(name for name, action, number, _ in federation.answers if action == "mask" and number)
    assert dict(state.taken) == left and left[asked[1]] == 1
    assert sum(left.values()) == 2 + 3 + 3


def test_a_run_that_is_to_stop_counts_the_round_that_another_process_was_in_the_middle_of(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", NOISED)

    def die_once_shares_were_released() -> None:
        if any((action, number) == ("unmask", 1) for _, action, number, _ in federation.answers):
            phase = federation.store.phase("run")
            if phase is not None and phase.number == 2 and phase.exchange == "unmask":
                raise Killed

    with pytest.raises(Killed):
        federation.coordinate(moment=die_once_shares_were_released)
    state = federation.coordinate(stop=lambda: "stopped by hand")
    assert state.round == 2 and len(state.spent) == 2 and set(state.taken.values()) == {2}
    assert spent(federation.store)[0] == 2  # and nothing waits


def test_a_run_that_is_to_stop_between_two_rounds_stops_there(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", NOISED)

    def once_a_round_was_kept() -> str:
        return "stopped by hand" if federation.store.next_attempt("run", 1) else ""

    state = federation.coordinate(stop=once_a_round_was_kept)
    assert (state.round, state.stopped, len(state.spent)) == (1, "stopped by hand", 1)
    assert spent(federation.store)[0] == 1


def test_a_run_that_is_to_stop_before_its_first_round_asks_nobody_and_leaves_no_model(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", NOISED)
    with pytest.raises(RunStopped, match="stopped by hand"):
        federation.coordinate(stop=lambda: "stopped by hand")
    assert not federation.answers and federation.history() == []


def test_a_run_that_is_to_stop_during_its_preparation_delivers_its_receipts_and_trains_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", PLAIN)

    def once_the_preparation_began() -> str:
        return "stopped by hand" if federation.answers else ""

    with pytest.raises(RunStopped):
        federation.coordinate(stop=once_the_preparation_began)
    assert [one[:3] for one in federation.history()] == [(0, 0, "committed")]
    masking = federation.members.masking
    assert masking is not None and masking.acknowledged == CLIENTS and not masking.owed


def test_a_run_that_is_to_stop_makes_no_further_attempt_at_a_round_and_counts_what_left(tmp_path: Path) -> None:
    for number in (1, 2):
        federation = Thinned(
            tmp_path / f"run-{number}", [*NOISED, "training.cohort=3", "secure_aggregation.min_cohort=3"]
        )
        federation.number = number

        def once_the_attempt_was_kept(federation: Thinned = federation) -> str:
            return "stopped by hand" if federation.store.next_attempt("run", federation.number) else ""

        if number == 1:
            with pytest.raises(RunStopped):
                federation.coordinate(stop=once_the_attempt_was_kept)
        else:
            state = federation.coordinate(stop=once_the_attempt_was_kept)
            assert (state.round, state.stopped, len(state.spent)) == (1, "stopped by hand", 2)
            assert sum(state.taken.values()) == 3 + 2
        assert [one[:3] for one in federation.history()][-1] == (number, 0, "aborted")
        assert spent(federation.store)[0] == number


class Halted(Federation):
    """The line breaks in the preparation, when one of six has given its statistics."""

    def _vanish(self, client: int, action: str, number: int, attempt: int) -> bool:
        return (action, number, attempt) == ("mask", 0, 0) and client >= 1


def test_after_a_crash_the_preparation_is_repeated_without_those_whose_statistics_have_left(tmp_path: Path) -> None:
    federation = Halted(tmp_path / "run", PLAIN)

    def die_once_the_attempt_was_kept() -> None:
        if federation.store.next_attempt("run", 0) == 1:
            raise Killed

    with pytest.raises(Killed):
        federation.coordinate(moment=die_once_the_attempt_was_kept)
    assert federation.coordinate().round == 2
    given = Counter(name for name, action, number, _ in federation.answers if (action, number) == ("mask", 0))
    assert given == {f"c{at:02d}": 1 for at in range(CLIENTS)}
