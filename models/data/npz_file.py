"""`npz:FILE`: NumPy arrays x and y, and perhaps x_test and y_test."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.assemble import Part, assemble
from tacit.models.data.options import check_options, check_task, listed
from tacit.models.data.rows import Column, Source
from tacit.models.errors import InputError

_CHANNELS = (1, 3, 4)


def open_npz(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Open an archive of plain arrays; nothing in it is ever unpickled.

    `x` of shape `(rows, columns)` becomes numeric columns x0, x1, ... with NaN for a missing value; `(rows, height,
    width)`, `(rows, channels, height, width)` or `(rows, height, width, channels)` become images. Whole-number pixels
    are levels from 0 to 255, float pixels are used as they are. Option `classes=a,b` fixes the classes and their order.

    Raises:
        InputError: the file is missing, truncated or no such archive, or its arrays do not fit together or the task.
    """
    check_options("npz", options, ("classes",))
    arrays = _read(Path(location))
    for name in ("x", "y"):
        if name not in arrays:
            raise InputError(f"has no array {name}", where=location, right="arrays x and y")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise InputError("has one of x_test and y_test", where=location, right="both or none")
    images = arrays["x"].ndim > 2
    check_task("npz", task, ("image-classification",) if images else ("tabular-classification", "tabular-regression"))
    train = _part(arrays, "", task, location)
    test = _part(arrays, "_test", task, location) if "x_test" in arrays else None
    if images:
        columns: tuple[Column, ...] = (Column("image", "image", train.columns["image"].shape[1:]),)
    else:
        columns = tuple(Column(name, "numeric") for name in train.columns)
    if test and [value.shape[1:] for value in test.columns.values()] != [
        value.shape[1:] for value in train.columns.values()
    ]:
        raise InputError("x_test has another shape than x", where=location, right="rows of one shape")
    return assemble(columns, train, test, task=task, label=label, where=location, classes=listed(options, "classes"))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), right="a path that exists")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in ("x", "y", "x_test", "y_test")}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error, RuntimeError):
        raise InputError(
            "is truncated, or no archive of plain arrays", where=str(path), right="what numpy.savez writes"
        ) from None


def _part(arrays: Mapping[str, NDArray[Any]], end: str, task: str, location: str) -> Part:
    x, y = arrays[f"x{end}"], arrays[f"y{end}"]
    where = f"{location}: x{end}"
    if x.dtype.kind not in "buif":
        raise InputError("does not hold numbers", where=where, right="an array of numbers")
    if x.ndim not in (2, 3, 4) or not x.size:
        raise InputError(f"has the shape {x.shape}", where=where, right="rows in 2, 3 or 4 dimensions, none of size 0")
    features = _images(x, where) if x.ndim > 2 else _numbers(x, where)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (len(x),):
        raise InputError(f"has the shape {y.shape}", where=f"{location}: y{end}", right=f"({len(x)},)")
    if y.dtype.kind not in ("buif" if task.endswith("-regression") else "buifU"):
        raise InputError("does not hold labels", where=f"{location}: y{end}", right="an array of numbers")
    return Part(features, y, place=lambda row: f"{location}: y{end}: row {row}")


def _numbers(x: NDArray[Any], where: str) -> dict[str, NDArray[Any]]:
    values = x.astype(np.float64)
    infinite = np.isinf(values)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise InputError("is infinite", where=f"{where}: row {row}, column {column}", right="a finite number, or NaN")
    return {f"x{index}": np.ascontiguousarray(values[:, index]) for index in range(values.shape[1])}


def _images(x: NDArray[Any], where: str) -> dict[str, NDArray[Any]]:
    if x.ndim == 3:
        x = x[:, np.newaxis]
    elif x.shape[1] not in _CHANNELS and x.shape[3] in _CHANNELS:
        x = np.moveaxis(x, 3, 1)
    if x.dtype.kind == "f":
        pixels: NDArray[Any] = x.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise InputError("has a pixel that is no finite number", where=where, right="finite numbers")
    else:
        if x.min() < 0 or x.max() > 255:
            raise InputError("has a whole-number pixel out of range", where=where, right="levels from 0 to 255")
        pixels = x.astype(np.uint8)
    return {"image": np.ascontiguousarray(pixels)}
