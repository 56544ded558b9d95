"""`tacit agent enrol` and `start`: become a member of a federation, and take part."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tacit.client.cli.options import data_option, dir_option, insecure_option, only_set, warn_insecure
from tacit.client.cli.page import show_link
from tacit.models.errors import InputError
from tacit.printing import print_fields

if TYPE_CHECKING:
    from tacit.client.directory import AgentDirectory
    from tacit.client.fleet import Resident
    from tacit.models.invitation import Invitation


@click.command()
@click.option("--token", metavar="TOKEN", help="The invitation; read from standard input where it is left out.")
@click.option(
    "--organisation-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The key of the organisation that the invitation names.",
)
@insecure_option
@dir_option
def enrol(token: str | None, organisation_key: Path | None, insecure: bool, path: Path) -> None:
    """Become a member of the federation that an invitation is from; the agent's keys stay where they are.

    Other users of this machine can read a command line, so the token may come by standard input instead.

    Example: tacit agent enrol --token tacit1...
    """
    from tacit.client.connection import TurnedAway, Unreachable
    from tacit.client.directory import AgentDirectory
    from tacit.client.enrolled import ENROLMENT, write_enrolled
    from tacit.client.enrolment import enrol as enrol_with
    from tacit.client.proxy import proxy_to
    from tacit.models.invitation import Invitation
    from tacit.models.key_file import read_identity

    if insecure:
        warn_insecure()
    directory = AgentDirectory.open(path)
    text: str = token if token is not None else sys.stdin.read()
    invitation = Invitation.parse(text.strip())
    _check_free(directory, invitation)
    organisation = read_identity(organisation_key) if organisation_key is not None else None
    if organisation_key is not None and organisation is None:
        raise InputError("is not there", where=str(organisation_key), right="tacit agent org-key FILE makes one")
    # Held from before the invitation is used: what an agent that runs would write of it nobody else can.
    with directory.journal() as journal:
        try:
            enrolled = enrol_with(
                invitation,
                directory.identity,
                organisation=organisation,
                proxy=proxy_to(invitation.address[0], directory.settings.proxy, os.environ),
                insecure=insecure,
            )
        except (Unreachable, TurnedAway) as error:
            raise click.ClickException(str(error)) from None
        journal.audit.append("enrolled", name=enrolled.certificate.client, url=enrolled.url)
        write_enrolled(directory.path / ENROLMENT, enrolled)
    print_fields(
        {
            "federation": enrolled.federation.name,
            "name": enrolled.certificate.client,
            "coordinator": enrolled.url,
            "coordinator_key": enrolled.federation.coordinator_key.hex(),
        }
    )


def _check_free(directory: AgentDirectory, invitation: Invitation) -> None:
    """Refuse to forget a federation that the agent is a member of."""
    from tacit.client.enrolled import ENROLMENT, read_enrolled
    from tacit.client.upkeep import ended

    present = read_enrolled(directory.path / ENROLMENT, directory.identity)
    if present is not None and present.url != invitation.url and not ended(present.certificate, time.time()):
        raise InputError(
            f"is a member of {present.federation.name} at {present.url}",
            where=f"agent {directory.path}",
            right="tacit agent leave, or another directory",
        )


@click.command()
@click.option("--ui", is_flag=True, help="Serve a page on the loopback that says what the agent does, in plain words.")
@click.option(
    "--ui-port", type=click.IntRange(0, 65535), metavar="N", help="The page's port, 0 for any.  [default: 8437]"
)
@data_option
@insecure_option
@dir_option
def start(ui: bool, ui_port: int | None, data: str | None, insecure: bool, path: Path) -> None:
    """Take part with a data set until SIGTERM or Ctrl-C; the policy decides about every round, the ledger pays.

    Example: tacit agent start --data patients --ui
    """
    from tacit.client.directory import AgentDirectory
    from tacit.client.upkeep import Upkeep, enrolment_of

    if insecure:
        warn_insecure()
    directory = AgentDirectory.open(path)
    name = data or only_set(directory)
    enrolled = enrolment_of(directory, time.time())
    # Imported here: PyTorch and Flower take seconds, and who cannot begin hears so at once.
    from tacit.client.caps import be_nice
    from tacit.client.member import member, resident

    # By force: an import may have set up a handler of its own, which says nothing below a warning.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    be_nice(directory.settings.nice)
    with directory.journal() as journal:
        journal.audit.append("policy-read", sha256=directory.policy_sha256)
        agent = member(directory, enrolled, name, journal)
        upkeep = Upkeep(directory, enrolled, agent.renewed, insecure=insecure)
        loop = resident(directory, upkeep, agent, journal)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: loop.stop())
        click.echo(f"{enrolled.certificate.client} takes part in {enrolled.federation.name} with {name}", err=True)
        way = f"through the proxy {':'.join(map(str, upkeep.address.proxy))}" if upkeep.address.proxy else "directly"
        click.echo(f"it uses {directory.settings.uses}, and reaches {enrolled.url} {way}", err=True)
        shown = _page(path, ui_port, loop) if ui or ui_port is not None else nullcontext()
        with shown, upkeep.running():
            loop.run()
        if not journal.usable:
            raise click.ClickException("what must not be lost could not be written to the disk; start the agent again")


@contextmanager
def _page(path: Path, port: int | None, resident: Resident) -> Iterator[None]:
    """Serve the page while the agent runs; what it needs is imported only here."""
    from tacit.client.page.server import PORT, Loop, serve_page

    def standing() -> Loop:
        now = resident.standing
        return Loop(now.trouble, now.busy)

    with ExitStack() as served:
        try:
            address, link = served.enter_context(serve_page(path, PORT if port is None else port, standing))
        except InputError as error:  # whoever holds the port, or serves the page, must not keep the agent from its work
            click.echo(f"without a page of its own: {error}", err=True)
        else:
            show_link(address, link, path)
        yield
