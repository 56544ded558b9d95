"""`tacit coordinator start` and `stop`: what a coordinator trains, and that it ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click

from tacit.models.data.options import IN_FILES
from tacit.models.errors import InputError
from tacit.models.recipe import load_recipe
from tacit.models.spelling import nearest
from tacit.server.cli.directory import dir_option, now, opened
from tacit.server.coordinator_directory import SETTINGS, open_directory
from tacit.server.coordinator_lock import Holder, holder
from tacit.server.run_queue import ask_to_stop, enqueue, forget_stop, queued, withdraw
from tacit.server.store import Store

LOOK_SECONDS = 0.1


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a setting, as in training.rounds=5."
)
@dir_option
def start(recipe: Path, overrides: tuple[str, ...], directory: Path) -> None:
    """Let RECIPE, a TOML file, wait for its turn; the coordinator that is up trains it over its members.

    Example: tacit coordinator start ward.toml --dir hub
    """
    wanted = load_recipe(recipe, overrides)
    with opened(directory) as (hub, _):
        path = enqueue(hub.path, wanted, now())
        is_up = holder(hub.path) is not None
    click.echo(f"waits as {path.stem}")
    sample = wanted.data.test
    scheme, _, place = sample.partition(":")
    if scheme in IN_FILES and not place.startswith(("/", "${")):
        click.echo(f"data.test: {sample!r} is looked for from where the coordinator is started", err=True)
    if not is_up:
        click.echo(f"no coordinator is up; `tacit coordinator up {directory}` trains it", err=True)


@click.command()
@click.argument("run", required=False)
@click.option(
    "--seconds",
    type=click.FloatRange(0.0),
    default=60.0,
    show_default=True,
    help="How long to wait until the coordinator has ended.",
)
@dir_option
def stop(run: str | None, seconds: float, directory: Path) -> None:
    """End the coordinator that is up, or with RUN that run alone: now if it waits, else after what is going.

    Example: tacit coordinator stop --dir hub
    """
    if run is None:
        path = directory.absolute()
        # What is up can be ended also where its settings or certificates could not be used to begin again.
        if not (path / SETTINGS).exists():
            open_directory(path, now())
        _stop_coordinator(path, seconds)
        return
    with opened(directory) as (hub, store):
        click.echo(_stop_run(hub.path, store, run))


def _stop_coordinator(directory: Path, seconds: float) -> None:
    found = holder(directory)
    if found is None:
        click.echo("no coordinator is up")
        return
    if not found.is_here:
        raise InputError(
            f"its coordinator is up elsewhere: process {found.pid} of {found.place}",
            where=str(directory),
            right="stop it there",
        )
    try:
        os.kill(found.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise InputError(
            f"its coordinator, process {found.pid}, is another user's", where=str(directory), right="stop it as that"
        ) from None
    deadline = time.monotonic() + seconds
    while holder(directory) == found:
        if time.monotonic() > deadline:
            raise click.ClickException(_still_there(found, seconds))
        time.sleep(LOOK_SECONDS)
    click.echo(f"the coordinator (pid {found.pid}) has ended")


def _still_there(found: Holder, seconds: float) -> str:
    return (
        f"the coordinator (pid {found.pid}) was told to end and has not after {seconds:g} s;"
        " it ends by itself as soon as it has kept what it is at"
    )


def _stop_run(directory: Path, store: Store, run: str) -> str:
    going = [record.run for record in store.list_runs(None, "running")]
    waiting = [one.run for one in queued(directory) if one.run not in going]
    if run not in (*going, *waiting):
        known = nearest(run, [*going, *waiting])
        right = f"the nearest is {known}" if known else "none is going or waits"
        raise InputError("is no run that is going or waits", where=run, right=right)
    # First, as a run that waits may have its turn in this moment.
    ask_to_stop(directory, run)
    if run in waiting and withdraw(directory, run):
        if holder(directory) is None:
            forget_stop(directory, run)
        return f"{run} does not wait any more"
    return f"{run} ends after the attempt that is going, with the model so far if there is one"
