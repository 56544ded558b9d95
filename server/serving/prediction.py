"""The typed API's prediction: records in, labels or values out; no HTTP, no waiting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from tacit.models.data.records import rows_from_images, rows_from_records
from tacit.models.data.rows import Rows, Schema
from tacit.models.errors import InputError
from tacit.models.tasks import ClassPrediction, Prediction
from tacit.server.serving.problem import Refusal, few
from tacit.server.serving.source import Servable
from tacit.server.serving.timing import Timing
from tacit.server.store.records import ModelVersion


def predict(model: Servable, version: ModelVersion, body: bytes, *, max_rows: int, timing: Timing) -> bytes:
    """Answer a prediction request: `{"inputs": [record, ...]}` becomes `{"predictions": [...], ...}`.

    Raises:
        Refusal: 400 when the body is not JSON, 422 when it is not what the model takes.
    """
    with timing.phase("parse"):
        rows = rows_from_inputs(model.schema, _inputs(body, max_rows))
    with timing.phase("predict"):
        predictions = model.predict(rows)
    with timing.phase("write"):
        written = [_written(prediction) for prediction in predictions]
        return to_json({"model": version.name, "version": version.version, "predictions": written})


def rows_from_inputs(schema: Schema, inputs: Sequence[Any]) -> Rows:
    """Turn the inputs of a request into rows.

    Args:
        schema: the model's.
        inputs: for each row an object with a value for each column (null or absent: missing); for a model that reads
            images nested lists of pixels instead, or an object that holds them under the column's name.

    Raises:
        Refusal: 422, when they do not fit; it says where and repeats no value.
    """
    names = {column.name for column in schema.columns}
    # Checked here because the caller's key may be a value in the wrong place, and is not to be repeated.
    for row, record in enumerate(inputs):
        if isinstance(record, dict) and not record.keys() <= names:
            raise Refusal(422, f"row {row}: has a key that is no column of this model; they are {few(sorted(names))}")
    try:
        if schema.columns[0].kind == "image":
            return rows_from_images(schema, _pixels(inputs, schema.columns[0].name))
        return rows_from_records(schema, inputs)
    except InputError as error:
        raise Refusal(422, str(error)) from None


def _pixels(inputs: Sequence[Any], name: str) -> NDArray[Any]:
    images = [image.get(name) if isinstance(image, dict) else image for image in inputs]
    try:
        return np.array(images)
    except ValueError:
        raise InputError("the images are not nested lists of one shape", where=f"column {name!r}") from None


def _inputs(body: bytes, max_rows: int) -> Sequence[Any]:
    try:
        request = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise Refusal(400, "the body is not valid JSON (NaN and infinity are not JSON either)") from None
    if not isinstance(request, dict) or request.keys() != {"inputs"}:
        raise Refusal(422, 'the body must be {"inputs": [...]}, without other keys')
    inputs = request["inputs"]
    if not isinstance(inputs, list) or not inputs:
        raise Refusal(422, "inputs must be a list with at least one row")
    if len(inputs) > max_rows:
        raise Refusal(422, f"inputs has too many rows; this server takes at most {max_rows} in one request")
    return inputs


def _written(prediction: Prediction) -> dict[str, object]:
    if isinstance(prediction, ClassPrediction):
        _require_finite(prediction.score, *prediction.scores.values())
        return {"label": prediction.label, "score": prediction.score, "scores": dict(prediction.scores)}
    _require_finite(prediction.value)
    return {"value": prediction.value}


def _require_finite(*numbers: float) -> None:
    if not all(map(math.isfinite, numbers)):
        raise Refusal(500, "the model's answer for these rows is not a finite number")
