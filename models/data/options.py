"""The text that names a data source, taken apart: `scheme:location?option=value&...`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from tacit.models.errors import InputError
from tacit.models.spelling import unknown

IN_FILES = frozenset({"audio", "csv", "idx", "images", "jsonl", "npz", "parquet"})
"""Schemes whose location is a path."""
_VARIABLE = re.compile(r"\$\{([^}]*)\}?")
_SCHEME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, repr=False)
class Address:
    """The parts of a source, with the variables replaced (so it may hold a password and has no repr)."""

    scheme: str
    location: str
    options: Mapping[str, str]


def parse_address(source: str, environ: Mapping[str, str]) -> Address:
    """Take `source` apart and replace each `${NAME}` in its location and option values from `environ`.

    The text is taken apart first, so that what a variable holds can never become an option. Option values may use
    percent escapes, for example `%26` for `&`.

    Raises:
        InputError: no scheme or location, a malformed or repeated option, or a variable that is not set.
    """
    where = "data source"
    scheme, colon, rest = source.strip().partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise InputError("names no scheme", where=where, right="scheme:location, for example csv:data/train.csv")
    where = f"data source {scheme}"
    location, _, query = rest.partition("?")
    if not location:
        raise InputError("names no location", where=where, right=f"{scheme}:LOCATION")
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise InputError("an option has no name or no value", where=where, right="?option=value&option=value")
        if key in options:
            raise InputError(f"option {key!r} is given twice", where=where, right="each option once")
        options[key] = _replace_variables(unquote(value), environ, where)
    return Address(scheme, _replace_variables(location, environ, where), options)


def _replace_variables(text: str, environ: Mapping[str, str], where: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not match[0].endswith("}") or not name.isidentifier():
            raise InputError("a ${ is not followed by a name and }", where=where, right="${NAME}")
        if name not in environ:
            raise InputError(f"the environment variable {name} is not set", where=where, right=f"set {name}")
        return environ[name]

    return _VARIABLE.sub(value, text)


def check_options(scheme: str, options: Mapping[str, str], known: Iterable[str]) -> None:
    """Refuse an option that the connector does not know, naming the nearest that it does."""
    known = tuple(known)
    for key in options:
        if key not in known:
            raise unknown("option", key, known, where=f"data source {scheme}")


def check_task(scheme: str, task: str, possible: Iterable[str]) -> None:
    """Refuse a task that the data of this source cannot serve."""
    possible = tuple(possible)
    if task not in possible:
        raise InputError(
            f"has no data for the task {task!r}", where=f"data source {scheme}", right=f"task {' or '.join(possible)}"
        )


def listed(options: Mapping[str, str], key: str) -> tuple[str, ...]:
    """Read a list: items between commas, as one CSV line (`"a, b",c` has two items); none when absent."""
    text = options.get(key, "")
    if not text:
        return ()
    items = tuple(item.strip() for item in next(csv.reader([text], skipinitialspace=True)))
    if len(set(items)) != len(items):
        raise InputError("names something twice", where=f"option {key}", right="each name once")
    return items


def written(names: Iterable[str]) -> str:
    """Write a list so that `listed` reads the same names."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def whole_number(options: Mapping[str, str], key: str, default: int, *, minimum: int, maximum: int) -> int:
    """Read a whole number within `[minimum, maximum]`."""
    text = options.get(key, str(default))
    right = f"a whole number from {minimum} to {maximum}"
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InputError("is not a whole number", where=f"option {key}", right=right)
    if not minimum <= int(text) <= maximum:
        raise InputError(f"{int(text)} is out of range", where=f"option {key}", right=right)
    return int(text)


def real_number(options: Mapping[str, str], key: str, default: float, *, minimum: float, maximum: float) -> float:
    """Read a real number within `[minimum, maximum]`."""
    right = f"a number from {minimum:g} to {maximum:g}"
    try:
        value = float(options.get(key, default))
    except ValueError:
        raise InputError("is not a number", where=f"option {key}", right=right) from None
    if not minimum <= value <= maximum:
        raise InputError("is out of range", where=f"option {key}", right=right)
    return value
