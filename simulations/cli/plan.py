"""`tacit privacy plan`: what a recipe's promise will cost, and whether anything can be learned under it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tacit.models.errors import InputError
from tacit.printing import Format, format_option, print_fields, print_json, print_table

if TYPE_CHECKING:
    from tacit.models.recipe import Recipe
    from tacit.simulations.privacy_plan import PrivacyPlan

TABLE_ROWS = 10
NO_PROMISE = "nothing is promised: privacy.unit is 'none', and nothing bounds what the model says about its data"
KEYS_TO_ADD = {"unit": "client", "epsilon": 8.0, "clip": 0.5}


class Targets(click.ParamType):
    """Epsilons with commas between."""

    name = "targets"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers, or fail with the one that is none."""
        if isinstance(value, tuple):
            return value
        found = []
        for text in str(value).split(","):
            try:
                epsilon = float(text)
            except ValueError:
                epsilon = math.nan
            if not 0.0 < epsilon < math.inf:
                self.fail(f"{text.strip()!r} is no positive number; write epsilons as in 1,2,4,8", param, ctx)
            found.append(epsilon)
        return tuple(found)


@click.command()
@click.argument("recipe")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a setting, as in privacy.epsilon=4."
)
@click.option(
    "--targets",
    type=Targets(),
    metavar="EPSILON,...",
    help="Which epsilons to give the noise for.  [default: 1,2,4,8; the recipe's alone where each takes ten seconds]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The plot, a PNG.  [default: <recipe's name>-privacy-plan.png]",
)
@format_option
def plan(
    recipe: str, overrides: tuple[str, ...], targets: tuple[float, ...] | None, out: Path | None, output: Format
) -> None:
    """Say what RECIPE's promise will cost, as a table and a plot, before anything of it is spent.

    Epsilon by round against the coordinator, fellow clients and outsiders; the noise that other targets need; the round
    at which the budget ends; and how much of a round is signal. It opens the data to count clients and parameters, and
    trains nothing. RECIPE is a TOML file, or the name of a bundled recipe.

    Example: tacit privacy plan demo --set privacy.epsilon=4 --targets 2,4,8
    """
    if out is not None and out.suffix.lower() != ".png":
        raise InputError("is no name of a picture", where=f"--out {out}", right="end it in .png")
    from tacit.models.recipe import read_recipe
    from tacit.simulations.recipes import BUNDLED

    checked = read_recipe(recipe, overrides, bundled=BUNDLED)
    if checked.privacy.unit == "none":
        _print_no_promise(checked, output)
        return
    if checked.privacy.unit == "example" or checked.training.sampling == "poisson":
        click.echo("computing what sampled events cost, which takes up to a minute", err=True)
    made = planned(checked, targets)
    path = out or Path(f"{checked.name}-privacy-plan.png")
    replaced = path.exists()
    from tacit.simulations.privacy_plan_plot import write_privacy_plan_plot

    try:
        write_privacy_plan_plot(made, path)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path), right="another --out") from None
    if output == "json":
        print_json({"plan": made, "plot": path})
    else:
        _print(made, path, replaced)


def planned(recipe: Recipe, targets: tuple[float, ...] | None = None) -> PrivacyPlan:
    """Open a recipe's data, check all that a simulation checks before it writes anything, and return the plan.

    Raises:
        InputError: the recipe cannot be run; names the number to change.
    """
    from statistics import median

    from tacit.models.evaluation_only import NOISED_SHARES
    from tacit.models.plan import Plan
    from tacit.privacy.errors import PrivacyError
    from tacit.privacy.identity import Identity
    from tacit.privacy.randomness import SystemRandomness
    from tacit.server.feasibility import check_cohorts, check_network, check_promise
    from tacit.server.masking import Masking
    from tacit.server.names import check_names
    from tacit.simulations.federation import build_federation
    from tacit.simulations.privacy_plan import privacy_plan

    check_names(recipe)
    federation = build_federation(recipe)
    parameters, clients = check_network(Plan(recipe, federation.schema)), len(federation.names)
    if recipe.secure_aggregation.enabled:
        # Of a coordinator that never asks anybody anything.
        randomness = SystemRandomness()
        coordinator = Identity.generate(randomness, "plan")
        check_cohorts(
            recipe, Masking(coordinator, frozenset(), recipe.secure_aggregation, randomness), clients, parameters
        )
    check_promise(recipe, clients, parameters)
    exact = not any(column.kind == "categorical" for column in federation.schema.columns)
    if recipe.evaluation.only:  # what leaves is two values, whatever the model
        parameters, exact = NOISED_SHARES, True
    examples = float(median(federation.partition_summary["rows"]))
    try:
        return privacy_plan(recipe, parameters, clients, parameters_are_exact=exact, examples=examples, targets=targets)
    except PrivacyError as error:
        right = "a larger epsilon, fewer rounds, or more clients"
        raise InputError(str(error), where=f"privacy, {clients} clients", right=right) from None


