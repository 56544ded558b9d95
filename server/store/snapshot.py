"""The whole database at one moment as one SQLite file, whatever database it comes from or goes to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Engine, delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from tacit.models.errors import InputError
from tacit.server.store import audit
from tacit.server.store.engine import available, connect, parse_url, shown
from tacit.server.store.errors import StoreUnavailable
from tacit.server.store.schema import exclusive, upgrade
from tacit.server.store.tables import Base, InvitationRow, LedgerRow, RoundRow, RunRow

ROWS = 500  # at a time
TABLES = Base.metadata.sorted_tables  # what others point at comes first


def save(url: str, file: Path, hold: Callable[[], None] = lambda: None) -> None:
    """Write what a database holds at one moment to a new SQLite file, while others go on reading and writing.

    Args:
        url: the database, as `open_store` takes it.
        file: does not exist.
        hold: called at that moment; until it returns nobody can commit a round.

    Raises:
        InputError: it is no database of Tacit's, or one of a newer Tacit.
        StoreUnavailable: the database cannot be reached, or the disk is full.
    """
    with _opened(url, create=False) as source:
        if source.dialect.name == "sqlite":
            with exclusive(source):
                hold()
                _copy_file(source, file)
            return
        one_moment = source.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with one_moment.begin() as reading:
            with source.begin() as waiting:
                waiting.execute(text(f"LOCK TABLE {RoundRow.__tablename__} IN SHARE MODE"))
                reading.execute(select(RoundRow.run).limit(1))  # the moment is that of the first query
                hold()
            with _opened(str(file), create=True) as target, exclusive(target) as writing:
                _copy_rows(reading, writing)


def fill(file: Path, url: str) -> None:
    """Put what `save` wrote into an empty database, all of it or nothing.

    Raises:
        InputError: the database is not empty.
        StoreUnavailable: it cannot be reached, or is full.
    """
    with _opened(str(file), create=False) as source, _opened(url, create=True) as target:
        with source.begin() as reading, exclusive(target) as writing:
            if any(writing.execute(select(table).limit(1)).first() is not None for table in TABLES):
                raise InputError(
                    "holds a coordinator's data already", where=shown(target.url), right="name an empty one by --db"
                )
            _copy_rows(reading, writing)


def clear(url: str) -> None:
    """Remove every row of a database again."""
    with _opened(url, create=False) as engine, exclusive(engine) as connection:
        for table in reversed(TABLES):
            connection.execute(delete(table))


def check(file: Path) -> None:
    """Check that what `save` wrote is a sound database, and bring it up to date.

    Raises:
        InputError: it is not, or is one of a newer Tacit.
        StoreUnavailable: the disk is full.
    """
    try:
        # Nobody else has it, and whatever is wrong with it is not to be written to.
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
            dangling = connection.execute("PRAGMA foreign_key_check").fetchone()
    except sqlite3.Error:
        found, dangling = [], None
    if found != [("ok",)] or dangling is not None:
        raise InputError("the database in it is damaged", right="use another backup")
    with _opened(str(file), create=False):
        pass


def ledgers(file: Path) -> list[tuple[str, str]]:
    """Return population and unit of every ledger."""
    with _opened(str(file), create=False) as engine, engine.connect() as connection:
        query = select(LedgerRow.population, LedgerRow.unit).order_by(LedgerRow.population, LedgerRow.unit)
        return [(population, unit) for population, unit in connection.execute(query)]


def adopt(file: Path, *, made_at: datetime, now: datetime, moved: tuple[Path, Path], nothing_since: bool) -> None:
    """Make what `save` wrote into the database of a coordinator that was restored.

    What was released after the backup is not in it. So nothing is gone on with that this could make cost more than is
    counted, unless somebody knows that nothing was: runs have failed, ledgers are closed, invitations are void.

    Args:
        file: what `save` wrote.
        made_at: when.
        now: the time.
        moved: the coordinator's directory then, and now.
        nothing_since: whether it is known that nothing has happened since.
    """
    engine = connect(parse_url(str(file)), create=False)
    with available(engine.url), closing_engine(engine), Session(engine) as session, session.begin():
        for run in session.scalars(select(RunRow)):
            if Path(run.directory).is_relative_to(moved[0]):
                run.directory = str(moved[1] / Path(run.directory).relative_to(moved[0]))
        if not nothing_since:
            why = f"restored from a backup of {made_at:%Y-%m-%d %H:%M} UTC; what was spent since then is not known"
            session.execute(
                update(RunRow)
                .where(RunRow.status.in_(("running", "interrupted")))
                .values(status="failed", reason=why, finished_at=now, updated_at=now)
            )
            session.execute(update(LedgerRow).where(LedgerRow.closed.is_(None)).values(closed=why))
            is_open = InvitationRow.used_at.is_(None) & InvitationRow.revoked_at.is_(None)
            session.execute(update(InvitationRow).where(is_open).values(revoked_at=now))
        details = {"made_at": made_at.isoformat(), "nothing_since": nothing_since}
        audit.append(session, "coordinator", "store.restore", str(moved[1]), details, now)


@contextmanager
def closing_engine(engine: Engine) -> Iterator[None]:
    """Close every connection at the end; an SQLite database is one file then."""
    try:
        yield
    finally:
        engine.dispose()


@contextmanager
def _opened(url: str, *, create: bool) -> Iterator[Engine]:
    engine = connect(parse_url(url), create=create)
    with available(engine.url), closing_engine(engine):
        upgrade(engine)
        yield engine


def _copy_file(source: Engine, file: Path) -> None:
    file.touch(mode=0o600, exist_ok=False)
    with source.connect() as connection, closing(sqlite3.connect(file)) as target:
        driver = cast(sqlite3.Connection, connection.connection.driver_connection)
        try:
            driver.backup(target)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{shown(source.url)}: cannot be copied ({error})") from None


def _copy_rows(source: Connection, target: Connection) -> None:
    for table in TABLES:
        found = source.execution_options(stream_results=True, yield_per=ROWS).execute(select(table)).mappings()
        for rows in found.partitions():
            target.execute(insert(table), [dict(row) for row in rows])
        counted: Any = table.autoincrement_column
        if counted is not None and target.dialect.name == "postgresql":
            # Numbers that were given explicitly do not move the sequence that gives the next one.
            last = target.execute(select(func.max(counted))).scalar()
            if last is not None:
                sequence = text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)")
                target.execute(sequence, {"table": table.name, "column": counted.name, "last": last})
