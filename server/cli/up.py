"""`tacit coordinator up`: the process of a federation."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

import click

from tacit.models.enrolment import PREFIX as ENROLMENT_PREFIX
from tacit.privacy.identity import Certificate
from tacit.server.cli.directory import dir_option, opened


@click.command()
@dir_option
def up(directory: Path) -> None:
    """Open the fleet port and train the recipes that wait, one after another, until SIGTERM or Ctrl-C.

    Example: tacit coordinator up --dir hub
    """
    # Imported here: PyTorch and Flower take seconds that the other commands need not wait for.
    from tacit.server.enrolment_routes import EnrolmentRoutes
    from tacit.server.federation import Coordinator
    from tacit.server.membership import Membership
    from tacit.server.superlink import SuperLink, TlsFiles

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.set())
    with opened(directory) as (hub, store):
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
        with link:
            click.echo(f"listening on {hub.settings.url}")
            working = Coordinator(hub, store, membership, link)

            def pause(seconds: float) -> None:
                stopped.wait(seconds)

            working.work(stopped.is_set, pause)
