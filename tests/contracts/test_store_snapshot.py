"""The whole database at one moment: the same rows wherever they come from and go to, or none of them."""

import math
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, select, text

from tacit.models.errors import InputError
from tacit.server.store import (
    CheckpointRef,
    LedgerLine,
    NewClient,
    NewInvitation,
    NewModelVersion,
    NewRun,
    Participation,
    RoundRecord,
    Store,
    StoreUnavailable,
    open_store,
    snapshot,
)
from tacit.server.store.tables import Base

NOW = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
CHECKPOINT = CheckpointRef("round-000001.safetensors", "b" * 64)


@pytest.fixture
def other_url(request: pytest.FixtureRequest, shared_url: str, tmp_path: Path) -> Iterator[str]:
    """A second empty database of the same make."""
    if shared_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'other.db'}"
        return
    url, schema = make_url(shared_url), f"tacit_{uuid.uuid4().hex}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield url.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


def populate(store: Store) -> None:
    """Put something into every table, and every awkward value somewhere."""
    environment = {"nan": math.nan, "nested": [None, True, {"deep": math.inf}], "text": "naïve \N{SNOWMAN}"}
    store.create_run(NewRun("run-1", "r", "t", "seed = 7\n", "a" * 64, "runs/run-1", environment))
    store.create_run(NewRun("run-2", "r", "t", "", "a" * 64, "runs/run-2"))
    store.open_ledger("hospitals", "client", bytes(range(32)), b"\0opened\xff")
    members = tuple(Participation(f"client-{at}", "reported", "why \N{BULLET}", "fit") for at in range(1200))
    record = RoundRecord(1, 0, "committed", 1.25, {"loss": math.nan, "accuracy": 1 / 3}, members, CHECKPOINT)
    model = NewModelVersion("fashion", "c" * 64, "run-1", 1, {"loss": math.nan}, {"a": 1}, {"f": "d" * 64})
    store.commit_round("run-1", record, model=model, ledger=[LedgerLine("hospitals", "client", 2, bytes(300))])
    store.set_alias("fashion", "champion", 1, "test")
    invitation = NewInvitation("ab" * 16, "north", "wards", bytes(32), bytes(32), NOW + timedelta(days=9999))
    store.invite(invitation)
    store.enrol_client("ab" * 16, NewClient(bytes(32), "north", "wards", bytes(32), b"certificate"))
    store.invite(NewInvitation("cd" * 16, "south", "", None, bytes(32), NOW + timedelta(days=9999)))
    store.create_key("shop", ["predict"])


def dump(store: Store) -> dict[str, list[dict[str, Any]]]:
    with store._engine.connect() as connection:
        return {
            name: [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]
            for name, table in Base.metadata.tables.items()
        }


def test_what_is_saved_and_filled_in_is_the_same_whatever_the_database(
    shared_url: str, other_url: str, tmp_path: Path
) -> None:
    with open_store(shared_url, now=lambda: NOW) as store:
        populate(store)
        before = dump(store)
    filled = {name for name, rows in before.items() if rows}
    assert {
        "runs",
        "rounds",
        "participation",
        "ledger_records",
        "clients",
        "invitations",
        "api_keys",
        "audit",
    } <= filled
    snapshot.save(shared_url, tmp_path / "moment.db")
    snapshot.check(tmp_path / "moment.db")
    assert snapshot.ledgers(tmp_path / "moment.db") == [("hospitals", "client")]
    with open_store(str(tmp_path / "moment.db")) as store:
        assert repr(dump(store)) == repr(before)  # NaN equals nothing, its text does
    snapshot.fill(tmp_path / "moment.db", other_url)
    with open_store(other_url, now=lambda: NOW) as store:
        assert repr(dump(store)) == repr(before)
        # Whoever writes next gets numbers that nobody has.
        store.append_audit("test", "test", "test")
        store.set_alias("fashion", "champion", 1, "test")
        store.enrol_client("cd" * 16, NewClient(bytes(31) + b"1", "south", "", bytes(32), b"certificate"))
        store.append_ledger("hospitals", "client", 3, b"more")


