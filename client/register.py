"""The owner's data register: which sources an agent may read, under which names their ledgers are kept.

A ledger belongs to a name. So that no source is ever given a second budget, a name keeps every source that it ever
stood for, also after it was removed, and no other name can be given one of them. Two copies of a file are two sources:
only their owner can know.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import tomli_w
from pydantic import Field, ValidationError

from tacit.models.data.options import IN_FILES, parse_address
from tacit.models.errors import InputError
from tacit.models.sections import Section
from tacit.models.spelling import unknown
from tacit.privacy.identity import check_name

_TASKS = {"audio": "audio-classification", "idx": "image-classification", "images": "image-classification"}
_HEADING = "# The data sets of this agent; `tacit agent data` writes this file.\n\n"
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(.+)")
Place: TypeAlias = Path | tuple[object, ...]


class DataSet(Section):
    """One entry.

    Attributes:
        source: the address of the connector; `${NAME}` in it stands for a variable of the environment.
        label: the column that holds the label, for who looks at the data here; a run has its own.
        task: which kind of task the data are for, likewise; empty for the scheme's usual one.
        row: what one row is, such as "patient": what a promise about each example then protects.
        former: the sources that the name stood for before.
        removed: whether the owner has taken it away; its sources stay with it.
    """

    source: str
    label: str = "label"
    task: str = ""
    row: str = Field(default="", max_length=64)
    former: tuple[str, ...] = Field(default=(), strict=False)
    removed: bool = False

    @property
    def usual_task(self) -> str:
        """Return the task that the data are looked at for."""
        return self.task or _TASKS.get(self.source.partition(":")[0], "tabular-classification")


@dataclass(frozen=True)
class Register:
    """All entries by name; a step returns a new register or changes nothing."""

    entries: Mapping[str, DataSet] = field(default_factory=dict)

    @property
    def sets(self) -> Mapping[str, DataSet]:
        """Return the data sets that were not removed."""
        return {name: entry for name, entry in self.entries.items() if not entry.removed}

    def find(self, name: str) -> DataSet:
        """Return a data set.

        Raises:
            InputError: there is none of that name; the nearest is named.
        """
        if name not in self.sets:
            raise unknown("data set", name, self.sets)
        return self.entries[name]

    def with_added(self, name: str, added: DataSet, environ: Mapping[str, str]) -> Register:
        """Return the register with a data set, or with another source under its name, whose ledger goes on.

        Raises:
            InputError: the name cannot be one, the source cannot be resolved, or it is another name's.
        """
        try:
            check_name(name)
        except ValueError as error:
            raise InputError(f"{name[:64]!r} is no name of a data set", right=str(error)) from None
        for key, text in added.model_dump(include={"source", "label", "task", "row"}).items():
            if not text.isprintable():  # it could not be written, or not be shown
                raise InputError(f"{key!r} is not usable", where=f"data set {name}", right="printable characters")
        place = place_of(added.source, environ)
        for other, entry in self.entries.items():
            if other == name:
                continue
            for source in (entry.source, *entry.former):
                if _overlap(place, _known_place(other, source, environ)):
                    raise InputError(
                        f"the source is that of the data set {other!r}, and would get a second privacy budget",
                        where=f"data set {name}",
                        right=f"use {other!r}, or add it again under that name" if entry.removed else f"use {other!r}",
                    )
        if (before := self.entries.get(name)) is not None:
            former = dict.fromkeys((*before.former, before.source))
            former.pop(added.source, None)
            added = added.model_copy(update={"former": tuple(former)})
        return replace(self, entries={**self.entries, name: added})

    def without(self, name: str) -> Register:
        """Return the register without a data set; the name keeps its sources and its ledger.

        Raises:
            InputError: there is none of that name.
        """
        removed = self.find(name).model_copy(update={"removed": True})
        return replace(self, entries={**self.entries, name: removed})

    def to_toml(self) -> str:
        """Return the text of the file; parsing it gives an equal register."""
        return _HEADING + tomli_w.dumps({name: entry.model_dump(mode="json") for name, entry in self.entries.items()})


def parse_register(text: str, *, where: str) -> Register:
    """Read a register from TOML text.

    Raises:
        InputError: it is no TOML, or says something that a register cannot say.
    """
    try:
        tables = tomllib.loads(text)
        for name in tables:
            check_name(name)
        return Register({name: DataSet.model_validate(table) for name, table in tables.items()})
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not valid TOML: {error}", where=where) from None
    except ValidationError as error:
        raise _readable(error, where) from None
    except (ValueError, RecursionError):
        raise InputError("is not what `tacit agent data` writes", where=where, right="restore it from a copy") from None


def new_data_set(source: str, *, label: str = "label", task: str = "", row: str = "") -> DataSet:
    """Return an entry as a person gives it; see `DataSet`.

    Raises:
        InputError: a text cannot be kept.
    """
    try:
        return DataSet(source=source, label=label, task=task, row=row)
    except ValidationError as error:
        raise _readable(error, "data set") from None


def absolute(source: str, directory: Path) -> str:
    """Return an address whose path does not depend on where the agent will be started.

    A path that begins with a variable is left to the variable.
    """
    scheme, colon, rest = source.strip().partition(":")
    location, mark, options = rest.partition("?")
    prefix, path = "", location
    if scheme == "sql" and (found := _SQLITE.fullmatch(location)):
        prefix, path = found.groups()
    elif scheme not in IN_FILES:
        return source.strip()
    if not path or path.startswith("${"):
        return source.strip()
    return f"{scheme}{colon}{prefix}{os.path.normpath(directory / path)}{mark}{options}"


def place_of(source: str, environ: Mapping[str, str]) -> Place:
    """Return where the rows of a source are: for files the path they are at, whatever it is called and read as.

    Raises:
        InputError: the address is malformed, or a variable is not set.
    """
    address = parse_address(source, environ)
    if address.scheme in IN_FILES:
        return Path(os.path.realpath(address.location))
    if address.scheme == "sql":
        table = address.options.get("table")
        query = f"select * from {table}" if table is not None else address.options.get("query", "")  # noqa: S608 (compared, never run)
        return (*_database(address.location), " ".join(query.lower().replace('"', "").split()).rstrip("; "))
    return (address.scheme, address.location, *sorted(address.options.items()))


def _readable(error: ValidationError, where: str) -> InputError:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key, message = ".".join(map(str, problem["loc"]))[:64], problem["msg"]
    what = f"{key!r} is not usable" if key else "holds something that is no data set"
    return InputError(what, where=where, right=message[:1].lower() + message[1:])


def _database(location: str) -> tuple[object, ...]:
    """Return which database a URL names, whoever asks it and through which driver."""
    if found := _SQLITE.fullmatch(location):
        return ("sqlite", Path(os.path.realpath(found[2])))
    try:
        url = urlsplit(location)
        return (url.scheme.partition("+")[0], url.hostname, url.port, url.path)
    except ValueError:
        return (location,)


def _known_place(name: str, source: str, environ: Mapping[str, str]) -> Place:
    try:
        return place_of(source, environ)
    except InputError as error:  # what cannot be resolved could be the same data
        raise InputError(error.what, where=f"data set {name}", right=error.right) from None


def _overlap(one: Place, other: Place) -> bool:
    """Say whether two places share rows: the same one, a file and a folder around it, or two names of one file."""
    if not isinstance(one, Path) or not isinstance(other, Path):
        return one == other
    if one == other or one in other.parents or other in one.parents:
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False
