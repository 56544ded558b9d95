"""The Open Inference Protocol, version 2, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from tacit import __version__
from tacit.server.serving.auth import requires
from tacit.server.serving.context import read_body, service_of, timing_of, version_headers
from tacit.server.serving.inference import BINARY_EXTENSION, infer, input_metadata, output_metadata
from tacit.server.serving.problem import Refusal

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])
_seen = Depends(requires("read", "predict"))
_predicts = Depends(requires("predict"))

Model = Annotated[str, Path(description="A model's name.")]
Version = Annotated[str, Path(description="A version's number, or an alias.")]
_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "data": {"type": "array", "items": {}},
    },
}
_INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "items": _TENSOR},
                        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                    },
                }
            }
        },
    }
}


@router.get("", dependencies=[_seen])
@router.get("/", dependencies=[_seen], include_in_schema=False)
async def server_metadata() -> Response:
    """Return the server's name, version and protocol extensions."""
    return _json({"name": "tacit", "version": __version__, "extensions": [BINARY_EXTENSION]})


@router.get("/models/{model}", dependencies=[_seen])
async def model_metadata(request: Request, model: Model) -> Response:
    """Return the inputs and outputs of a model's default version."""
    return await _metadata(request, model, None)


@router.get("/models/{model}/versions/{version}", dependencies=[_seen])
async def version_metadata(request: Request, model: Model, version: Version) -> Response:
    """Return the inputs and outputs of one version."""
    return await _metadata(request, model, version)


@router.get("/models/{model}/ready", dependencies=[_seen])
async def model_ready(request: Request, model: Model) -> Response:
    """Load the default version if need be, and tell whether it can infer."""
    return await _ready(request, model, None)


@router.get("/models/{model}/versions/{version}/ready", dependencies=[_seen])
async def version_ready(request: Request, model: Model, version: Version) -> Response:
    """Load one version if need be, and tell whether it can infer."""
    return await _ready(request, model, version)


@router.post("/models/{model}/infer", dependencies=[_predicts], openapi_extra=_INFER_BODY)
async def model_infer(request: Request, model: Model) -> Response:
    """Infer with a model's default version."""
    return await _infer(request, model, None)


@router.post("/models/{model}/versions/{version}/infer", dependencies=[_predicts], openapi_extra=_INFER_BODY)
async def version_infer(request: Request, model: Model, version: Version) -> Response:
    """Infer with one version."""
    return await _infer(request, model, version)


async def _metadata(request: Request, name: str, selector: str | None) -> Response:
    service = service_of(request)
    version = await service.resolve(name, selector)
    schema = (await service.load(version)).schema
    body = {
        "name": version.name,
        "versions": [str(known.version) for known in await service.versions(name)],
        "platform": "tacit_safetensors",
        "inputs": [tensor.to_json() for tensor in input_metadata(schema)],
        "outputs": [tensor.to_json() for tensor in output_metadata(schema)],
    }
    return _json(body, version_headers(version))


async def _ready(request: Request, name: str, selector: str | None) -> Response:
    service = service_of(request)
    version = await service.resolve(name, selector)
    await service.load(version)
    return _json({"name": version.name, "ready": True}, version_headers(version))


async def _infer(request: Request, name: str, selector: str | None) -> Response:
    service, timing = service_of(request), timing_of(request)
    with service.admitted():
        with timing.phase("read"):
            body = await read_body(request)
        with timing.phase("load"):
            version = await service.resolve(name, selector)
            model = await service.load(version)
        json_bytes = _json_bytes(request)
        max_rows = service.settings.rows
        answer = await service.compute(
            lambda: infer(model, version, body, json_bytes=json_bytes, max_rows=max_rows, timing=timing)
        )
    headers = version_headers(version)
    if answer.json_bytes is None:
        return Response(answer.body, 200, headers, "application/json")
    headers[JSON_LENGTH_HEADER] = str(answer.json_bytes)
    return Response(answer.body, 200, headers, "application/octet-stream")


def _json_bytes(request: Request) -> int | None:
    given = request.headers.get(JSON_LENGTH_HEADER)
    if given is None:
        return None
    if not given.isascii() or not given.isdecimal() or len(given) > 12:
        raise Refusal(400, f"{JSON_LENGTH_HEADER} must be a number of bytes")
    return int(given)


def _json(body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(body), 200, headers, "application/json")
