"""Which coordinator's directory a command is about, and what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from tacit.server.coordinator_directory import CoordinatorDirectory, open_directory
from tacit.server.store import Store, open_store

Command = TypeVar("Command", bound=Callable[..., Any])


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


@contextmanager
def opened(directory: Path) -> Iterator[tuple[CoordinatorDirectory, Store]]:
    """Open a coordinator's directory and its database.

    Raises:
        InputError: something in the directory is missing, damaged or open to others, or it is no such database.
        StoreUnavailable: the database cannot be reached.
    """
    found = open_directory(directory.absolute(), now())
    with open_store(found.db) as store:
        yield found, store


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
