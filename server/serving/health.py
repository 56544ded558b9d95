"""Whether the process lives and whether requests should come to it; no key is needed to ask."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from tacit.server.serving.context import service_of

router = APIRouter(tags=["Health"])


@router.get("/livez")
async def livez() -> Response:
    """Answer 200 as long as the process answers at all."""
    return _json({"status": "alive"}, 200)


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Answer 200 when requests should come here, 503 when the store does not answer or the server is going down."""
    service = service_of(request)
    ready = await service.ready()
    status = "ready" if ready else "draining" if service.draining else "database unavailable"
    return _json({"status": status}, _code(ready))


@router.get("/v2/health/live")
async def oip_live() -> Response:
    """Answer 200: the server can take requests (Open Inference Protocol)."""
    return _json({"live": True}, 200)


@router.get("/v2/health/ready")
async def oip_ready(request: Request) -> Response:
    """Answer 200 when the server is ready to infer, else 503 (Open Inference Protocol)."""
    ready = await service_of(request).ready()
    # The protocol's text names the field `live` here too; its clients read `ready`.
    return _json({"live": True, "ready": ready}, _code(ready))


def _code(ready: bool) -> int:
    return 200 if ready else 503


def _json(body: dict[str, object], status: int) -> Response:
    return Response(to_json(body), status, media_type="application/json")
