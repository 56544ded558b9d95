"""Who may do what: API keys with scopes, denied by default."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.requests import Request

from tacit.server.serving.context import service_of
from tacit.server.serving.problem import Refusal
from tacit.server.store.records import Scope

_MAX_SECRET_CHARACTERS = 512
# Only so that the description of the interface names the scheme; what it reads is read below.
_SCHEME = HTTPBearer(scheme_name="API key", description="A key of `tacit serve keys create`.", auto_error=False)
_BEARER = {"WWW-Authenticate": 'Bearer realm="tacit"'}
_BASIC = {"WWW-Authenticate": 'Basic realm="tacit: the password is an API key", charset="UTF-8"'}


def requires(*scopes: Scope, pages: bool = False) -> Callable[..., Awaitable[None]]:
    """Return a dependency that lets a request pass whose key has one of `scopes`, or `admin`.

    Args:
        scopes: any of them is enough.
        pages: also take the key as the password of HTTP Basic authentication, which browsers can ask for. Not for the
            API: browsers send such a password on their own, also with requests that other sites made them send.
    """
    wanted = frozenset[str]([*scopes, "admin"])

    async def check(request: Request, _: Annotated[object, Security(_SCHEME)]) -> None:
        service = service_of(request)
        if not service.settings.require_key:
            return
        secret = _presented(request, basic=pages)
        if secret is None:
            raise Refusal(401, "an API key is needed", _BASIC if pages else _BEARER)
        key = await service.check_key(secret)
        if key is None:
            raise Refusal(401, "the API key is not known or was revoked", _BASIC if pages else _BEARER)
        if not wanted & key.scopes:
            raise Refusal(403, f"the API key lacks the scope; it needs {' or '.join(sorted(wanted))}")

    return check


def _presented(request: Request, *, basic: bool) -> str | None:
    kind, _, credentials = request.headers.get("authorization", "").partition(" ")
    credentials = credentials.strip()
    if len(credentials) > _MAX_SECRET_CHARACTERS:
        return None
    if kind.lower() == "bearer":
        return credentials or None
    if basic and kind.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None
