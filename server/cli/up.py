"""`tacit coordinator up`: the process of a federation."""

from __future__ import annotations

import logging
import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

import click
from click.core import ParameterSource

from tacit import __version__
from tacit.models.enrolment import PREFIX as ENROLMENT_PREFIX
from tacit.privacy.identity import Certificate
from tacit.server.cli.directory import dir_option, now, opened
from tacit.server.coordinator_lock import held
from tacit.server.up_file import Beacon, Client, Up, forget_up


@click.command()
@click.argument("where", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@dir_option
@click.pass_context
def up(context: click.Context, where: Path | None, directory: Path) -> None:
    """Open the fleet port and train the recipes that wait, one after another, until SIGTERM or Ctrl-C.

    Example: tacit coordinator up hub
    """
    if where is not None and context.get_parameter_source("directory") is ParameterSource.COMMANDLINE:
        raise click.UsageError("the directory is named twice: as DIR and as --dir", context)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.set())
    with opened(where or directory) as (hub, store), held(hub.path):
        forget_up(hub.path)
        began = now()
        # Imported here: PyTorch and Flower take seconds, and a second coordinator hears at once that it is one.
        from tacit.server.enrolment_routes import EnrolmentRoutes
        from tacit.server.federation import Coordinator
        from tacit.server.membership import Membership
        from tacit.server.superlink import SuperLink, TlsFiles

        membership = Membership(store, hub.registrar)
        link: SuperLink

        def enrolled(certificate: Certificate) -> None:
            membership.bring(link)

        routes = EnrolmentRoutes(membership, hub.ca_der, authorities=hub.authorities, enrolled=enrolled)
        link = SuperLink(
            hub.settings.host,
            hub.settings.port,
            tls=TlsFiles(hub.server_certificate, hub.server_key),
            enrolment=routes,
            enrolment_prefix=ENROLMENT_PREFIX,
        )
        membership.bring(link)

        def described() -> Up:
            return Up(
                pid=os.getpid(),
                started_at=began,
                url=hub.settings.url,
                version=__version__,
                insecure=False,
                metrics="",
                clients={
                    name: Client(
                        online=one.online,
                        seen=None if one.seen is None else datetime.fromtimestamp(int(one.seen), UTC),
                    )
                    for name, one in link.presence().items()
                },
            )

        with link, Beacon(hub.path, described):
            click.echo(f"listening on {hub.settings.url}")
            working = Coordinator(hub, store, membership, link)

            def pause(seconds: float) -> None:
                stopped.wait(seconds)

            working.work(stopped.is_set, pause)
