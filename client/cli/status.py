"""`tacit agent status`, `pause` and `resume`."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import click

from tacit.client.cli.options import OLD_POLICY, dir_option
from tacit.printing import Format, format_option, print_fields, print_json


@click.command()
@dir_option
@format_option
def status(path: Path, output: Format) -> None:
    """Show whether an agent runs here, whether it is paused, and what its account has counted.

    Example: tacit agent status
    """
    from tacit.client.audit import AuditBroken, verify_audit
    from tacit.client.directory import AgentDirectory
    from tacit.client.enrolled import ENROLMENT, read_enrolled

    directory = AgentDirectory.open(path)
    enrolled = read_enrolled(directory.path / ENROLMENT, directory.identity)
    until = enrolled.certificate.expires_at if enrolled else 0
    try:
        entries = verify_audit(directory.account_lines())
    except AuditBroken as error:
        raise click.ClickException(str(error)) from None
    counts = Counter(entry.kind for entry in entries)
    running = directory.is_running
    found = {
        "name": directory.settings.name,
        "key": directory.identity.public_key.hex(),
        "member_of": enrolled.federation.name if enrolled else None,
        "member_as": enrolled.certificate.client if enrolled else None,
        "certificate_until": datetime.fromtimestamp(until, UTC) if until else None,
        "running": running,
        "policy_in_force": directory.policy_in_force(entries) if running else None,
        "paused": directory.pause(),
        "data_sets": list(directory.register.sets),
        "ledgers": [f"{dataset} ({unit})" for dataset, unit in directory.ledgers()],
        "offers_accepted": counts["offer-accepted"],
        "offers_refused": counts["offer-refused"] + counts["round-failed"],  # as its page counts them
        "messages_left": counts["message-left"],
        "last_entry_at": datetime.fromtimestamp(entries[-1].at, UTC) if entries else None,
    }
    if output == "json":
        print_json(found)
        return
    if found["policy_in_force"] is False:
        found["policy_in_force"] = OLD_POLICY
    print_fields({name.replace("_", " "): value for name, value in found.items()})


@click.command()
@dir_option
def pause(path: Path) -> None:
    """Let nothing leave until it is resumed: offers are refused with the code paused, also after a restart.

    A masked input that has left already cannot be called back, and the round that it left for is finished.

    Example: tacit agent pause
    """
    _set(path, True)


@click.command()
@dir_option
def resume(path: Path) -> None:
    """Take part again.

    Example: tacit agent resume
    """
    _set(path, False)


def _set(path: Path, paused: bool) -> None:
    from tacit.client.audit import AuditBroken
    from tacit.client.directory import AgentDirectory

    directory = AgentDirectory.open(path)
    try:
        changed = directory.set_pause(paused)
    except AuditBroken as error:
        raise click.ClickException(str(error)) from None
    state = "paused" if paused else "not paused"
    click.echo(f"{directory.settings.name} is {state}" if changed else f"{directory.settings.name} was {state} already")
