"""Preprocessing: fitted from summed statistics alone, saved with the model, run again by whoever predicts."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from tacit.models.data.records import rows_from_images, rows_from_records
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.data.schemas import SchemaModel, StrictModel, schema_to_json_dict, validation_refused
from tacit.models.errors import InputError
from tacit.models.statistics import (
    GREY_LEVELS,
    HASH_BUCKETS,
    category_buckets,
    class_counts,
    column_parts,
    column_values,
    row_count,
    statistics,
    statistics_size,
)

__all__ = [
    "Features",
    "OneHot",
    "Standardise",
    "fit",
    "rows_from_images",
    "rows_from_records",
    "statistics",
    "statistics_size",
]

# Standardised values are cut here: beyond any real value, and small enough that a model's arithmetic stays finite.
MAX_STANDARD_DEVIATIONS = 1e6

# A variance below this share of the mean square is the rounding error of a constant.
_CONSTANT = 1e-12
# How far sums that were rounded to fixed point may contradict each other.
_TOLERANCE = 1e-3
_TOTAL = "summed statistics"
_IMAGES_AT_ONCE = 1024


@dataclass(frozen=True)
class Standardise:
    """`(value - mean) / scale`, for a numeric column (one number each) or for each channel of an image."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class OneHot:
    """One slot for each of `buckets`, then one for every other value: unseen, rare or missing."""

    buckets: tuple[int, ...]

    @cached_property
    def slots(self) -> NDArray[np.int64]:
        """The slot of each bucket; one more entry, which index -1 finds, is that of a missing value."""
        slots = np.full(HASH_BUCKETS + 1, len(self.buckets), dtype=np.int64)
        slots[list(self.buckets)] = np.arange(len(self.buckets))
        return slots


