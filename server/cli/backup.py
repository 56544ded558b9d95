"""`tacit coordinator backup` and `restore`: a coordinator into one file, and out of it."""

from __future__ import annotations

from pathlib import Path

import click

from tacit.printing import Format, format_option, print_fields, print_json
from tacit.server.cli.directory import now
from tacit.server.coordinator_directory import open_directory


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@format_option
def backup(directory: Path, file: Path, output: Format) -> None:
    """Write keys, settings, database, queue, runs and models to FILE, also while the coordinator is up.

    FILE holds private keys, for its owner alone and not encrypted: keep it as you keep keys.

    Example: tacit coordinator backup hub hub-monday.backup
    """
    from tacit.server.backup import back_up

    made = back_up(open_directory(directory.absolute(), now()), file.absolute(), now())
    shown = {
        "file": str(made.file),
        "bytes": made.size,
        "files": made.files,
        "runs": made.runs,
        "models": made.versions,
        "made_at": made.about.made_at,
        "was_up": made.about.was_up,
    }
    print_json(shown) if output == "json" else print_fields(shown)


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--db",
    metavar="PATH|URL",
    help="Where the database goes: a path within DIR, or the URL of an empty one; else as it was.",
)
@click.option(
    "--nothing-since",
    is_flag=True,
    help="You know that the coordinator was not up after this backup: its runs and privacy ledgers go on.",
)
@format_option
def restore(file: Path, directory: Path, db: str | None, nothing_since: bool, output: Format) -> None:
    """Make the coordinator's directory DIR, which must not exist, out of a backup.

    What happened after the backup is not in it. Without --nothing-since runs that had not finished are not gone on
    with, privacy ledgers are closed, recipes that waited are put aside, and open invitations are void.

    Example: tacit coordinator restore hub-monday.backup hub
    """
    from tacit.server.restoring import restore as restored_from

    found = restored_from(file.absolute(), directory.absolute(), now(), db=db, nothing_since=nothing_since)
    shown = {
        "directory": str(found.directory),
        "federation": found.about.federation,
        "made_at": found.about.made_at,
        "runs_failed": list(found.failed),
        "ledgers_closed": list(found.closed),
        "recipes_put_aside": list(found.put_aside),
    }
    if output == "json":
        print_json(shown)
        return
    print_fields({name: ", ".join(value) if isinstance(value, list) else value for name, value in shown.items()})
    if not nothing_since:
        click.echo(
            f"Clients and keys that were revoked after {found.about.made_at:%Y-%m-%d %H:%M} UTC are valid again: revoke"
            " them before the coordinator is up.",
            err=True,
        )
