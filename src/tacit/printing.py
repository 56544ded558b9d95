"""What commands print: tables for people, JSON for programs, and nothing that a peer's text could do to a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

Format = Literal["table", "json"]
Command = TypeVar("Command", bound=Callable[..., Any])


def format_option(command: Command) -> Command:
    """Add `--format table|json`, passed on as `output`."""
    choices = click.Choice(["table", "json"])
    return click.option(
        "--format", "output", type=choices, default="table", show_default=True, help="For people or for programs."
    )(command)


def print_json(value: Any) -> None:
    """Print records, mappings and sequences as JSON; what JSON cannot say (NaN, infinity) becomes null."""
    click.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "") -> None:
    """Print rows under their headings: a drawn table on a terminal, bare aligned columns elsewhere.

    Args:
        columns: the headings.
        rows: the cells; numbers are aligned to the right, None is left blank.
        empty: what to print instead when there are no rows.
    """
    listed = [list(row) for row in rows]
    if not listed and empty:
        click.echo(empty)
        return
    texts = [[cell(value) for value in row] for row in listed]
    right = [
        any(isinstance(row[i], int | float) for row in listed)
        and all(row[i] is None or isinstance(row[i], int | float) for row in listed)
        for i in range(len(columns))
    ]
    console = Console()
    if console.is_terminal:
        table = Table()
        for name, to_right in zip(columns, right, strict=True):
            table.add_column(Text(name), justify="right" if to_right else "left", overflow="fold")
        for row in texts:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    lines = [list(columns), *texts]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        aligned = (
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        )
        click.echo("  ".join(aligned).rstrip())


def print_fields(pairs: Mapping[str, Any]) -> None:
    """Print names with their values, one a line; what is None or empty is left out."""
    shown = {name: text for name, value in pairs.items() if (text := cell(value))}
    width = max(map(len, shown), default=0)
    for name, text in shown.items():
        click.echo(f"{name.ljust(width)}  {text}")


def cell(value: Any) -> str:
    """Return the text of one value: short, on one line, without control characters."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}Z"
        case Mapping():
            return ", ".join(f"{_printable(str(key))}={cell(item)}" for key, item in value.items())
        case list() | tuple() | set() | frozenset():
            return ", ".join(cell(item) for item in value)
    return _printable(str(value))


def _printable(text: str) -> str:
    # Reasons and names come from other machines; an escape sequence in one must not reach the terminal.
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _plain(value: Any) -> Any:
    match value:
        case float():
            return float(value) if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case datetime():
            return value.isoformat()
        case Path():
            return str(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted(_plain(item) for item in value)
        case list() | tuple():
            return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"a {type(value).__name__} cannot be printed as JSON")
