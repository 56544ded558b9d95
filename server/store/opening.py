"""A store from the name of a database, whose schema is brought up to date on the way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from tacit.server.store.engine import connect, parse_url
from tacit.server.store.schema import upgrade
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
