"""The Open Inference Protocol's inference: a request body in, a response body out; no HTTP, no waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from tacit.models.data.rows import Column, Rows, Schema
from tacit.server.serving.problem import Refusal, few
from tacit.server.serving.source import Servable
from tacit.server.serving.tensors import (
    NUMBERS,
    TEXT,
    Tensor,
    TensorMetadata,
    tensor_from_json,
    tensor_to_binary,
    tensor_to_json,
)
from tacit.server.serving.timing import Timing
from tacit.server.store.records import ModelVersion

BINARY_EXTENSION = "binary_tensor_data"
_IMAGE_DATATYPES = ("UINT8", "FP32")
_MAX_ID_CHARACTERS = 256


@dataclass(frozen=True)
class Inference:
    """A response body; `json_bytes` is the length of its JSON part when binary tensors follow it, else None."""

    body: bytes
    json_bytes: int | None


def input_metadata(schema: Schema) -> tuple[TensorMetadata, ...]:
    """Describe the inputs: a tensor a column, shape `[rows]`, or `[rows, channels, height, width]` for an image."""
    return tuple(_column_metadata(column) for column in schema.columns)


def output_metadata(schema: Schema) -> tuple[TensorMetadata, ...]:
    """Describe the outputs: `scores` and `label` of a classifier, `value` of a regression."""
    if schema.classes:
        return (TensorMetadata("scores", "FP32", (-1, len(schema.classes))), TensorMetadata("label", TEXT, (-1,)))
    return (TensorMetadata("value", "FP32", (-1,)),)


def infer(
    model: Servable, version: ModelVersion, body: bytes, *, json_bytes: int | None, max_rows: int, timing: Timing
) -> Inference:
    """Answer an inference request.

    Args:
        model: the loaded version.
        version: which version it is, for the response.
        body: the request: JSON, and binary tensors behind it.
        json_bytes: the length of the JSON when binary tensors follow, else None.
        max_rows: requests with more rows are refused.
        timing: is given the phases `parse`, `predict` and `write`.

    Raises:
        Refusal: 400, when the request does not fit the protocol or the model.
    """
    with timing.phase("parse"):
        request, binary = _split(body, json_bytes)
        request_id = request.get("id")
        if request_id is not None and (not isinstance(request_id, str) or len(request_id) > _MAX_ID_CHARACTERS):
            raise Refusal(400, f"id must be a text of at most {_MAX_ID_CHARACTERS} characters")
        wanted = _wanted_outputs(request, output_metadata(model.schema))
        rows = rows_from_tensors(model.schema, _input_tensors(request, binary))
        if len(rows) > max_rows:
            raise Refusal(400, f"too many rows; this server takes at most {max_rows} in one request")
    with timing.phase("predict"):
        scores = finite_scores(model, rows)
    with timing.phase("write"):
        outputs = {tensor.name: tensor for tensor in output_tensors(model.schema, scores)}
        head: dict[str, object] = {"model_name": version.name, "model_version": str(version.version)}
        if request_id is not None:
            head["id"] = request_id
        return _write(head, [(outputs[name], as_binary) for name, as_binary in wanted])


def rows_from_tensors(schema: Schema, tensors: Sequence[Tensor]) -> Rows:
    """Turn input tensors into rows: one tensor a column, or one `[rows, columns]` when all columns are numeric.

    Raises:
        Refusal: 400, when tensors are missing, unknown, of another datatype or shape than the column's.
    """
    if not tensors:
        raise Refusal(400, "inputs must be a list with at least one tensor")
    if len(tensors) == 1 and _is_matrix(schema, tensors[0]):
        matrix = tensors[0].values.astype(np.float64)
        return Rows({column.name: matrix[:, place].copy() for place, column in enumerate(schema.columns)})
    given = {tensor.name: tensor for tensor in tensors}
    if len(given) != len(tensors):
        raise Refusal(400, "two inputs have the same name")
    names = [column.name for column in schema.columns]
    if missing := [name for name in names if name not in given]:
        raise Refusal(400, f"inputs are missing: {few(missing)}")
    if len(given) != len(names):
        raise Refusal(400, f"there are inputs that this model does not have; its inputs are {few(names)}")
    columns = {column.name: _column_values(column, given[column.name]) for column in schema.columns}
    if len({len(values) for values in columns.values()}) != 1:
        raise Refusal(400, "the inputs have different numbers of rows")
    return Rows(columns)


def output_tensors(schema: Schema, scores: NDArray[np.float32]) -> tuple[Tensor, ...]:
    """Turn a model's scores into the tensors that `output_metadata` describes."""
    if schema.classes:
        labels = np.array(schema.classes, dtype=object)[scores.argmax(axis=1)]
        return (Tensor("scores", "FP32", scores), Tensor("label", TEXT, labels))
    return (Tensor("value", "FP32", scores),)


def finite_scores(model: Servable, rows: Rows) -> NDArray[np.float32]:
    """Return the model's scores for some rows.

    Raises:
        Refusal: 500, when they are not numbers: JSON could not say so, and no caller could use it.
    """
    scores = model.scores(rows)
    if not np.isfinite(scores).all():
        raise Refusal(500, "the model's answer for these rows is not a finite number")
    return scores


