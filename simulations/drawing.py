"""How plots are drawn: their colours, in light and in dark, their style, and their words."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.8  # inches: narrow, so that the text is large enough on a phone and two fit side by side on a screen
NAMED = 30  # so many clients are told apart by name; more are summarised

# Name: (on white, on near-black). Told apart by the colour-blind too, and never the only difference between two marks.
COLOURS = MappingProxyType(
    {
        "ink": ("#1d242b", "#e8ebee"),
        "muted": ("#5a6570", "#9da8b3"),
        "rule": ("#d9dee3", "#343c45"),
        "paper": ("#ffffff", "#14181c"),
        "blue": ("#1b6ab0", "#6db5f5"),
        "orange": ("#b9500e", "#f3a266"),
        "ochre": ("#8f7000", "#dcc052"),
        "purple": ("#7c4597", "#cfa3e8"),
    }
)
INK, MUTED, RULE, PAPER, BLUE, ORANGE, OCHRE, PURPLE = (light for light, _ in COLOURS.values())

# Cells of a heat map are this colour, more or less opaque, so that one picture is right on both backgrounds.
HEAT = "#3a8ee6"

_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so a plot does not depend on the machine's fonts
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a client's name is a dollar sign
    "text.hinting": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.0,
    "axes.facecolor": "none",
    "axes.titley": 1.0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.4,
    "hatch.linewidth": 0.8,
    "figure.facecolor": "none",
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",
}


@contextmanager
def drawing(name: str = "tacit") -> Iterator[None]:
    """Draw and save in the style above, whatever the process has configured, and leave its configuration as it was.

    Args:
        name: the seed of the identifiers within an SVG: the same for the same plot, different for two on one page.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Names may be in any script; the browser has fonts for the text of an SVG, a PNG then shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": name})
        yield


@dataclass(frozen=True)
class Plot:
    """A drawn plot, with its words: `alternative` says what one sees in it, `caption` how to read it."""

    name: str
    title: str
    caption: str
    alternative: str
    figure: Figure


def new_figure(height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Return an empty figure of the common width, `height` inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout=layout)


def legend_above(figure: Figure, columns: int) -> None:
    """Put a legend of everything that has a label above the figure's axes."""
    figure.legend(
        loc="outside upper left", ncols=columns, columnspacing=1.4, handlelength=2.2, borderpad=0.0, borderaxespad=0.4
    )
