"""`tacit coordinator`: what the operator of a federation does; a command's code is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path

import click

from tacit.__main__ import Lazy, Table
from tacit.printing import Format, format_option, print_fields, print_json
from tacit.privacy.codec import sha256
from tacit.server import tls_rotation
from tacit.server.cli.directory import dir_option, now
from tacit.server.coordinator_directory import DEFAULT_PORT, create, open_directory

COMMANDS: Table = {
    "init": ("tacit.server.cli.coordinator", "init", "Make a coordinator's directory: keys, authority, settings."),
    "invite": ("tacit.server.cli.members", "invite", "Print a token that one agent can enrol with, once."),
    "clients": ("tacit.server.cli.members", "clients", "List the clients, and who was invited."),
    "revoke": ("tacit.server.cli.members", "revoke", "Let a client take part no longer."),
    "up": ("tacit.server.cli.up", "up", "Open the fleet port and train the recipes that wait."),
    "start": ("tacit.server.cli.runs", "start", "Let a recipe wait for its turn."),
    "status": ("tacit.server.cli.status", "status", "Show how the federation stands."),
    "stop": ("tacit.server.cli.runs", "stop", "End the coordinator that is up, or one run."),
    "backup": ("tacit.server.cli.backup", "backup", "Write everything of a coordinator to one file."),
    "restore": ("tacit.server.cli.backup", "restore", "Make a coordinator out of a backup."),
    "rotate-ca": ("tacit.server.cli.coordinator", "rotate_ca", "Change the certificate authority for TLS."),
}


@click.group(cls=Lazy, table=COMMANDS)
def coordinator() -> None:
    """Run a federation: make its coordinator, say who takes part, and train recipes over them."""


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--federation", default="federation", show_default=True, metavar="NAME", help="The federation's name.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST",
    help="A host name or address that agents find this machine by; the first goes into invitations; can be given"
    " several times. Without any the coordinator is for this machine alone.",
)
@click.option("--listen", metavar="ADDRESS", help="The address to listen on: every one if there is a --name.")
@click.option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, show_default=True, help="The fleet port.")
@click.option(
    "--db",
    default="tacit.db",
    show_default=True,
    metavar="PATH|URL",
    help="The database: a path from the directory, or an SQLAlchemy URL.",
)
@format_option
def init(
    directory: Path, federation: str, names: tuple[str, ...], listen: str | None, port: int, db: str, output: Format
) -> None:
    """Make a coordinator's directory: its keys, a private certificate authority, and `coordinator.toml`.

    Example: tacit coordinator init hub --federation hospitals --name hub.example
    """
    made = create(directory.absolute(), now(), federation=federation, names=names, host=listen, port=port, db=db)
    shown = {
        "directory": str(made.path),
        "federation": made.settings.federation,
        "url": made.settings.url,
        "listens_on": f"{made.settings.host}:{made.settings.port}",
        "ca_sha256": sha256(made.ca_der).hex(),
        "coordinator_key": made.coordinator.public_key.hex(),
        "authority_key": made.authority.public_key.hex(),
    }
    if output == "json":
        print_json(shown)
    else:
        print_fields(shown)


@click.command("rotate-ca")
@click.option("--finish", is_flag=True, help="Switch to the authority that was announced.")
@dir_option
def rotate_ca(finish: bool, directory: Path) -> None:
    """Announce a new certificate authority for TLS, and with --finish switch to it.

    Agents hear of it while they are connected, and trust both from then on. Finish once every agent was there, then
    start the coordinator again. An agent that was away all the time has to be invited again.

    Example: tacit coordinator rotate-ca --dir hub
    """
    opened = open_directory(directory.absolute(), now())
    if finish:
        tls_rotation.switch(opened.path)
        new = open_directory(opened.path, now())
        click.echo(f"the authority is now {sha256(new.ca_der).hex()}; start the coordinator again")
    else:
        coming = tls_rotation.announce(opened.path, opened.settings.federation, now())
        click.echo(f"announced: {sha256(coming).hex()}")
        click.echo(
            "Connected agents learn it within hours; when all were there: tacit coordinator rotate-ca --finish",
            err=True,
        )
