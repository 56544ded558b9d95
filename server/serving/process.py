"""One serving process: bind, say where, serve, and end without losing a request."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from types import FrameType

import click
import uvicorn
from fastapi import FastAPI

from tacit.models.errors import InputError
from tacit.server.serving.service import Service

_LISTEN_BACKLOG = 2048
_GRACE_SECONDS = 30


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 is any free port.

    Raises:
        InputError: the port is taken or not allowed, or the host is no address of this machine.
    """
    where = f"--host {host} --port {port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"is no address to listen on ({error.strerror})", where=where) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise InputError(f"cannot listen ({error.strerror})", where=where, right="choose another, or port 0") from None
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Tell whether a bound socket can be reached from this machine only."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def url_of(bound: socket.socket) -> str:
    """Return the address of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def serve_until_told(app: FastAPI, bound: socket.socket, *, drain_seconds: float) -> None:
    """Serve until SIGTERM or Ctrl-C.

    On SIGTERM readiness goes off at once; new requests are taken for `drain_seconds` more, until load balancers have
    noticed; then the socket closes and what is in progress is finished. Ctrl-C leaves the waiting out; a second signal
    leaves the finishing out.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=_LISTEN_BACKLOG,
        ws="none",
    )
    _Server(config, app.state.service, drain_seconds).run(sockets=[bound])


class _Server(uvicorn.Server):
    """Uvicorn's server with a line when it listens, a drain, and 0 as exit code after a signal."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._told_to_stop = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and sockets:
            click.echo(f"listening on {url_of(sockets[0])}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Uvicorn's own would note the signal and raise it again at the end, which would make it the exit code.
        self._service.draining = True
        if self._told_to_stop:
            self.should_exit = self.force_exit = True
        elif sig == signal.SIGTERM and self.started:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_seconds, self._stop)
        else:
            self.should_exit = True
        self._told_to_stop = True

    def _stop(self) -> None:
        self.should_exit = True
