"""The `tacit` command: each sub-command's code is imported only when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

# Flower reports to its makers and looks for updates unless told not to; nothing of Tacit calls home.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

Table = Mapping[str, tuple[str, str, str]]
"""Commands by name: the module and the attribute to import, and one line of help."""

COMMANDS: Table = {
    "simulate": ("tacit.simulations.cli.simulate", "simulate", "Run a whole federation on this machine."),
    "runs": ("tacit.simulations.cli.reproduce", "runs", "List, inspect, compare and repeat runs."),
    "privacy": ("tacit.__main__", "privacy", "Plan and show what is promised about whom."),
    "coordinator": ("tacit.server.cli.coordinator", "coordinator", "Run a federation over its members."),
    "agent": ("tacit.client.cli.agent", "agent", "Take part with your own data, by your own rules."),
    "model": ("tacit.server.cli.model", "model", "List, inspect, promote, export and verify models."),
    "serve": ("tacit.server.cli.serve", "serve", "Serve registered models over HTTP."),
    "predict": ("tacit.server.cli.predict", "predict", "Ask a service for predictions."),
}

# Of several parts, so it belongs to none of them.
PRIVACY: Table = {
    "plan": ("tacit.simulations.cli.plan", "plan", "Say what a recipe's promise will cost before any is spent."),
    "show": ("tacit.server.cli.privacy", "show", "Print the signed statement of a run or a model."),
}

FAILED, WRONG_INPUT, REFUSED = 1, 2, 3


class Lazy(click.Group):
    """A group whose commands are imported at their first use."""

    def __init__(self, *arguments: Any, table: Table, **settings: Any) -> None:
        """Take what Click's groups take, and the commands."""
        super().__init__(*arguments, **settings)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self._table:
            return None
        module, attribute, _ = self._table[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("tacit"):
                raise
            raise click.ClickException(
                f"{cmd_name} needs the package {error.name!r}; install tacit[all], or the extra that the README names"
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in self._table.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when one is not known."""
        if args and args[0] not in self._table and not args[0].startswith("-"):
            from tacit.models.spelling import suggestion

            raise click.UsageError(f"no such command {args[0]!r}; {suggestion(args[0], self._table)}", ctx)
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from tacit import __version__

        click.echo(f"tacit {__version__}")
        ctx.exit()


@click.group(cls=Lazy, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Learn from data that stays with its owner.

    Example: tacit simulate demo
    """


@click.group(cls=Lazy, table=PRIVACY)
def privacy() -> None:
    """Plan what a run promises about the data that it learns from, and show what it promised."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 failed, 2 wrong usage or input, 3 refused by a policy or a spent budget."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    from tacit.models.errors import InputError, Unavailable
    from tacit.privacy.errors import BudgetExceeded

    try:
        result = cli.main(args=arguments, prog_name="tacit", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort:
        return _fail("interrupted", FAILED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(_with_help(error), error.exit_code)
    except BudgetExceeded as error:
        return _fail(str(error), REFUSED)
    except InputError as error:
        return _fail(str(error), WRONG_INPUT)
    except Unavailable as error:
        return _fail(str(error), FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", FAILED)
    except BrokenPipeError:
        # Whoever read our output has gone; say nothing more, also not while the interpreter shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if os.environ.get("TACIT_DEBUG"):
            raise
        return _fail(f"{type(error).__name__}: {error} (set TACIT_DEBUG=1 for the traceback)", FAILED)


def _with_help(error: click.ClickException) -> str:
    """Return what Click says, and for a wrong usage where to read on."""
    message = error.format_message().strip().removesuffix(".")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message}; see {error.ctx.command_path} --help"
    return message


def _fail(message: str, code: int) -> int:
    # One line, and nothing in it that a file's name or a peer's words could do to a terminal.
    line = "".join(character if character.isprintable() else " " for character in message)
    click.echo(f"error: {' '.join(line.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
