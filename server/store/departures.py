"""Which keys take part no longer, asked so cheaply that it can be asked with every request."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import cast

from sqlalchemy import Engine, PoolProxiedConnection, select

from tacit.server.store.engine import available, shown, sqlite_file
from tacit.server.store.errors import StoreUnavailable
from tacit.server.store.records import ClientState
from tacit.server.store.tables import ClientRow

FRESH_SECONDS = 0.02  # for which a database that cannot tell counts as unchanged: a stage of a round takes as long
_DEPARTED = select(ClientRow.public_key, ClientRow.state).where(ClientRow.state != "active")


class Departures:
    """The keys of those who were revoked or have left, and of which they are; to be used by one thread at a time.

    An SQLite file tells each of its readers whether anything was committed, in microseconds and exactly. Of any other
    database nothing is known: it counts as changed, but for some milliseconds after each look.

    Args:
        engine: the database.
        clock: seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        """Look at nothing yet."""
        self._engine = engine
        self._clock = clock
        self._statement = str(_DEPARTED.compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True}))
        self._kept: PoolProxiedConnection | None = None
        self._seen: float | None = None  # the version of a file, the second of a look elsewhere

    def __call__(self) -> Mapping[bytes, ClientState] | None:
        """Return them as they are now; None if nothing can have changed since the last answer.

        Raises:
            StoreUnavailable: the database cannot be asked now.
        """
        if sqlite_file(self._engine.url) is not None:
            return self._told()
        now = self._clock()
        if self._seen is not None and now < self._seen + FRESH_SECONDS:
            return None
        with available(self._engine.url), self._engine.connect() as connection:
            found = {key: cast(ClientState, state) for key, state in connection.execute(_DEPARTED)}
        self._seen = now
        return found

    def close(self) -> None:
        """Give the connection back; the next answer is a whole one."""
        kept, self._kept, self._seen = self._kept, None, None
        if kept is not None:
            kept.close()

    def _told(self) -> Mapping[bytes, ClientState] | None:
        """Look only if another connection has committed; without a transaction, which would hold the answer fast."""
        try:
            if self._kept is None:
                with available(self._engine.url):
                    self._kept = self._engine.raw_connection()
            cursor = self._kept.cursor()
            cursor.execute("PRAGMA data_version")
            (version,) = cursor.fetchone() or (0,)
            if version == self._seen:
                return None
            cursor.execute(self._statement)
            found = {bytes(key): cast(ClientState, state) for key, state in cursor.fetchall()}
        except sqlite3.Error as error:
            self.close()
            raise StoreUnavailable(f"{shown(self._engine.url)}: {error}") from None
        self._seen = version
        return found
