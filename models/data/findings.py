"""Count what a person should know about rows before they are used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.rows import Column, Findings, Rows, Schema


def describe(schema: Schema, rows: Rows, dropped: Mapping[str, int] | None = None) -> Findings:
    """Count rows, columns, rows of each class and missing values of `rows`, leaving out what is zero.

    Args:
        schema: the public dictionary of `rows`.
        rows: the training rows.
        dropped: how many rows the connector left out, by reason.
    """
    classes: dict[str, int] = {}
    if schema.classes:
        counts = np.bincount(rows.labels, minlength=len(schema.classes))
        classes = {name: int(count) for name, count in zip(schema.classes, counts, strict=True)}
    missing = {column.name: _missing(column, rows.columns[column.name]) for column in schema.columns}
    return Findings(
        rows=len(rows),
        columns=len(schema.columns),
        classes=classes,
        missing={name: count for name, count in missing.items() if count},
        dropped={reason: count for reason, count in (dropped or {}).items() if count},
    )


def _missing(column: Column, values: NDArray) -> int:
    match column.kind:
        case "numeric":
            return int(np.isnan(values).sum())
        case "categorical":
            return int((values == "").sum())
        case _:
            return 0
