"""The plot of a privacy plan: epsilon by round against each observer, and how much of a round is signal."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.models.durable import write_file
from tacit.privacy.terms import OBSERVERS, Observer
from tacit.simulations.drawing import (
    BLUE,
    INK,
    MUTED,
    OCHRE,
    ORANGE,
    PAPER,
    PURPLE,
    WIDTH,
    Plot,
    drawing,
    new_figure,
)
from tacit.simulations.privacy_plan import OBSERVER_WORDS, PrivacyPlan
from tacit.simulations.signal_to_noise import HOPELESS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PNG_DPI = 200
HEIGHT = 6.2  # inches
# Epsilons above it are drawn on a logarithmic axis beside ones far below.
WIDE = 20.0


def write_privacy_plan_plot(plan: PrivacyPlan, path: Path) -> Plot:
    """Write the plot as a PNG, whole or not at all, and return it; the same plan gives the same bytes.

    Raises:
        OSError: the file cannot be written.
    """
    with drawing():
        plot = privacy_plan_plot(plan)
        buffer = io.BytesIO()
        words = {"Software": None, "Title": plot.title, "Description": plot.alternative}
        plot.figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor=PAPER, metadata=words)
    write_file(path, buffer.getvalue())
    return plot


def privacy_plan_plot(plan: PrivacyPlan) -> Plot:
    """Draw a plan, to be saved while `drawing.drawing` is in force."""
    figure = new_figure(HEIGHT)
    figure.set_size_inches(1.25 * WIDTH, HEIGHT)
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2))
    told = _epsilons(above.subplots(), plan)
    signal = _signal(below.subplots(), plan)
    for part in (above, below):
        part.legend(
            loc="outside upper left", ncols=2, columnspacing=1.4, handlelength=2.2, borderpad=0.0, borderaxespad=0.4
        )
    title = f"Privacy plan of {plan.recipe}"
    if plan.hypothetical:
        title = f"HYPOTHETICAL (noise of a cohort of {plan.noise_cohort:,}): {title}"
    figure.suptitle(title, x=0.012, ha="left", fontsize=10.5, color=ORANGE if plan.hypothetical else INK)
    caption = (
        f"Above: epsilon at delta {plan.delta:g} if in every round only the fewest survive. Below: the expected length"
        " of a round's summed updates over that of its noise, if updates are as long as their clip."
    )
    doubt = "Hypothetical. " if plan.hypothetical else ""
    return Plot("privacy-plan", title, caption, f"{doubt}Line chart of epsilon by round: {told}. {signal}", figure)


def _epsilons(axes: Axes, plan: PrivacyPlan) -> str:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    x = [point.rounds for point in plan.by_round]
    curves: dict[tuple[float, ...], list[Observer]] = {}
    for observer in OBSERVERS:
        curves.setdefault(tuple(point.against(observer) for point in plan.by_round), []).append(observer)
    sentences: list[str] = []
    drawn: list[float] = []
    styles = iter(((BLUE, "-", "o"), (ORANGE, (0, (4, 1.6)), "s"), (PURPLE, (0, (1, 1.2)), "^")))
    for values, observers in curves.items():
        words = "everybody" if len(observers) == len(OBSERVERS) else _listed([OBSERVER_WORDS[one] for one in observers])
        if not all(map(math.isfinite, values)):
            axes.plot([], [], linestyle="", label=f"{words}: no bound")
            sentences.append(f"against {words} nothing is bounded")
            continue
        colour, line, marker = next(styles)
        axes.plot(x, values, label=f"against {words}", color=colour, linestyle=line, marker=marker, markersize=2.8)
        sentences.append(f"against {words} {values[0]:.2f} after round {x[0]}, {values[-1]:.2f} after {x[-1]}")
        drawn += values
    budget = plan.budget
    axes.axhline(
        budget.epsilon, color=INK, linewidth=1.1, linestyle=(0, (6, 2)), label=f"budget, epsilon {budget.epsilon:.3g}"
    )
    drawn.append(budget.epsilon)
    axes.axvline(plan.rounds, color=MUTED, linewidth=1.1, linestyle=":", label=f"the recipe's {plan.rounds} rounds")
    if plan.horizon != plan.rounds and plan.horizon <= x[-1]:
        label = f"noise for {plan.horizon} participations"
        axes.axvline(plan.horizon, color=OCHRE, linewidth=1.1, linestyle="--", label=label)
    if budget.last_round < x[-1]:
        axes.axvspan(budget.last_round, x[-1], color=ORANGE, alpha=0.12, linewidth=0)
        axes.axvline(
            budget.last_round, color=ORANGE, linewidth=1.4, label=f"budget ends after round {budget.last_round}"
        )
        sentences.append(f"the budget ends after round {budget.last_round}")
    margin = max(0.5, 0.02 * (x[-1] - x[0]))
    axes.set_xlim(x[0] - margin, x[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    logarithmic = min(drawn) > 0 and max(drawn) > WIDE * min(drawn)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axes.set_ylim(0, 1.08 * max(drawn))
    axes.set_xlabel("rounds")
    axes.set_ylabel("epsilon (logarithmic)" if logarithmic else "epsilon")
    return "; ".join(sentences)


def _signal(axes: Axes, plan: PrivacyPlan) -> str:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    found = [(one.epsilon, one.signal) for one in plan.targets if one.signal is not None]
    spent = plan.by_round[-1].against(plan.target_against)
    own = plan.target_epsilon or (spent if 0.0 < spent < math.inf else None)
    x = [epsilon for epsilon, _ in found]
    what = "gradients" if plan.unit == "example" else "updates"
    kinds = (
        (f"{what} that point one way", "aligned", BLUE, "-", "o"),
        (f"{what} with nothing in common", "orthogonal", PURPLE, (0, (4, 1.6)), "s"),
    )
    for label, kind, colour, line, marker in kinds:
        values = [getattr(signal, kind) for _, signal in found]
        axes.plot(x, values, color=colour, linestyle=line, marker=marker, label=label, markersize=2.8)
        if own is not None:
            axes.plot([own], [getattr(plan.signal, kind)], "o", color=colour, markersize=7.0, markerfacecolor="none")
    axes.axhspan(1e-9, HOPELESS, color=ORANGE, alpha=0.12, linewidth=0, label="upper line in here: hopeless")
    values = [value for _, signal in [*found, (own, plan.signal)] for value in (signal.aligned, signal.orthogonal)]
    axes.set_yscale("log")
    axes.set_ylim(min(HOPELESS, *values) / 2, 2 * max(HOPELESS, *values))
    shown = sorted({*x, *([own] if own is not None else [])})
    if len(shown) > 1:
        axes.set_xscale("log")
    axes.set_xticks(shown, [f"{epsilon:.3g}" for epsilon in shown])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("epsilon that the noise is for (the recipe's is circled)")
    axes.set_ylabel("signal to noise")
    verdict = " The noise drowns the signal." if plan.signal.hopeless else ""
    return (
        f"Below, signal to noise of a round: {plan.signal.aligned:.2g} for {what} that point one way,"
        f" {plan.signal.orthogonal:.2g} for ones that have nothing in common.{verdict}"
    )


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
