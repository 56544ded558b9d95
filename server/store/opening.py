"""A store from the name of a database, whose schema is brought up to date on the way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tacit.server.store.engine import connect, parse_url, sqlite_file
from tacit.server.store.schema import check, upgrade
from tacit.server.store.store import Store


def _utc_now() -> datetime:
    return datetime.now(UTC)


def open_store(
    url: str = "sqlite:///tacit.db", *, create: bool = True, now: Callable[[], datetime] = _utc_now
) -> Store:
    """Open the database and bring its schema up to date.

    Args:
        url: an SQLAlchemy URL, the path of an SQLite file, or ":memory:".
        create: whether an SQLite file that does not exist may be made; commands that only read say no.
        now: the clock; its times carry their zone.

    Raises:
        InputError: it is no database of Tacit's, or one of a newer Tacit.
        StoreUnavailable: it is locked or cannot be reached.
    """
    engine = connect(parse_url(url), create=create)
    try:
        upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine, now)


def check_database(url: str) -> None:
    """Refuse a database that `open_store` would refuse, before anything depends on it.

    A file that is not there yet may be made, and a server may come later: neither is looked for.

    Raises:
        InputError: there is no driver for it, or the file is no database, another program's, or a newer Tacit's.
        StoreUnavailable: the file is locked.
    """
    database = parse_url(url)
    file = sqlite_file(database)
    if file is not None and not Path(file).exists():
        return
    engine = connect(database, create=False)
    try:
        if file is not None:
            check(engine)
    finally:
        engine.dispose()
