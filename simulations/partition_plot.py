"""The plot of who holds what, for ten clients as for a thousand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tacit.simulations.drawing import BLUE, HEAT, INK, NAMED, Plot, new_figure
from tacit.simulations.labels import short
from tacit.simulations.run_files import PartitionFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 150
MOST_CLASSES = 120
MOST_COUNTS = 12  # classes whose counts fit into the cells
LINE = 0.165  # inches, of one named client


def partition_plot(partition: PartitionFile) -> Plot:
    """Draw which classes each client holds, and how many rows; for regression the rows alone."""
    clients = len(partition.clients)
    rows = np.array(partition.rows, dtype=np.int64)
    named = clients <= NAMED
    height = LINE * max(clients, 5) if named else 3.1
    spread = f"{clients:,} clients with {rows.min():,} to {rows.max():,} training rows (median {np.median(rows):,.0f})"
    if not partition.classes:
        figure = new_figure(height + 0.5)
        axes = figure.subplots()
        order = np.arange(clients) if named else np.argsort(-rows, kind="stable")
        _draw_rows(axes, rows[order], named, ticks=6)
        _name_lines(axes, partition, named, "largest first")
        caption = "Training rows at each client."
        return Plot("partition", "Rows at each client", caption, f"Bar chart: {spread}.", figure)
    shares, labels = class_shares(partition)
    order = np.arange(clients) if named else by_likeness(shares, rows)
    upright = sum(map(len, labels)) <= 30
    figure = new_figure(height + 0.75 + (0.15 if upright else 0.08 * max(map(len, labels))))
    axes, sizes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    _draw_shares(axes, _thinned(shares[order], named), clients, height)
    _name_classes(axes, labels, upright)
    if named and len(labels) <= MOST_COUNTS:
        _write_counts(axes, np.array(partition.counts))
    _draw_rows(sizes, rows[order], named, ticks=2)
    _name_lines(axes, partition, named, "ordered by their most frequent class")
    caption = (
        "How each client's training rows divide over the classes (a stronger colour is a larger share), "
        "and how many rows it has."
    )
    if len(labels) < len(partition.classes):
        caption += f" Shown are the {len(labels)} most frequent of {len(partition.classes):,} classes."
    if (block := _block(clients, named)) > 1:
        caption += f" Each line is the mean of {block} clients."
    purity = float(np.median(shares.max(1)))
    alternative = f"Heat map: {spread}; at the median client the most frequent class has {purity:.0%} of the rows."
    return Plot("partition", "Classes at each client", caption, alternative, figure)


def class_shares(partition: PartitionFile) -> tuple[NDArray[np.float64], list[str]]:
    """Return each class's share of each client's rows, shape (clients, classes), and the classes' short names.

    Of very many classes only the most frequent are kept, in their own order; the shares are still those of all rows.
    """
    counts = np.array(partition.counts, dtype=np.float64)
    kept = np.sort(np.argsort(-counts.sum(0), kind="stable")[:MOST_CLASSES])
    shares = counts[:, kept] / np.maximum(counts.sum(1, keepdims=True), 1)
    return shares, [short(partition.classes[index]) for index in kept]


def by_likeness(shares: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order in which clients with the same most frequent class stand together, the purest first."""
    return np.lexsort((-rows, -shares.max(1), shares.argmax(1)))


def _block(clients: int, named: bool) -> int:
    """Return how many clients share a line."""
    return 1 if named else math.ceil(clients / MOST_LINES)


def _thinned(values: NDArray[Any], named: bool) -> NDArray[np.float64]:
    """Return the means of the clients that share a line, shape (lines, ...) for values (clients, ...)."""
    starts = np.arange(0, len(values), _block(len(values), named))
    sums = np.add.reduceat(values.astype(np.float64), starts)
    return (sums.T / np.diff(starts, append=len(values))).T


def _draw_rows(axes: Axes, rows: NDArray[np.int64], named: bool, ticks: int) -> None:
    clients, block = len(rows), _block(len(rows), named)
    if named:
        axes.barh(np.arange(clients) + 1, rows, 0.62, color=BLUE, linewidth=0.0)
    else:
        edges = np.append(np.arange(0, clients, block), clients) + 0.5
        axes.stairs(_thinned(rows, named), edges, orientation="horizontal", fill=True, color=BLUE)
    axes.set_ylim(clients + 0.5, 0.5)
    axes.set_xlabel("rows" if block == 1 else f"rows (mean of {block})")
    axes.locator_params(axis="x", nbins=ticks)
    axes.ticklabel_format(axis="x", style="plain")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_visible(False)


def _draw_shares(axes: Axes, shares: NDArray[np.float64], clients: int, height: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    lines, classes = shares.shape
    # From fully transparent on: a share of zero is the background, whichever that is.
    colours = LinearSegmentedColormap.from_list("heat", [HEAT + "00", HEAT + "f2"])
    highest = max(float(shares.max()), 1e-9)
    # The last line may stand for fewer clients than the others, so the picture may end below the axes.
    bottom = lines * math.ceil(clients / lines) + 0.5
    picture = colours(shares / highest)
    axes.imshow(picture, extent=(0.5, classes + 0.5, bottom, 0.5), aspect="auto", interpolation="none")
    key = axes.inset_axes((0.0, -0.17 / height, 0.42, 0.08 / height))
    key.imshow(colours(np.linspace(0, 1, 64))[None], extent=(0, 1, 0, 1), aspect="auto", interpolation="none")
    key.set_yticks([])
    key.set_xticks([0, 1], ["0 %", f"{100 * highest:.0f} %"])
    key.tick_params(length=0)
    for each in (axes, key):
        each.grid(visible=False)
        each.spines[["left", "top", "right", "bottom"]].set_visible(True)


def _name_classes(axes: Axes, labels: Sequence[str], upright: bool) -> None:
    places = range(1, len(labels) + 1, math.ceil(len(labels) / 20))
    axes.xaxis.tick_top()
    axes.tick_params(top=False)
    axes.set_xticks(places, [labels[place - 1] for place in places], rotation=0 if upright else 90)


def _name_lines(axes: Axes, partition: PartitionFile, named: bool, order: str) -> None:
    clients = len(partition.clients)
    if named:
        axes.set_yticks(range(1, clients + 1), [short(name) for name in partition.clients])
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{clients:,} clients, {order}")


def _write_counts(axes: Axes, counts: NDArray[np.int64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count}" if count < 10_000 else f"{count // 1000}k"
        axes.text(column + 1, row + 1, text, ha="center", va="center_baseline", fontsize=6.5, color=INK)
