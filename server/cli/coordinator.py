"""`tacit coordinator`: what the operator of a federation does; a command's code is imported when it is asked for."""

from __future__ import annotations

import click

from tacit.__main__ import Lazy, Table

COMMANDS: Table = {
    "init": ("tacit.server.cli.init", "init", "Make a coordinator's directory: keys, authority, settings."),
    "invite": ("tacit.server.cli.members", "invite", "Print a token that one agent can enrol with, once."),
    "clients": ("tacit.server.cli.members", "clients", "List the clients, and who was invited."),
    "revoke": ("tacit.server.cli.members", "revoke", "Let a client take part no longer."),
    "up": ("tacit.server.cli.up", "up", "Open the fleet port and train the recipes that wait."),
    "start": ("tacit.server.cli.runs", "start", "Let a recipe wait for its turn."),
    "status": ("tacit.server.cli.status", "status", "Show how the federation stands."),
    "stop": ("tacit.server.cli.runs", "stop", "End the coordinator that is up, or one run."),
    "backup": ("tacit.server.cli.backup", "backup", "Write everything of a coordinator to one file."),
    "restore": ("tacit.server.cli.backup", "restore", "Make a coordinator out of a backup."),
    "rotate-ca": ("tacit.server.cli.authority", "rotate_ca", "Change the certificate authority for TLS."),
}


@click.group(cls=Lazy, table=COMMANDS)
def coordinator() -> None:
    """Run a federation: make its coordinator, say who takes part, and train recipes over them."""