def test_a_database_that_is_not_empty_is_not_filled(shared_url: str, other_url: str, tmp_path: Path) -> None:
    with open_store(shared_url) as store:
        populate(store)
    snapshot.save(shared_url, tmp_path / "moment.db")
    with open_store(other_url) as store:
        store.append_audit("somebody", "test", "else")
        before = dump(store)
        with pytest.raises(InputError, match="holds a coordinator's data already"):
            snapshot.fill(tmp_path / "moment.db", other_url)
        assert dump(store) == before
    snapshot.clear(other_url)
    snapshot.fill(tmp_path / "moment.db", other_url)
    with open_store(other_url) as store:
        assert len(store.list_runs()) == 2


def test_what_cannot_be_filled_in_to_the_end_leaves_the_database_empty(
    shared_url: str, other_url: str, tmp_path: Path
) -> None:
    with open_store(shared_url) as store:
        populate(store)
    file = tmp_path / "moment.db"
    snapshot.save(shared_url, file)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE audit SET details = '{'")  # the last table, and no JSON
    with pytest.raises(Exception):  # noqa: B017 - whatever the damage leads to
        snapshot.fill(file, other_url)
    with open_store(other_url) as store:
        assert not any(dump(store).values())


def test_nobody_commits_a_round_while_it_is_held_and_what_comes_later_is_not_in_it(
    shared_url: str, tmp_path: Path
) -> None:
    committed, started = threading.Event(), threading.Event()
    with open_store(shared_url) as store:
        populate(store)

        def commit() -> None:
            started.set()
            store.commit_round("run-1", RoundRecord(2, 0, "committed", 1.0))
            committed.set()

        writer = threading.Thread(target=commit)

        def hold() -> None:
            writer.start()
            assert started.wait(60) and not committed.wait(0.5)
            assert [one.number for one in store.rounds("run-1")] == [1], "reading goes on"

        snapshot.save(shared_url, tmp_path / "moment.db", hold)
        writer.join(60)
        assert committed.is_set()
        assert [one.number for one in store.rounds("run-1")] == [1, 2]
    with open_store(str(tmp_path / "moment.db")) as store:
        assert [one.number for one in store.rounds("run-1")] == [1]


def test_a_snapshot_that_was_damaged_is_refused(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "tacit.db")) as store:
        populate(store)
    snapshot.save(str(tmp_path / "tacit.db"), tmp_path / "moment.db")
    with closing(sqlite3.connect(tmp_path / "moment.db")) as connection, connection:
        connection.execute("DELETE FROM runs")
    with pytest.raises(InputError, match="damaged"):
        snapshot.check(tmp_path / "moment.db")


def test_a_database_that_is_away_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        snapshot.save("postgresql+psycopg://tacit:hunter2@127.0.0.1:1/tacit", tmp_path / "moment.db")
    assert list(tmp_path.iterdir()) == []


MOVED = (Path("/old"), Path("/new"))


def test_after_a_backup_with_gaps_nothing_is_appended_to_a_ledger_and_no_invitation_is_open(tmp_path: Path) -> None:
    file = tmp_path / "tacit.db"
    with open_store(str(file), now=lambda: NOW) as store:
        populate(store)
        store.create_run(NewRun("run-3", "r", "t", "", "a" * 64, "/old/runs/run-3"))
        store.finish_run("run-2", {})
    snapshot.adopt(file, made_at=NOW, now=NOW + timedelta(days=1), moved=MOVED, nothing_since=False)
    with open_store(str(file)) as store:
        assert {run.run: run.status for run in store.list_runs()} == {
            "run-1": "failed",
            "run-2": "finished",
            "run-3": "failed",
        }
        assert store.get_run("run-3").directory == "/new/runs/run-3"
        assert store.get_run("run-1").directory == "runs/run-1"
        why = store.ledger_closed("hospitals", "client")
        assert why is not None and "2026-03-14 09:26 UTC" in why
        assert store.ledger_closed("nobody", "client") is None
        with pytest.raises(InputError, match="is closed"):
            store.append_ledger("hospitals", "client", 3, b"more")
        with pytest.raises(InputError, match="is closed"):
            line = LedgerLine("hospitals", "client", 3, b"more")
            store.commit_round("run-1", RoundRecord(2, 0, "committed", 1.0), ledger=[line])
        assert len(store.rounds("run-1")) == 1
        assert [one.name for one in store.list_invitations() if one.revoked_at] == ["south"]
        assert [one.state for one in store.list_clients()] == ["active"]
