"""The web server's reading of HTTP, without its patience: whoever sends no whole head of a request soon is cut off.

The server times out a connection that is idle between requests, but neither a new one nor one that sends its headers a
byte at a time, and it keeps headers of any length.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tacit.server.gate import Limits


def impatient(limits: Limits) -> type[HttpToolsProtocol]:
    """Return the protocol with these limits; the server makes one object of it for each connection."""

    class Impatient(HttpToolsProtocol):
        """Cuts a connection off whose headers are late or long."""

        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._late: asyncio.TimerHandle | None = None
            self._head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._late is None and (self.cycle is None or self.cycle.response_complete):
                self._await_head()
            if self._late is not None:
                self._head_bytes += len(data)
            super().data_received(data)
            if self._late is not None and self._head_bytes > limits.largest_headers:
                self.transport.abort()

        def on_headers_complete(self) -> None:
            self._head_came()
            super().on_headers_complete()

        def _await_head(self) -> None:
            self._head_bytes = 0
            self._late = self.loop.call_later(limits.header_seconds, self._cut_off)

        def _head_came(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _cut_off(self) -> None:
            self._late = None
            self.transport.abort()

    return Impatient
