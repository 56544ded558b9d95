"""`tacit agent renew`: have the certificate renewed now."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from tacit.client.cli.options import dir_option, insecure_option, warn_insecure
from tacit.models.errors import InputError


@click.command()
@click.option(
    "--organisation-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The key of the member's organisation, unless it is a member of its own.",
)
@insecure_option
@dir_option
def renew(organisation_key: Path | None, insecure: bool, path: Path) -> None:
    """Have the certificate renewed now; an agent that runs does so by itself where it has the keys.

    For a member whose organisation keeps its key elsewhere. An agent that is running uses the new certificate from the
    next round on.

    Example: tacit agent renew --organisation-key /media/safe/organisation.key
    """
    from tacit.client.connection import TurnedAway, Unreachable
    from tacit.client.directory import AgentDirectory
    from tacit.client.enrolled import ENROLMENT, write_enrolled
    from tacit.client.enrolment import renew as renewed_by
    from tacit.client.proxy import proxy_to
    from tacit.client.upkeep import enrolment_of
    from tacit.models.key_file import read_identity

    if insecure:
        warn_insecure()
    directory = AgentDirectory.open(path)
    enrolled = enrolment_of(directory, time.time())
    organisation = read_identity(organisation_key) if organisation_key is not None else None
    if organisation_key is not None and organisation is None:
        raise InputError("is not there", where=str(organisation_key))
    proxy = proxy_to(enrolled.address[0], directory.settings.proxy, os.environ)
    try:
        renewed = renewed_by(enrolled, directory.identity, organisation=organisation, proxy=proxy, insecure=insecure)
    except (Unreachable, TurnedAway) as error:
        raise click.ClickException(str(error)) from None
    write_enrolled(directory.path / ENROLMENT, renewed)
    until = datetime.fromtimestamp(renewed.certificate.expires_at, UTC)
    click.echo(f"the certificate of {renewed.certificate.client} ends on {until:%Y-%m-%d}")
