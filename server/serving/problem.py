"""What the service refuses and how it says so: one exception, two wire formats, never the caller's own input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from pydantic_core import to_json
from starlette.responses import Response

OIP_PREFIX = "/v2"


class Refusal(Exception):
    """A request that is not served.

    Args:
        status: the HTTP status.
        detail: one sentence that says what is wrong and what would be right; it must not repeat what was sent.
        headers: further response headers.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """Keep the three parts for the response."""
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        super().__init__(detail)


def speaks_oip(path: str) -> bool:
    """Tell whether a path belongs to the Open Inference Protocol, whose errors have a form of their own."""
    return path == OIP_PREFIX or path.startswith(f"{OIP_PREFIX}/")


def refusal_response(refusal: Refusal, *, path: str, request_id: str) -> Response:
    """Write a refusal as the path's clients expect it.

    Open Inference Protocol paths answer `{"error": ...}`; all others answer `application/problem+json` (RFC 9457).
    """
    if speaks_oip(path):
        body: dict[str, object] = {"error": refusal.detail}
        media_type = "application/json"
    else:
        body = {
            "type": "about:blank",
            "title": HTTPStatus(refusal.status).phrase,
            "status": refusal.status,
            "detail": refusal.detail,
            "request_id": request_id,
        }
        media_type = "application/problem+json"
    return Response(to_json(body), refusal.status, refusal.headers, media_type)


def few(names: Sequence[str], limit: int = 10) -> str:
    """List names for an error, not more than fit on a line."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
