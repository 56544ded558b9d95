"""`synthetic:KIND`: made-up data that can be learnt, the same for the same options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.assemble import Part, assemble
from tacit.models.data.options import check_options, check_task, real_number, whole_number
from tacit.models.data.rows import Column, Source
from tacit.models.spelling import unknown

_TASKS = {
    "classification": "tabular-classification",
    "regression": "tabular-regression",
    "images": "image-classification",
}
_OPTIONS = {
    "classification": ("rows", "features", "classes", "seed", "noise"),
    "regression": ("rows", "features", "seed", "noise"),
    "images": ("rows", "size", "classes", "seed", "noise"),
}


def open_synthetic(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Make rows of one kind: classification, regression or images.

    Options: `rows=` (1000), `features=` (10) or, for images, `size=` (8 pixels), `classes=` (2; images 4), `seed=` (0)
    and `noise=`, the standard deviation of the noise beside a signal of about 1 (0.5; images 0.25 of the grey scale).

    Raises:
        InputError: the kind or an option is unknown, or a value is out of range.
    """
    if location not in _TASKS:
        raise unknown("kind", location, _TASKS, where="data source synthetic")
    check_options("synthetic", options, _OPTIONS[location])
    check_task("synthetic", task, (_TASKS[location],))
    images = location == "images"
    rows = whole_number(options, "rows", 1000, minimum=2, maximum=10_000_000)
    classes = whole_number(options, "classes", 4 if images else 2, minimum=2, maximum=min(1000, rows))
    noise = real_number(options, "noise", 0.25 if images else 0.5, minimum=0.0, maximum=1000.0)
    random = np.random.default_rng(whole_number(options, "seed", 0, minimum=0, maximum=2**63 - 1))
    # Every class occurs, however few rows there are; the order is random.
    kinds = random.permutation(np.arange(rows) % classes)

    labels: NDArray[Any] = kinds
    if images:
        size = whole_number(options, "size", 8, minimum=2, maximum=512)
        columns: tuple[Column, ...] = (Column("image", "image", (1, size, size)),)
        features: dict[str, NDArray[Any]] = {"image": _images(random, kinds, classes, size, noise)}
    else:
        width = whole_number(options, "features", 10, minimum=1, maximum=10_000)
        if location == "classification":
            values, labels = _clusters(random, kinds, classes, width, noise), kinds
        else:
            values, labels = _line(random, rows, width, noise)
        columns = tuple(Column(f"x{index}", "numeric") for index in range(width))
        features = {f"x{index}": np.ascontiguousarray(values[:, index]) for index in range(width)}
    part = Part(features, labels, place=lambda row: f"synthetic:{location}: row {row}")
    return assemble(columns, part, None, task=task, label=label, where=f"synthetic:{location}")


def _clusters(
    random: np.random.Generator, kinds: NDArray[np.int64], classes: int, features: int, noise: float
) -> NDArray[np.float64]:
    """Return points around one centre a class."""
    centres = random.standard_normal((classes, features))
    return centres[kinds] + noise * random.standard_normal((len(kinds), features))


def _line(
    random: np.random.Generator, rows: int, features: int, noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points and a target that is linear in them, of variance 1 before the noise."""
    weights = random.standard_normal(features)
    weights /= np.linalg.norm(weights)
    values = random.standard_normal((rows, features))
    return values, values @ weights + noise * random.standard_normal(rows)


def _images(
    random: np.random.Generator, kinds: NDArray[np.int64], classes: int, size: int, noise: float
) -> NDArray[np.uint8]:
    """Return noisy copies of one random pattern a class, as grey levels."""
    patterns = random.random((classes, 1, size, size))
    pixels = patterns[kinds] + noise * random.standard_normal((len(kinds), 1, size, size))
    return np.rint(255 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8)
