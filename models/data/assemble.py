"""From what a connector read to an opened source: labels encoded, rows without one dropped, everything counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.classes import OTHERS, Place, class_indices, class_names, label_texts, without_full_stops
from tacit.models.data.findings import describe
from tacit.models.data.rows import Column, Rows, Schema, Source
from tacit.models.errors import InputError


@dataclass(frozen=True, repr=False)
class Part:
    """The training or the test part as read: feature columns, raw labels, and where each row stands."""

    columns: Mapping[str, NDArray[Any]]
    labels: NDArray[Any]
    place: Place
    files: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def assemble(
    columns: tuple[Column, ...],
    train: Part,
    test: Part | None,
    *,
    task: str,
    label: str,
    where: str,
    classes: tuple[str, ...] = (),
    file_names: tuple[str, ...] = (),
) -> Source:
    """Make a source of two parts.

    Args:
        columns: the feature columns; their values are already what `Rows` asks for.
        train: the training part.
        test: the source's own test part, if it has one.
        task: the recipe's task kind; one that ends in "-regression" has float targets, any other classes.
        label: the name of the label.
        where: names the source in errors.
        classes: fixed names and order of the classes; none: the training labels, sorted. With `OTHERS` at the end, rows
            with another label are left out, if need be all of them.
        file_names: what `train.files` points into.

    Raises:
        InputError: there are no rows or feature columns, or the labels cannot be used.
    """
    if not columns:
        raise InputError("there is no feature column", where=where, right="at least one column beside the label")
    regression = task.endswith("-regression")
    names: tuple[str, ...] = ()
    leave_out = classes[-1:] == (OTHERS,)
    classes = classes[:-1] if leave_out else classes
    if regression and classes:
        raise InputError("a regression has no classes", where="option classes", right="no such option")
    if not regression:
        names = class_names(label_texts(train.labels), classes, where=where)
    schema = Schema(columns, label, names)
    train_rows, kept = _labelled(train, schema, leave_out)
    if not len(train_rows) and not leave_out:
        raise InputError("there are no rows with a label", where=where, right="at least one row")
    without = "with a label of no class, or none" if leave_out else "without a label"
    dropped = {without: len(train.labels) - len(kept)}
    test_rows = None
    if test is not None:
        test_rows, tested = _labelled(test, schema, leave_out)
        dropped[f"{without}, in the test part"] = len(test.labels) - len(tested)
    return Source(
        schema=schema,
        train=train_rows,
        test=test_rows,
        findings=describe(schema, train_rows, dropped),
        files=train.files[kept] if len(train.files) else train.files,
        file_names=file_names,
    )


def _labelled(part: Part, schema: Schema, leave_out: bool) -> tuple[Rows, NDArray[np.int64]]:
    """Return the rows that have a label, or one of the classes, encoded, and their indices in `part`."""
    if schema.classes:
        texts = without_full_stops(label_texts(part.labels), schema.classes)
        known = set(schema.classes) - {""}
        has_class = np.fromiter((text in known for text in texts.tolist()), dtype=bool, count=len(texts))
        kept = np.flatnonzero(has_class if leave_out else texts != "")
        labels: NDArray[Any] = class_indices(texts[kept], schema.classes, place=lambda row: part.place(int(kept[row])))
    else:
        targets = np.asarray(part.labels, dtype=np.float64)
        if np.isinf(targets).any():
            row = int(np.argmax(np.isinf(targets)))
            raise InputError("the target is infinite", where=part.place(row), right="a finite number")
        kept = np.flatnonzero(~np.isnan(targets))
        labels = targets[kept]
    features = part.columns
    if len(kept) < len(part.labels):
        features = {name: values[kept] for name, values in part.columns.items()}
    return Rows(features, labels), kept