def _print_no_promise(recipe: Recipe, output: Format) -> None:
    if output == "json":
        print_json({"plan": None, "plot": None, "sentence": NO_PROMISE, "add": {"privacy": KEYS_TO_ADD}})
        return
    click.echo(f"{recipe.name}: {NO_PROMISE}.")
    click.echo("For a promise to every client, add to the recipe:")
    click.echo("\n[privacy]")
    for key, value in KEYS_TO_ADD.items():
        click.echo(f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}")


def _print(made: PrivacyPlan, path: Path, replaced: bool) -> None:
    from tacit.simulations.privacy_plan import OBSERVER_WORDS

    doubt = "HYPOTHETICAL, " if made.hypothetical else ""
    summed = "gradients" if made.unit == "example" else "updates"
    print_fields(
        {
            "plan": f"{doubt}{made.recipe}: {made.mechanism}; protects one {made.unit}",
            "federation": _federation(made),
            "model": _model(made),
            "noise": _noise(made),
            "outsiders": f"amplified by {made.amplified_because}" if made.amplified_because else None,
            "budget": _budget(made),
            "expected": _epsilons(made),
            "signal": f"a round's {summed} are {made.signal.aligned:.3g} times as long as its noise if they point one"
            f" way, {made.signal.orthogonal:.3g} if they have nothing in common",
        }
    )
    click.echo(
        f"\n{doubt}epsilon at delta {made.delta:g}, by {made.accountant}, if in every round only the fewest survive"
    )
    shown = _thinned(made)
    print_table(
        ("rounds", "coordinator", "fellow clients", "outsiders"),
        [(row.rounds, *map(_bound, (row.coordinator, row.fellow_clients, row.outsiders))) for row in shown],
    )
    click.echo(f"\n{doubt}noise for a target against {OBSERVER_WORDS[made.target_against]}")
    print_table(
        ("epsilon", "noise multiplier", "signal, one way", "nothing in common", ""),
        [
            (
                one.epsilon,
                one.noise_multiplier,
                one.signal.aligned if one.signal else None,
                one.signal.orthogonal if one.signal else None,
                one.impossible_because or ("hopeless" if one.signal and one.signal.hopeless else ""),
            )
            for one in made.targets
        ],
        empty="none asked for: --targets 1,2,4,8",
    )
    click.echo(
        f"\nSignal to noise is for {summed} as long as their clip and needs no data; shorter ones have less. It says"
        " nothing about accuracy beyond that."
    )
    click.echo(f"plot  {path}{' (replaced)' if replaced else ''}")
    for warning in made.warnings:
        click.echo(f"warning: {warning}", err=True)


def _federation(made: PrivacyPlan) -> str:
    each = "is asked" if made.cohort == 1 else "are asked"
    drawn = f"{made.cohort:,} of {made.clients:,} clients {each} each round"
    if made.sampling == "poisson":
        drawn += f" on average, each with probability {made.sampling_rate:.3g}"
    if made.place != "distributed":
        return drawn
    of = f"of the hypothetical {made.noise_cohort:,}, " if made.hypothetical else ""
    return f"{drawn}; {of}at least {made.min_survivors:,} are summed, of whom {made.colluders:,} may collude"


def _model(made: PrivacyPlan) -> str:
    least = "" if made.parameters_are_exact else "at least "
    adapts = " at first, it adapts" if made.clip_adapts else ""
    return f"{least}{made.parameters:,} parameters; clip {made.l2_clip:g}{adapts}"


def _noise(made: PrivacyPlan) -> str:
    from tacit.simulations.privacy_plan import OBSERVER_WORDS

    times = f"multiplier {made.noise_multiplier:.4g}"
    if made.target_epsilon is None:
        return f"{times}, as the recipe gives it"
    whom = OBSERVER_WORDS[made.target_against]
    what = f"{made.horizon} participations" if not made.amplified_because else f"{made.by_round[-1].rounds} rounds"
    return f"{times}, for epsilon {made.target_epsilon:g} against {whom} after {what}"


def _budget(made: PrivacyPlan) -> str:
    budget = made.budget
    longer = budget.last_round_if_all_survive
    at_best = f" ({longer} if nobody drops out)" if longer != budget.last_round else ""
    return (
        f"epsilon {_bound(budget.epsilon)} of {budget.granted_by}, if nothing is spent yet: ends after round"
        f" {budget.last_round}{at_best}"
    )


def _epsilons(made: PrivacyPlan) -> str:
    after = made.after_all_rounds
    return (
        f"after {after.rounds} rounds, if nobody drops out: epsilon {_bound(after.coordinator)} against the"
        f" coordinator, {_bound(after.fellow_clients)} against fellow clients, {_bound(after.outsiders)} against"
        " outsiders"
    )


def _bound(epsilon: float) -> str:
    """Return an epsilon rounded up: a promise must not sound stronger than it is."""
    return f"{math.ceil(epsilon * 1000) / 1000:.3f}" if math.isfinite(epsilon) else "no bound"


def _thinned(made: PrivacyPlan) -> list[Any]:
    rows = made.by_round
    step = math.ceil(len(rows) / TABLE_ROWS)
    kept = (made.rounds, made.horizon, made.budget.last_round, rows[-1].rounds)
    return [row for index, row in enumerate(rows) if index % step == 0 or row.rounds in kept]
