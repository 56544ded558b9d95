"""`jsonl:FILE|DIR`: one JSON object a line, compressed with gzip or not; a folder holds one file per client."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tacit.models.data.csv_files import MISSING, Fields, find_test_file, opened_text, table_files
from tacit.models.data.options import check_options, check_task, listed
from tacit.models.data.rows import Source
from tacit.models.data.tables import TABLE_OPTIONS, Table, joined, table_source
from tacit.models.errors import InputError

# What is longer or has more keys is no row of a table, and would fill the memory before anybody noticed.
MAX_LINE_CHARACTERS = 1 << 20
MAX_KEYS = 4096
MAX_KEY_CHARACTERS = 1024

_SUFFIXES = (".jsonl", ".ndjson")
_FLAT = "numbers, text, true, false or null, or drop= the key"
_OBJECT = 'one object a line, such as {"age": 31, "job": "cook"}'


def open_jsonl(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Open a file of JSON lines, or a folder of them (.jsonl, .ndjson, each also .gz) with one file per client.

    Values are read as the fields of a CSV file are: numbers as they are written, text without the space around it,
    truth values as true and false, and the kind of a column is decided over all rows. A key that a line leaves out and
    null are missing values, and so is text such as `?` and `NA`. Columns are in the order of their names, because the
    order of keys means nothing.

    Options: `columns=a,b` the keys to read, which any line may leave out (without it, every key of any line); `na=`,
    `test=`, `numeric=`, `categorical=`, `drop=` and `classes=` as for CSV.

    Raises:
        InputError: a file is missing, empty or malformed, or a value is nested; with the file and the line.
    """
    check_options("jsonl", options, ("columns", "na", *TABLE_OPTIONS))
    check_task("jsonl", task, ("tabular-classification", "tabular-regression"))
    missing = frozenset(("", *listed(options, "na"))) if "na" in options else MISSING
    test_path = find_test_file(location, options)
    columns, dropped = listed(options, "columns"), listed(options, "drop")
    paths = table_files(location, _SUFFIXES, test_path)
    tables = [read_jsonl(path, missing, columns=columns, dropped=dropped) for path in paths]
    names = {name for table in tables for name in table.columns}
    train = joined(_with_columns(table, names) for table in tables)
    test = None
    if test_path:
        test = read_jsonl(test_path, missing, columns=columns, dropped=dropped)
        test = _with_columns(test, {*names, *test.columns})
    return table_source(train, test, options, task=task, label=label, where=location, infer=True)


def read_jsonl(
    path: Path, missing: Collection[str] = MISSING, *, columns: Iterable[str] = (), dropped: Collection[str] = ()
) -> Table:
    """Read one file; every column is text, `""` for a missing value.

    Args:
        path: the file.
        missing: texts that stand for a missing value.
        columns: the keys to read, present or not; none: every key of any line.
        dropped: keys whose values may be anything; their columns are empty.

    Raises:
        InputError: the file is not UTF-8 text or has no rows, or a line is no flat object.
    """
    fields = Fields(frozenset(missing))
    values: dict[str, list[str]] = {name: [] for name in columns}
    only_these = bool(values)
    lines: list[int] = []
    number = 0
    try:
        with opened_text(path) as stream:
            # Not `for line in stream`, which would read a line of any length into memory.
            while line := stream.readline(MAX_LINE_CHARACTERS + 1):
                number += 1
                if line.isspace():
                    continue
                where = f"{path}: line {number}"
                for position, (key, value) in enumerate(_pairs(line, where), start=1):
                    name = key.strip()
                    if name not in values:
                        if only_these:
                            continue
                        _check_name(name, len(values), f"{where}: key {position}")
                        values[name] = []
                    column = values[name]
                    column.extend([""] * (len(lines) - len(column)))
                    if len(column) > len(lines):
                        raise InputError(f"key {position} occurs twice", where=where, right="each key once")
                    text = "" if name in dropped else _text(value)
                    if text is None:
                        # The key is not shown: where it is no name of a column, it is data.
                        raise InputError(f"the value of key {position} is nested", where=where, right=_FLAT)
                    column.append(fields[text])
                lines.append(number)
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=str(path), right="UTF-8") from None
    except (OSError, EOFError, zlib.error):
        raise InputError("cannot be read, or is truncated", where=str(path), right="a whole file") from None
    if not lines:
        raise InputError("holds no rows", where=str(path), right="at least one line of data")
    table = {}
    for name in sorted(values):
        column = values.pop(name)
        column.extend([""] * (len(lines) - len(column)))
        table[name] = np.array(column, dtype=object)
    return Table(table, (path,), np.zeros(len(lines), dtype=np.int64), np.array(lines, dtype=np.int64))


def _pairs(line: str, where: str) -> list[tuple[str, Any]]:
    """Return the keys and values of the object in `line`, repeated keys too; numbers are left as text."""
    if len(line) > MAX_LINE_CHARACTERS:
        raise InputError("is too long", where=where, right=f"at most {MAX_LINE_CHARACTERS} characters")
    try:
        # Pairs become a tuple, so that an object can be told from an array whatever is in it.
        pairs = json.loads(line, object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=_refuse)
        if "\\u" in line:
            json.dumps(pairs, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        # ValueError is also what half a surrogate pair raises, which no text in UTF-8 can hold.
        pairs = None
    if not isinstance(pairs, tuple):
        raise InputError("is no JSON object", where=where, right=_OBJECT)
    return list(pairs)


def _refuse(constant: str) -> None:
    """Refuse NaN and Infinity, which Python's parser would take and JSON does not have."""
    raise ValueError


def _check_name(name: str, known: int, where: str) -> None:
    if not 0 < len(name) <= MAX_KEY_CHARACTERS or not name.isprintable():
        raise InputError("is no name", where=where, right=f"1 to {MAX_KEY_CHARACTERS} printable characters")
    if known == MAX_KEYS:
        raise InputError(
            "names one column too many", where=where, right=f"at most {MAX_KEYS} columns, or the option columns="
        )


def _text(value: object) -> str | None:
    """Return a value as it would stand in a CSV file, None if it is an object or an array."""
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "true" if value else "false"
    return None


def _with_columns(table: Table, names: Iterable[str]) -> Table:
    """Return `table` with all of `names` as columns, in their order, those that it does not have empty."""
    rows = len(table.lines)
    columns = {
        name: table.columns[name] if name in table.columns else np.full(rows, "", dtype=object)
        for name in sorted(names)
    }
    return replace(table, columns=columns)
