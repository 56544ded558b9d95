"""`tacit coordinator rotate-ca`: one certificate authority for TLS follows another."""

from __future__ import annotations

from pathlib import Path

import click

from tacit.privacy.codec import sha256
from tacit.server import tls_rotation
from tacit.server.cli.directory import dir_option, now
from tacit.server.coordinator_directory import open_directory


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
