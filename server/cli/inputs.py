"""Files of rows as a person has them, as the records that the prediction API takes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from tacit.models.errors import InputError

_TEXT = "BYTES"
_FORMATS = ".csv, .json, .npy, .npz or .png"


@dataclass(frozen=True)
class ModelInput:
    """An input of a model as its service describes it; an image has the shape `(channels, height, width)`."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Tell whether a row of this input is an image."""
        return len(self.shape) == 3


def read_records(path: Path, inputs: Sequence[ModelInput]) -> list[Any]:
    """Read the rows of a file: an object a row, or nested lists for an image.

    Args:
        path: CSV with column names in its first line, JSON (a list of rows, or an object with `inputs`), NumPy
            arrays, or a PNG picture.
        inputs: those of the model, which say what is a number.

    Raises:
        InputError: the file cannot be read or does not fit the inputs; says where, and repeats no value.
    """
    readers = {".csv": _read_csv, ".json": _read_json, ".npy": _read_numpy, ".npz": _read_numpy, ".png": _read_png}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError("is no file of rows by its name", where=str(path), right=_FORMATS)
    try:
        records = reader(path, inputs)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or 'not a valid file'})", where=str(path)) from None
    if not records:
        raise InputError("has no rows", where=str(path))
    return records


def _read_csv(path: Path, inputs: Sequence[ModelInput]) -> list[Any]:
    if any(one.is_image for one in inputs):
        raise InputError("the model takes images", where=str(path), right="a .png, .npy or .npz file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            kept = _columns_kept(path, header, inputs)
            records = []
            for cells in lines:
                if not cells:
                    continue
                where = f"{path}: line {lines.line_num}"
                if len(cells) != len(header):
                    raise InputError(f"has {len(cells)} cells", where=where, right=f"{len(header)}, as the first line")
                records.append({one.name: _cell(cells[place], one, where) for place, one in kept.items()})
    except (UnicodeDecodeError, csv.Error):
        raise InputError("is no CSV in UTF-8", where=str(path)) from None
    return records


def _columns_kept(path: Path, header: Sequence[str], inputs: Sequence[ModelInput]) -> dict[int, ModelInput]:
    """Return the model's inputs by their place in the header; other columns are left out, and that is said."""
    names = [name.strip() for name in header]
    where = f"{path}: line 1"
    if len(set(names)) != len(names):
        raise InputError("names a column twice", where=where)
    missing = [one.name for one in inputs if one.name not in names]
    other = [name for name in names if name not in {one.name for one in inputs}]
    if missing:
        right = f"the model's columns (not {', '.join(other)})" if other else "all of the model's columns"
        raise InputError(f"lacks the column {', '.join(missing)}", where=where, right=right)
    if other:
        click.echo(f"{path}: left out, as the model has no such column: {', '.join(other)}", err=True)
    return {names.index(one.name): one for one in inputs}


def _cell(text: str, column: ModelInput, where: str) -> float | str | None:
    text = text.strip()
    if column.datatype == _TEXT:
        return text
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError("is no finite number", where=f"{where}, column {column.name}", right="a number, or nothing")
    return number


def _read_json(path: Path, inputs: Sequence[ModelInput]) -> list[Any]:
    try:
        rows = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InputError("is no JSON", where=str(path), right="a list of rows; NaN and Infinity are no JSON") from None
    if isinstance(rows, dict) and rows.keys() == {"inputs"}:
        rows = rows["inputs"]
    if not isinstance(rows, list):
        raise InputError("holds no list of rows", where=str(path), right='[...] or {"inputs": [...]}')
    return rows


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def _read_numpy(path: Path, inputs: Sequence[ModelInput]) -> list[Any]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays: dict[str, NDArray[Any]] = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (ValueError, EOFError, KeyError):
        raise InputError("is no file of plain NumPy arrays", where=str(path)) from None
    names = [one.name for one in inputs]
    if len(arrays) > 1 and set(names) <= set(arrays):
        return _rows_of_columns(path, {name: arrays[name] for name in names})
    if len(arrays) != 1 and names[0] not in arrays:
        raise InputError(f"holds {len(arrays)} arrays", where=str(path), right=f"one, or one called {names[0]}")
    array = arrays.get(names[0], next(iter(arrays.values())))
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise InputError("holds something else than finite numbers", where=str(path))
    if inputs[0].is_image:
        shape = inputs[0].shape
        if array.shape[1:] != shape and not (shape[0] == 1 and array.shape[1:] == shape[1:]):
            sizes = ", ".join(map(str, shape))
            raise InputError(f"holds an array of shape {array.shape}", where=str(path), right=f"(images, {sizes})")
        return list(array.tolist())
    if any(one.datatype == _TEXT for one in inputs) or array.ndim != 2 or array.shape[1] != len(names):
        right = f"rows of the model's {len(names)} columns, all of them numbers"
        raise InputError(f"holds an array of shape {array.shape}", where=str(path), right=right)
    return [dict(zip(names, row, strict=True)) for row in array.tolist()]


def _rows_of_columns(path: Path, columns: Mapping[str, NDArray[Any]]) -> list[Any]:
    if any(values.ndim != 1 or values.dtype.kind not in "iufU" for values in columns.values()):
        raise InputError("holds a column that is no list of numbers or texts", where=str(path))
    if len({len(values) for values in columns.values()}) != 1:
        raise InputError("holds columns of different lengths", where=str(path))
    # A missing number is NaN in an array and null in JSON.
    lists = [
        [None if isinstance(value, float) and math.isnan(value) else value for value in values.tolist()]
        for values in columns.values()
    ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _read_png(path: Path, inputs: Sequence[ModelInput]) -> list[Any]:
    image = inputs[0]
    if not image.is_image:
        raise InputError("the model takes no images", where=str(path), right="a .csv or .json file")
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError:
        raise InputError("needs the package pillow", where=str(path), right="pip install pillow") from None
    channels, height, width = image.shape
    try:
        with Image.open(path, formats=("PNG",)) as opened:
            size = opened.size
            fits = size == (width, height)
            # A picture of another size is not decoded: it may be very large.
            pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB")) if fits else None
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
        raise InputError("is no PNG picture", where=str(path)) from None
    if pixels is None:
        right = f"{width} x {height}, what the model takes"
        raise InputError(f"is {size[0]} x {size[1]} pixels", where=str(path), right=right)
    return [pixels.reshape(height, width, channels).transpose(2, 0, 1).tolist()]
