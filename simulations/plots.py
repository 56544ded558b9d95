"""The plots of a run: what was learned, who took part, who holds what, and how the model does at each client."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from tacit.models.durable import write_file
from tacit.simulations.drawing import (
    BLUE,
    INK,
    MUTED,
    NAMED,
    OCHRE,
    ORANGE,
    PAPER,
    PURPLE,
    Plot,
    drawing,
    legend_above,
    new_figure,
)
from tacit.simulations.labels import metric_label, number, short
from tacit.simulations.partition_plot import partition_plot
from tacit.simulations.run_files import Attempt, PerClient, RunFiles, main_metric, read_run_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PNG_DPI = 200
BARS = 60
LARGEST = 1e30
VALIDATED = "of the aggregated model on the validation share, which no client holds"
# Each outcome has a colour and a hatch; of lines, because a hatch of dots makes an SVG twenty times as large.
OUTCOMES = (
    ("reported", BLUE, ""),
    ("dropped", ORANGE, "/////"),
    ("late", OCHRE, "-----"),
    ("refused", PURPLE, "xxxxx"),
)


def write_plots(directory: Path) -> list[Path]:
    """Draw the plots of a run directory into its folder `plots` and return the PNG files.

    The same run gives the same bytes with the same matplotlib. A plot that there are no numbers for is left out.

    Raises:
        InputError: a file of the run is missing or does not say what it should.
    """
    run = read_run_files(directory)
    folder = directory / "plots"
    folder.mkdir(exist_ok=True)
    written = []
    with drawing():
        for plot in draw_plots(run):
            buffer = io.BytesIO()
            # Without matplotlib's name and version, so that the bytes say what is drawn and nothing else.
            words = {"Software": None, "Title": plot.title}
            plot.figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor=PAPER, metadata=words)
            path = folder / f"{plot.name}.png"
            write_file(path, buffer.getvalue())
            written.append(path)
    return written


def draw_plots(run: RunFiles) -> Iterator[Plot]:
    """Draw the plots of a run one by one, to be saved while `drawing.drawing` is in force."""
    if any(_points(run.rounds, name)[0] for name in ("train_loss", "validation_loss")):
        yield _loss(run)
    if any(_points(run.rounds, f"validation_{name}")[0] for name in run.validated):
        yield _metrics(run)
    if any(one.round for one in run.attempts):
        yield _participation([one for one in run.attempts if one.round])
    if run.partition:
        yield partition_plot(run.partition)
    if run.per_client and (name := _plotted_metric(run.per_client)):
        yield _per_client(run.per_client, name)


def _drawable(value: float | None) -> TypeGuard[float]:
    """Tell whether an axis can reach a value; what a diverged model measured is left to the tables."""
    return value is not None and abs(value) < LARGEST


def _points(rounds: Sequence[Attempt], name: str) -> tuple[list[int], list[float]]:
    found = [(one.round, value) for one in rounds if _drawable(value := one.metrics.get(name))]
    return [x for x, _ in found], [y for _, y in found]


def _line_width(points: Sequence[int]) -> float:
    return 1.6 if len(points) <= 100 else 1.0


def _round_axis(axes: Axes, first: int, last: int, label: str = "round") -> None:
    from matplotlib.ticker import MaxNLocator

    margin = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    if label:
        axes.set_xlabel(label)


def _loss(run: RunFiles) -> Plot:
    figure = new_figure(3.1)
    axes = figure.subplots()
    wheres, sentences, values = [], [], []
    # Where noise protects what clients send, they tell no loss.
    for label, name, where, colour, line, marker in (
        ("training", "train_loss", "at the clients while they train", BLUE, "-", "o"),
        ("validation", "validation_loss", VALIDATED, ORANGE, (0, (4, 1.6)), "s"),
    ):
        x, y = _points(run.rounds, name)
        if x:
            wheres.append(where)
            marker = marker if len(x) <= BARS else ""
            axes.plot(x, y, label=label, color=colour, linestyle=line, marker=marker, linewidth=_line_width(x))
            sentences.append(f"{label} loss {number(y[0])} in round {x[0]}, {number(y[-1])} in round {x[-1]}")
            values += y
    if run.summary.best_round:
        axes.axvline(
            run.summary.best_round,
            color=MUTED,
            linewidth=1.1,
            linestyle=":",
            label=f"kept: round {run.summary.best_round}",
        )
    logarithmic = min(values) > 0 and max(values) > 50 * min(values)
    if logarithmic:
        axes.set_yscale("log")
    _round_axis(axes, run.rounds[0].round, run.rounds[-1].round)
    legend_above(figure, 3)
    axes.set_ylabel("loss (logarithmic)" if logarithmic else "loss")
    caption = f"Mean loss by round: {', and '.join(wheres)}."
    return Plot("loss", "Loss by round", caption, f"Line chart: {'; '.join(sentences)}.", figure)


def _metrics(run: RunFiles) -> Plot:
    named = [(name, _points(run.rounds, f"validation_{name}")) for name in run.validated]
    panels = [(name, x, y) for name, (x, y) in named if x]
    lead = main_metric({name: None for name, _, _ in panels})
    panels.sort(key=lambda panel: panel[0] != lead)
    columns = 1 if len(panels) <= 3 else 2
    rows = math.ceil(len(panels) / columns)
    height = 0.7 + 1.0 * rows
    # Nothing here has a size that needs finding out, and six panels take the layout engine longer than all else.
    figure = new_figure(height, layout=None)
    figure.subplots_adjust(0.085, 0.45 / height, 0.985, 1 - 0.25 / height, wspace=0.2, hspace=0.46)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for axes, (name, x, y) in zip(grid, panels, strict=False):
        axes.plot(x, y, color=BLUE, linewidth=_line_width(x))
        axes.plot(x[-1:], y[-1:], color=BLUE, marker="o")
        axes.set_title(short(metric_label(name), 24), loc="left", fontsize=9.0, color=INK, pad=4)
        axes.set_title(number(y[-1]), loc="right", fontsize=9.0, color=MUTED, pad=4)
        axes.locator_params(axis="y", nbins=3)
        _round_axis(axes, run.rounds[0].round, run.rounds[-1].round, label="")
    for axes in grid[len(panels) :]:
        axes.remove()
    for index in range(max(0, len(panels) - columns), len(panels)):
        grid[index].set_xlabel("round")
        grid[index].tick_params(labelbottom=True)
    listed = "; ".join(
        f"{metric_label(name)} {number(y[0])} at first, {number(y[-1])} at last" for name, x, y in panels
    )
    caption = (
        "Each metric of the aggregated model on the validation share, on its own scale; the last value is at the right."
    )
    return Plot("metrics", "Metrics by round", caption, f"Small line charts, one a metric: {listed}.", figure)


def _participation(attempts: Sequence[Attempt]) -> Plot:
    last = {one.round: one for one in attempts}
    failed = sorted({one.round for one in attempts if not one.committed})
    rounds = list(last.values())
    block = math.ceil(len(rounds) / BARS)
    counts = np.array([[one.reported, one.dropped, one.late, one.refused] for one in rounds], float)
    starts = np.arange(0, len(rounds), block)
    sizes = np.diff(starts, append=len(rounds))
    means = np.add.reduceat(counts, starts) / sizes[:, None]
    selected = np.add.reduceat(np.array([one.selected for one in rounds], float), starts) / sizes
    left = np.array([rounds[start].round for start in starts]) - 0.5
    widths = np.diff(left, append=rounds[-1].round + 0.5)
    figure = new_figure(2.9)
    axes = figure.subplots()
    base = np.zeros(len(starts))
    for (name, colour, hatch), height in zip(OUTCOMES, means.T, strict=True):
        if height.any():
            axes.bar(
                left + widths * 0.08,
                height,
                widths * 0.84,
                base,
                align="edge",
                label=name,
                facecolor=colour,
                edgecolor=PAPER,  # of the hatch
                hatch=hatch,
                linewidth=0.0,
            )
            base += height
    axes.stairs(
        selected, np.append(left, left[-1] + widths[-1]), color=INK, linewidth=1.1, baseline=None, label="selected"
    )
    top = max(float(selected.max()), float(base.max()), 1.0)
    if failed:
        heights = [top * 1.06] * len(failed)
        axes.plot(failed, heights, "x", markersize=5.0, markeredgewidth=1.4, color=INK, label="failed attempt")
    axes.set_ylim(0, top * (1.14 if failed else 1.05))
    _round_axis(axes, rounds[0].round, rounds[-1].round)
    axes.locator_params(axis="y", integer=True)
    axes.set_ylabel("clients" if block == 1 else f"clients (mean of {block} rounds)")
    legend_above(figure, 3)
    totals = counts.sum(0).astype(int)
    told = ", ".join(f"{total:,} {name}" for (name, _, _), total in zip(OUTCOMES, totals, strict=True))
    asked = sum(one.selected for one in rounds)
    caption = "What became of the clients that were selected in each round (its last attempt)."
    if block > 1:
        caption += f" Each bar is the mean of {block} rounds."
    if failed:
        caption += " A cross marks a round in which an attempt failed."
    alternative = f"Stacked bars over {len(rounds)} rounds: {asked:,} selected in all, of them {told}."
    return Plot("participation", "Participation by round", caption, alternative, figure)


def _plotted_metric(per_client: PerClient) -> str | None:
    values = per_client.clients.values()
    return main_metric({name: None for each in values for name, value in each.items() if _drawable(value)})


def _per_client(per_client: PerClient, name: str) -> Plot:
    known = {client: value for client, each in per_client.clients.items() if _drawable(value := each.get(name))}
    values = np.array(list(known.values()))
    label = metric_label(name)
    named = len(known) <= NAMED
    figure = new_figure(1.0 + 0.155 * len(known) if named and len(known) > 8 else 2.6)
    axes = figure.subplots()
    if named:
        order = np.argsort(values, kind="stable")
        names = list(known)
        axes.plot(values[order], range(1, len(known) + 1), linestyle="", marker="o", markersize=4.2, color=BLUE)
        axes.set_yticks(range(1, len(known) + 1), [short(names[index]) for index in order])
        axes.set_ylim(0.3, len(known) + 0.7)
    else:
        axes.hist(values, bins=_bins(values), color=BLUE, edgecolor=PAPER, linewidth=0.8)
        axes.set_ylabel("clients")
        axes.locator_params(axis="y", integer=True)
    axes.set_xlabel(label)
    averages = (
        ("mean of clients", per_client.mean.get(name), "--", INK),
        ("weighted by rows", per_client.weighted_mean.get(name), "-", INK),
        ("worst tenth", per_client.worst_decile.get(name), ":", ORANGE),
    )
    told = []
    for words, value, line, colour in averages:
        if _drawable(value):
            axes.axvline(value, color=colour, linewidth=1.4, linestyle=line, label=f"{words} {number(value)}")
            told.append(f"{words} {number(value)}")
    if told:
        legend_above(figure, 2)
    caption = f"The final model's {label} on each client's own test rows, {len(known):,} clients."
    low, middle, high = (number(float(value)) for value in np.quantile(values, (0, 0.5, 1)))
    spread = f"from {low} to {high}, median {middle}"
    kind = "Dot plot, one dot a client" if named else "Histogram"
    alternative = f"{kind}: {label} {spread}{'; ' + ', '.join(told) if told else ''}."
    return Plot("per-client", f"{label[:1].upper()}{label[1:]} at each client", caption, alternative, figure)


def _bins(values: NDArray[np.float64]) -> Any:
    low, high = float(values.min()), float(values.max())
    if low == high:
        half = abs(low) * 0.05 or 0.5
        return [low - half, low + half]
    return np.linspace(low, high, min(24, max(8, round(math.sqrt(len(values))))) + 1)
