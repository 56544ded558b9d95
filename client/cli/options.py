"""Options that several of an agent's commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tacit.models.errors import InputError

if TYPE_CHECKING:
    from tacit.client.directory import AgentDirectory

Command = TypeVar("Command", bound=Callable[..., Any])
OLD_POLICY = "no: the agent that runs goes by the policy that it read when it was started; start it again"


def dir_option(command: Command) -> Command:
    """Add `--dir`, passed on as `path`."""
    return click.option(
        "--dir",
        "path",
        type=click.Path(path_type=Path),
        envvar="TACIT_AGENT",
        default=".",
        show_default=True,
        show_envvar=True,
        metavar="DIR",
        help="The agent's directory.",
    )(command)


def insecure_option(command: Command) -> Command:
    """Add `--insecure`, passed on as `insecure`."""
    return click.option(
        "--insecure",
        is_flag=True,
        help="Do without TLS, for a coordinator on this machine that does. Everybody on it can read along.",
    )(command)


def warn_insecure() -> None:
    """Say loudly what `--insecure` means."""
    click.echo(
        "INSECURE: without TLS. Whoever can listen on this machine's loopback reads along;"
        " never use this for real data.",
        err=True,
    )


def data_option(command: Command) -> Command:
    """Add `--data`, passed on as `data`."""
    return click.option("--data", metavar="NAME", help="The data set; it need not be named where there is only one.")(
        command
    )


def cohort_option(command: Command) -> Command:
    """Add `--cohort`, passed on as `cohort`."""
    return click.option(
        "--cohort", type=click.IntRange(min=2), metavar="N", help="Clients in a round.  [default: as the recipe says]"
    )(command)


def set_option(command: Command) -> Command:
    """Add `--set`, passed on as `overrides`."""
    return click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a setting, as in training.rounds=5."
    )(command)


def only_set(directory: AgentDirectory) -> str:
    """Return the one data set that there is; an `InputError` where there are none or several."""
    sets = list(directory.register.sets)
    if len(sets) != 1:
        what = "more than one data set is registered" if sets else "no data set is registered"
        right = f"give --data, one of {', '.join(sets)}"[:200] if sets else "tacit agent data add NAME SOURCE"
        raise InputError(what, right=right)
    return sets[0]
