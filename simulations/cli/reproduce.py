"""`tacit runs reproduce`: run a simulation again and see whether the same model comes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tacit.models.errors import InputError
from tacit.printing import Format, format_option, print_json, print_table
from tacit.privacy.codec import sha256
from tacit.server.cli.options import db_option, models_option
from tacit.server.registry import Registry
from tacit.server.store import RunRecord, open_store
from tacit.simulations.cli.progress import Progress
from tacit.simulations.cli.runs import runs

if TYPE_CHECKING:
    from tacit.simulations.simulation import Simulation

WEIGHTS = "model.safetensors"


@runs.command()
@click.argument("run")
@click.option("--out", type=click.Path(path_type=Path), help="The new run's directory.  [default: runs/<time>-<name>]")
@db_option
@models_option
@format_option
def reproduce(run: str, out: Path | None, db: str, models: Path, output: Format) -> None:
    """Run a finished simulation again, with the same recipe and cohorts, and compare the weights bit by bit.

    Exits 0 if they are the same, 1 if not. A run whose noise was secret never gives the same weights again.

    Example: tacit runs reproduce 20260314-101500-demo
    """
    with open_store(db, create=False) as store:
        record = store.get_run(run)
        if record.status != "finished" or record.summary is None:
            raise InputError(f"is {record.status}", where=f"run {run}", right="only a finished run can be repeated")
        # Imported here: `tacit runs list` needs none of it.
        from tacit.models.recipe import parse_recipe
        from tacit.server.attempts import RunFailed
        from tacit.server.sampling import RecordedCohorts
        from tacit.simulations.simulation import simulate

        recipe = parse_recipe(record.recipe_toml, _pinned(record), where=f"run {run}")
        asked = {
            (attempt.number, attempt.attempt): tuple(member.client for member in attempt.participation)
            for attempt in store.rounds(run)
        }
        before = _weights(Registry(store, models), record)
        repeats = bool(record.summary["privacy"].get("reproducible_noise"))
    try:
        with Progress(quiet=output == "json") as progress:
            again = simulate(
                recipe,
                out=out,
                db=db,
                models=models,
                cohorts=RecordedCohorts(recipe.training, asked),
                reproducible_noise=repeats,
                threads=int(record.environment["threads"]),
                on_start=progress.start,
                on_round=progress.round,
            )
    except RunFailed as error:
        raise click.ClickException(str(error)) from None
    with open_store(db, create=False) as store:
        repeated = store.get_run(again.directory.name)
        after = _weights(Registry(store, models), repeated)
    _print(record, repeated, again, before, after, output)
    if before != after:
        raise click.exceptions.Exit(1)


def _pinned(record: RunRecord) -> list[str]:
    """Return what makes a recipe evaluate the version that a run evaluated, wherever an alias points by now."""
    summary = record.summary or {}
    return [f"model.init=registry:{summary['model']['name']}@{summary['model']['version']}"] * ("evaluation" in summary)


def _weights(registry: Registry, record: RunRecord) -> str:
    """Return the SHA-256 of the weights that a run registered; of its figures, for an evaluation."""
    summary = record.summary or {}
    model = summary["model"]
    if "evaluation" in summary:
        return sha256(repr(sorted(summary["metrics"].items())).encode()).hex()
    return registry.resolve(model["name"], int(model["version"])).files[WEIGHTS]


def _print(record: RunRecord, repeated: RunRecord, again: Simulation, before: str, after: str, output: Format) -> None:
    metrics = (record.summary or {}).get("metrics", {})
    changed = {
        name: [record.environment.get(name), repeated.environment.get(name)]
        for name in sorted({*record.environment, *repeated.environment})
        if record.environment.get(name) != repeated.environment.get(name)
    }
    if output == "json":
        print_json(
            {
                "identical": before == after,
                "weights_sha256": [before, after],
                "runs": [record.run, repeated.run],
                "metrics": [metrics, again.metrics],
                "environment_changes": changed,
            }
        )
        return
    rows: list[tuple[object, ...]] = [(name, metrics.get(name), value) for name, value in sorted(again.metrics.items())]
    rows += [(f"environment {name}", *values) for name, values in changed.items()]
    print_table(("", record.run, repeated.run), rows)
    what = "figures" if "evaluation" in again.summary else "weights"
    if before == after:
        click.echo(f"the {what} are the same, bit for bit")
    elif again.summary["privacy"]["unit"] == "none" or again.summary["privacy"]["reproducible_noise"]:
        click.echo(f"the {what} differ")
    else:
        click.echo(f"the {what} differ, as they must: the noise was secret and is drawn anew")
