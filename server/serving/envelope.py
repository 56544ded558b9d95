"""What every response has around it: a request number, timing, security headers, a log line, and never a traceback."""

from __future__ import annotations

import logging
import re
import traceback
import uuid
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tacit.server.serving.problem import Refusal, refusal_response
from tacit.server.serving.timing import Timing

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]+)?")
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_log = logging.getLogger("tacit.serving")


class Envelope:
    """Middleware around all routes.

    Logs hold the method, the route's pattern, the status, the time and the request number; never a path, a query, a
    body, a header, or the text of an unexpected exception, which may repeat any of them.

    Args:
        app: what is inside.
        hosts: the `Host` names that are served, None for all. A server without keys answers loopback names only, or
            any web page could reach it through a name of its own that resolves to the loopback address.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = None) -> None:
        """Keep what is inside."""
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        timing = Timing()
        scope.setdefault("state", {}).update(timing=timing, request_id=request_id)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                response_headers = MutableHeaders(scope=message)
                response_headers["X-Request-ID"] = request_id
                response_headers["Server-Timing"] = timing.header()
                for name, value in _SECURITY.items():
                    response_headers[name] = value
                response_headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            if self._hosts is not None and _host(headers) not in self._hosts:
                raise Refusal(421, "this server answers only to a loopback name")
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if isinstance(error, Refusal):
                refusal = error
            else:
                _log.error("request %s failed: %s at %s", request_id, type(error).__name__, _place(error))
                refusal = Refusal(500, "the server failed; its log names this request")
            if not status:
                response = refusal_response(refusal, path=scope["path"], request_id=request_id)
                await response(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            milliseconds = 1000 * timing.total_seconds
            _log.info("%s %s %d %.1f ms %s", scope["method"], route, status, milliseconds, request_id)


def _host(headers: Headers) -> str:
    match = _HOST.fullmatch(headers.get("host", ""))
    return match[1].lower() if match else ""


def _place(error: Exception) -> str:
    """Say where an exception was raised, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
