"""The ASGI application: routes, errors, lifetime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tacit import __version__
from tacit.server.serving import api, health, oip, pages
from tacit.server.serving.context import request_id_of
from tacit.server.serving.envelope import LOOPBACK_NAMES, Envelope
from tacit.server.serving.problem import Refusal, refusal_response
from tacit.server.serving.service import Service
from tacit.server.serving.settings import ServingSettings
from tacit.server.serving.source import ModelSource, UnknownModel, Unservable
from tacit.server.store.errors import StoreUnavailable

_DETAILS = {404: "there is nothing at this address", 405: "this address does not take this method"}


def create_app(source: ModelSource, settings: ServingSettings | None = None) -> FastAPI:
    """Make the application that serves the models of `source`."""
    service = Service(source, settings or ServingSettings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="Tacit",
        version=__version__,
        summary="Predictions of models that were learned without collecting the data.",
        # FastAPI's own documentation pages load scripts from another server.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    for router in (health.router, oip.router, api.router, pages.router):
        app.include_router(router)
    for kind in (Refusal, UnknownModel, Unservable, StoreUnavailable, HTTPException):
        app.add_exception_handler(kind, _refuse)
    app.add_middleware(Envelope, hosts=None if service.settings.require_key else LOOPBACK_NAMES)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    return refusal_response(_refusal(error), path=request.url.path, request_id=request_id_of(request))


def _refusal(error: Exception) -> Refusal:
    match error:
        case Refusal():
            return error
        case UnknownModel():
            return Refusal(404, str(error))
        case Unservable():
            return Refusal(503, str(error))
        case StoreUnavailable():
            return Refusal(503, "the database does not answer", {"Retry-After": "1"})
        case HTTPException():
            detail = _DETAILS.get(error.status_code, "the request cannot be served")
            return Refusal(error.status_code, detail, error.headers)
        case _:
            raise error
