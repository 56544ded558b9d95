"""What a promise costs in accuracy: finished runs of one recipe, drawn over their epsilon.

tacit simulate fashion-thousand --out runs/e8
tacit simulate fashion-thousand --set privacy.epsilon=4 --out runs/e4
tacit simulate fashion-thousand --set privacy.unit=none --out runs/clean
tacit simulate fashion-thousand --set privacy.noise_cohort=0 --out runs/honest
python -m tacit.simulations.benchmarks.privacy_curve runs/e8 runs/e4 runs/clean runs/honest --out curve.png
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.models.durable import write_file
from tacit.models.errors import InputError
from tacit.simulations.drawing import BLUE, MUTED, ORANGE, PAPER, Plot, drawing, legend_above, new_figure

PNG_DPI = 200


@dataclass(frozen=True)
class Point:
    """A finished run: the epsilon that it stated against readers of the model, None without a promise."""

    accuracy: float
    epsilon: float | None
    hypothetical: bool


def point_of(directory: Path) -> Point:
    """Read a run directory's result.

    Raises:
        InputError: there is none, or it has no accuracy.
    """
    try:
        summary: Mapping[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        privacy = summary["privacy"]
        return Point(float(summary["metrics"]["accuracy"]), privacy["epsilon_outsiders"], bool(privacy["hypothetical"]))
    except (OSError, KeyError, TypeError, ValueError):
        raise InputError("holds no finished run with an accuracy", where=str(directory)) from None


def privacy_curve(points: Sequence[Point]) -> Plot:
    """Draw accuracy over epsilon, to be saved while `drawing.drawing` is in force."""
    promised = sorted((one for one in points if one.epsilon is not None), key=lambda one: one.epsilon or 0.0)
    clean = [one for one in points if one.epsilon is None]
    figure = new_figure(3.0)
    axes = figure.subplots()
    told = []
    for hypothetical, colour, marker, word in (
        (True, BLUE, "o", "hypothetical: noise for a larger cohort"),
        (False, ORANGE, "s", "as promised to this very federation"),
    ):
        kind = [one for one in promised if one.hypothetical == hypothetical]
        if kind:
            epsilons, accuracies = [one.epsilon or 0.0 for one in kind], [one.accuracy for one in kind]
            axes.plot(epsilons, accuracies, color=colour, marker=marker, label=word)
        for one in kind:
            axes.annotate(
                f"{one.accuracy:.3f}", (one.epsilon or 0.0, one.accuracy), textcoords="offset points", xytext=(4, -11)
            )
            told.append(f"{one.accuracy:.3f} at epsilon {one.epsilon:.2f} ({word})")
    for one in clean:
        axes.axhline(one.accuracy, color=MUTED, linestyle="--", label=f"without noise: {one.accuracy:.3f}")
        told.append(f"{one.accuracy:.3f} without noise")
    axes.set_xscale("log")
    ticks = [one.epsilon or 0.0 for one in promised]
    axes.set_xticks(ticks, [f"{epsilon:.1f}" for epsilon in ticks])
    axes.minorticks_off()
    axes.set_xlabel("epsilon against readers of the model (stated after the run)")
    axes.set_ylabel("test accuracy")
    axes.margins(0.12)
    legend_above(figure, 1)
    return Plot(
        "privacy-curve", "Accuracy by epsilon", "One finished run a point.", "Test accuracy: " + "; ".join(told), figure
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the runs that are named."""
    parser = argparse.ArgumentParser(prog="python -m tacit.simulations.benchmarks.privacy_curve", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of finished runs")
    parser.add_argument("--out", type=Path, default=Path("privacy-curve.png"))
    given = parser.parse_args(arguments)
    try:
        points = [point_of(run) for run in given.runs]
    except InputError as error:
        parser.error(str(error))
    with drawing():
        plot = privacy_curve(points)
        buffer = io.BytesIO()
        words = {"Software": None, "Title": plot.title, "Description": plot.alternative}
        plot.figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor=PAPER, metadata=words)
    write_file(given.out, buffer.getvalue())
    print(plot.alternative)
    print(f"plot {given.out}")


if __name__ == "__main__":
    main()
