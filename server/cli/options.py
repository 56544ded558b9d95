"""Options that several commands share: which database, which model directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def db_option(command: Command) -> Command:
    """Add `--db`, passed on as `db`."""
    return click.option(
        "--db",
        envvar="TACIT_DB",
        default="tacit.db",
        show_default=True,
        show_envvar=True,
        metavar="PATH|URL",
        help="The coordinator's database.",
    )(command)


def models_option(command: Command) -> Command:
    """Add `--models`, passed on as `models`."""
    return click.option(
        "--models",
        type=click.Path(path_type=Path, file_okay=False),
        default="models-store",
        show_default=True,
        metavar="DIR",
        help="The directory of the registered models' files.",
    )(command)
