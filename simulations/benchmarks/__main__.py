"""`python -m tacit.simulations.benchmarks NAME [--quick] [--format table|json]`: measure, and print figures."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Protocol, cast

import click

from tacit.models.errors import InputError
from tacit.simulations.benchmarks.figure import Figure
from tacit.simulations.benchmarks.machine import machine

# Each module has `figures(quick) -> list[Figure]` and is imported only when it is asked for.
BENCHMARKS: Mapping[str, str] = {
    "secure-aggregation": "tacit.simulations.benchmarks.secure_aggregation",
    "dp-sgd": "tacit.simulations.benchmarks.dp_sgd",
    "simulation": "tacit.simulations.benchmarks.simulation",
    "federation": "tacit.simulations.benchmarks.federation",
    "serving": "tacit.simulations.benchmarks.serving",
}


class Benchmark(Protocol):
    """A module that measures."""

    def figures(self, quick: bool) -> list[Figure]:
        """Return the figures; `quick` takes less than a minute and skips competitors."""
        ...


def load(name: str) -> Benchmark:
    """Import a benchmark.

    Raises:
        InputError: it is not in this version.
    """
    if importlib.util.find_spec(BENCHMARKS[name]) is None:
        raise InputError(f"benchmark {name} is not in this version", right=f"one of {', '.join(available())}")
    return cast(Benchmark, importlib.import_module(BENCHMARKS[name]))


def available() -> list[str]:
    """Return the names of the benchmarks that can be run."""
    return [name for name, module in BENCHMARKS.items() if importlib.util.find_spec(module) is not None]


def table(figures: Sequence[Figure]) -> str:
    """Return figures as aligned lines."""
    rows = [("figure", "value", "unit", "beside", "")]
    for figure in figures:
        value = "absent" if figure.value is None else f"{figure.value:.4g}"
        beside = "" if figure.baseline_value is None else f"{figure.baseline_value:.4g}"
        rows.append((figure.name, value, figure.unit, beside, figure.baseline or figure.detail))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  " + row[4] for row in rows
    )


@click.command(
    "benchmarks", epilog="Example: python -m tacit.simulations.benchmarks secure-aggregation --quick --format json"
)
@click.argument("name", type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="Finish in under a minute and skip competitors.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def main(name: str, quick: bool, form: str) -> None:
    """Run one benchmark and print its figures, each beside what it is compared with."""
    try:
        found = load(name).figures(quick)
    except InputError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    if form == "json":
        click.echo(json.dumps({"machine": machine(), "figures": [asdict(figure) for figure in found]}, indent=2))
    else:
        click.echo(table(found))


if __name__ == "__main__":
    main()
