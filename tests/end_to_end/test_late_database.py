"""A coordinator that is started before its database serves as soon as that is there."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tacit.server.coordinator_lock import holder

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from ..private_postgresql import PrivatePostgresql  # noqa: TID252 - tests are no package
from .federation import PATIENCE_SECONDS, Command, finished, until


def test_a_coordinator_that_waits_for_its_database_can_be_stopped(tmp_path: Path, command: Command) -> None:
    pytest.importorskip("psycopg")
    db = f"postgresql+psycopg://tacit:hunter2@127.0.0.1:{free_port()}/tacit"
    finished(command("coordinator", "init", "hub", "--port", str(free_port()), "--db", db))
    up = command("coordinator", "up", "hub")
    log = next(tmp_path.glob("*-coordinator-up.log"))
    until(lambda: "waiting for it" in log.read_text())
    # It is the directory's coordinator already: another one is refused, and `stop` finds it.
    assert holder(tmp_path / "hub") is not None
    finished(command("coordinator", "stop", "--dir", "hub"))
    assert up.wait(timeout=PATIENCE_SECONDS) == 0
    assert log.read_text().count("\n") == 1 and "hunter2" not in log.read_text()


@pytest.mark.slow
def test_a_coordinator_that_is_started_before_postgresql_opens_its_port_when_that_is_there(
    tmp_path: Path, command: Command, private_postgresql: PrivatePostgresql
) -> None:
    private_postgresql.stop()
    finished(command("coordinator", "init", "hub", "--port", str(free_port()), "--db", private_postgresql.url))
    up = command("coordinator", "up", "hub")
    log = next(tmp_path.glob("*-coordinator-up.log"))
    until(lambda: "waiting for it" in log.read_text())
    private_postgresql.start()
    until(lambda: "listening on" in log.read_text())
    said = log.read_text()
    assert said.count("waiting for it") == said.count("the database is there") == 1
    up.send_signal(signal.SIGTERM)
    assert up.wait(timeout=PATIENCE_SECONDS) == 0
