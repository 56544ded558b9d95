"""The typed API: models, versions, cards, privacy statements, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from tacit.server.serving.auth import requires
from tacit.server.serving.context import read_body, service_of, timing_of, version_headers
from tacit.server.serving.prediction import predict
from tacit.server.serving.problem import Refusal
from tacit.server.serving.statement import privacy_statement
from tacit.server.serving.wire import (
    CardOut,
    ModelDetailOut,
    ModelsOut,
    PredictIn,
    PredictionsOut,
    PrivacyOut,
    ProblemOut,
    VersionOut,
    model_out,
    named,
    version_out,
)

_PROBLEM = {"model": ProblemOut, "description": "A problem, as application/problem+json."}
router = APIRouter(prefix="/api/v1", tags=["Models"], responses={"4XX": _PROBLEM, "5XX": _PROBLEM})
_reads = Depends(requires("read"))
_predicts = Depends(requires("predict"))

Model = Annotated[str, Path(description="A model's name.")]
Version = Annotated[str, Path(description="A version's number, or an alias.")]
_PREDICT_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": PredictIn.model_json_schema()}}}
}


@router.get("/models", dependencies=[_reads], response_model=ModelsOut)
async def list_models(request: Request) -> Response:
    """List all models."""
    models = await service_of(request).models()
    return _json(ModelsOut(models=[model_out(model) for model in models]))


@router.get("/models/{model}", dependencies=[_reads], response_model=ModelDetailOut)
async def show_model(request: Request, model: Model) -> Response:
    """Show a model and its versions, oldest first."""
    service = service_of(request)
    default = await service.resolve(model, None)
    summary = named(await service.models(), model)
    versions = [version_out(version, summary) for version in await service.versions(model)]
    aliases = dict(summary.aliases) if summary else {}
    return _json(ModelDetailOut(name=model, default=default.version, aliases=aliases, versions=versions))


@router.get("/models/{model}/versions/{version}", dependencies=[_reads], response_model=VersionOut)
async def show_version(request: Request, model: Model, version: Version) -> Response:
    """Show one version."""
    service = service_of(request)
    found = await service.resolve(model, version)
    return _json(version_out(found, named(await service.models(), model)), version_headers(found))


@router.get("/models/{model}/card", dependencies=[_reads], response_model=CardOut)
async def show_card(request: Request, model: Model) -> Response:
    """Return the default version's card: JSON, or Markdown for `Accept: text/markdown`."""
    return await _card(request, model, None)


@router.get("/models/{model}/versions/{version}/card", dependencies=[_reads], response_model=CardOut)
async def show_version_card(request: Request, model: Model, version: Version) -> Response:
    """Return a version's card: JSON, or Markdown for `Accept: text/markdown`."""
    return await _card(request, model, version)


@router.get("/models/{model}/privacy", dependencies=[_reads], response_model=PrivacyOut)
async def show_privacy(request: Request, model: Model) -> Response:
    """Return the privacy statement recorded with the default version."""
    return await _privacy(request, model, None)


@router.get("/models/{model}/versions/{version}/privacy", dependencies=[_reads], response_model=PrivacyOut)
async def show_version_privacy(request: Request, model: Model, version: Version) -> Response:
    """Return the privacy statement recorded with a version."""
    return await _privacy(request, model, version)


@router.post(
    "/models/{model}/predict", dependencies=[_predicts], response_model=PredictionsOut, openapi_extra=_PREDICT_BODY
)
async def predict_with_model(request: Request, model: Model) -> Response:
    """Predict with the default version."""
    return await answer_prediction(request, model, None)


@router.post(
    "/models/{model}/versions/{version}/predict",
    dependencies=[_predicts],
    response_model=PredictionsOut,
    openapi_extra=_PREDICT_BODY,
)
async def predict_with_version(request: Request, model: Model, version: Version) -> Response:
    """Predict with one version."""
    return await answer_prediction(request, model, version)


async def answer_prediction(request: Request, name: str, selector: str | None) -> Response:
    """Predict the rows in a request's body."""
    service, timing = service_of(request), timing_of(request)
    with service.admitted():
        with timing.phase("read"):
            body = await read_body(request)
        with timing.phase("load"):
            version = await service.resolve(name, selector)
            model = await service.load(version)
        max_rows = service.settings.rows
        answer = await service.compute(lambda: predict(model, version, body, max_rows=max_rows, timing=timing))
    return Response(answer, 200, version_headers(version), "application/json")


async def _card(request: Request, name: str, selector: str | None) -> Response:
    service = service_of(request)
    version = await service.resolve(name, selector)
    markdown = await service.card(version)
    headers = {**version_headers(version), "Vary": "Accept"}
    if _prefers_markdown(request.headers.get("accept", "")):
        return Response(markdown, 200, headers, "text/markdown")
    shown = version_out(version, named(await service.models(), name))
    return _json(CardOut(version=shown, markdown=markdown), headers)


async def _privacy(request: Request, name: str, selector: str | None) -> Response:
    version = await service_of(request).resolve(name, selector)
    return Response(_to_json(privacy_statement(version)), 200, version_headers(version), "application/json")


def _prefers_markdown(accept: str) -> bool:
    """Tell whether `text/markdown` or `text/*` is accepted, and rather than JSON.

    Raises:
        Refusal: 406, when neither can be sent.
    """
    quality = {kind: 0.0 for kind in ("text/markdown", "application/json")}
    exactness = dict.fromkeys(quality, -1)
    for part in accept.split(",") if accept.strip() else ["*/*"]:
        pattern, *parameters = (piece.strip().lower() for piece in part.split(";"))
        for kind in quality:
            patterns = ("*/*", f"{kind.partition('/')[0]}/*", kind)
            if pattern in patterns and patterns.index(pattern) > exactness[kind]:
                exactness[kind], quality[kind] = patterns.index(pattern), _quality(parameters)
    if not any(quality.values()):
        raise Refusal(406, "a card can be had as application/json or as text/markdown")
    return quality["text/markdown"] > quality["application/json"]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0


def _json(body: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_to_json(body), 200, headers, "application/json")


def _to_json(body: object) -> bytes:
    # What is stored may hold NaN, which JSON cannot say.
    return to_json(body, inf_nan_mode="null")
