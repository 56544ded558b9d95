"""`tacit agent audit`: the agent's account."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from tacit.client.cli.options import dir_option
from tacit.printing import Format, format_option, print_fields, print_json, print_table

if TYPE_CHECKING:
    from tacit.client.audit import Noted
    from tacit.client.directory import AgentDirectory
    from tacit.privacy.ledger import Anchor


@click.group(invoke_without_command=True)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many, newest last."
)
@dir_option
@format_option
@click.pass_context
def audit(context: click.Context, limit: int, path: Path, output: Format) -> None:
    """Show what was asked of the agent and what left, each message by its digest.

    Example: tacit agent audit --limit 50
    """
    from tacit.client.directory import AgentDirectory

    if context.invoked_subcommand is not None:
        context.obj = path
        return
    entries = _verified(AgentDirectory.open(path), None)[-limit:]
    if output == "json":
        print_json(entries)
        return
    rows = [(entry.counter, datetime.fromtimestamp(entry.at, UTC), entry.kind, entry.details) for entry in entries]
    print_table(("entry", "at", "what", "details"), rows, empty="nothing was asked yet, and nothing left")


@audit.command()
@click.option("--head", metavar="COUNTER:HASH", help="A head that was kept elsewhere: the account must still hold it.")
@dir_option
@format_option
@click.pass_context
def verify(context: click.Context, head: str | None, path: Path, output: Format) -> None:
    """Check the chain of the account, and print its head: keep that elsewhere, to see later if the end was rewritten.

    Exits 1 if an entry was altered, dropped or reordered, or if the account does not hold the head that was kept.

    Example: tacit agent audit verify
    """
    from tacit.client.audit import head_of
    from tacit.client.directory import AgentDirectory

    directory = AgentDirectory.open(_named(context, path))
    entries = _verified(directory, _head(head) if head else None)
    newest = head_of(directory.account_lines()[: len(entries)])
    shown = f"{newest.counter}:{newest.head.hex()}" if newest else None
    if output == "json":
        print_json({"entries": len(entries), "head": shown})
    else:
        print_fields({"verified entries": len(entries), "head": shown})


@audit.command()
@click.argument("file", type=click.Path(path_type=Path))
@dir_option
@click.pass_context
def export(context: click.Context, file: Path, path: Path) -> None:
    """Copy the account, verified, to a new FILE: one JSON object a line, as it is kept.

    Example: tacit agent audit export account.jsonl
    """
    from tacit.client.directory import AgentDirectory
    from tacit.models.durable import write_file
    from tacit.models.errors import InputError

    directory = AgentDirectory.open(_named(context, path))
    if file.exists() or file.is_symlink():
        raise InputError("is there already", where=str(file), right="a new file")
    lines = directory.account_lines()
    entries = _verified(directory, None, lines)
    try:
        write_file(file, b"".join(line + b"\n" for line in lines), private=True)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(file)) from None
    click.echo(f"{len(entries)} entries in {file}")


def _named(context: click.Context, path: Path) -> Path:
    """Return the directory, which may be named behind `verify` or behind `audit`."""
    by_default = context.get_parameter_source("path") is ParameterSource.DEFAULT
    return context.obj if by_default and isinstance(context.obj, Path) else path


def _verified(directory: AgentDirectory, head: Anchor | None, lines: list[bytes] | None = None) -> tuple[Noted, ...]:
    from tacit.client.audit import AuditBroken, verify_audit

    try:
        return verify_audit(directory.account_lines() if lines is None else lines, head)
    except AuditBroken as error:
        raise click.ClickException(str(error)) from None


def _head(text: str) -> Anchor:
    from tacit.models.errors import InputError
    from tacit.privacy.errors import PrivacyError
    from tacit.privacy.ledger import Anchor

    counter, _, digest = text.partition(":")
    try:
        return Anchor(int(counter), bytes.fromhex(digest))
    except (ValueError, PrivacyError):
        raise InputError("is no head", where="--head", right="what `tacit agent audit verify` printed") from None
