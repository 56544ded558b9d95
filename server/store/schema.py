"""The schema's version: brings a database to the newest one, and refuses what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DatabaseError, InterfaceError, InternalError, OperationalError

from tacit.models.errors import InputError
from tacit.server.store.engine import WRITES, available, one_line, shown

# Not Alembic's own name for it: Flower's state may live in the same database, with migrations of its own.
VERSION_TABLE = "tacit_schema_version"
# A constant that others who lock in the same PostgreSQL database are unlikely to use.
_POSTGRES_LOCK = 7_217_554_038


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate the database to `revision`, in one transaction that other processes wait for.

    Raises:
        InputError: it is no database, holds something else, or was made by a newer Tacit.
        StoreUnavailable: it is locked or cannot be reached.
    """
    where = shown(engine.url)
    with _usable(engine):
        with engine.connect() as connection:
            present = _revision(connection, where)
        if revision == "head" and present == _scripts().get_current_head():
            return
        with exclusive(engine) as connection:
            _revision(connection, where)
            command.upgrade(_config(connection), revision)


def check(engine: Engine) -> None:
    """Refuse what `upgrade` would refuse, and migrate nothing.

    Raises:
        InputError: it is no database, holds something else, or was made by a newer Tacit.
        StoreUnavailable: it is locked or cannot be reached.
    """
    with _usable(engine), engine.connect() as connection:
        _revision(connection, shown(engine.url))


def downgrade(engine: Engine, revision: str) -> None:
    """Take the database back to an older `revision`, or to "base"; data that it has no place for is lost."""
    with exclusive(engine) as connection:
        command.downgrade(_config(connection), revision)


@contextmanager
def exclusive(engine: Engine) -> Iterator[Connection]:
    """Begin a transaction that whoever migrates, or fills an empty database, waits for."""
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
        yield connection


@contextmanager
def _usable(engine: Engine) -> Iterator[None]:
    """Say in one line that what the engine leads to is no database, or not to be had at the moment."""
    with available(engine.url):
        try:
            yield
        except (OperationalError, InterfaceError, InternalError):
            raise
        except DatabaseError as error:
            raise InputError(f"cannot be used as a database ({one_line(error)})", where=shown(engine.url)) from None


def _revision(connection: Connection, where: str) -> str | None:
    """Return the schema that the database has, None for an empty one."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    revision = context.get_current_revision()
    if revision is None:
        # PostgreSQL databases are often shared; an SQLite file with other tables is a mistyped path.
        if connection.dialect.name == "sqlite" and set(inspect(connection).get_table_names()) - {VERSION_TABLE}:
            raise InputError("is a database of something else", where=where, right="name a new file")
    elif revision not in {script.revision for script in _scripts().walk_revisions()}:
        raise InputError(f"was written by a newer Tacit (schema {revision})", where=where, right="upgrade Tacit")
    return revision


def _config(connection: Connection | None = None) -> Config:
    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    # package:directory is resolved by importlib.resources, so it works from a wheel.
    config.set_main_option("script_location", "tacit.server.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
