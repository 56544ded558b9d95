"""Raw rows of one owner, and the public dictionary that says what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ColumnKind = Literal["numeric", "categorical", "image"]


@dataclass(frozen=True)
class Column:
    """A feature column: its name, its kind and, for an image, `(channels, height, width)`."""

    name: str
    kind: ColumnKind
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schema:
    """What every member of a federation must know about the data; holds nothing that was measured.

    `classes` names the labels in the order of their indices; it is empty for a regression.
    """

    columns: tuple[Column, ...]
    label: str
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Rows:
    """Raw rows: one array of equal length a column, and the labels.

    Values: numeric columns are float64 with NaN for a missing value; categorical columns are object arrays of `str`
    with `""` for a missing value; image columns are uint8 or float32 arrays of shape `(rows, channels, height,
    width)`. `labels` are int64 indices into `Schema.classes`, or float64 targets; they may be empty when the rows are
    only to be predicted.
    """

    columns: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of rows."""
        return next((len(values) for values in self.columns.values()), len(self.labels))

    def __repr__(self) -> str:
        """Say how many rows there are and never what is in them."""
        return f"Rows({len(self)} rows, {len(self.columns)} columns)"

    def take(self, indices: NDArray[np.int64]) -> Rows:
        """Return the rows at `indices`, in that order."""
        labels = self.labels[indices] if len(self.labels) else self.labels
        return Rows({name: values[indices] for name, values in self.columns.items()}, labels)


@dataclass(frozen=True)
class Findings:
    """What a connector found, for a person to read before anything is trained."""

    rows: int
    columns: int
    classes: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Source:
    """An opened data source.

    Attributes:
        schema: the public dictionary.
        train: the training rows.
        test: the source's own test part, or None.
        files: for a directory with one file per client, the index into `file_names` of each training row's file;
            otherwise empty.
        file_names: the names that `files` points into.
        findings: counts for a person to read.
    """

    schema: Schema
    train: Rows
    test: Rows | None
    findings: Findings
    files: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    file_names: tuple[str, ...] = ()
