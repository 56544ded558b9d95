"""Tables of text or typed columns: what kind each column is, and the numbers in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tacit.models.data.assemble import Part, assemble
from tacit.models.data.classes import label_texts
from tacit.models.data.options import listed
from tacit.models.data.rows import Column, ColumnKind, Source
from tacit.models.errors import InputError
from tacit.models.spelling import unknown

TABLE_OPTIONS = ("test", "numeric", "categorical", "drop", "classes")

# A column of text of which this share are numbers is a numeric column with errors in it; below, it is categorical.
NEARLY_ALL = 0.8


@dataclass(frozen=True, repr=False)
class Table:
    """Columns of equal length, and where each row stands.

    Columns are float64 with NaN for a missing value, or object arrays of `str` with `""` for one.
    """

    columns: Mapping[str, NDArray[Any]]
    paths: tuple[Path, ...]
    files: NDArray[np.int64]
    lines: NDArray[np.int64]
    unit: str = "line"

    def place(self, row: int) -> str:
        """Say where a row stands: file and line."""
        return f"{self.paths[self.files[row]]}: {self.unit} {self.lines[row]}"


def joined(tables: Iterable[Table]) -> Table:
    """Put the tables of several files under each other, in the column order of the first.

    Raises:
        InputError: a file's columns are not those of the first file, or differ in type.
    """
    tables = tuple(tables)
    first = tables[0]
    for table in tables[1:]:
        check_same_columns(first, table)
    return Table(
        columns={name: np.concatenate([table.columns[name] for table in tables]) for name in first.columns},
        paths=tuple(path for table in tables for path in table.paths),
        files=np.repeat(np.arange(len(tables)), [len(table.lines) for table in tables]),
        lines=np.concatenate([table.lines for table in tables]),
        unit=first.unit,
    )


def check_same_columns(first: Table, other: Table) -> None:
    """Refuse a file whose columns are not those of the first file."""
    where = str(other.paths[0])
    for name in first.columns:
        if name not in other.columns:
            raise InputError(f"has no column {name!r}", where=where, right=f"the columns of {first.paths[0]}")
        if first.columns[name].dtype != other.columns[name].dtype:
            raise InputError(f"column {name!r} is of another type", where=where, right=f"that of {first.paths[0]}")
    for name in other.columns:
        if name not in first.columns:
            raise unknown("column", name, first.columns, where=where)


def table_source(
    train: Table, test: Table | None, options: Mapping[str, str], *, task: str, label: str, where: str, infer: bool
) -> Source:
    """Make a source of tables.

    Args:
        train: the training rows.
        test: the test rows, with the same columns.
        options: those of `TABLE_OPTIONS`.
        task: the recipe's task kind.
        label: the column that holds the label.
        where: the file, or the folder with one file per client.
        infer: whether a column of text may be numeric (CSV) or is categorical (a format with types).

    Raises:
        InputError: a named column does not exist, or a value does not fit its column.
    """
    if label not in train.columns:
        raise unknown("label column", label, train.columns, where=where)
    if test:
        check_same_columns(train, test)
    forced = _forced_kinds(train, options)
    dropped = listed(options, "drop")
    _check_names(train, "drop", dropped)
    if label in dropped:
        raise InputError("names the label", where="option drop", right="feature columns")
    forced[label] = "numeric" if task.endswith("-regression") else "categorical"

    by_file = Path(where).is_dir()
    columns = []
    features: tuple[dict[str, NDArray[Any]], ...] = ({}, {})
    labels: list[NDArray[Any]] = []
    tables = (train, test) if test else (train,)
    for name in train.columns:
        if name in dropped:
            continue
        kind = forced.get(name) or _kind(train, name, infer=infer)
        right = "a finite number" if name == label else f"a finite number, or the option categorical={name}"
        for table, part in zip(tables, features, strict=False):
            values = _converted(table, name, kind, right=right)
            if name == label:
                labels.append(values)
            else:
                part[name] = values
        if name != label:
            columns.append(Column(name, kind))
    parts = [
        Part(part, values, table.place, table.files if by_file else np.empty(0, dtype=np.int64))
        for part, values, table in zip(features, labels, tables, strict=False)
    ]
    return assemble(
        tuple(columns),
        parts[0],
        parts[1] if test else None,
        task=task,
        label=label,
        where=where,
        classes=listed(options, "classes"),
        file_names=tuple(path.name for path in train.paths) if by_file else (),
    )


def _check_names(table: Table, option: str, names: Iterable[str]) -> None:
    """Refuse a column name in an option that the table does not have."""
    for name in names:
        if name not in table.columns:
            raise unknown("column", name, table.columns, where=f"option {option}")


def _forced_kinds(table: Table, options: Mapping[str, str]) -> dict[str, ColumnKind]:
    kinds: dict[str, ColumnKind] = {}
    kind: ColumnKind
    for kind in ("numeric", "categorical"):
        names = listed(options, kind)
        _check_names(table, kind, names)
        for name in names:
            if name in kinds:
                raise InputError(f"column {name!r} is both", where="options numeric, categorical", right="one of them")
            kinds[name] = kind
    return kinds


def _number(text: str) -> float | None:
    """Return the number that `text` is, NaN where it is empty, None where it is something else."""
    if not text:
        return math.nan
    # float() would take 1_000 for a number; in a data file it is an identifier.
    if "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _kind(table: Table, name: str, *, infer: bool) -> ColumnKind:
    """Return numeric if every present value is a number, categorical if far from all are.

    Raises:
        InputError: nearly all values are numbers.
    """
    values = table.columns[name]
    if values.dtype != object:
        return "numeric"
    if not infer:
        return "categorical"
    garbage = {text for text in set(values.tolist()) if _number(text) is None}
    if not garbage:
        return "numeric"
    wrong = sum(text in garbage for text in values.tolist())
    present = int((values != "").sum())
    if wrong <= (1 - NEARLY_ALL) * present:
        raise _first_refused(
            table,
            name,
            [text in garbage for text in values.tolist()],
            "is not a number, as nearly all others are",
            f"a finite number, or the option categorical={name}",
        )
    return "categorical"


def _converted(table: Table, name: str, kind: ColumnKind, *, right: str) -> NDArray[Any]:
    """Return the column as `kind`: float64, or text."""
    values = table.columns[name]
    if kind == "categorical":
        return values if values.dtype == object else label_texts(values)
    if values.dtype == object:
        parsed = {text: _number(text) for text in set(values.tolist())}
        if None in parsed.values():
            wrong = [parsed[text] is None for text in values.tolist()]
            raise _first_refused(table, name, wrong, "is not a number", right)
        values = np.fromiter(map(parsed.__getitem__, values.tolist()), dtype=np.float64, count=len(values))
    if np.isinf(values).any():
        raise _first_refused(table, name, np.isinf(values), "is infinite", right)
    return values


def _first_refused(table: Table, name: str, wrong: ArrayLike, problem: str, right: str) -> InputError:
    """Return the error for the first row that is `wrong`, which says where the value stands and not what it is."""
    row = int(np.argmax(np.asarray(wrong)))
    return InputError(f"the value in column {name!r} {problem}", where=table.place(row), right=right)
