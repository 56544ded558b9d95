"""A coordinator on PostgreSQL is lost in the middle of a run; one that comes out of a backup takes its place."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tacit.models.errors import InputError
from tacit.server.coordinator_directory import open_directory
from tacit.server.population_ledger import PopulationLedger
from tacit.server.store import open_store

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from ..private_postgresql import PrivatePostgresql  # noqa: TID252 - tests are no package
from .federation import NAMES, POLICY, RECIPE, Command, agent_directory, enrolled, finished, until, write_rows


@pytest.mark.slow
def test_after_a_disaster_the_same_members_train_with_a_coordinator_that_knows_what_it_does_not_know(
    tmp_path: Path, command: Command, private_postgresql: PrivatePostgresql
) -> None:
    hub, again = tmp_path / "hub", tmp_path / "again"
    finished(command("coordinator", "init", "hub", "--port", str(free_port()), "--db", private_postgresql.url))
    owners = [agent_directory(tmp_path / name, POLICY) for name in NAMES]
    write_rows(tmp_path / "public.csv", 60, seed=99)
    recipe = RECIPE.replace("clients = 5", 'clients = 5\nledger = "wards"\nepsilon_budget = 40.0')
    # So many rounds that a fast machine is in the middle of them when the server is lost, and noise to pay them with.
    recipe = recipe.format(public=tmp_path / "public.csv").replace("noise_multiplier = 1.5", "noise_multiplier = 30.0")
    (tmp_path / "ward.toml").write_text(recipe.replace("rounds = 3", "rounds = 600"))
    (tmp_path / "later.toml").write_text(recipe.replace('"wards"', '"wards-2"').replace("rounds = 3", "rounds = 2"))
    up = command("coordinator", "up", "hub")
    log = next(tmp_path.glob("*-coordinator-up.log"))
    until(lambda: "listening on" in log.read_text())
    for name in NAMES:
        enrolled(hub, name, command)
        command("agent", "start", "--dir", name)
    finished(command("coordinator", "start", "ward.toml", "--dir", "hub"))
    until(lambda: "round 2 " in log.read_text())
    finished(command("coordinator", "backup", "hub", "night.backup"))
    until(lambda: "round 5 " in log.read_text())
    up.send_signal(signal.SIGKILL)
    up.wait()
    spent = owners[0].ledger("patients", "client").ledger.epsilon_committed("promised")
    private_postgresql.close()  # and with it everything that the coordinator knew

    finished(command("coordinator", "restore", "night.backup", "again", "--db", "tacit.db"))
    directory = open_directory(again, datetime.now(UTC))
    with open_store(directory.db) as store:
        (run,) = store.list_runs()
        assert run.status == "failed" and run.reason.startswith("restored from a backup")
        assert 1 <= run.rounds_committed < 600
        with pytest.raises(InputError, match="is closed: restored from a backup"):
            PopulationLedger.open(store, "wards", "client", None, directory.coordinator)
    command("coordinator", "up", "again")
    second = next(path for path in tmp_path.glob("*-coordinator-up.log") if path != log)
    finished(command("coordinator", "start", "ward.toml", "--dir", "again"))
    finished(command("coordinator", "start", "later.toml", "--dir", "again"))
    # The recipe that names the closed ledger is put aside; the one that names a new one is trained by the same members.
    until(lambda: "model       ward version 1" in second.read_text())
    assert "is closed: restored from a backup" in second.read_text()
    assert [path.suffix for path in (again / "queue").iterdir() if path.suffix == ".toml"] == []
    with open_store(directory.db) as store:
        assert [run.status for run in store.list_runs()].count("finished") == 1
    assert owners[0].ledger("patients", "client").ledger.epsilon_committed("promised") > spent
