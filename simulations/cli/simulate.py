"""`tacit simulate`: run a whole federation on this machine."""

from __future__ import annotations

import math
import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tacit.models.errors import InputError
from tacit.printing import Format, format_option, print_json
from tacit.server.cli.options import db_option, models_option
from tacit.simulations.cli.progress import Progress

REFUSED = 3

if TYPE_CHECKING:
    from tacit.models.recipe import Recipe
    from tacit.simulations.federation import Federation
    from tacit.simulations.simulation import Simulation


@click.command()
@click.argument("recipe")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a setting, as in training.rounds=5."
)
@click.option("--out", type=click.Path(path_type=Path), help="The run directory.  [default: runs/<time>-<name>]")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="How many clients train at a time."
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished run of this recipe (or with the one in --out).")
@click.option(
    "--reproducible-noise",
    is_flag=True,
    help="Draw noise from the recipe's seed, so that the run can be repeated; then nothing is promised.",
)
@db_option
@models_option
@format_option
def simulate(
    recipe: str,
    overrides: tuple[str, ...],
    out: Path | None,
    workers: int,
    resume: bool,
    reproducible_noise: bool,
    db: str,
    models: Path,
    output: Format,
) -> None:
    """Run a federation as RECIPE says: a TOML file, or the name of a bundled recipe.

    Example: tacit simulate demo --set training.rounds=10 --out runs/first
    """
    if workers > 1:
        raise InputError("this version trains one client at a time", where=f"--workers {workers}", right="leave it out")
    from tacit.models.recipe import read_recipe
    from tacit.simulations.recipes import BUNDLED

    wanted = read_recipe(recipe, overrides, bundled=BUNDLED)
    # Imported here: PyTorch and Flower take seconds that --help and a slip in the recipe need not wait for.
    from tacit.server.attempts import RunFailed
    from tacit.server.run import BUDGET_SPENT
    from tacit.simulations.simulation import simulate as run_simulation

    progress = Progress(quiet=output == "json")
    directory: list[Path] = []

    def started(checked: Recipe, federation: Federation, path: Path) -> None:
        directory.append(path)
        progress.start(checked, federation, path)

    try:
        with _termination_interrupts(), progress:
            finished = run_simulation(
                wanted,
                out=out,
                db=db,
                models=models,
                resume=resume,
                reproducible_noise=reproducible_noise,
                on_start=started,
                on_round=progress.round,
            )
    except KeyboardInterrupt:
        if directory:
            raise click.ClickException(f"interrupted; go on with: {_resume(directory[0], db, models)}") from None
        raise
    except RunFailed as error:
        text = f"{error}; the rounds that count are in {directory[0]}"
        if str(error).startswith(BUDGET_SPENT):
            click.echo(f"error: {text}", err=True)
            raise click.exceptions.Exit(REFUSED) from None
        raise click.ClickException(text) from None
    if output == "json":
        print_json(finished.summary)
    else:
        _print(finished)
    if finished.summary["stopped"] == BUDGET_SPENT:
        raise click.exceptions.Exit(REFUSED)


def privacy_line(privacy: Mapping[str, Any]) -> str:
    """Say in a few words what was promised."""
    against = {"epsilon": "against the coordinator too", "epsilon_outsiders": "against readers of the model alone"}
    for name, whom in against.items():
        if privacy[name] is not None:
            # Rounded up: a promise must not sound stronger than it is.
            epsilon = math.ceil(privacy[name] * 100) / 100
            said = f"{privacy['unit']}-level, epsilon {epsilon:g} at delta {privacy['delta']:g}, {whom}"
            return f"{said} (HYPOTHETICAL: the noise is for a larger cohort)" if privacy["hypothetical"] else said
    return "none"


def aggregation_line(aggregation: Mapping[str, Any]) -> str:
    """Say in a few words what the coordinator saw."""
    if not aggregation["enabled"]:
        return "none: the coordinator sees every update"
    return "elided: the arithmetic of masked sums without masks" if aggregation.get("mode") == "elided" else "secure"


def _resume(directory: Path, db: str, models: Path) -> str:
    """Return the command that goes on with a run, fit to be pasted into a shell."""
    # A database's URL may hold a password, which is not repeated.
    options = [("--db", "URL" if "://" in db else db, "tacit.db"), ("--models", str(models), "models-store")]
    given = [text for name, value, default in options if value != default for text in (name, value)]
    recipe = str(directory / "recipe.toml")
    return shlex.join(["tacit", "simulate", recipe, "--out", str(directory), "--resume", *given])


def _print(finished: Simulation) -> None:
    summary = finished.summary
    if "evaluation" in summary:
        _print_evaluation(finished)
        return
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in sorted(finished.metrics.items()))
    model = summary["model"]
    click.echo(f"test        {metrics or 'not measured'}")
    seconds = summary["timing"]["seconds_per_round"]
    each = "" if seconds is None else f", {seconds:.3f} s each"  # there may have been none
    click.echo(f"rounds      {summary['rounds_completed']} ({summary['stopped'] or 'all of them'}){each}")
    click.echo(f"privacy     {privacy_line(summary['privacy'])}")
    click.echo(f"aggregation {aggregation_line(summary['secure_aggregation'])}")
    click.echo(f"model       {model['name']} version {model['version']} (sha256 {model['sha256'][:12]})")
    click.echo(f"report      {finished.report}")


def _print_evaluation(finished: Simulation) -> None:
    summary = finished.summary
    model, counted = summary["model"], summary["evaluation"]
    rows = "" if counted["counted_rows"] is None else f"{counted['counted_rows']:,} "
    on = f"{rows}{counted['rows']} rows of {counted['members']} clients"
    click.echo(f"evaluated   {model['name']} version {model['version']} (sha256 {model['sha256'][:12]}) on {on}")
    for name, value in finished.metrics.items():
        click.echo(f"{'':<12}{name:<28}{value:.4f}")
    click.echo(f"privacy     {privacy_line(summary['privacy'])}")
    click.echo(f"aggregation {aggregation_line(summary['secure_aggregation'])}")
    click.echo(f"page        {finished.report}")


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Let a polite request to stop end the run as Ctrl-C does: cleanly, and ready to be resumed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
