"""Whether a database has changed, asked so cheaply that it can be asked with every request."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError

from tacit.server.store.engine import shown, sqlite_file
from tacit.server.store.errors import StoreUnavailable

FRESH_SECONDS = 0.02  # for which a database that cannot tell counts as unchanged: a stage of a round takes as long


class Changes:
    """Whether anything may have been committed since one asked last; to be used by one thread at a time.

    An SQLite file tells each of its readers so, in microseconds and exactly. Of any other database nothing is known:
    it counts as changed, but for some milliseconds after each answer.

    Args:
        engine: the database.
        clock: seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        """Ask nothing yet."""
        self._engine = engine
        self._clock = clock
        self._tells = sqlite_file(engine.url) is not None
        self._kept: PoolProxiedConnection | None = None
        self._seen: int | None = None

    def __call__(self) -> bool:
        """Say whether to look again.

        Raises:
            StoreUnavailable: the database cannot be asked now.
        """
        now = self._version() if self._tells else int(self._clock() / FRESH_SECONDS)
        changed, self._seen = now != self._seen, now
        return changed

    def close(self) -> None:
        """Give the connection back; the next answer is that there may be a change."""
        kept, self._kept, self._seen = self._kept, None, None
        if kept is not None:
            kept.close()

    def _version(self) -> int:
        """Return a number that is another one after every commit of any other connection."""
        try:
            if self._kept is None:
                self._kept = self._engine.raw_connection()
            cursor = self._kept.cursor()
            cursor.execute("PRAGMA data_version")
            (version,) = cursor.fetchone() or (0,)
        except (DBAPIError, sqlite3.Error) as error:
            self.close()
            told = error.orig if isinstance(error, DBAPIError) else error
            raise StoreUnavailable(f"{shown(self._engine.url)}: {told}") from None
        return int(version)
