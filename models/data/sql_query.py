"""`sql:URL?query=...`: the rows of one query, over a connection that cannot write.

Three things keep the database as it is, and each would do alone for an honest query: the statement is one SELECT; the
database itself is told to refuse anything else (a file opened to be read, or a transaction that is READ ONLY); and the
connection is the connector's own and is rolled back. What a server's functions can do beside tables is up to the role
that the URL names, which should be one that may only read.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.classes import label_texts
from tacit.models.data.options import check_options, check_task, listed
from tacit.models.data.rows import Source
from tacit.models.data.tables import TABLE_OPTIONS, Table, table_source
from tacit.models.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

WHERE = "data source sql"
# Rows that are held as the driver gave them before they become numbers and shared texts.
ROWS_AT_ONCE = 10_000

_STATEMENT = re.compile(r"(select|with)\b[^;]*", re.IGNORECASE)
_DRIVERS = {"sqlite": ("pysqlite",), "postgresql": ("psycopg", "psycopg2")}
_NUMBERS = {int, float, Decimal, type(None)}
# Below the logger of SQLAlchemy's engines, which writes whole rows where logging is at its most detailed.
_LOGGING_NAME = "tacit-rows"


def open_sql(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Open the rows of one query to SQLite or PostgreSQL.

    Numbers become numeric columns, text and truth values categorical ones; a column that has both is categorical.
    Options: `query=` one SELECT, or `table=` a table (or schema.table) to read whole; `numeric=`, `categorical=`,
    `drop=` and `classes=` as for CSV.

    Args:
        location: an SQLAlchemy URL. It may hold a password, so no error repeats any of it.
        options: see above.
        task: the recipe's task kind.
        label: the column that holds the label.

    Raises:
        InputError: the URL or the statement cannot be used, the database refuses, a column is neither numbers, text
            nor truth values, or SQLAlchemy or the database's driver is not installed.
    """
    check_options("sql", options, ("query", "table", *(name for name in TABLE_OPTIONS if name != "test")))
    check_task("sql", task, ("tabular-classification", "tabular-regression"))
    if ("query" in options) == ("table" in options):
        raise InputError("needs a query or a table", where=WHERE, right="one of query= and table=")
    engine = _engine(location)
    statement = _statement(options, engine)
    columns = _read(engine, statement, listed(options, "drop"))
    count = len(next(iter(columns.values())))
    table = Table(columns, (Path(WHERE),), np.zeros(count, dtype=np.int64), np.arange(count), unit="row")
    return table_source(table, None, options, task=task, label=label, where=WHERE, infer=False)


def _engine(location: str) -> Engine:
    """Return an engine whose connections cannot write."""
    try:
        import sqlalchemy
    except ImportError:
        raise InputError("needs SQLAlchemy", where=WHERE, right="install tacit[agent]") from None
    # Errors are raised outside of `except`: what a URL's parser or a driver says may hold a password or a row, and
    # would otherwise hang on the error as its context.
    url: URL | None
    try:
        url = sqlalchemy.make_url(location)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        url = None
    if url is None:
        raise InputError("the URL cannot be read", where=WHERE, right="for example sqlite:///visits.db")
    backend, _, driver = url.drivername.partition("+")
    if backend not in _DRIVERS or (driver and driver not in _DRIVERS[backend]):
        right = " or ".join(f"{name}+{driver}" for name, drivers in _DRIVERS.items() for driver in drivers)
        raise InputError("knows no way to make this database read-only", where=WHERE, right=f"a URL of {right}")
    logging.getLogger(f"sqlalchemy.engine.Engine.{_LOGGING_NAME}").setLevel(logging.WARNING)
    options: dict[str, Any] = {
        "hide_parameters": True,
        "logging_name": _LOGGING_NAME,
        "poolclass": sqlalchemy.pool.NullPool,
    }
    if backend == "sqlite":
        options["creator"] = _sqlite_opener(url)
    engine = None
    try:
        engine = sqlalchemy.create_engine(url, **options)
    except (ImportError, sqlalchemy.exc.SQLAlchemyError):
        pass
    if engine is None:
        raise InputError("the database's driver is not installed", where=WHERE, right="tacit[postgresql]")
    return engine


def _sqlite_opener(url: URL) -> Callable[[], Any]:
    """Return what opens an SQLite file so that neither it nor any other file can be changed through the connection."""
    if url.query or url.host or url.username or url.password:
        raise InputError("the URL holds more than a path", where=WHERE, right="sqlite:///PATH")
    path = Path(url.database or "")
    if not path.is_file():
        raise InputError("there is no such file", where=WHERE, right="sqlite:///PATH of a database that exists")

    import sqlite3

    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}

    def authorise(action: int, subject: str | None, *_: str | None) -> int:
        # SQLAlchemy asks for the isolation level, which is the connection's own matter.
        asks = action == sqlite3.SQLITE_PRAGMA and subject == "read_uncommitted"
        return sqlite3.SQLITE_OK if asks or action in allowed else sqlite3.SQLITE_DENY

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
        connection.execute("PRAGMA query_only = ON")
        # mode=ro is about this file alone; ATTACH would make and open others.
        connection.set_authorizer(authorise)
        return connection

    return connect


