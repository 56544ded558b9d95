"""The page's connections: HTTP on the loopback, in threads of the agent's process, by the standard library alone.

A web framework would be half of an agent's memory, for four addresses that one person looks at.
"""

from __future__ import annotations

import logging
import secrets
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tacit.client.page.door import KEY_BYTES, Door
from tacit.client.page.served import PAGE, Served, link
from tacit.client.page.site import HEADERS, Request, Response, Site
from tacit.client.page.view import Loop, View
from tacit.models.errors import InputError

_LOG = logging.getLogger(__name__)

PORT: Final = 8437
ADDRESS: Final = "127.0.0.1"
MOST_CONNECTIONS = 8
SILENCE_SECONDS = 5.0
LONGEST_FORM = 4096  # bytes


@contextmanager
def serve_page(
    directory: Path, port: int = PORT, loop: Callable[[], Loop] | None = None, now: Callable[[], float] = time.time
) -> Iterator[tuple[str, str]]:
    """Serve the page of an agent's directory on the loopback while the block runs.

    Args:
        directory: the agent's directory.
        port: the port; 0 for any that is free.
        loop: says how the agent in this process stands.
        now: seconds since 1970.

    Yields:
        The page's address, and a link that opens it once.

    Raises:
        AlreadyServed: another process does it.
        InputError: the port cannot be had, or the directory cannot be written.
    """
    key = secrets.token_bytes(KEY_BYTES)
    with Served(directory / PAGE) as served:
        site = Site(View(directory, loop, now), Door(key, now))
        try:
            server = _Server(port, site)
        except OSError as error:
            raise InputError(
                f"cannot be had ({error.strerror})",
                where=f"port {port} of {ADDRESS}",
                right="another one, or 0 for any",
            ) from None
        with server:
            address = f"http://{ADDRESS}:{server.server_address[1]}"
            served.tell(address, key)
            thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
            thread.start()
            try:
                yield address, link(address, key, now())
            finally:
                server.shutdown()
                thread.join()


class _Server(socketserver.ThreadingTCPServer):
    """Listens on the loopback; not `http.server.HTTPServer`, which asks the name service who it is."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, port: int, site: Site) -> None:
        self.site = site
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((ADDRESS, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that break off are a browser's business."""


class _Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    server: _Server
    timeout = SILENCE_SECONDS
    server_version = "tacit"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = self._form() if method == "POST" else b""
        if body is None:
            self._send(Response(413))
            return
        if any(len(self.headers.get_all(name, [])) > 1 for name in ("host", "origin", "cookie")):
            self._send(Response(400))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            asked = urlsplit(self.path)
            response = self.server.site.answer(Request(method, asked.path, asked.query, headers, body))
        except Exception as error:  # noqa: BLE001 - the page must not end, and what went wrong may hold anything
            _LOG.error("the page could not be made (%s)", type(error).__name__)
            response = Response(
                500, b"The page could not be made; the agent's log says why.", "text/plain; charset=utf-8"
            )
        self._send(response)

    def _form(self) -> bytes | None:
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or int(length) > LONGEST_FORM:
            return None
        return self.rfile.read(int(length))

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in {**HEADERS, "Content-Type": response.content_type, **response.headers}.items():
            self.send_header(name, value)
        if response.status not in (204, 304):
            self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD" and response.status not in (204, 304):
            self.wfile.write(response.body)
        self.close_connection = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no HTTP, or none that is known here, without repeating it."""
        self.command = self.command or "GET"
        self.request_version = self.request_version or "HTTP/1.0"
        self._send(Response(code, content_type="text/plain; charset=utf-8"))

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: an address may hold a link."""
