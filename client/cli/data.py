"""`tacit agent data`: the register of what the agent may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tacit.client.cli.options import dir_option
from tacit.printing import Format, format_option, print_fields, print_json, print_table

if TYPE_CHECKING:
    from tacit.client.register import DataSet
    from tacit.models.data.rows import Source


@click.command()
@click.argument("name")
@click.argument("source")
@click.option("--label", default="label", show_default=True, help="The column that holds the label.")
@click.option("--task", default="", metavar="KIND", help="The kind of task.  [default: the usual one of the scheme]")
@click.option("--row", default="", metavar="WORD", help="What one row is, as in patient or visit.")
@dir_option
@format_option
def add(name: str, source: str, label: str, task: str, row: str, path: Path, output: Format) -> None:
    """Register SOURCE, an address as in csv:FILE, under NAME; it is read once, to see that it can be.

    The privacy ledger belongs to the name: another source under it goes on with what was spent, and no other name can
    have the same source.

    Example: tacit agent data add visits 'csv:visits.csv' --label readmitted --row visit
    """
    from tacit.client.directory import AgentDirectory
    from tacit.client.register import absolute, new_data_set

    directory = AgentDirectory.open(path)
    added = new_data_set(absolute(source, Path.cwd()), label=label, task=task, row=row)
    directory.register.with_added(name, added, os.environ)  # before the rows are read, which may take long
    opened = _opened(added)
    directory.add_data(name, added, os.environ)
    _print_findings(name, added, opened, output)


@click.command("list")
@dir_option
@format_option
def list_sets(path: Path, output: Format) -> None:
    """List the data sets by name; none of them is read.

    Example: tacit agent data list
    """
    from tacit.client.directory import AgentDirectory

    sets = AgentDirectory.open(path).register.sets
    if output == "json":
        print_json({name: entry.model_dump(mode="json", exclude={"removed"}) for name, entry in sets.items()})
        return
    rows = [(name, entry.source, entry.label, entry.usual_task, entry.row) for name, entry in sets.items()]
    empty = "no data set is registered; `tacit agent data add NAME SOURCE` registers one"
    print_table(("name", "source", "label", "task", "one row is"), rows, empty=empty)


@click.command()
@click.argument("name")
@click.option("--task", default="", metavar="KIND", help="The kind of task to read it for.")
@dir_option
@format_option
def inspect(name: str, task: str, path: Path, output: Format) -> None:
    """Read a data set and count its rows, columns, classes, missing values, and what was dropped.

    Example: tacit agent data inspect visits
    """
    from tacit.client.directory import AgentDirectory

    entry = AgentDirectory.open(path).register.find(name)
    if task:
        entry = entry.model_copy(update={"task": task})
    _print_findings(name, entry, _opened(entry), output)


@click.command()
@click.argument("name")
@dir_option
def remove(name: str, path: Path) -> None:
    """Take a data set out of the register. Its ledger stays, and its source can come back under this name only.

    Example: tacit agent data remove visits
    """
    from tacit.client.directory import AgentDirectory

    AgentDirectory.open(path).remove_data(name)
    click.echo(f"{name} is removed; its ledger stays")


def _opened(entry: DataSet) -> Source:
    from tacit.models.data import open_source

    return open_source(entry.source, task=entry.usual_task, label=entry.label, environ=os.environ)


def _print_findings(name: str, entry: DataSet, source: Source, output: Format) -> None:
    found = source.findings
    if output == "json":
        print_json({"name": name, "task": entry.usual_task, "label": entry.label, "findings": found})
        return
    print_fields(
        {
            "data set": name,
            "task": entry.usual_task,
            "label": entry.label,
            "rows": found.rows,
            "test rows": len(source.test) if source.test is not None else None,
            "columns": found.columns,
            "classes": found.classes,
            "missing values": found.missing,
            "dropped rows": found.dropped,
        }
    )
