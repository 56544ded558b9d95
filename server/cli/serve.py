"""`tacit serve`: the HTTP service, and the API keys that its callers need."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import cast

import click
from click.core import ParameterSource

from tacit.models.errors import InputError
from tacit.printing import Format, format_option, print_fields, print_json, print_table
from tacit.server.cli.actor import actor
from tacit.server.cli.options import db_option, models_option
from tacit.server.store import Store, open_store
from tacit.server.store.records import SCOPES, Scope

_NO_AUTH_WARNING = """\
************************************************************************
  WARNING: --insecure-no-auth
  Every program and every user of this machine can ask every model
  anything, without an API key. Never put a proxy in front of it.
************************************************************************"""


@click.group(invoke_without_command=True)
@db_option
@models_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8100, show_default=True, help="The port; 0 is any free one."
)
@click.option("--insecure-no-auth", is_flag=True, help="Ask for no API keys; for loopback addresses only.")
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0, 3600),
    default=2.0,
    show_default=True,
    help="After SIGTERM: how long new requests are still taken while readiness is off.",
)
@click.pass_context
def serve(
    context: click.Context,
    db: str,
    models: Path,
    host: str,
    port: int,
    insecure_no_auth: bool,
    drain_seconds: float,
) -> None:
    """Serve the registered models over HTTP, until SIGTERM or Ctrl-C.

    Callers need an API key: `tacit serve keys create NAME --scope predict`. The line `listening on URL` is printed
    once connections are accepted.

    Example: tacit serve --port 8100
    """
    if context.invoked_subcommand is None:
        _serve(db, models, host, port, insecure_no_auth, drain_seconds)


@serve.group()
def keys() -> None:
    """Create, list and revoke the API keys of callers."""


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What the key may do; can be given several times.",
)
@db_option
@format_option
@click.pass_context
def create(context: click.Context, name: str, scopes: tuple[str, ...], db: str, output: Format) -> None:
    """Create an API key called NAME and print its secret, which cannot be had again.

    Scopes: `predict` asks models, `read` looks at them, `admin` may do everything.

    Example: tacit serve keys create web-shop --scope predict
    """
    with _store(context) as store:
        key_id, secret = store.create_key(name, [cast(Scope, scope) for scope in scopes], actor=actor())
    shown = {"key_id": key_id, "name": name, "scopes": sorted(set(scopes)), "secret": secret}
    if output == "json":
        print_json(shown)
        return
    print_fields(shown)
    click.echo("Keep the secret now: it is not stored and cannot be shown again.", err=True)


@keys.command("list")
@db_option
@format_option
@click.pass_context
def list_(context: click.Context, db: str, output: Format) -> None:
    """List all API keys, also the revoked ones, without their secrets.

    Example: tacit serve keys list --format json
    """
    with _store(context) as store:
        found = store.list_keys()
    if output == "json":
        print_json(found)
        return
    print_table(
        ("key_id", "name", "scopes", "created", "revoked"),
        [(key.key_id, key.name, sorted(key.scopes), key.created_at, key.revoked_at) for key in found],
        empty="there are no API keys yet",
    )


@keys.command()
@click.argument("key_id")
@db_option
@click.pass_context
def revoke(context: click.Context, key_id: str, db: str) -> None:
    """Make the API key KEY_ID useless; running servers notice within a second.

    Example: tacit serve keys revoke 3f9c0a71be22
    """
    with _store(context) as store:
        key = store.revoke_key(key_id, actor=actor())
    click.echo(f"key {key.key_id} is revoked")


def _store(context: click.Context) -> Store:
    """Open the database, which may be named behind `keys ...` or behind `serve`."""
    named = context
    while named.get_parameter_source("db") is not ParameterSource.COMMANDLINE and named.parent is not None:
        named = named.parent
    return open_store(named.params.get("db", context.params["db"]), create=False)


def _serve(db: str, models: Path, host: str, port: int, insecure_no_auth: bool, drain_seconds: float) -> None:
    if not models.is_dir():
        raise InputError("there is no such directory", where=f"--models {models}", right="the models of `tacit model`")
    with open_store(db, create=False) as store:
        # Imported here: they take seconds, and what comes before is where most mistakes are found.
        import torch

        from tacit.server.registry import Registry
        from tacit.server.serving.app import create_app
        from tacit.server.serving.process import bind, is_loopback, serve_until_told
        from tacit.server.serving.registered import RegisteredModels
        from tacit.server.serving.settings import ServingSettings

        bound = bind(host, port)
        with bound:
            loopback = is_loopback(bound)
            if insecure_no_auth:
                if not loopback:
                    raise InputError(
                        "would let anybody who reaches this machine ask every model",
                        where=f"--insecure-no-auth with --host {host}",
                        right="a loopback address such as 127.0.0.1, or API keys",
                    )
                click.echo(_NO_AUTH_WARNING, err=True)
            elif not store.list_keys():
                click.echo("There is no API key yet: `tacit serve keys create NAME --scope predict`.", err=True)
            if not loopback:
                click.echo("Keys and data travel in the clear unless a proxy in front speaks TLS.", err=True)
            _log_to_stderr()
            # Requests are computed side by side; threads within one would only get in each other's way.
            torch.set_num_threads(1)
            app = create_app(
                RegisteredModels(Registry(store, models)), ServingSettings(require_key=not insecure_no_auth)
            )
            serve_until_told(app, bound, drain_seconds=drain_seconds)


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    for name in ("uvicorn", "asyncio", "sqlalchemy", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
