"""Pages for people: the models, what was promised about them, and a form to try them. Nothing comes from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from tacit import __version__
from tacit.models.data.rows import Schema
from tacit.server.serving.api import Model, Version, answer_prediction
from tacit.server.serving.auth import requires
from tacit.server.serving.context import service_of
from tacit.server.serving.problem import Refusal
from tacit.server.serving.source import Unservable
from tacit.server.serving.statement import at_most, is_guarantee, privacy_sentence, privacy_summary
from tacit.server.serving.wire import named, version_out

router = APIRouter(include_in_schema=False)
_reads = Depends(requires("read", pages=True))
_predicts = Depends(requires("predict", pages=True))
_ASSETS = {"style.css": "text/css", "try.js": "text/javascript"}
_METHODS = ("get", "post", "put", "delete")


@router.get("/", dependencies=[_reads])
async def index(request: Request) -> Response:
    """List the models, each with its default version."""
    service = service_of(request)
    models = await service.models()
    shown = []
    for model in models:
        version = await service.resolve(model.name, None)
        shown.append({"summary": model, "version": version_out(version, model)})
    return _page("index.html", models=shown)


@router.get("/models/{model}", dependencies=[_reads])
async def show_model(request: Request, model: Model) -> Response:
    """Show a model's default version."""
    return await _model_page(request, model, None)


@router.get("/models/{model}/versions/{version}", dependencies=[_reads])
async def show_version(request: Request, model: Model, version: Version) -> Response:
    """Show one version."""
    return await _model_page(request, model, version)


@router.post("/models/{model}/versions/{version}/try", dependencies=[_predicts])
async def try_version(request: Request, model: Model, version: Version) -> Response:
    """Predict for the page's form; only JSON is taken, which no other site's form can send."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the body must be application/json")
    return await answer_prediction(request, model, version)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """List the endpoints."""
    return _page("docs.html", groups=_endpoints(request.app), require_key=service_of(request).settings.require_key)


@router.get("/assets/{name}")
async def asset(name: str) -> Response:
    """Return a style sheet or a script."""
    if name not in _ASSETS:
        raise Refusal(404, "there is nothing at this address")
    return Response(_asset(name), 200, {"Cache-Control": "max-age=300"}, _ASSETS[name])


@router.get("/favicon.ico")
async def icon() -> Response:
    """Tell browsers, which ask on their own, that there is none."""
    return Response(status_code=204, headers={"Cache-Control": "max-age=86400"})


async def _model_page(request: Request, name: str, selector: str | None) -> Response:
    service = service_of(request)
    version = await service.resolve(name, selector)
    summary = named(await service.models(), name)
    schema: Schema | None = None
    card = problem = ""
    try:
        card = await service.card(version)
        schema = (await service.load(version)).schema
    except Unservable as error:
        problem = str(error)
    return _page(
        "model.html",
        version=version_out(version, summary),
        versions=[version_out(known, summary) for known in reversed(await service.versions(name))],
        schema=schema,
        card=card,
        problem=problem,
    )


def _endpoints(app: FastAPI) -> Mapping[str, list[dict[str, str]]]:
    groups: dict[str, list[dict[str, str]]] = {}
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            if method in _METHODS:
                entry = {"method": method.upper(), "path": path, "text": operation.get("description", "")}
                groups.setdefault(operation["tags"][0], []).append(entry)
    return groups


def _page(template: str, **values: Any) -> Response:
    html = _templates().get_template(template).render(values, version_of_tacit=__version__)
    return Response(html, 200, media_type="text/html")


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["figure"] = _figure
    templates.filters["bound"] = _bound
    templates.filters["records"] = _records
    templates.filters["sentence"] = privacy_sentence
    templates.filters["summary"] = privacy_summary
    templates.tests["guarantee"] = is_guarantee
    templates.filters["moment"] = lambda moment: f"{moment:%Y-%m-%d %H:%M} UTC"
    return templates


@lru_cache(maxsize=len(_ASSETS))
def _asset(name: str) -> bytes:
    return (files(__package__) / "static" / name).read_bytes()


def _records(value: object) -> list[Mapping[str, Any]]:
    """Return what can be shown as a table, records that all have the same keys; empty for anything else."""
    if not isinstance(value, list) or not value or not all(isinstance(one, Mapping) for one in value):
        return []
    return value if all(list(one) == list(value[0]) for one in value) else []


def _bound(value: object) -> str:
    """Write a number with five significant digits, rounded up: a promise is never made stronger."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return _figure(value)
    return at_most(value, 5)


def _figure(value: object) -> str:
    """Write a number with four significant digits, a truth value as yes or no, and nothing as a dash."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return f"{value:.4g}"
        case None:
            return "–"
    return str(value)
