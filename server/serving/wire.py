"""The typed API's messages, from which its description (`/openapi.json`) is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from tacit.server.serving.statement import privacy_statement
from tacit.server.store.records import ModelSummary, ModelVersion


class ModelOut(BaseModel):
    """A model, how many versions it has, and the versions that its aliases name."""

    name: str
    versions: int
    aliases: dict[str, int]
    created_at: datetime


class ModelsOut(BaseModel):
    """All models by name."""

    models: list[ModelOut]


class VersionOut(BaseModel):
    """An immutable version of a model; a metric that is undefined is null."""

    name: str
    version: int
    digest: str
    aliases: list[str]
    run: str | None
    round: int | None
    created_at: datetime
    metrics: dict[str, float | None]
    privacy: dict[str, Any]


class ModelDetailOut(BaseModel):
    """A model with its versions, oldest first; `default` is the version that answers when none is asked for."""

    name: str
    default: int
    aliases: dict[str, int]
    versions: list[VersionOut]


class CardOut(BaseModel):
    """A version with its card in Markdown."""

    version: VersionOut
    markdown: str


class PrivacyOut(BaseModel):
    """The privacy statement as it was recorded; `unit` is `none` where nothing is promised."""

    model_config = ConfigDict(extra="allow")
    unit: str


class ClassOut(BaseModel):
    """The likeliest class of one row, its score, and the score of every class."""

    label: str
    score: float
    scores: dict[str, float]


class ValueOut(BaseModel):
    """The value predicted for one row."""

    value: float


class PredictionsOut(BaseModel):
    """A prediction for each row, in the order of the inputs."""

    model: str
    version: int
    predictions: list[ClassOut] | list[ValueOut]


class PredictIn(BaseModel):
    """Rows to predict: for each an object with a value for every column, or nested lists for an image."""

    model_config = ConfigDict(extra="forbid")
    inputs: list[dict[str, float | int | str | list[Any] | None] | list[Any]]


class ProblemOut(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


def model_out(model: ModelSummary) -> ModelOut:
    """Describe a model."""
    return ModelOut(name=model.name, versions=model.versions, aliases=dict(model.aliases), created_at=model.created_at)


def version_out(version: ModelVersion, model: ModelSummary | None) -> VersionOut:
    """Describe a version; `model` knows the aliases."""
    aliases = model.aliases if model else {}
    return VersionOut(
        name=version.name,
        version=version.version,
        digest=version.digest,
        aliases=sorted(alias for alias, number in aliases.items() if number == version.version),
        run=version.run,
        round=version.round,
        created_at=version.created_at,
        metrics={name: value if math.isfinite(value) else None for name, value in version.metrics.items()},
        privacy=dict(privacy_statement(version)),
    )


def named(models: Sequence[ModelSummary], name: str) -> ModelSummary | None:
    """Return the model of a name, if it is among these."""
    return next((model for model in models if model.name == name), None)
