"""`sklearn:NAME`: the small data sets that scikit-learn carries, for first steps and tests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tacit.models.data.assemble import Part, assemble
from tacit.models.data.options import check_options, check_task
from tacit.models.data.rows import Column, Source
from tacit.models.errors import InputError
from tacit.models.spelling import unknown

_TASKS = {
    "digits": ("image-classification", "tabular-classification"),
    "breast_cancer": ("tabular-classification",),
    "wine": ("tabular-classification",),
    "diabetes": ("tabular-regression",),
}
_DARKEST_DIGIT_PIXEL = 16.0


def open_sklearn(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Open digits, breast_cancer, wine or diabetes.

    The digits are float pixels in [0, 1] for an image task and 64 numeric columns for a tabular one.

    Raises:
        InputError: the name is unknown, the set does not fit the task, or scikit-learn is not installed.
    """
    where = f"sklearn:{location}"
    if location not in _TASKS:
        raise unknown("data set", location, _TASKS, where="data source sklearn")
    check_options("sklearn", options, ())
    check_task("sklearn", task, _TASKS[location])
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InputError("needs scikit-learn", where=where, right="install tacit[sim]") from error

    loaded = getattr(datasets, f"load_{location}")()
    labels = loaded.target
    if task == "tabular-regression":
        labels = labels.astype(np.float64)
    else:
        labels = np.array([str(name) for name in loaded.target_names], dtype=object)[labels]
    if task == "image-classification":
        pixels = (loaded.images / _DARKEST_DIGIT_PIXEL).astype(np.float32)[:, np.newaxis]
        columns: tuple[Column, ...] = (Column("image", "image", pixels.shape[1:]),)
        features = {"image": pixels}
    else:
        columns = tuple(Column(str(name), "numeric") for name in loaded.feature_names)
        features = {
            column.name: np.ascontiguousarray(loaded.data[:, index], dtype=np.float64)
            for index, column in enumerate(columns)
        }
    part = Part(features, labels, place=lambda row: f"{where}: row {row}")
    return assemble(columns, part, None, task=task, label=label, where=where)
