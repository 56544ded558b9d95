"""`tacit coordinator`: a coordinator's directory, whom it invites, and who its clients are."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from tacit.models.enrolment import PREFIX as ENROLMENT_PREFIX
from tacit.models.errors import InputError
from tacit.privacy.codec import sha256
from tacit.privacy.identity import Certificate
from tacit.privacy.randomness import KEY_BYTES
from tacit.server import tls_rotation
from tacit.server.cli.actor import actor
from tacit.server.cli.output import Format, format_option, print_fields, print_json, print_table
from tacit.server.coordinator_directory import DEFAULT_PORT, CoordinatorDirectory, create, open_directory
from tacit.server.enrolment import standing
from tacit.server.membership import invite as make_invitation
from tacit.server.store import ClientRecord, InvitationRecord, Store, open_store

HOUR_SECONDS = 3600
LONGEST_HOURS = 24 * 365
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Row:
    """A client, or somebody who was invited and has not come."""

    name: str
    organisation: str
    state: str
    since: datetime
    until: datetime | None
    reason: str
    public_key: str | None


def dir_option(command: Command) -> Command:
    """Add `--dir`, passed on as `directory`."""
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path),
        envvar="TACIT_COORDINATOR",
        default=".",
        show_default=True,
        show_envvar=True,
        metavar="DIR",
        help="The coordinator's directory.",
    )(command)


@click.group()
def coordinator() -> None:
    """Make a coordinator, invite its clients, list and revoke them."""


@coordinator.command()
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
    made = create(directory.absolute(), _now(), federation=federation, names=names, host=listen, port=port, db=db)
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


@coordinator.command()
@click.option("--name", required=True, help="The client's name in the federation.")
@click.option("--organisation", default="", metavar="NAME", help="The organisation that must sign for the client.")
@click.option("--organisation-key", metavar="HEX", help="The organisation's public key, 64 hexadecimal digits.")
@click.option(
    "--hours",
    type=click.IntRange(1, LONGEST_HOURS),
    default=72,
    show_default=True,
    help="How long the token can be used.",
)
@dir_option
@format_option
def invite(
    name: str, organisation: str, organisation_key: str | None, hours: int, directory: Path, output: Format
) -> None:
    """Print a token that one agent can enrol with, once. Until then it is a secret: hand it over as one.

    Whatever was open for the same name is void from then on.

    Example: tacit coordinator invite --name north --dir hub
    """
    with _opened(directory) as (opened, store):
        now = _now()
        invitation = make_invitation(
            store,
            url=opened.settings.url,
            ca_der=opened.ca_der,
            name=name,
            organisation=organisation,
            organisation_key=_public_key(organisation_key),
            expires_at=int(now.timestamp()) + hours * HOUR_SECONDS,
            actor=actor(),
        )
    if output == "json":
        print_json(
            {
                "token": invitation.text(),
                "name": name,
                "organisation": organisation or None,
                "url": invitation.url,
                "expires_at": datetime.fromtimestamp(invitation.expires_at, UTC),
            }
        )
        return
    click.echo(invitation.text())
    click.echo(f"For {name}, for {hours} hours, once: `tacit agent enrol --token TOKEN`.", err=True)


@coordinator.command()
@dir_option
@format_option
def clients(directory: Path, output: Format) -> None:
    """List the clients, also the revoked ones, and who was invited and has not come yet.

    Example: tacit coordinator clients --dir hub --format json
    """
    with _opened(directory) as (_, store):
        now = _now()
        rows = [_client_row(one, now) for one in store.list_clients()]
        rows += [_invitation_row(one, now) for one in store.list_invitations() if _is_waiting(one)]
    if output == "json":
        print_json(rows)
        return
    print_table(
        ("client", "organisation", "state", "since", "until", "key", "reason"),
        [
            (one.name, one.organisation, one.state, one.since, one.until, (one.public_key or "")[:12], one.reason)
            for one in rows
        ],
        empty="nobody is enrolled or invited yet",
    )


@coordinator.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the audit log and the list of clients.")
@dir_option
def revoke(name: str, reason: str, directory: Path) -> None:
    """Let a client take part no longer, and void what it was invited with. Its key never comes back.

    Example: tacit coordinator revoke north --reason "its disk was stolen" --dir hub
    """
    with _opened(directory) as (_, store):
        client, invitations = store.revoke_member(name, reason, actor=actor())
    if client is not None:
        click.echo(f"{name} is revoked: key {client.public_key.hex()}")
    if invitations:
        click.echo(f"{name}: an invitation that was open is void")


@coordinator.command()
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
    with _opened(directory) as (opened, store):
        membership = Membership(store, opened.registrar)
        link: SuperLink

        def enrolled(certificate: Certificate) -> None:
            membership.bring(link)

        routes = EnrolmentRoutes(membership, opened.ca_der, authorities=opened.authorities, enrolled=enrolled)
        link = SuperLink(
            opened.settings.host,
            opened.settings.port,
            tls=TlsFiles(opened.server_certificate, opened.server_key),
            enrolment=routes,
            enrolment_prefix=ENROLMENT_PREFIX,
        )
        membership.bring(link)
        with link:
            click.echo(f"listening on {opened.settings.url}")
            working = Coordinator(opened, store, membership, link)

            def pause(seconds: float) -> None:
                stopped.wait(seconds)

            working.work(stopped.is_set, pause)


@coordinator.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a setting, as in training.rounds=5."
)
@dir_option
def start(recipe: Path, overrides: tuple[str, ...], directory: Path) -> None:
    """Let RECIPE, a TOML file, wait for its turn; the coordinator that is up trains it over its members.

    Example: tacit coordinator start ward.toml --dir hub
    """
    from tacit.models.recipe import load_recipe
    from tacit.server.federation import enqueue

    with _opened(directory) as (opened, _):
        path = enqueue(opened.path, load_recipe(recipe, overrides), _now())
    click.echo(f"waits as {path.stem}")


@coordinator.command("rotate-ca")
@click.option("--finish", is_flag=True, help="Switch to the authority that was announced.")
@dir_option
def rotate_ca(finish: bool, directory: Path) -> None:
    """Announce a new certificate authority for TLS, and with --finish switch to it.

    Agents hear of it while they are connected, and trust both from then on. Finish once every agent was there, then
    start the coordinator again. An agent that was away all the time has to be invited again.

    Example: tacit coordinator rotate-ca --dir hub
    """
    opened = open_directory(directory.absolute(), _now())
    if finish:
        tls_rotation.switch(opened.path)
        new = open_directory(opened.path, _now())
        click.echo(f"the authority is now {sha256(new.ca_der).hex()}; start the coordinator again")
    else:
        coming = tls_rotation.announce(opened.path, opened.settings.federation, _now())
        click.echo(f"announced: {sha256(coming).hex()}")


@contextmanager
def _opened(directory: Path) -> Iterator[tuple[CoordinatorDirectory, Store]]:
    opened = open_directory(directory.absolute(), _now())
    with open_store(opened.db) as store:
        yield opened, store


def _now() -> datetime:
    return datetime.now(UTC)


def _public_key(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InputError("is no public key", where="--organisation-key", right=f"{2 * KEY_BYTES} hexadecimal digits")
    return key


def _client_row(client: ClientRecord, now: datetime) -> Row:
    refusal = standing(client, int(now.timestamp()))
    expires_at = Certificate.decode(client.certificate).expires_at
    return Row(
        name=client.name,
        organisation=client.organisation,
        state="active" if refusal is None else refusal.word,
        since=client.revoked_at or client.enrolled_at,
        until=None if client.revoked_at else datetime.fromtimestamp(expires_at, UTC),
        reason=client.reason,
        public_key=client.public_key.hex(),
    )


def _is_waiting(invitation: InvitationRecord) -> bool:
    return invitation.used_at is None and invitation.revoked_at is None


def _invitation_row(invitation: InvitationRecord, now: datetime) -> Row:
    return Row(
        name=invitation.name,
        organisation=invitation.organisation or invitation.name,
        state="invited" if now < invitation.expires_at else "invitation expired",
        since=invitation.created_at,
        until=invitation.expires_at,
        reason="",
        public_key=None,
    )