@dataclass(frozen=True)
class Features:
    """Fitted preprocessing: one encoder for each column of `schema`."""

    schema: Schema
    encoders: tuple[Standardise | OneHot, ...]

    def __post_init__(self) -> None:
        """Refuse encoders that do not fit the schema, and an image beside other columns."""
        columns = self.schema.columns
        if len(columns) != len(self.encoders):
            raise InputError(f"{len(self.encoders)} encoders", where="features", right=f"{len(columns)}, one a column")
        if len(columns) > 1 and any(column.kind == "image" for column in columns):
            raise InputError("an image beside other columns", where="features", right="one image, or none")
        for column, encoder in zip(columns, self.encoders, strict=True):
            _check_encoder(column, encoder)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one transformed row: `(features,)`, or `(channels, height, width)` of an image."""
        first = self.schema.columns[0]
        return first.shape if first.kind == "image" else (self._starts[-1],)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the canonical JSON."""
        text = json.dumps(self.to_json_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def transform(self, rows: Rows) -> NDArray[np.float32]:
        """Return what a model reads, shape `(rows, *input_shape)`.

        A missing number becomes the training mean, which is 0.

        Raises:
            InputError: the rows lack a column or have one of another shape.
        """
        result = np.zeros((len(rows), *self.input_shape), dtype=np.float32)
        numbers: list[NDArray[Any]] = []
        for column, encoder, start in zip(self.schema.columns, self.encoders, self._starts, strict=False):
            values = column_values(rows, column)
            if isinstance(encoder, OneHot):
                slots = encoder.slots[category_buckets(column.name, values)]
                result[np.arange(len(rows)), start + slots] = 1.0
            elif column.kind == "image":
                _standardise_images(values, encoder, out=result)
            else:
                numbers.append(values)
        if numbers:
            slots, mean, scale = self._numeric
            standardised = _standardised(np.stack(numbers, axis=1), mean, scale)
            standardised[np.isnan(standardised)] = 0.0
            result[:, slots] = standardised
        return result

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """The first slot of each column, and the number of slots at the end."""
        return tuple(accumulate(map(_width, self.encoders), initial=0))

    @cached_property
    def _numeric(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """The slots, means and scales of the numeric columns."""
        found = [
            (start, encoder.mean[0], encoder.scale[0])
            for encoder, start in zip(self.encoders, self._starts, strict=False)
            if isinstance(encoder, Standardise)
        ]
        slots, means, scales = zip(*found, strict=True)
        return np.array(slots, dtype=np.int64), np.array(means), np.array(scales)

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, strings and numbers, from which the very same features can be read."""
        encoders: list[dict[str, Any]] = [
            {"kind": "one-hot", "buckets": list(encoder.buckets)}
            if isinstance(encoder, OneHot)
            else {"kind": "standardise", "mean": list(encoder.mean), "scale": list(encoder.scale)}
            for encoder in self.encoders
        ]
        return {"version": 1, "schema": schema_to_json_dict(self.schema), "encoders": encoders}

    @staticmethod
    def from_json_dict(value: object) -> Features:
        """Read what `to_json_dict` wrote.

        Raises:
            InputError: something is missing, unknown, of another type, not finite, or does not fit the schema.
        """
        try:
            model = _FeaturesModel.model_validate(value)
        except ValidationError as error:
            raise validation_refused(error, "features") from None
        return Features(
            model.schema_.schema_value(),
            tuple(
                OneHot(tuple(encoder.buckets))
                if isinstance(encoder, _OneHotModel)
                else Standardise(tuple(encoder.mean), tuple(encoder.scale))
                for encoder in model.encoders
            ),
        )


def fit(schema: Schema, total: NDArray[np.float64], *, minimum_count: int = 5) -> Features:
    """Fit the preprocessing to summed statistics.

    A numeric column and each channel of an image are standardised with their mean and population standard deviation
    (1 where that is 0 or nothing is present); a categorical column gets a slot for each bucket that enough rows share.

    Args:
        schema: the dictionary that every owner's statistics were computed with.
        total: the sum of the owners' `statistics`, shape `(statistics_size(schema),)`.
        minimum_count: how many rows a bucket must have for a slot of its own.

    Raises:
        InputError: no rows could have this total, or the schema mixes an image with other columns.
    """
    if minimum_count < 1:
        raise InputError(f"minimum_count is {minimum_count}", right="at least 1")
    total = _possible(schema, total)
    encoders: list[Standardise | OneHot] = []
    for column, part in column_parts(schema, total):
        if column.kind == "categorical":
            encoders.append(OneHot(tuple(np.flatnonzero(part >= minimum_count).tolist())))
        else:
            count, mean_sum, square_sum = part.reshape(-1, 3).T
            encoders.append(_standardise(count, mean_sum, square_sum))
    return Features(schema, tuple(encoders))


def _possible(schema: Schema, total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `total` with its counts rounded, or refuse it where no rows could have it."""
    total = np.array(total, dtype=np.float64)
    if total.shape != (statistics_size(schema),):
        raise InputError(f"is of shape {total.shape}", where=_TOTAL, right=f"({statistics_size(schema)},)")
    if not np.isfinite(total).all():
        raise InputError("holds a value that is not finite", where=_TOTAL, right="finite sums")
    rows = round(row_count(schema, total))
    if rows < 1:
        raise InputError("counts no rows", where=_TOTAL, right="at least one row")
    classes = np.rint(class_counts(schema, total))
    if schema.classes and ((classes < 0).any() or classes.sum() != rows):
        raise InputError("has an impossible count of a class", where=_TOTAL, right=f"counts that add up to {rows}")
    for column, part in column_parts(schema, total):
        where = f"{_TOTAL}, column {column.name!r}"
        if column.kind == "categorical":
            part[:] = np.rint(part)
            if (part < 0).any() or part.sum() > rows:
                raise InputError("has an impossible count", where=where, right=f"counts from 0 to {rows} in all")
            continue
        moments = part.reshape(-1, 3)
        moments[:, 0] = np.rint(moments[:, 0])
        count, value_sum, square_sum = moments.T
        highest = rows * (column.shape[1] * column.shape[2] if column.kind == "image" else 1)
        if (count < 0).any() or (count > highest).any():
            raise InputError("has an impossible count", where=where, right=f"from 0 to {highest}")
        # Cauchy and Schwarz: the square of a sum of n values is at most n times the sum of their squares.
        least = (1 - _TOLERANCE) * value_sum**2 / np.maximum(count, 1.0) - _TOLERANCE
        if (square_sum < np.maximum(least, -_TOLERANCE)).any():
            raise InputError("has an impossible sum of squares", where=where, right="at least the squared sum / count")
    return total


def _standardise(
    count: NDArray[np.float64], value_sum: NDArray[np.float64], square_sum: NDArray[np.float64]
) -> Standardise:
    present = np.maximum(count, 1.0)
    mean = value_sum / present
    mean_square = square_sum / present
    variance = np.maximum(mean_square - mean**2, 0.0)
    scale = np.where(variance > _CONSTANT * mean_square, np.sqrt(variance), 1.0)
    return Standardise(tuple(mean.tolist()), tuple(scale.tolist()))


def _standardised(
    values: NDArray[Any], mean: float | NDArray[np.float64], scale: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.clip((values - mean) / scale, -MAX_STANDARD_DEVIATIONS, MAX_STANDARD_DEVIATIONS)


def _standardise_images(pixels: NDArray[Any], encoder: Standardise, *, out: NDArray[np.float32]) -> None:
    """Write the standardised `pixels`, shape `(images, channels, height, width)`, to `out`."""
    levels = np.arange(GREY_LEVELS + 1) / GREY_LEVELS
    for channel, (mean, scale) in enumerate(zip(encoder.mean, encoder.scale, strict=True)):
        # A grey level has one result: 256 divisions instead of millions.
        table = _standardised(levels, mean, scale).astype(np.float32)
        for start in range(0, len(pixels), _IMAGES_AT_ONCE):
            chunk = pixels[start : start + _IMAGES_AT_ONCE, channel]
            target = out[start : start + _IMAGES_AT_ONCE, channel]
            target[:] = table[chunk] if chunk.dtype == np.uint8 else _standardised(chunk, mean, scale)


def _width(encoder: Standardise | OneHot) -> int:
    return len(encoder.buckets) + 1 if isinstance(encoder, OneHot) else 1


def _check_encoder(column: Column, encoder: Standardise | OneHot) -> None:
    where = f"features, column {column.name!r}"
    if isinstance(encoder, OneHot) != (column.kind == "categorical"):
        raise InputError("has an encoder for another kind", where=where, right=f"one for {column.kind} values")
    if isinstance(encoder, OneHot):
        increasing = all(low < high for low, high in pairwise(encoder.buckets))
        if not increasing or not all(0 <= bucket < HASH_BUCKETS for bucket in encoder.buckets):
            raise InputError("has impossible buckets", where=where, right=f"increasing, from 0 to {HASH_BUCKETS - 1}")
        return
    expected = column.shape[0] if column.kind == "image" else 1
    if len(encoder.mean) != expected or len(encoder.scale) != expected:
        raise InputError("has another number of means or scales", where=where, right=f"{expected} of each")
    if not all(map(math.isfinite, encoder.mean)) or not all(0 < scale < math.inf for scale in encoder.scale):
        raise InputError("has an impossible mean or scale", where=where, right="finite means, positive scales")


class _StandardiseModel(StrictModel):
    kind: Literal["standardise"]
    mean: list[float]
    scale: list[float]


class _OneHotModel(StrictModel):
    kind: Literal["one-hot"]
    buckets: Annotated[list[int], Field(max_length=HASH_BUCKETS)]


class _FeaturesModel(StrictModel):
    version: Literal[1]
    schema_: SchemaModel = Field(alias="schema")
    encoders: list[Annotated[_StandardiseModel | _OneHotModel, Field(discriminator="kind")]]
