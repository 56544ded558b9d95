"""`tacit coordinator init`: a coordinator's directory is made."""

from __future__ import annotations

from pathlib import Path

import click

from tacit.printing import Format, format_option, print_fields, print_json
from tacit.privacy.codec import sha256
from tacit.server.cli.directory import now
from tacit.server.coordinator_directory import DEFAULT_PORT, create


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
