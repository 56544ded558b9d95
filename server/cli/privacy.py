"""`tacit privacy show`: what was promised about whom, and whether it still is what was signed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from tacit.models.errors import InputError
from tacit.printing import print_json
from tacit.server.cli.options import db_option, models_option
from tacit.server.local_identity import key_file, read_identity
from tacit.server.registry import Registry
from tacit.server.run_directory import RunDirectory
from tacit.server.signed_statement import SignatureMismatch, check_statement, is_signed
from tacit.server.statement_page import statement_markdown
from tacit.server.store import ModelVersion, RunRecord, open_store

STATEMENT_FILE = "privacy.json"


@click.command()
@click.argument("name", metavar="RUN|MODEL")
@db_option
@models_option
@click.option(
    "--format",
    "output",
    type=click.Choice(["md", "json"]),
    default="md",
    show_default=True,
    help="A page for people, or the statement as it was signed.",
)
def show(name: str, db: str, models: Path, output: Literal["md", "json"]) -> None:
    """Print the privacy statement of a run or of a model, and whether its signature fits and by which key.

    RUN is a run's name; MODEL is NAME, NAME@VERSION or NAME@ALIAS. A run comes before a model of the same name. Exits
    1 if the statement is not what was signed.

    Example: tacit privacy show fashion@champion
    """
    with open_store(db, create=False) as store:
        found = _find(name, Registry(store, models))
    what, statement = _of_run(found) if isinstance(found, RunRecord) else _of_model(found)
    if is_signed(statement):
        try:
            signer = check_statement(statement)
        except SignatureMismatch as error:
            raise click.ClickException(f"{what}: {error}") from None
        said = f"{what}: the signature fits; {signer.kind}, by key {signer.public_key.hex()}{_whose(signer.public_key)}"
    else:
        said = f"{what}: not signed"
    if output == "json":
        print_json(statement)
    else:
        click.echo(statement_markdown(statement), nl=False)
    click.echo("".join(letter if letter.isprintable() else " " for letter in said), err=True)


def _find(name: str, registry: Registry) -> RunRecord | ModelVersion:
    if "@" in name:
        return registry.find(name)
    try:
        run = registry.store.get_run(name)
    except InputError:
        run = None
    try:
        model = registry.find(name)
    except InputError:
        model = None
    if run is not None and model is not None:
        click.echo(f"{name} is a run and a model; this is the run, {name}@{model.version} is the model", err=True)
    found = run or model
    if found is None:
        right = "`tacit runs list` and `tacit model list` name them"
        raise InputError("there is no such run or model", where=repr(name), right=right)
    return found


def _of_run(run: RunRecord) -> tuple[str, Mapping[str, Any]]:
    what, file = f"run {run.run}", Path(run.directory) / STATEMENT_FILE
    try:
        statement = RunDirectory(file.parent).read_json(file.name)
    except FileNotFoundError:
        right = "a run has one once it is finished" if run.status != "finished" else "restore the directory"
        raise InputError(f"is not there; the run is {run.status}", where=str(file), right=right) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(file)) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise InputError("is not what a run leaves", where=str(file), right="restore it from a copy") from None
    if not isinstance(statement, Mapping):
        raise InputError("is not what a run leaves", where=str(file), right="restore it from a copy")
    _check_recipe(what, statement, run.recipe_sha256)
    return what, statement


def _of_model(version: ModelVersion) -> tuple[str, Mapping[str, Any]]:
    what = f"model {version.name} version {version.version}"
    statement, training = version.details.get("privacy"), version.details.get("training")
    if not isinstance(statement, Mapping):
        raise InputError("has no privacy statement", where=what)
    if isinstance(training, Mapping):
        _check_recipe(what, statement, training.get("recipe_sha256"))
    return what, statement


def _check_recipe(what: str, statement: Mapping[str, Any], recipe_sha256: object) -> None:
    """Refuse a genuine statement that somebody put in the place of another one."""
    if statement.get("recipe_sha256", recipe_sha256) != recipe_sha256:
        raise click.ClickException(f"{what}: this is the statement of another recipe")


def _whose(public_key: bytes) -> str:
    path = key_file()
    try:
        ours = read_identity(path)
    except InputError:
        ours = None
    if ours is None:
        return ""
    return f", the key in {path}" if ours.public_key == public_key else f", which is not the key in {path}"
