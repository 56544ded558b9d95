"""What one owner contributes to the preprocessing: a vector of sums, of one length for every owner.

The vector holds, in the order of the schema's columns:

- numeric: number of values present, their sum, the sum of their squares;
- image: the same three for the pixels of each channel (levels of uint8 pixels divided by 255, floats as they are);
- categorical: the number of rows in each of `HASH_BUCKETS` buckets, a missing value in none;

then the number of rows, and the number of rows of each class. All of it adds up: the vector of two owners' rows
together is the sum of their vectors, so a masked sum reveals no owner's part. No category leaves its owner as text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError

HASH_BUCKETS = 4096
GREY_LEVELS = 255

_DOMAIN = b"tacit/category/v1\0"
# Keeps the temporary arrays of the image sums within the processor's cache.
_PIXELS_AT_ONCE = 1 << 20


def column_size(column: Column) -> int:
    """Return how many numbers of the statistics belong to `column`."""
    match column.kind:
        case "numeric":
            return 3
        case "image":
            return 3 * column.shape[0]
        case "categorical":
            return HASH_BUCKETS


def statistics_size(schema: Schema) -> int:
    """Return the length of the statistics, which only the schema decides."""
    return sum(map(column_size, schema.columns)) + 1 + len(schema.classes)


def statistics_counts(schema: Schema) -> NDArray[np.bool_]:
    """Return which of the statistics are counts, whole numbers that are never negative, shape `(size,)`."""
    moments = np.array([True, False, False])
    parts = [
        np.ones(HASH_BUCKETS, bool) if column.kind == "categorical" else np.tile(moments, column_size(column) // 3)
        for column in schema.columns
    ]
    return np.concatenate([*parts, np.ones(1 + len(schema.classes), bool)])


def column_parts(schema: Schema, statistics: NDArray[np.float64]) -> Iterator[tuple[Column, NDArray[np.float64]]]:
    """Yield each column with its part of `statistics`."""
    start = 0
    for column in schema.columns:
        end = start + column_size(column)
        yield column, statistics[start:end]
        start = end


def row_count(schema: Schema, statistics: NDArray[np.float64]) -> float:
    """Return the number of rows that `statistics` counts."""
    return float(statistics[-1 - len(schema.classes)])


def class_counts(schema: Schema, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the number of rows of each class that `statistics` counts, shape `(classes,)`."""
    return statistics[len(statistics) - len(schema.classes) :]


def statistics(rows: Rows, schema: Schema) -> NDArray[np.float64]:
    """Return the sums of `rows`, shape `(statistics_size(schema),)`.

    Raises:
        InputError: a column is missing or of another shape, a row has no label, or a sum is not finite.
    """
    if schema.classes and len(rows.labels) != len(rows):
        raise InputError(f"{len(rows)} rows have {len(rows.labels)} labels", right="one label a row")
    total = np.zeros(statistics_size(schema), dtype=np.float64)
    for column, part in column_parts(schema, total):
        values = column_values(rows, column)
        match column.kind:
            case "numeric":
                part[:] = _moments(values[~np.isnan(values)])
            case "image":
                part[:] = _channel_moments(values)
            case "categorical":
                present = category_buckets(column.name, values)
                part[:] = np.bincount(present[present >= 0], minlength=HASH_BUCKETS)
        if not np.isfinite(part).all():
            raise InputError("its sums are not finite", where=f"column {column.name!r}", right="smaller, finite values")
    total[-1 - len(schema.classes)] = len(rows)
    if schema.classes:
        class_counts(schema, total)[:] = np.bincount(rows.labels, minlength=len(schema.classes))
    return total


def column_values(rows: Rows, column: Column) -> NDArray:
    """Return the values of `column`.

    Raises:
        InputError: the rows have no such column, or it has another length, type or shape.
    """
    values = rows.columns.get(column.name)
    if values is None:
        raise InputError("the rows do not have it", where=f"column {column.name!r}", right="every column of the schema")
    kinds = {"numeric": "f", "categorical": "O", "image": "uf"}[column.kind]
    if values.dtype.kind not in kinds or values.shape != (len(rows), *column.shape):
        raise InputError(
            f"holds {values.dtype} of shape {values.shape}",
            where=f"column {column.name!r}",
            right=f"{column.kind} values of shape {(len(rows), *column.shape)}",
        )
    if values.dtype.kind == "u" and values.dtype != np.uint8:
        raise InputError(f"holds {values.dtype}", where=f"column {column.name!r}", right="uint8 or float32 pixels")
    return values


def category_buckets(name: str, values: NDArray[np.object_]) -> NDArray[np.int64]:
    """Return the bucket of each value of the categorical column `name`, -1 where the value is missing.

    The bucket is the first eight bytes of SHA-256 over a tag, the length of the name, the name and the value, modulo
    `HASH_BUCKETS`; each distinct value is hashed once.
    """
    encoded = name.encode("utf-8", "surrogatepass")
    prefix = hashlib.sha256(_DOMAIN + len(encoded).to_bytes(8, "big") + encoded)
    buckets = {"": -1}
    texts = values.tolist()
    for text in set(texts) - {""}:
        digest = prefix.copy()
        # A prediction request may hold half a surrogate pair, which plain UTF-8 cannot encode.
        digest.update(text.encode("utf-8", "surrogatepass"))
        buckets[text] = int.from_bytes(digest.digest()[:8], "big") % HASH_BUCKETS
    return np.fromiter(map(buckets.__getitem__, texts), dtype=np.int64, count=len(texts))


def _moments(values: NDArray[np.float64]) -> tuple[float, float, float]:
    with np.errstate(over="ignore"):
        return float(len(values)), float(values.sum()), float(np.square(values).sum())


def _channel_moments(pixels: NDArray) -> NDArray[np.float64]:
    """Return pixel count, sum and sum of squares of each channel; exact up to the last division for uint8."""
    count, channels, height, width = pixels.shape
    step = max(1, _PIXELS_AT_ONCE // (channels * height * width))
    moments = np.zeros((channels, 3), dtype=np.float64)
    moments[:, 0] = count * height * width
    for start in range(0, count, step):
        chunk = pixels[start : start + step]
        if chunk.dtype == np.uint8:
            moments[:, 1] += chunk.sum(axis=(0, 2, 3), dtype=np.uint64)
            # 255 squared still fits into 16 bits.
            moments[:, 2] += np.square(chunk, dtype=np.uint16).sum(axis=(0, 2, 3), dtype=np.uint64)
        else:
            exact = chunk.astype(np.float64)
            moments[:, 1] += exact.sum(axis=(0, 2, 3))
            moments[:, 2] += np.square(exact).sum(axis=(0, 2, 3))
    if pixels.dtype == np.uint8:
        moments[:, 1] /= GREY_LEVELS
        moments[:, 2] /= GREY_LEVELS**2
    return moments.reshape(-1)