def _statement(options: Mapping[str, str], engine: Engine) -> str:
    """Return the one SELECT that the options ask for."""
    if "table" in options:
        quoted = map(engine.dialect.identifier_preparer.quote_identifier, options["table"].split("."))
        return f"SELECT * FROM {'.'.join(quoted)}"  # noqa: S608 (quoted as the database quotes)
    statement = options["query"].strip().removesuffix(";").strip()
    # A driver may run what follows a semicolon as a statement of its own, and one that ends the transaction also ends
    # its promise; to tell a semicolon in a text from one outside is the database's business.
    if not _STATEMENT.fullmatch(statement):
        raise InputError("is not one SELECT", where="option query", right="SELECT or WITH first, and no semicolon")
    return statement


def _read(engine: Engine, statement: str, dropped: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return the columns of the rows: float64 with NaN for a missing value, or text with `""` for one.

    The rows arrive in portions and become columns at once: 8 bytes for a number and for a text, and each distinct text
    once.
    """
    import sqlalchemy

    refused, step, right = "", "connection", "a server that can be reached, and a role that may log in"
    columns: list[_Values] = []
    try:
        with _read_only(engine) as connection:
            step, right = "query", "a SELECT that the role of the URL may run"
            options = {"stream_results": True, "max_row_buffer": ROWS_AT_ONCE, "no_parameters": True}
            with connection.execution_options(**options).exec_driver_sql(statement) as result:
                columns = [_Values(name, dropped=name in dropped) for name in result.keys()]
                for portion in result.partitions(ROWS_AT_ONCE):
                    for column, values in zip(columns, zip(*portion, strict=True), strict=True):
                        column.add(values)
    except sqlalchemy.exc.SQLAlchemyError as error:
        refused = _code(error)
    except InputError:
        raise
    except (ValueError, OverflowError):
        refused = " (a value cannot be read)"
    if refused:
        raise InputError(f"the database refused the {step}{refused}", where=WHERE, right=right)
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise InputError("two columns have the same name", where=WHERE, right="names that differ, given with AS")
    if not columns or not columns[0].rows:
        raise InputError("the query returns no rows", where=WHERE, right="at least one row")
    return {column.name: column.joined() for column in columns}


@contextmanager
def _read_only(engine: Engine) -> Iterator[Connection]:
    """Open a connection whose transaction the database itself keeps from writing, and end it without a commit."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            if connection.exec_driver_sql("SHOW transaction_read_only").scalar_one() != "on":
                raise InputError("the transaction is not read-only", where=WHERE, right="a server that keeps to it")
        try:
            yield connection
        finally:
            connection.rollback()


def _code(error: Exception) -> str:
    """Return the code by which the database names an error; its message may quote a row."""
    cause = getattr(error, "orig", None)
    code = (
        getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    )
    return f" ({code})" if isinstance(code, str) and re.fullmatch(r"\w{1,64}", code) else f" ({type(error).__name__})"


class _Values:
    """The values of one column, as they come in."""

    def __init__(self, name: str, *, dropped: bool) -> None:
        self.name = name
        self.rows = 0
        self._dropped = dropped
        self._portions: list[NDArray[Any]] = []
        self._texts: dict[str, str] = {"": ""}

    def add(self, values: tuple[Any, ...]) -> None:
        """Take the next values: float64 if all that are there are numbers, else text."""
        if self._dropped:
            portion: NDArray[Any] = np.full(len(values), "", dtype=object)
        elif set(map(type, values)) <= _NUMBERS:
            portion = np.fromiter(map(_number, values), dtype=np.float64, count=len(values))
        else:
            portion = np.array([self._text(value) for value in values], dtype=object)
        self._portions.append(portion)
        self.rows += len(values)

    def joined(self) -> NDArray[Any]:
        """Return the column: text if any portion of it is."""
        if any(portion.dtype == object for portion in self._portions):
            portions = [part if part.dtype == object else label_texts(part) for part in self._portions]
            return np.concatenate(portions)
        return np.concatenate(self._portions)

    def _text(self, value: object) -> str:
        match value:
            case None:
                text = ""
            case bool():
                text = "true" if value else "false"
            case str():
                text = value.strip()
            case int() | float() | Decimal():
                text = str(label_texts(np.array([_number(value)]))[0])
            case _:
                raise InputError(
                    f"column {self.name!r} is of type {type(value).__name__}",
                    where=WHERE,
                    right="numbers, text or truth values: CAST it in the query, or drop= it",
                )
        return self._texts.setdefault(text, text)


def _number(value: float | Decimal | None) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
