"""`parquet:FILE|DIR`: Parquet tables; a folder holds one file per client."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.csv_files import find_test_file, table_files
from tacit.models.data.options import check_options, check_task, listed
from tacit.models.data.rows import Source
from tacit.models.data.tables import TABLE_OPTIONS, Table, joined, table_source
from tacit.models.errors import InputError


def open_parquet(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Open a Parquet file, or a folder of them (.parquet) with one file per client.

    Numbers become numeric columns, text and truth values categorical ones. Options `test=`, `numeric=`,
    `categorical=`, `drop=` and `classes=` as for CSV.

    Raises:
        InputError: a file is missing, empty or malformed, a column is neither numbers, text nor truth values, or
            pyarrow is not installed.
    """
    check_options("parquet", options, TABLE_OPTIONS)
    check_task("parquet", task, ("tabular-classification", "tabular-regression"))
    test_path = find_test_file(location, options)
    dropped = listed(options, "drop")
    train = joined(read_parquet(path, dropped) for path in table_files(location, (".parquet",), test_path))
    test = read_parquet(test_path, dropped) if test_path else None
    return table_source(train, test, options, task=task, label=label, where=location, infer=False)


def read_parquet(path: Path, dropped: tuple[str, ...] = ()) -> Table:
    """Read one file; the columns in `dropped` may be of any type, and are empty.

    Raises:
        InputError: the file is malformed, has no rows, or a column of a type that is not supported.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError("needs pyarrow", where=str(path), right="install tacit[agent]") from error
    try:
        # A ParquetFile, because read_table would take folders named a=b for columns.
        with parquet.ParquetFile(path) as file:
            table = file.read()
        if not table.num_rows:
            raise InputError("holds no rows", where=str(path), right="at least one row")
        names = table.column_names
        columns = {
            name: np.full(len(column), "", dtype=object) if name in dropped else _values(column, path, name)
            for name, column in zip(names, table.columns, strict=True)
        }
    except (pyarrow.ArrowException, OSError):
        raise InputError("is not a whole Parquet file", where=str(path), right="a Parquet file") from None
    except UnicodeDecodeError:
        raise InputError("holds text that is not UTF-8", where=str(path), right="UTF-8") from None
    if len(columns) < len(names):
        raise InputError("has two columns of one name", where=str(path), right="names that differ")
    count = table.num_rows
    return Table(columns, (path,), np.zeros(count, dtype=np.int64), np.arange(count), unit="row")


def _values(column: Any, path: Path, name: str) -> NDArray[Any]:
    """Return an Arrow column as float64 or as text."""
    import pyarrow
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return np.asarray(column.cast(pyarrow.float64(), safe=False).to_numpy(), dtype=np.float64)
    if types.is_boolean(kind) or types.is_string(kind) or types.is_large_string(kind):
        texts = column.cast(pyarrow.string()).fill_null("").to_pylist()
        return np.array([text.strip() for text in texts], dtype=object)
    raise InputError(
        f"column {name!r} is of type {kind}", where=str(path), right="numbers, text or truth values, or drop= it"
    )
