"""What a person sees while a simulation runs: a bar on a terminal, one line a tenth elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from tacit.models.recipe import Recipe
    from tacit.server.reports import RoundReport
    from tacit.simulations.federation import Federation


class Progress:
    """Shows rounds as they end.

    Args:
        quiet: print nothing at all, for output that a program reads.
    """

    def __init__(self, *, quiet: bool) -> None:
        """Draw nothing before `start`."""
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._bar: Bar | None = None
        self._rounds = 0

    def __enter__(self) -> Self:
        """Return the display itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def start(self, recipe: Recipe, federation: Federation, directory: Path) -> None:
        """Say what is about to run."""
        if self._quiet:
            return
        self._rounds = recipe.training.rounds
        found, clients = federation.findings, len(federation.names)
        classes = f", {len(found.classes)} classes" if found.classes else ""
        columns = "1 column" if found.columns == 1 else f"{found.columns} columns"
        missing = f", {sum(found.missing.values())} values missing" if any(found.missing.values()) else ""
        dropped = f", {sum(found.dropped.values())} rows dropped" if any(found.dropped.values()) else ""
        click.echo(f"data        {found.rows} rows, {columns}{classes}{missing}{dropped}", err=True)
        cohort = recipe.training.cohort or clients
        click.echo(f"federation  {clients} clients ({recipe.population.partition}), {cohort} a round", err=True)
        click.echo(f"run         {directory}", err=True)
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("round"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.add_task("rounds", total=self._rounds, rate="", figures="")
            self._bar.start()

    def round(self, report: RoundReport) -> None:
        """Show one attempt."""
        if self._quiet or (report.number == 0 and report.committed):
            return
        if not report.committed:
            name = f"round {report.number}" if report.number else "preparation"
            self._console.print(f"{name}, attempt {report.attempt + 1} aborted: {report.reason}", highlight=False)
            return
        figures = _figures(report)
        if self._bar is not None:
            rate = f"{1 / report.seconds:.1f}/s" if report.seconds else ""
            self._bar.update(self._bar.task_ids[0], completed=report.number, rate=rate, figures=figures)
        elif report.number % max(1, math.ceil(self._rounds / 10)) == 0 or report.number == self._rounds:
            click.echo(f"round {report.number:>4}/{self._rounds}  {figures}", err=True)


def _figures(report: RoundReport) -> str:
    shown = {"train_loss": "loss", "validation_accuracy": "accuracy", "validation_rmse": "rmse"}
    return "  ".join(f"{text} {report.metrics[name]:.4f}" for name, text in shown.items() if name in report.metrics)
