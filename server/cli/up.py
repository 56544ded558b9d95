"""`tacit coordinator up`: the process of a federation."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import click
from click.core import ParameterSource

from tacit import __version__
from tacit.models.enrolment import PREFIX as ENROLMENT_PREFIX
from tacit.models.errors import InputError
from tacit.privacy.identity import Certificate
from tacit.server.cli.directory import dir_option, now
from tacit.server.cli.log import log_to_stderr, tame_flower
from tacit.server.coordinator_directory import CoordinatorDirectory, open_directory
from tacit.server.coordinator_lock import held
from tacit.server.status import Ledgers, Status, read_status
from tacit.server.store import Store
from tacit.server.store.arrival import open_once_there
from tacit.server.up_file import Beacon, Client, Up, forget_up


@click.command()
@click.argument("where", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--insecure", is_flag=True, help="Do without TLS, on the loopback alone. Everybody on this machine can read along."
)
@dir_option
@click.pass_context
def up(context: click.Context, where: Path | None, insecure: bool, directory: Path) -> None:
    """Open the fleet port and train the recipes that wait, one after another, until SIGTERM or Ctrl-C.

    Example: tacit coordinator up hub
    """
    if where is not None and context.get_parameter_source("directory") is ParameterSource.COMMANDLINE:
        raise click.UsageError("the directory is named twice: as DIR and as --dir", context)
    log_to_stderr()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.set())
    hub = open_directory((where or directory).absolute(), now())
    url = _without_tls(hub.settings.host, hub.settings.port) if insecure else hub.settings.url
    with held(hub.path):
        forget_up(hub.path)
        store = open_once_there(hub.db, stopped)
        if store is not None:
            with store:
                _work(hub, store, url, stopped, insecure=insecure)


def _work(hub: CoordinatorDirectory, store: Store, url: str, stopped: threading.Event, *, insecure: bool) -> None:
    """Open the fleet port and train what waits, until told to stop."""
    began = now()
    # Imported here: PyTorch and Flower take seconds, and a second coordinator hears at once that it is one.
    from tacit.server.allocator import return_freed_memory
    from tacit.server.enrolment_routes import EnrolmentRoutes
    from tacit.server.federation import Coordinator
    from tacit.server.membership import Membership
    from tacit.server.metrics import FederationCollector, served
    from tacit.server.roll import Roll
    from tacit.server.superlink import SuperLink, TlsFiles

    tame_flower()
    return_freed_memory()
    membership, roll = Membership(store, hub.registrar), Roll(store)
    link: SuperLink

    def enrolled(certificate: Certificate) -> None:
        membership.bring(link)

    routes = EnrolmentRoutes(
        membership,
        hub.ca_der,
        authorities=hub.authorities,
        enrolled=enrolled,
        left=lambda: membership.bring(link),
    )
    link = SuperLink(
        hub.settings.host,
        hub.settings.port,
        tls=None if insecure else TlsFiles(hub.server_certificate, hub.server_key),
        enrolment=routes,
        enrolment_prefix=ENROLMENT_PREFIX,
        refusal=roll,
        spools=hub.path / "answers",
    )
    membership.bring(link)

    ledgers = Ledgers(store)

    def standing() -> Status:
        return read_status(hub.path, hub.settings.federation, url, store, now(), ledgers)

    def described() -> Up:
        return Up(
            pid=os.getpid(),
            started_at=began,
            url=url,
            version=__version__,
            insecure=insecure,
            metrics=figures_at,
            clients={
                name: Client(
                    online=one.online,
                    seen=None if one.seen is None else datetime.fromtimestamp(int(one.seen), UTC),
                )
                for name, one in link.presence().items()
            },
        )

    collector = FederationCollector(standing, store.figures, link.traffic, __version__)
    figures = served(hub.settings.metrics, collector)
    with figures as figures_at, closing(roll), link, Beacon(hub.path, described):
        click.echo(f"listening on {url}")
        Coordinator(hub, store, membership, link, stopped.is_set, stopped.wait).work()


def _without_tls(host: str, port: int) -> str:
    """Return the URL of a fleet port without TLS, and say loudly that it is one.

    Raises:
        InputError: others than this machine could reach it.
    """
    try:
        is_loopback = ip_address(host).is_loopback
    except ValueError:  # a name leads wherever somebody else says
        is_loopback = False
    if not is_loopback:
        raise InputError(
            f"the fleet port listens on {host}, and without TLS everybody could read along",
            where="--insecure",
            right='host = "127.0.0.1" in coordinator.toml',
        )
    click.echo(
        f"INSECURE: {host}:{port} is without TLS. Whoever can listen on this machine's loopback reads along;"
        " never use this for real data.",
        err=True,
    )
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
