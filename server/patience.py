"""The web server's reading of HTTP, without its patience: whoever is slow to ask or to listen is cut off.

The server times out a connection that is idle between requests, but neither a new one nor one that sends its headers a
byte at a time, and it keeps headers of any length. It also waits for ever for a receiver that takes nothing.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tacit.server.gate import Limits


def impatient(limits: Limits) -> type[HttpToolsProtocol]:
    """Return the protocol with these limits; the server makes one object of it for each connection."""

    class Impatient(HttpToolsProtocol):
        """Cuts a connection off whose headers are late or long, or whose answer is not taken."""

        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._late: asyncio.TimerHandle | None = None
            self._stuck: asyncio.TimerHandle | None = None
            self._head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            self._taken()
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

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stuck is None:
                self._stuck = self.loop.call_later(limits.silence_seconds, self._drop)

        def resume_writing(self) -> None:
            self._taken()
            super().resume_writing()

        def _drop(self) -> None:
            # With no farewell: what is buffered, here and in the system, would wait for its receiver all the same.
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

        def _taken(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None

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
