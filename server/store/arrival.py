"""A database whose server is not there yet: whoever starts first waits for it, not for what waiting cannot mend."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from tacit.server.store.engine import POSTGRESQL, connect, one_line, parse_url, shown
from tacit.server.store.errors import StoreUnavailable
from tacit.server.store.opening import open_store
from tacit.server.store.store import Store

_LOG = logging.getLogger(__name__)
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
LOOK_SECONDS = 0.05
ASK_SECONDS = 2  # less is not less: libpq rounds it up
# How libpq says that it and the server do not agree on TLS; in English, as Python sets no other language for messages.
TLS_WORDS = ("certificate", "SSL")


def open_once_there(
    url: str,
    stopped: threading.Event,
    *,
    absence: Callable[[URL], str] | None = None,
    opener: Callable[[str], Store] = open_store,
    draw: Callable[[float, float], float] | None = None,
) -> Store | None:
    """Open the database as soon as its server is there; say once that it is waited for, and once that it has come.

    Args:
        url: the database, as `open_store` takes it.
        stopped: set when nobody wants the database any more; noticed within two seconds, whatever the network does.
        absence: says why the server cannot be used yet; empty where it can, or where waiting mends nothing.
        opener: opens a database whose server is there.
        draw: returns a number between two others, so that those who wait do not all ask at the same time.

    Returns:
        The store; None when it was stopped before.

    Raises:
        InputError: what `open_store` refuses, as a missing driver, or a schema of a newer Tacit.
        StoreUnavailable: the server is there and says no, as for a wrong password or an unknown database.
    """
    ask, draw = absence or why_absent, draw or random.SystemRandom().uniform
    database = parse_url(url)
    refused: StoreUnavailable | None = None
    told, longest = False, FIRST_PAUSE_SECONDS
    while (why := _unless(stopped, lambda: ask(database))) is not None:
        if not why and refused is not None:
            raise refused
        if not why:
            try:
                store = opener(url)
            except StoreUnavailable as error:
                refused = error  # unless the server has gone since it was asked
                continue
            if told:
                _LOG.info("the database is there")
            return store
        refused = None
        if not told:
            _LOG.warning("%s: %s; waiting for it", shown(database), why)
            told = True
        stopped.wait(draw(longest / 2, longest))
        longest = min(2 * longest, LONGEST_PAUSE_SECONDS)
    return None


def why_absent(url: URL) -> str:
    """Return why a PostgreSQL server cannot be reached, or lets nobody in yet.

    Returns:
        One line. Empty where the server is there, whether or not it likes the password, the database or the TLS that
        it is asked for, and for every other kind of database: a file is there or is not.

    Raises:
        InputError: there is no driver for the URL.
    """
    if url.get_backend_name() != "postgresql":
        return ""
    engine = connect(url, create=False)
    try:
        engine.connect().close()
    except OperationalError as error:
        why = one_line(error)
        return "" if any(word in why for word in TLS_WORDS) or _answers(engine, error) else why
    except DBAPIError:
        pass
    finally:
        engine.dispose()
    return ""


def _answers(engine: Engine, error: OperationalError) -> bool:
    """Say whether the server is there that a connection was not had from; True for drivers that cannot tell."""
    if engine.dialect.driver != "psycopg":
        return True
    from psycopg.conninfo import make_conninfo
    from psycopg.pq import PGconn, Ping

    if getattr(error.orig, "pgconn", None) is None:
        return False  # there is no such host, or nothing came from it in time
    # An error of the connecting has no SQLSTATE, and its text is in the server's language. libpq knows better, but lets
    # no other thread run while it asks: so it is asked for a moment, and only about servers that have just been quick.
    options = {**POSTGRESQL, **engine.dialect.create_connect_args(engine.url)[1], "connect_timeout": ASK_SECONDS}
    options.pop("context", None)  # of Python's driver, not of libpq
    return PGconn.ping(make_conninfo("", **options).encode()) in (Ping.OK, Ping.NO_ATTEMPT)


def _unless(stopped: threading.Event, ask: Callable[[], str]) -> str | None:
    """Return an answer, or None as soon as nobody wants it; whoever asks for it is left behind then."""
    answer = Future[str]()

    def find() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=find, name="database", daemon=True).start()
    while not stopped.is_set():
        if wait([answer], LOOK_SECONDS).done:
            return answer.result()
    return None