def _column_metadata(column: Column) -> TensorMetadata:
    match column.kind:
        case "numeric":
            return TensorMetadata(column.name, "FP64", (-1,))
        case "categorical":
            return TensorMetadata(column.name, TEXT, (-1,))
        case "image":
            return TensorMetadata(column.name, _IMAGE_DATATYPES[0], (-1, *column.shape))


def _split(body: bytes, json_bytes: int | None) -> tuple[dict[str, Any], memoryview]:
    if json_bytes is not None and not 0 <= json_bytes <= len(body):
        raise Refusal(400, "Inference-Header-Content-Length is longer than the body")
    try:
        request = from_json(body if json_bytes is None else body[:json_bytes], allow_inf_nan=False)
    except ValueError:
        raise Refusal(400, "the body is not valid JSON (NaN and infinity are not JSON either)") from None
    if not isinstance(request, dict):
        raise Refusal(400, "the body must be a JSON object")
    return request, memoryview(body)[len(body) if json_bytes is None else json_bytes :]


def _input_tensors(request: Mapping[str, Any], binary: memoryview) -> list[Tensor]:
    inputs = request.get("inputs")
    if not isinstance(inputs, list):
        raise Refusal(400, "inputs must be a list with at least one tensor")
    tensors = []
    for number, declared in enumerate(inputs):
        where = f"inputs[{number}]"
        if not isinstance(declared, dict):
            raise Refusal(400, f"{where}: must be a JSON object")
        size = _parameters(where, declared).get("binary_data_size")
        part: memoryview | None = None
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(binary):
                raise Refusal(400, f"{where}: binary_data_size is more than the body has behind its JSON")
            part, binary = binary[:size], binary[size:]
        tensors.append(tensor_from_json(where, declared, part))
    if len(binary):
        raise Refusal(400, "there are bytes behind the JSON that belong to no input")
    return tensors


def _wanted_outputs(request: Mapping[str, Any], available: Sequence[TensorMetadata]) -> list[tuple[str, bool]]:
    """Return the names of the outputs to send, each with whether it is wanted in binary."""
    all_binary = _parameters("request", request).get("binary_data_output") is True
    names = [metadata.name for metadata in available]
    outputs = request.get("outputs")
    if outputs is None or outputs == []:
        return [(name, all_binary) for name in names]
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise Refusal(400, "outputs must be a list of JSON objects")
    wanted: dict[str, bool] = {}
    for number, output in enumerate(outputs):
        where = f"outputs[{number}]"
        name = output.get("name")
        if name not in names or name in wanted:
            raise Refusal(400, f"{where}: name must be one of {', '.join(names)}, each at most once")
        wanted[name] = _parameters(where, output).get("binary_data", all_binary) is True
    return list(wanted.items())


def _parameters(where: str, declared: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = declared.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise Refusal(400, f"{where}: parameters must be a JSON object")
    return parameters


def _is_matrix(schema: Schema, tensor: Tensor) -> bool:
    return (
        all(column.kind == "numeric" for column in schema.columns)
        and tensor.datatype in NUMBERS
        and tensor.values.ndim == 2
        and tensor.values.shape[1] == len(schema.columns)
    )


def _column_values(column: Column, tensor: Tensor) -> NDArray[Any]:
    if column.kind == "image":
        return _images(column, tensor)
    wanted = TEXT if column.kind == "categorical" else "FP64, FP32 or an integer type"
    if (tensor.datatype == TEXT) != (column.kind == "categorical"):
        raise Refusal(400, f"input {column.name}: datatype must be {wanted}")
    if tensor.values.ndim != 1 and tensor.values.shape[1:] != (1,):
        raise Refusal(400, f"input {column.name}: shape must be [rows] or [rows, 1]")
    flat = tensor.values.reshape(-1)
    if column.kind == "categorical":
        # As every other reader of categories does it.
        return np.array([text.strip() for text in flat], dtype=object)
    return flat.astype(np.float64)


def _images(column: Column, tensor: Tensor) -> NDArray[Any]:
    channels, height, width = column.shape
    if tensor.datatype not in _IMAGE_DATATYPES:
        raise Refusal(400, f"input {column.name}: datatype must be {' or '.join(_IMAGE_DATATYPES)}")
    shape = tensor.values.shape[1:]
    if shape != column.shape and not (channels == 1 and shape == (height, width)):
        also = f" or [rows, {height}, {width}]" if channels == 1 else ""
        raise Refusal(400, f"input {column.name}: shape must be [rows, {channels}, {height}, {width}]{also}")
    return tensor.values.reshape(-1, channels, height, width)


def _write(head: dict[str, object], outputs: Sequence[tuple[Tensor, bool]]) -> Inference:
    declared: list[dict[str, object]] = []
    parts: list[bytes] = []
    for tensor, as_binary in outputs:
        if as_binary:
            described, part = tensor_to_binary(tensor)
            declared.append(described)
            parts.append(part)
        else:
            declared.append(tensor_to_json(tensor))
    written = to_json({**head, "outputs": declared})
    return Inference(b"".join([written, *parts]), len(written) if parts else None)
