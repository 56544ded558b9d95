"""`tacit agent`: what a data owner does; each command's code is imported only when it is asked for."""

from __future__ import annotations

from pathlib import Path

import click

from tacit.__main__ import Lazy, Table
from tacit.printing import Format, format_option, print_fields, print_json

COMMANDS: Table = {
    "init": ("tacit.client.cli.agent", "init", "Make an agent's directory, with a policy that refuses everything."),
    "org-key": ("tacit.client.cli.agent", "org_key", "Make an organisation's key, or show it."),
    "enrol": ("tacit.client.cli.start", "enrol", "Become a member of a federation, with an invitation."),
    "start": ("tacit.client.cli.start", "start", "Take part until told to stop."),
    "renew": ("tacit.client.cli.renew", "renew", "Have the certificate renewed now."),
    "leave": ("tacit.client.cli.leave", "leave", "Take part no longer; ledger and account stay."),
    "page": ("tacit.client.cli.page", "page", "Show what the agent does, in a browser on this machine."),
    "data": ("tacit.client.cli.agent", "data", "Say which data the agent may use."),
    "policy": ("tacit.client.cli.agent", "policy", "Show what the agent does for a coordinator, and try it."),
    "outbox": ("tacit.client.cli.outbox", "outbox", "Try a recipe and show every field that would leave."),
    "status": ("tacit.client.cli.status", "status", "Show how the agent stands."),
    "ledger": ("tacit.client.cli.ledger", "ledger", "Show what each data set has spent, and what is left."),
    "audit": ("tacit.client.cli.audit", "audit", "Show, verify and export the agent's account of what left."),
    "pause": ("tacit.client.cli.status", "pause", "Let nothing leave until it is resumed."),
    "resume": ("tacit.client.cli.status", "resume", "Take part again."),
}

DATA: Table = {
    "add": ("tacit.client.cli.data", "add", "Register a data set, or another source under its name."),
    "list": ("tacit.client.cli.data", "list_sets", "List the data sets."),
    "inspect": ("tacit.client.cli.data", "inspect", "Count the rows, columns, classes and gaps of a data set."),
    "remove": ("tacit.client.cli.data", "remove", "Take a data set away; its ledger stays."),
}

POLICY: Table = {
    "show": ("tacit.client.cli.policy", "show", "Print the policy's file."),
    "explain": ("tacit.client.cli.policy", "explain", "Say in sentences what the policy means."),
    "check": ("tacit.client.cli.policy", "check", "Say whether a recipe would be accepted, and what to approve."),
    "pin": ("tacit.client.cli.policy", "pin", "Count the members of an organisation that you know."),
}


@click.group(cls=Lazy, table=COMMANDS)
def agent() -> None:
    """Take part with your own data, by your own rules, and see everything that leaves."""


@click.group(cls=Lazy, table=DATA)
def data() -> None:
    """Say which data the agent may use; nothing of a register leaves."""


@click.group(cls=Lazy, table=POLICY)
def policy() -> None:
    """Show what the agent does for a coordinator, and try it; the policy is a file that you edit."""


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="The agent's name.  [default: that of the directory]")
@format_option
def init(directory: Path, name: str | None, output: Format) -> None:
    """Make an agent's directory: a key, settings, an empty data register, and a policy that refuses everything.

    Example: tacit agent init hospital-a
    """
    from tacit.client import directory as directories

    made = directories.init(directory, name or directory.absolute().name)
    if output == "json":
        print_json({"directory": made.path, "name": made.settings.name, "key": made.identity.public_key.hex()})
        return
    print_fields({"directory": made.path, "name": made.settings.name, "key": made.identity.public_key.hex()})
    click.echo(f"now say in {made.path / directories.POLICY} what it may do; as it is, it refuses everything")


@click.command("org-key")
@click.argument("file", type=click.Path(path_type=Path), default="organisation.key")
@format_option
def org_key(file: Path, output: Format) -> None:
    """Make the key of an organisation in FILE, unless it is there, and print its public half.

    The organisation signs its members' certificates with it; others pin the public half. Keep a copy: without it no
    member can be signed again under the same name.

    Example: tacit agent org-key organisation.key
    """
    from tacit.models.key_file import kept_identity

    public = kept_identity(file, "organisation").public_key.hex()
    if output == "json":
        print_json({"file": file, "organisation_key": public})
        return
    click.echo(public)
