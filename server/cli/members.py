"""`tacit coordinator invite`, `clients` and `revoke`: who may take part."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from tacit.models.errors import InputError
from tacit.printing import Format, format_option, print_json, print_table
from tacit.privacy.identity import Certificate
from tacit.privacy.randomness import KEY_BYTES
from tacit.server.cli.actor import actor
from tacit.server.cli.directory import dir_option, now, opened
from tacit.server.enrolment import standing
from tacit.server.membership import invite as make_invitation
from tacit.server.store import ClientRecord, InvitationRecord

HOUR_SECONDS = 3600
LONGEST_HOURS = 24 * 365


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


@click.command()
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
@click.option("--again", is_flag=True, help="For a client that cannot go on: it keeps its name and its key.")
@dir_option
@format_option
def invite(
    name: str,
    organisation: str,
    organisation_key: str | None,
    hours: int,
    again: bool,
    directory: Path,
    output: Format,
) -> None:
    """Print a token that one agent can enrol with, once. Until then it is a secret: hand it over as one.

    Whatever was open for the same name is void from then on.

    Example: tacit coordinator invite --name north --dir hub
    """
    with opened(directory) as (hub, store):
        invitation = make_invitation(
            store,
            url=hub.settings.url,
            ca_der=hub.ca_der,
            name=name,
            organisation=organisation,
            organisation_key=_public_key(organisation_key),
            expires_at=int(now().timestamp()) + hours * HOUR_SECONDS,
            again=again,
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


@click.command()
@dir_option
@format_option
def clients(directory: Path, output: Format) -> None:
    """List the clients, also those that were revoked or have left, and who was invited and has not come yet.

    Example: tacit coordinator clients --dir hub --format json
    """
    with opened(directory) as (_, store):
        at = now()
        rows = [_client_row(one, at) for one in store.list_clients()]
        rows += [_invitation_row(one, at) for one in store.list_invitations() if _is_waiting(one)]
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


@click.command()
@click.argument("name")
@click.option("--reason", default="", help="Why, for the audit log and the list of clients.")
@dir_option
def revoke(name: str, reason: str, directory: Path) -> None:
    """Let a client take part no longer, and void what it was invited with. Its key never comes back.

    Example: tacit coordinator revoke north --reason "its disk was stolen" --dir hub
    """
    with opened(directory) as (_, store):
        client, invitations = store.revoke_member(name, reason, actor=actor())
    if client is not None:
        click.echo(f"{name} is revoked: key {client.public_key.hex()}")
    if invitations:
        click.echo(f"{name}: an invitation that was open is void")


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


def _client_row(client: ClientRecord, at: datetime) -> Row:
    refusal = standing(client, int(at.timestamp()))
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


def _invitation_row(invitation: InvitationRecord, at: datetime) -> Row:
    return Row(
        name=invitation.name,
        organisation=invitation.organisation or invitation.name,
        state="invited" if at < invitation.expires_at else "invitation expired",
        since=invitation.created_at,
        until=invitation.expires_at,
        reason="",
        public_key=None,
    )
