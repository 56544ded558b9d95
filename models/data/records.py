"""Raw rows of a prediction request: checked, with errors that say where and never what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.spelling import unknown


def rows_from_records(schema: Schema, records: Sequence[Mapping[str, Any]]) -> Rows:
    """Return one row a record, without labels.

    A column that a record leaves out, or gives as None, is missing in that row.

    Args:
        schema: the dictionary of the model.
        records: column names and values: numbers for numeric columns, text for categorical ones.

    Raises:
        InputError: there are no records, one has a key that is no column, or a value of the wrong kind.
    """
    if not records:
        raise InputError("there are no rows", right="at least one")
    for column in schema.columns:
        if column.kind == "image":
            raise InputError("is an image", where=f"column {column.name!r}", right="an array of pixels, not records")
    names = {column.name for column in schema.columns}
    for row, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise InputError("is no record", where=f"row {row}", right="column names and values")
        for key in record:
            if key not in names:
                raise unknown("column", str(key), sorted(names), where=f"row {row}")
    return Rows({column.name: _column(column, records) for column in schema.columns})


def rows_from_images(schema: Schema, pixels: NDArray[Any]) -> Rows:
    """Return one row an image, without labels.

    Args:
        schema: the dictionary of the model, with one image column.
        pixels: shape `(images, channels, height, width)`, or `(images, height, width)` for one channel; whole numbers
            are levels from 0 to 255, floats are in the scale of the training data.

    Raises:
        InputError: the model does not read images, or the array has another shape, type or range.
    """
    if len(schema.columns) != 1 or schema.columns[0].kind != "image":
        raise InputError("the model reads no images", right="records")
    column = schema.columns[0]
    where = f"column {column.name!r}"
    if pixels.ndim == 3 and column.shape[0] == 1:
        pixels = pixels[:, np.newaxis]
    if pixels.ndim != 4 or pixels.shape[1:] != column.shape or not len(pixels):
        raise InputError(f"has the shape {pixels.shape}", where=where, right=f"(images, {str(column.shape)[1:]}")
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values: NDArray[Any] = pixels.astype(np.float32)
        wrong, right = ~np.isfinite(values), "finite numbers"
    elif pixels.dtype.kind in "ui":
        values = pixels.astype(np.uint8)
        wrong, right = values != pixels, "levels from 0 to 255"
    else:
        raise InputError("does not hold numbers", where=where, right="an array of numbers")
    if wrong.any():
        row = int(np.argwhere(wrong)[0, 0])
        raise InputError("has a pixel out of range", where=f"row {row}, {where}", right=right)
    return Rows({column.name: values})


def _column(column: Column, records: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    values = [record.get(column.name) for record in records]
    if column.kind == "numeric":
        return np.array([_number(value, row, column.name) for row, value in enumerate(values)], dtype=np.float64)
    return np.array([_text(value, row, column.name) for row, value in enumerate(values)], dtype=object)


def _number(value: object, row: int, name: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise InputError("the value is wrong", where=f"row {row}, column {name!r}", right="a finite number, or null")


def _text(value: object, row: int, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError("the value is wrong", where=f"row {row}, column {name!r}", right="a string, or null")
    return value.strip()
