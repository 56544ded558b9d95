"""The schema goes forward and back, is what the code believes it is, and a database of something else is refused."""

import sqlite3
import stat
from importlib import resources
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, update
from sqlalchemy.exc import IntegrityError

from tacit.models.errors import InputError
from tacit.server.store import NewRun, RoundRecord, StoreUnavailable, open_store
from tacit.server.store import schema as schema_module
from tacit.server.store.engine import connect, parse_url, shown
from tacit.server.store.schema import VERSION_TABLE, downgrade, upgrade
from tacit.server.store.tables import Base, RoundRow

TABLES = set(Base.metadata.tables)


def test_the_migrations_build_exactly_the_tables_that_the_code_uses(database_url: str) -> None:
    with open_store(database_url) as store, store._engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
        inspector = inspect(connection)
        for name, table in Base.metadata.tables.items():
            # The comparison above does not look at primary keys.
            assert inspector.get_pk_constraint(name)["constrained_columns"] == [one.name for one in table.primary_key]


def test_the_database_itself_refuses_a_second_committed_attempt(database_url: str) -> None:
    with open_store(database_url) as store:
        store.create_run(NewRun("run-1", "r", "t", "", "a" * 64, "d"))
        store.commit_round("run-1", RoundRecord(1, 0, "committed", 1.0))
        store.commit_round("run-1", RoundRecord(1, 1, "aborted", 1.0))
        store.commit_round("run-1", RoundRecord(1, 2, "aborted", 1.0))
        with pytest.raises(IntegrityError), store._engine.begin() as connection:
            connection.execute(update(RoundRow).where(RoundRow.attempt == 1).values(outcome="committed"))


def test_every_step_can_be_taken_back_and_taken_again(database_url: str) -> None:
    engine = connect(parse_url(database_url), create=True)
    steps = [script.revision for script in reversed(list(schema_module._scripts().walk_revisions()))]
    for _ in range(2):
        for step in steps:
            upgrade(engine, step)
        with engine.connect() as connection:
            assert set(inspect(connection).get_table_names()) == TABLES | {VERSION_TABLE}
        for step in [*reversed(steps[:-1]), "base"]:
            downgrade(engine, step)
        with engine.connect() as connection:
            assert inspect(connection).get_table_names() == [VERSION_TABLE]
    engine.dispose()
    if "memory" not in database_url and database_url != "sqlite://":
        open_store(database_url).close()


def test_opening_again_keeps_the_data(shared_url: str) -> None:
    for number in range(3):
        with open_store(shared_url) as store:
            assert len(store.list_runs()) == number
            store.create_run(NewRun(f"run-{number}", "r", "t", "", "a" * 64, "d"))


def test_a_database_of_a_newer_tacit_is_refused_and_left_alone(shared_url: str) -> None:
    with open_store(shared_url) as store, store._engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '2099_01_01_tables'")
    with pytest.raises(InputError, match=r"was written by a newer Tacit \(schema 2099_01_01_tables\); upgrade Tacit"):
        open_store(shared_url)


def test_migrations_are_dated_and_found_as_package_data() -> None:
    versions = resources.files("tacit.server.store") / "migrations" / "versions"
    names = sorted(one.name for one in versions.iterdir() if one.name.startswith("v"))
    script: ScriptDirectory = schema_module._scripts()
    revisions = [one.revision for one in reversed(list(script.walk_revisions()))]
    assert names == [f"v{revision}.py" for revision in revisions] and revisions == sorted(revisions)


def test_a_file_that_is_no_database_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("this is not a database, whatever its name\n" * 50)
    before = file.read_bytes()
    with pytest.raises(InputError, match="cannot be used as a database") as caught:
        open_store(str(file))
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    assert file.read_bytes() == before


def test_the_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(InputError, match="is a database of something else"):
        open_store(str(file))
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("songs",)]
    connection.close()


def test_a_damaged_database_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "tacit.db"
    open_store(str(file)).close()
    content = bytearray(file.read_bytes())
    content[100:] = bytes(len(content) - 100)
    file.write_bytes(content)
    with pytest.raises((InputError, StoreUnavailable)) as caught:
        open_store(str(file))
    assert "\n" not in str(caught.value)


def test_paths_and_urls_name_the_same_database(tmp_path: Path) -> None:
    file = tmp_path / "tacit.db"
    with open_store(str(file)) as store:
        store.create_run(NewRun("run-1", "r", "t", "", "a" * 64, "d"))
    with open_store(f"sqlite:///{file}", create=False) as store:
        assert store.get_run("run-1").recipe_name == "r"


def test_reading_does_not_make_a_database(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no database"):
        open_store(str(tmp_path / "tacit.db"), create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "no database is named"),
        (".", "is a directory"),
        ("missing/tacit.db", "the directory does not exist"),
        ("what://host/db", "no driver for what is installed"),
        ("postgres ql://u:hunter2@h:x/db", "cannot be read"),
    ],
)
def test_a_database_that_cannot_be_is_refused(
    url: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_never_shown() -> None:
    assert "hunter2" not in shown(parse_url("postgresql+psycopg://tacit:hunter2@host/db"))


def test_a_new_file_is_for_its_owner_alone_and_safe_from_power_cuts(tmp_path: Path) -> None:
    file = tmp_path / "tacit.db"
    with open_store(str(file)) as store:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        with store._engine.connect() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_database_that_stays_locked_is_unavailable_and_nothing_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tacit.server.store.engine.BUSY_SECONDS", 0.05)
    file = tmp_path / "tacit.db"
    with open_store(str(file)) as store:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="database is locked"):
            store.create_run(NewRun("run-1", "r", "t", "", "a" * 64, "d"))
        assert store.list_runs() == [], "reading goes on beside a writer"
        other.execute("ROLLBACK")
        other.close()
        store.create_run(NewRun("run-1", "r", "t", "", "a" * 64, "d"))
