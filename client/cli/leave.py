"""`tacit agent leave`: take part in a federation no longer."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tacit.client.cli.options import dir_option, insecure_option, warn_insecure
from tacit.models.errors import InputError

NO_MEMBER = ("revoked", "not-a-member")  # why the coordinator refuses to let somebody go that it does not have


@click.command()
@click.option("--offline", is_flag=True, help="Forget the federation here, without telling the coordinator.")
@insecure_option
@dir_option
def leave(offline: bool, insecure: bool, path: Path) -> None:
    """Take part no longer: the coordinator is told, and the enrolment is removed. Ledger and account stay.

    The agent must be stopped first. Its key comes back only with a new invitation.

    Example: tacit agent leave
    """
    from tacit.client.connection import TurnedAway, Unreachable
    from tacit.client.directory import AgentDirectory
    from tacit.client.enrolled import ENROLMENT, forget_enrolled, read_enrolled
    from tacit.client.enrolment import leave as tell
    from tacit.client.lines import InUse
    from tacit.client.proxy import proxy_to

    if insecure:
        warn_insecure()
    directory = AgentDirectory.open(path)
    try:
        journal = directory.journal()
    except InUse:
        raise InputError("an agent is running here", where=str(path), right="stop it, then leave") from None
    with journal:
        enrolled = read_enrolled(directory.path / ENROLMENT, directory.identity)
        if enrolled is None:
            click.echo(f"{directory.settings.name} is no member of a federation")
            return
        name, federation, told = enrolled.certificate.client, enrolled.federation.name, "not told"
        if not offline:
            try:
                proxy = proxy_to(enrolled.address[0], directory.settings.proxy, os.environ)
                tell(enrolled, directory.identity, proxy=proxy, insecure=insecure)
                told = "told"
            except (TurnedAway, Unreachable) as error:
                if str(error).partition(":")[0] in NO_MEMBER:
                    told = f"not needed ({error})"
                else:
                    raise click.ClickException(
                        f"the coordinator was not told ({error}); {name} is still a member. Try again, or --offline"
                    ) from None
        journal.audit.append("left", name=name, federation=federation, url=enrolled.url, coordinator=told)
        forget_enrolled(directory.path / ENROLMENT)
    click.echo(f"{name} has left {federation}; its ledger and its account stay")
    if offline:
        click.echo(f"the coordinator was not told: ask its operator to revoke {name}", err=True)
