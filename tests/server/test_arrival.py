"""Whoever starts before the database's server waits for it; what waiting cannot mend is refused at once."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from tacit.models.errors import InputError
from tacit.server.store import Store, StoreUnavailable, open_store
from tacit.server.store.arrival import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, open_once_there, why_absent
from tacit.server.store.schema import VERSION_TABLE

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from ..private_postgresql import PrivatePostgresql  # noqa: TID252 - tests are no package

NOWHERE = "postgresql+psycopg://tacit:hunter2@db.example/tacit"


class Moments(threading.Event):
    """A stop that keeps the pauses that it is waited in, and is set in one of them if a test wants so."""

    def __init__(self, stop_in_pause: int = 0) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._stop_in_pause = stop_in_pause

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        if len(self.pauses) == self._stop_in_pause:
            self.set()
        return self.is_set()


def says(*answers: str) -> Callable[[URL], str]:
    """Return what gives these answers, one after another, and the last one for ever."""
    left = list(answers)
    return lambda url: left.pop(0) if len(left) > 1 else left[0]


def in_memory(url: str) -> Store:
    assert url == NOWHERE
    return open_store(":memory:")


def log(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("tacit")]


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tacit")


def test_a_database_that_is_there_is_opened_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    stopped = Moments()
    store = open_once_there(NOWHERE, stopped, absence=says(""), opener=in_memory)
    assert store is not None and store.list_runs() == []
    store.close()
    assert log(caplog) == [] and stopped.pauses == []


def test_one_that_is_away_is_waited_for_with_one_line_and_another_when_it_has_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped = Moments()
    store = open_once_there(NOWHERE, stopped, absence=says("refused", "refused", "starting", ""), opener=in_memory)
    assert store is not None
    store.close()
    assert log(caplog) == [
        "postgresql+psycopg://tacit:***@db.example/tacit: refused; waiting for it",
        "the database is there",
    ]
    assert len(stopped.pauses) == 3


def test_pauses_double_up_to_the_longest_and_are_drawn_from_their_upper_half() -> None:
    drawn: list[tuple[float, float]] = []

    def lowest(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    stopped = Moments(stop_in_pause=9)
    assert open_once_there(NOWHERE, stopped, absence=says("refused"), opener=in_memory, draw=lowest) is None
    longest = [min(FIRST_PAUSE_SECONDS * 2**at, LONGEST_PAUSE_SECONDS) for at in range(9)]
    assert drawn == [(seconds / 2, seconds) for seconds in longest]
    assert stopped.pauses == [seconds / 2 for seconds in longest]


def test_a_stop_is_heard_while_the_network_still_says_nothing() -> None:
    stopped, silence = threading.Event(), threading.Event()

    def hangs(url: URL) -> str:
        stopped.set()
        silence.wait()
        return ""

    try:
        assert open_once_there(NOWHERE, stopped, absence=hangs, opener=in_memory) is None
    finally:
        silence.set()


def test_a_server_that_is_there_and_says_no_is_believed_at_once(caplog: pytest.LogCaptureFixture) -> None:
    def refuses(url: str) -> Store:
        raise StoreUnavailable("no such password")

    stopped = Moments()
    with pytest.raises(StoreUnavailable, match="no such password"):
        open_once_there(NOWHERE, stopped, absence=says(""), opener=refuses)
    assert stopped.pauses == [] and log(caplog) == []


def test_a_server_that_goes_while_its_database_is_opened_is_waited_for() -> None:
    tries = 0

    def breaks_off_once(url: str) -> Store:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable("the connection broke")
        return in_memory(url)

    stopped = Moments()
    store = open_once_there(NOWHERE, stopped, absence=says("", "refused", ""), opener=breaks_off_once)
    assert store is not None
    store.close()
    assert tries == 2 and len(stopped.pauses) == 1


def test_a_schema_of_a_newer_tacit_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tacit.db"
    open_store(str(path)).close()
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE {VERSION_TABLE} SET version_num = 'tomorrow'")
    database.close()
    stopped = Moments()
    with pytest.raises(InputError, match="newer Tacit"):
        open_once_there(str(path), stopped)
    assert stopped.pauses == []


def test_a_missing_driver_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    stopped = Moments()
    with pytest.raises(InputError, match="no driver for") as caught:
        open_once_there(NOWHERE, stopped)
    assert stopped.pauses == [] and "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["tacit.db", "sqlite:///missing/tacit.db"])
def test_nobody_waits_for_a_file(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert why_absent(make_url(url) if ":" in url else URL.create("sqlite", database=url)) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_nobody_listens_on_is_a_server_that_is_away() -> None:
    pytest.importorskip("psycopg")
    why = why_absent(make_url(f"postgresql+psycopg://tacit:hunter2@127.0.0.1:{free_port()}/tacit"))
    assert "refused" in why and "hunter2" not in why and "\n" not in why


def test_a_port_that_hangs_up_is_a_server_that_is_away() -> None:
    pytest.importorskip("psycopg")
    # In a process of its own, as libpq lets no other thread run while it asks.
    hangs_up = (
        "import socket\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "print(listener.getsockname()[1], flush=True)\n"
        "while True: listener.accept()[0].close()"
    )
    proxy = subprocess.Popen([sys.executable, "-c", hangs_up], stdout=subprocess.PIPE, text=True)
    assert proxy.stdout is not None
    try:
        port = proxy.stdout.readline().strip()
        assert why_absent(make_url(f"postgresql+psycopg://tacit@127.0.0.1:{port}/tacit"))
    finally:
        proxy.kill()
        proxy.wait()
        proxy.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
        ({"username": "nobody"}, "password authentication failed"),
        ({"query": {"sslmode": "require"}}, "SSL"),
        ({"query": {"sslmode": "verify-full", "sslrootcert": "/missing"}}, "SSL"),
    ],
)
def test_what_postgresql_refuses_for_good_is_refused_at_once(
    changed: dict[str, str], reason: str, private_postgresql: PrivatePostgresql
) -> None:
    url = make_url(private_postgresql.url).set(**changed)  # type: ignore[arg-type]
    stopped = Moments()
    with pytest.raises(StoreUnavailable, match=reason):
        open_once_there(url.render_as_string(hide_password=False), stopped)
    assert stopped.pauses == []


@pytest.mark.slow
def test_postgresql_that_is_started_late_is_used_when_it_is_there(
    private_postgresql: PrivatePostgresql, caplog: pytest.LogCaptureFixture
) -> None:
    private_postgresql.stop()

    class StartsLate(Moments):
        def wait(self, timeout: float | None = None) -> bool:
            if len(self.pauses) == 2:
                private_postgresql.start()
            return super().wait(timeout)

    stopped = StartsLate()
    store = open_once_there(private_postgresql.url, stopped)
    assert store is not None
    with store:
        assert store.list_runs() == []
    assert len(stopped.pauses) == 3
    assert [line.endswith("; waiting for it") for line in log(caplog)] == [True, False]
    assert str(make_url(private_postgresql.url).password) not in "".join(log(caplog))


@pytest.mark.slow
def test_a_schema_of_a_newer_tacit_in_postgresql_is_refused_at_once(private_postgresql: PrivatePostgresql) -> None:
    with open_store(private_postgresql.url) as store, store._engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = 'tomorrow'")
    stopped = Moments()
    with pytest.raises(InputError, match="newer Tacit"):
        open_once_there(private_postgresql.url, stopped)
    assert stopped.pauses == []
