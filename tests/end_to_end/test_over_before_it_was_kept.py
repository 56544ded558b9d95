"""A coordinator that dies between two things that it keeps, or that is told to stop before it has gone on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tacit.server.population_ledger import read_ledger

from .test_phase_recovery import CLIENTS, NOISED, Federation, Killed, spent


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
    state = federation.coordinate(stop=lambda: "stopped by hand")
    assert (state.round, state.stopped, len(state.spent)) == (1, "stopped by hand", 1)
    assert spent(federation.store)[0] == 1
