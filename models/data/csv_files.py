"""`csv:FILE|DIR`: text tables, compressed with gzip or not; a folder holds one file per client."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from tacit.models.data.options import check_options, check_task, listed
from tacit.models.data.rows import Source
from tacit.models.data.tables import TABLE_OPTIONS, Table, joined, table_source
from tacit.models.errors import InputError

MISSING = frozenset(("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null"))

_SEPARATORS = {"comma": ",", "semicolon": ";", "space": " ", "tab": "\t"}
_SUFFIXES = (".csv", ".tsv", ".data")
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Format:
    """How a file is to be read."""

    separator: str = ","
    header: bool = True
    names: tuple[str, ...] = ()
    missing: frozenset[str] = MISSING
    comment: str = ""


def open_csv(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Open a table, or a folder of tables (.csv, .tsv, .data, each also .gz) with one file per client.

    Options: `sep=` a character or comma, semicolon, space (any run of them), tab; `header=none` when the first line is
    data; `names=a,b` names of the columns (instead of those in the header); `na=?,NA` what stands for a missing value,
    instead of `MISSING`; `comment=` lines that begin with this are skipped; `test=FILE` the test part, seen from
    the training file's folder or the working directory; `numeric=`, `categorical=` columns whose kind is not to be
    inferred; `drop=` columns to leave out; `classes=a,b` the classes and their order.

    Raises:
        InputError: a file is missing, empty or malformed; with the file, the line and the column.
    """
    check_options("csv", options, ("sep", "header", "names", "na", "comment", *TABLE_OPTIONS))
    check_task("csv", task, ("tabular-classification", "tabular-regression"))
    layout = _format(options)
    test_path = find_test_file(location, options)
    paths = table_files(location, _SUFFIXES, test_path)
    train = joined(read_csv(path, layout) for path in paths)
    if layout.header and not layout.names and label not in train.columns and any(map(_is_number, train.columns)):
        # The first line is taken for data, so nothing of it is shown.
        raise InputError(
            f"has no column {label!r}, and its first line holds numbers", where=location, right="header=none&names=a,b"
        )
    test = read_csv(test_path, layout) if test_path else None
    return table_source(train, test, options, task=task, label=label, where=location, infer=True)


def table_files(location: str, suffixes: tuple[str, ...], test: Path | None) -> tuple[Path, ...]:
    """Return the file at `location`, or the table files of that folder in the order of their names, without `test`.

    Raises:
        InputError: there is no such file or folder, or no table in the folder.
    """
    path = Path(location)
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise InputError("there is no such file or folder", where=location, right="a path that exists")
    found = tuple(
        child
        for child in sorted(path.iterdir())
        if child.is_file()
        and not child.name.startswith(".")
        and child.name.removesuffix(".gz").endswith(suffixes)
        and not (test and child.samefile(test))
    )
    if not found:
        raise InputError("the folder holds no table", where=location, right=f"files that end in {', '.join(suffixes)}")
    return found


def find_test_file(location: str, options: Mapping[str, str]) -> Path | None:
    """Return the path that the option `test` names, seen from the training file's folder or the working directory."""
    if "test" not in options:
        return None
    start = Path(location)
    for path in ((start if start.is_dir() else start.parent) / options["test"], Path(options["test"])):
        if path.is_file():
            return path
    raise InputError("there is no such file", where=f"option test: {options['test']}", right="a path that exists")


def _format(options: Mapping[str, str]) -> Format:
    separator = options.get("sep", ",")
    separator = _SEPARATORS.get(separator, separator)
    if len(separator) != 1 or separator in '"\r\n':
        raise InputError("is no separator", where="option sep", right=f"one character, or {', '.join(_SEPARATORS)}")
    if options.get("header", "none") != "none":
        raise InputError("is not understood", where="option header", right="header=none, or no such option")
    missing = frozenset(("", *listed(options, "na"))) if "na" in options else MISSING
    return Format(separator, "header" not in options, listed(options, "names"), missing, options.get("comment", ""))


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


class Fields(dict[str, str]):
    """Remembers each distinct field stripped, and `""` for one that is missing, so that equal fields share memory."""

    def __init__(self, missing: frozenset[str]) -> None:
        """Take the texts that stand for a missing value."""
        super().__init__()
        self._missing = missing

    def __missing__(self, field: str) -> str:
        """Return the text of a field that was not seen before."""
        stripped = field.strip()
        self[field] = "" if stripped in self._missing else stripped
        return self[field]


def read_csv(path: Path, layout: Format) -> Table:
    """Read one file; every column is text, `""` for a missing value.

    Raises:
        InputError: the file is not UTF-8 text, has no rows, a line with the wrong number of fields, or columns whose
            names repeat.
    """
    fields = Fields(layout.missing)
    rows: list[list[str]] = []
    lines: list[int] = []
    names = layout.names
    try:
        with opened_text(path) as stream:
            reader = csv.reader(
                _lines(stream, layout),
                delimiter=layout.separator,
                skipinitialspace=True,
                strict=True,
            )
            header_is_next = layout.header
            for row in reader:
                if not row:
                    continue
                if header_is_next:
                    header_is_next = False
                    names = names or tuple(field.strip() or f"column{n}" for n, field in enumerate(row, start=1))
                names = names or tuple(f"column{n}" for n in range(1, len(row) + 1))
                if len(row) != len(names):
                    raise InputError(
                        f"has {len(row)} fields", where=f"{path}: line {reader.line_num}", right=f"{len(names)} fields"
                    )
                rows.append(list(map(fields.__getitem__, row)))
                lines.append(reader.line_num)
    except csv.Error:
        raise InputError(
            "is not well-formed CSV",
            where=f"{path}: line {reader.line_num}",
            right="closed quotes and fields below 128 KiB",
        ) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=str(path), right="UTF-8") from None
    except (OSError, EOFError, zlib.error):
        raise InputError("cannot be read, or is truncated", where=str(path), right="a whole file") from None
    if layout.header:
        del rows[:1], lines[:1]
    if not rows:
        raise InputError("holds no rows", where=str(path), right="at least one line of data")
    if len(set(names)) < len(names):
        raise InputError(
            "two columns have the same name", where=f"{path}: line 1", right="names that differ, or header=none"
        )
    columns = {}
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        columns[name] = np.array(column, dtype=object)
    return Table(columns, (path,), np.zeros(len(rows), dtype=np.int64), np.array(lines, dtype=np.int64))


@contextmanager
def opened_text(path: Path) -> Iterator[TextIO]:
    """Open a file of UTF-8 text, compressed with gzip or not; the ends of lines stay as they are."""
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        content = gzip.GzipFile(fileobj=raw) if compressed else raw
        with io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
            yield text


def _lines(stream: TextIO, layout: Format) -> Iterator[str]:
    """Yield the lines; a comment becomes an empty line, so that line numbers stay true."""
    for line in stream:
        if layout.comment and line.startswith(layout.comment):
            yield "\n"
        elif layout.separator == " ":
            yield line.strip() + "\n"
        else:
            yield line
