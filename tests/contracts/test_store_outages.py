"""A database that is away, killed or full is unavailable, and nothing else; when it is back the same store works on."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from tacit.models.errors import InputError
from tacit.server.store import (
    LedgerConflict,
    NewRun,
    Participation,
    RoundAlreadyCommitted,
    RoundRecord,
    Store,
    StoreUnavailable,
    open_store,
)
from tacit.server.store.engine import connect, parse_url

from ..private_postgresql import PrivatePostgresql  # noqa: TID252 - tests are no package

RUN = NewRun("run-1", "fashion", "image-classification", "seed = 7\n", "a" * 64, "runs/run-1")
MEMBERS = tuple(Participation(f"client-{i}", "reported") for i in range(50))


def round_of(number: int) -> RoundRecord:
    return RoundRecord(number, 0, "committed", 1.0, {"loss": 1 / number}, MEMBERS)


def test_no_method_of_the_store_reaches_the_database_but_by_a_transaction_that_may_be_unavailable() -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(Store)))
    for method in tree.body[0].body:  # type: ignore[attr-defined]
        if isinstance(method, ast.FunctionDef):
            names = {node.attr for node in ast.walk(method) if isinstance(node, ast.Attribute)}
            if names & {"_engine", "_writer"}:
                # Departures ask in a way of their own, which is among the calls below.
                assert method.name in {"__init__", "__repr__", "close", "_read", "_write", "departures"}


@pytest.fixture
def running(private_postgresql: PrivatePostgresql) -> Iterator[PrivatePostgresql]:
    """The database, up and empty."""
    yield private_postgresql
    private_postgresql.stop()
    private_postgresql.start()
    engine = connect(parse_url(private_postgresql.url), create=False)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


def calls(store: Store) -> list[Callable[[], object]]:
    return [
        store.list_runs,
        lambda: store.rounds("run-1"),
        store.list_clients,
        lambda: store.departures()(),
        store.list_keys,
        lambda: store.ledger_lines("hospitals", "client"),
        lambda: store.commit_round("run-1", round_of(2)),
        lambda: store.append_ledger("hospitals", "client", 2, b"reserved"),
        lambda: store.append_audit("test", "test", "test"),
        lambda: store.set_run_status("run-1", "failed"),
    ]


def test_a_database_that_was_killed_is_unavailable_to_every_call_and_the_store_works_on_when_it_is_back(
    running: PrivatePostgresql,
) -> None:
    with open_store(running.url) as store:
        store.create_run(RUN)
        store.open_ledger("hospitals", "client", bytes(32), b"opened")
        store.commit_round("run-1", round_of(1))
        for end in (running.kill, running.stop):
            end()
            for call in calls(store):
                with pytest.raises(StoreUnavailable) as caught:
                    call()
                assert "\n" not in str(caught.value) and "password" not in str(caught.value)
                assert running.url not in str(caught.value)
            with pytest.raises(StoreUnavailable):
                open_store(running.url)
            running.start()
            assert store.rounds("run-1") == [round_of(1)]
            assert store.ledger_lines("hospitals", "client") == [b"opened"]
        for call in calls(store):
            call()
        assert [one.number for one in store.rounds("run-1")] == [1, 2]


@pytest.mark.parametrize("moment", ["begin", "before_cursor_execute", "commit"])
def test_a_kill_in_the_middle_of_a_call_leaves_nothing_of_it(running: PrivatePostgresql, moment: str) -> None:
    with open_store(running.url) as store:
        store.create_run(RUN)
        armed = False

        @event.listens_for(store._engine, moment)
        def kill(*details: object) -> None:
            nonlocal armed
            statement = details[2] if moment == "before_cursor_execute" else "INSERT"
            if armed and str(statement).startswith("INSERT"):
                armed = False
                running.kill()

        armed = True
        with pytest.raises(StoreUnavailable):
            store.commit_round("run-1", round_of(1))
        assert not armed
        running.start()
        assert store.rounds("run-1") == []
        store.commit_round("run-1", round_of(1))
        assert store.rounds("run-1") == [round_of(1)]


@pytest.mark.slow
def test_however_often_it_is_killed_a_writer_that_tries_again_applies_each_round_and_record_once(
    running: PrivatePostgresql,
) -> None:
    rounds, kills = 60, 4
    with open_store(running.url) as store:
        store.create_run(RUN)
        store.open_ledger("hospitals", "client", bytes(32), b"opened")
        done = threading.Event()

        def chaos() -> None:
            for _ in range(kills):
                time.sleep(0.15)
                running.kill()
                running.start()
            done.set()

        killer = threading.Thread(target=chaos)
        killer.start()
        number = unavailable = 0
        while number < rounds or not done.is_set():
            try:
                # The commit may have got through although its answer did not: then the second try says so.
                store.commit_round("run-1", round_of(number + 1))
            except StoreUnavailable:
                unavailable += 1
                continue
            except RoundAlreadyCommitted:
                pass
            number += 1
            while True:
                try:
                    store.append_ledger("hospitals", "client", number + 1, str(number).encode())
                except StoreUnavailable:
                    unavailable += 1
                    continue
                except LedgerConflict:
                    pass
                break
        killer.join()
        assert unavailable
        assert store.rounds("run-1") == [round_of(at) for at in range(1, number + 1)]
        lines = [b"opened", *(str(at).encode() for at in range(1, number + 1))]
        assert store.ledger_lines("hospitals", "client") == lines


@pytest.mark.parametrize("url", ["postgresql+psycopg://user:hunter2@127.0.0.1:1/db", "postgresql://user:hunter2@h/db"])
def test_without_its_driver_postgresql_is_refused_in_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"no driver for .*; install tacit\[postgresql\]") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def fill(store: Store, first: int) -> int:
    """Commit rounds until the disk is full, and return how many there are."""
    number = first
    with pytest.raises(StoreUnavailable, match="full") as caught:
        while True:
            store.commit_round("run-1", round_of(number))
            number += 1
            assert number < 10_000
    assert "\n" not in str(caught.value)
    return number - 1


def test_a_full_database_is_unavailable_keeps_what_it_has_and_works_on_once_there_is_room(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "tacit.db")) as store:
        store.create_run(RUN)
        limit = "PRAGMA max_page_count = {}"

        @event.listens_for(store._engine, "begin")
        def small(connection: object) -> None:
            connection.exec_driver_sql(limit.format(80 if room is None else room))  # type: ignore[attr-defined]

        room: int | None = None
        kept = fill(store, 1)
        assert kept and store.rounds("run-1") == [round_of(at) for at in range(1, kept + 1)]
        room = 1_000_000
        store.commit_round("run-1", round_of(kept + 1))
        assert len(store.rounds("run-1")) == kept + 1


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="mounts a small disk")
def test_a_full_disk_is_unavailable_keeps_what_it_has_and_works_on_once_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(400_000))
        with open_store(str(disk / "tacit.db")) as store:
            store.create_run(RUN)
            kept = fill(store, 1)
            assert kept and store.rounds("run-1") == [round_of(at) for at in range(1, kept + 1)]
            with pytest.raises(StoreUnavailable, match="full"):
                store.set_run_status("run-1", "failed", "x" * 200_000)
            assert store.get_run("run-1").status == "running"
            ballast.unlink()
            store.commit_round("run-1", round_of(kept + 1))
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 8192))
        with pytest.raises(StoreUnavailable, match="full|disk I/O"):
            open_store(str(disk / "new.db"))
        (disk / "ballast").unlink()
        with open_store(str(disk / "tacit.db")) as store:
            assert store.rounds("run-1") == [round_of(at) for at in range(1, kept + 2)]
        with open_store(str(disk / "new.db")) as store:
            assert store.list_runs() == []
    finally:
        subprocess.run(["umount", disk], check=True)
