"""A coordinator that is killed while a round is under way, and started again: nobody has to do anything."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tacit.server.population_ledger import read_ledger
from tacit.server.store import open_store

from .federation import NAMES, POLICY, RECIPE, Command, agent_directory, enrolled, finished, until, write_rows


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_after_its_coordinator_was_killed(tmp_path: Path, command: Command) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    hub = tmp_path / "hub"
    finished(command("coordinator", "init", "hub", "--federation", "wards", "--port", port))
    for name in NAMES:
        agent_directory(tmp_path / name, POLICY)
    write_rows(tmp_path / "public.csv", 60, seed=99)
    recipe = RECIPE.format(public=tmp_path / "public.csv").replace("rounds = 3", "rounds = 4")
    (tmp_path / "ward.toml").write_text(recipe)
    up = command("coordinator", "up", "--dir", "hub")
    for name in NAMES:
        enrolled(hub, name, command)
        command("agent", "start", "--dir", name)
    finished(command("coordinator", "start", "ward.toml", "--dir", "hub"))
    with open_store(str(hub / "tacit.db"), create=False) as store:
        for number, exchange in ((0, "share"), (2, "mask"), (3, "unmask")):

            def reached(number: int = number, exchange: str = exchange) -> bool:
                runs = store.list_runs()
                phase = store.phase(runs[0].run) if runs else None
                return phase is not None and (
                    phase.number > number or (phase.number == number and phase.exchange == exchange)
                )

            until(reached, what=f"round {number} {exchange}", poll=0.005)
            up.send_signal(signal.SIGKILL)
            up.wait()
            up = command("coordinator", "up", "--dir", "hub")
        until(lambda: store.list_runs()[0].status == "finished", 180.0)
        (run,) = store.list_runs()
        assert run.rounds_committed == 4
        rounds = store.rounds(run.run)
        assert [one.number for one in rounds if one.outcome == "committed"] == [0, 1, 2, 3, 4]
        assert {one.attempt for one in rounds} == {0}
        assert all(member.outcome == "reported" for one in rounds for member in one.participation)
        ledger = read_ledger(store, f"run/{run.run}", "client")
        assert ledger is not None and not ledger.waiting and len(ledger.settled - ledger.voided) == 4
        assert [model.versions for model in store.list_models()] == [1]
