"""What a request can reach: the service, and its own clock and number."""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.requests import ClientDisconnect, Request

from tacit.server.serving.problem import Refusal
from tacit.server.serving.service import Service
from tacit.server.serving.timing import Timing
from tacit.server.store.records import ModelVersion

_CLOSE = {"Connection": "close"}


def service_of(request: Request) -> Service:
    """Return the service that the application was made for."""
    return cast(Service, request.app.state.service)


def timing_of(request: Request) -> Timing:
    """Return the clock that the middleware started for this request."""
    return cast(Timing, request.state.timing)


def request_id_of(request: Request) -> str:
    """Return the number that the middleware gave this request."""
    return cast(str, request.state.request_id)


def version_headers(version: ModelVersion) -> dict[str, str]:
    """Return the headers that say which version answered."""
    return {"X-Model-Version": str(version.version), "X-Model-Digest": f"sha256:{version.digest}"}


async def read_body(request: Request) -> bytes:
    """Return the request's body.

    Raises:
        Refusal: 413 when it is longer than allowed, before the rest of it is read; 408 when it takes too long; 415
            when it is compressed.
    """
    settings = service_of(request).settings
    too_long = Refusal(413, f"the body is too long; this server takes at most {settings.body_bytes} bytes", _CLOSE)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed bodies are not accepted", _CLOSE)
    declared = request.headers.get("content-length", "")
    # Compared as text first: a number of a million digits is refused without being computed.
    if len(declared) > 20 or (declared.isdecimal() and int(declared) > settings.body_bytes):
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.body_bytes:
                    raise too_long
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {settings.body_seconds:g} seconds", _CLOSE) from None
    except ClientDisconnect:
        raise Refusal(400, "the body ended early", _CLOSE) from None
    return bytes(body)
