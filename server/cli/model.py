"""`tacit model`: the registered models, their versions and aliases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tacit.models.errors import InputError
from tacit.printing import Format, format_option, print_fields, print_json, print_table
from tacit.server.cli.actor import actor
from tacit.server.cli.options import db_option, models_option
from tacit.server.registry import Registry, parse_reference
from tacit.server.store import ModelVersion, RunRecord, open_store


@click.group()
def model() -> None:
    """List, inspect, promote, export and verify registered models.

    MODEL is NAME, NAME@VERSION or NAME@ALIAS; NAME alone means its champion, or its latest version while it has none.
    """


@model.command("list")
@db_option
@models_option
@format_option
def list_(db: str, models: Path, output: Format) -> None:
    """List the models, with their latest version and their aliases.

    Example: tacit model list --format json
    """
    with _registry(db, models) as registry:
        found = registry.store.list_models()
    if output == "json":
        print_json(found)
        return
    print_table(
        ("model", "versions", "aliases", "since"),
        [(one.name, one.versions, one.aliases, one.created_at) for one in found],
        empty="no model is registered yet",
    )


@model.command()
@click.argument("reference", metavar="MODEL")
@db_option
@models_option
@format_option
def show(reference: str, db: str, models: Path, output: Format) -> None:
    """Show all versions of a model, or with NAME@VERSION or NAME@ALIAS everything about one of them.

    Example: tacit model show fashion@champion
    """
    name, selector = parse_reference(reference)
    with _registry(db, models) as registry:
        versions = registry.store.list_versions(name) if selector is None else [registry.resolve(name, selector)]
        history = registry.store.alias_history(name)
        evaluations = [_evaluation(run) for version in versions for run in registry.evaluations(version)]
    aliases: dict[int, list[str]] = defaultdict(list)
    for alias, version in {change.alias: change.version for change in history}.items():
        aliases[version].append(alias)
    if output == "json":
        print_json({"versions": versions, "aliases": aliases, "alias_history": history, "evaluations": evaluations})
    elif selector is not None:
        _print_version(versions[0], aliases[versions[0].version])
        if evaluations:
            click.echo()
            columns = ("run", "rows", "counted_rows", "members", "metrics", "finished_at")
            print_table(
                ("evaluation", "rows", "counted", "members", "metrics", "finished"),
                [tuple(one[column] for column in columns) for one in evaluations],
            )
    else:
        print_table(
            ("version", "aliases", "run", "round", "metrics", "digest", "registered"),
            [
                (one.version, aliases[one.version], one.run, one.round, one.metrics, one.digest[:12], one.created_at)
                for one in versions
            ],
        )


@model.command()
@click.argument("name")
@click.argument("version")
@click.argument("alias")
@db_option
@models_option
def promote(name: str, version: str, alias: str, db: str, models: Path) -> None:
    """Point ALIAS (champion, challenger, ...) of model NAME at VERSION, once its files are verified.

    VERSION is a number, `latest` or another alias. A new champion makes the old one `previous`.

    Example: tacit model promote fashion 3 champion
    """
    with _registry(db, models) as registry:
        found = registry.promote(name, version, alias, actor=actor())
    click.echo(f"{name}@{alias} is version {found.version}")


@model.command()
@click.argument("reference", metavar="MODEL")
@click.argument("destination", type=click.Path(path_type=Path))
@db_option
@models_option
def export(reference: str, destination: Path, db: str, models: Path) -> None:
    """Copy the files of a model to a new directory, verified before and after.

    Example: tacit model export fashion@champion ./fashion
    """
    name, selector = parse_reference(reference)
    with _registry(db, models) as registry:
        found = registry.resolve(name, selector)
        registry.export(name, found.version, destination)
    click.echo(f"{name} version {found.version} is in {destination}")


@model.command()
@click.argument("reference", metavar="[MODEL]", required=False)
@db_option
@models_option
def verify(reference: str | None, db: str, models: Path) -> None:
    """Compare a model's files with their digests; without MODEL, those of every version of every model.

    Example: tacit model verify fashion@3
    """
    with _registry(db, models) as registry:
        if reference is not None:
            versions = [registry.find(reference)]
        else:
            names = [one.name for one in registry.store.list_models()]
            versions = [version for name in names for version in registry.store.list_versions(name)]
        damaged: list[InputError] = []
        for version in versions:
            try:
                registry.verify(version)
            except InputError as error:
                damaged.append(error)
            else:
                click.echo(f"{version.name} version {version.version}: intact, {version.digest}")
    # All are looked at before the command fails, so that one damaged version does not hide another.
    for one in damaged[:-1]:
        click.echo(f"error: {one}", err=True)
    if damaged:
        raise damaged[-1]


@contextmanager
def _registry(db: str, models: Path) -> Iterator[Registry]:
    with open_store(db, create=False) as store:
        yield Registry(store, models)


def _evaluation(run: RunRecord) -> dict[str, Any]:
    """Return what a run that evaluated a model found."""
    summary = run.summary or {}
    found = {"run": run.run, "version": summary["model"]["version"], "finished_at": run.finished_at}
    return found | dict(summary["evaluation"]) | {"metrics": summary["metrics"]}


def _print_version(version: ModelVersion, aliases: list[str]) -> None:
    print_fields(
        {
            "model": version.name,
            "version": version.version,
            "aliases": aliases,
            "run": version.run,
            "round": version.round,
            "registered": version.created_at,
            "digest": version.digest,
            **{f"metric {name}": value for name, value in version.metrics.items()},
            **{f"file {name}": digest for name, digest in version.files.items()},
            **version.details,
        }
    )
