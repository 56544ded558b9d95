"""Who takes part no longer, as the store has it at this moment, whoever wrote it: asked with every request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from tacit.server.store import ClientState, Store, StoreUnavailable

_LOG = logging.getLogger(__name__)
PATIENCE_SECONDS = 0.25  # with a database that does not answer
REST_SECONDS = 1.0  # after it did not
WHY: Mapping[ClientState, str] = {"revoked": "this key was revoked", "left": "this member has left the federation"}


class Roll:
    """Says why the holder of a key may not take part; for any thread.

    A database that is away revokes nobody, and nobody comes back because of it: what was known holds until it answers.

    Args:
        store: the coordinator's.
        clock: seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nobody yet."""
        self._departures = store.departures()
        self._clock = clock
        self._departed: Mapping[bytes, ClientState] = {}
        self._asking = threading.Lock()
        self._since = clock()  # when somebody began to ask
        self._rests_until = 0.0
        self._away = False

    def __call__(self, public_key: bytes) -> str | None:
        """Return the reason in one line; None if the holder of the key may take part, or is nobody known."""
        self._look()
        state = self._departed.get(public_key)
        return None if state is None else WHY[state]

    def close(self) -> None:
        """Give the connection to the database back."""
        with self._asking:
            self._departures.close()

    def _look(self) -> None:
        if self._clock() < self._rests_until:
            return
        # One that waits for a database which does not answer keeps nobody else waiting, but for a moment.
        if self._asking.locked() and self._clock() - self._since > PATIENCE_SECONDS:
            return
        if not self._asking.acquire(timeout=PATIENCE_SECONDS):
            return
        try:
            self._since = self._clock()
            if (found := self._departures()) is not None:
                self._departed = found
        except StoreUnavailable as error:
            self._rests_until = self._clock() + REST_SECONDS
            if not self._away:
                _LOG.warning("who was revoked is known from before: %s", error)
            self._away = True
        else:
            if self._away:
                _LOG.warning("who was revoked is known again")
            self._away = False
        finally:
            self._asking.release()
