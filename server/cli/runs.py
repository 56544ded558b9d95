"""`tacit coordinator start`: which runs a federation has before it."""

from __future__ import annotations

from pathlib import Path

import click

from tacit.server.cli.directory import dir_option, now, opened


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
    from tacit.models.recipe import load_recipe
    from tacit.server.federation import enqueue

    with opened(directory) as (hub, _):
        path = enqueue(hub.path, load_recipe(recipe, overrides), now())
    click.echo(f"waits as {path.stem}")
