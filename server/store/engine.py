"""Connections: which database a text means, and what SQLite must be told before it can be trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
    TimeoutError,
)

from tacit.models.errors import InputError
from tacit.server.store.errors import StoreUnavailable

BUSY_SECONDS = 30
# What libpq is told unless the URL says otherwise: a server that has gone without a word is found out within a minute.
POSTGRESQL = {
    "application_name": "tacit",
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
WRITES = "tacit_writes"  # the execution option of a transaction that is going to write


def parse_url(text: str) -> URL:
    """Return the database that `text` names: an SQLAlchemy URL, or the path of an SQLite file.

    Raises:
        InputError: the URL cannot be read; its text is not repeated, as it may hold a password.
    """
    if "://" not in text:
        if not text:
            raise InputError("no database is named", right="give a path or an SQLAlchemy URL")
        return URL.create("sqlite", database=None if text == ":memory:" else text)
    try:
        return make_url(text)
    except ArgumentError:
        raise InputError("the database URL cannot be read", right="for example sqlite:///tacit.db") from None


def shown(url: URL) -> str:
    """Return what to call the database in a message: a path, or the URL without its password."""
    return sqlite_file(url) or url.render_as_string(hide_password=True)


def sqlite_file(url: URL) -> str | None:
    """Return the file of an SQLite database, None for one in memory and for every other database."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return url.database


def one_line(error: DBAPIError) -> str:
    """Return the driver's message without the statement, its parameters and line breaks."""
    return " ".join(str(error.orig).split())


@contextmanager
def available(url: URL) -> Iterator[None]:
    """Say of whatever keeps a database from being used, and of nothing else, that it is unavailable.

    Raises:
        StoreUnavailable: it is locked, full, damaged, out of reach, or the connection broke.
    """
    try:
        yield
    except (OperationalError, InterfaceError, InternalError) as error:
        raise StoreUnavailable(f"{shown(url)}: {one_line(error)}") from None
    except TimeoutError:
        raise StoreUnavailable(f"{shown(url)}: every connection is in use") from None
    except DatabaseError as error:
        # Its sub-classes say what is wrong with a statement; the class itself is how SQLite says "malformed".
        if type(error) is not DatabaseError:
            raise
        raise StoreUnavailable(f"{shown(url)}: {one_line(error)}") from None


def connect(url: URL, *, create: bool) -> Engine:
    """Return an engine for `url`; parameters never appear in its errors or logs.

    Args:
        url: the database.
        create: whether an SQLite file that does not exist may be made.

    Raises:
        InputError: there is no driver for the URL, or its file does not exist or cannot exist there.
    """
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        file = sqlite_file(url)
        if file:
            _prepare_file(Path(file), create=create)
        else:
            # Every connection to memory would be a database of its own: share one, in turns.
            options |= {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
        options["connect_args"] = {"check_same_thread": False, "timeout": BUSY_SECONDS}
    else:
        options["pool_pre_ping"] = True
    if url.get_backend_name() == "postgresql":
        options["connect_args"] = {name: value for name, value in POSTGRESQL.items() if name not in url.query}
    try:
        engine = create_engine(url, **options)
    except (NoSuchModuleError, ImportError):
        right = "install it, or use an SQLite file"
        if url.get_backend_name() == "postgresql":
            right = "install tacit[postgresql], and let the URL begin with postgresql+psycopg://"
        raise InputError(f"no driver for {url.drivername} is installed", where=shown(url), right=right) from None
    if url.get_backend_name() == "sqlite":
        _configure_sqlite(engine)
    return engine


def _prepare_file(file: Path, *, create: bool) -> None:
    if file.is_dir():
        raise InputError("is a directory", where=str(file), right="give the path of a database file")
    if file.exists():
        return
    if not create:
        raise InputError("there is no database", where=str(file), right="name one with --db or TACIT_DB")
    if not file.parent.is_dir():
        raise InputError("the directory does not exist", where=str(file.parent), right="make it first")
    try:
        # SQLite would use the umask; hashed keys and the audit log are for the owner alone.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise InputError(f"cannot be created ({error.strerror})", where=str(file)) from None


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        # Python's driver begins transactions when it likes, and commits before DDL: take that from it.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_SECONDS * 1000}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later can fail at once when another wrote in between, without
        # waiting; one that says from the start that it will write waits for its turn.
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
