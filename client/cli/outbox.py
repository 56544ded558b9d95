"""`tacit agent outbox`: a recipe tried on the owner's data, and every field of it that would leave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tacit.client.cli.options import cohort_option, data_option, dir_option, set_option
from tacit.models.errors import InputError
from tacit.printing import Format, format_option, print_fields, print_json, print_table

if TYPE_CHECKING:
    from tacit.client.cli.tried import Tried
    from tacit.client.rehearsal import Arriving, Leaving, Step


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Send nothing; there is no other way yet, and it must be said.")
@set_option
@data_option
@cohort_option
@dir_option
@format_option
def outbox(
    recipe: Path,
    dry_run: bool,
    overrides: tuple[str, ...],
    data: str | None,
    cohort: int | None,
    path: Path,
    output: Format,
) -> None:
    """Do what RECIPE asks of one client in its first round, on your data, and show every field that would leave.

    For each: bytes, shape, norm before and after clipping, noise, whether a mask hides it, and what the round costs.
    Nothing leaves, and nothing is written to the ledger or the account. What the policy says to it is shown beside it,
    and what would come in.

    Example: tacit agent outbox --dry-run recipe.toml --data visits
    """
    if not dry_run:
        raise click.UsageError("what leaves is decided by the running agent; give --dry-run to try a recipe")
    from tacit.client.cli.tried import tried
    from tacit.client.rehearsal import arriving, leaving, refusal
    from tacit.client.training import Refused
    from tacit.models.training import TrainingDiverged
    from tacit.privacy.errors import PrivacyError

    try:
        made = tried(path, recipe, overrides, data, cohort)
        if not made.runs_code:
            right = "`tacit agent policy check` says what to approve"
            raise InputError("runs code that the policy does not approve", where="model.factory", right=right)
        answers = {step.name: refusal(step, made.consent) for step in made.steps}
        arrivals = [field for step in made.steps for field in arriving(step)]
        fields = [field for step in made.steps for field in leaving(step, made.held, made.bench)]
        cost = _cost(made, made.steps[-1])
    except (PrivacyError, Refused, TrainingDiverged) as error:
        raise click.ClickException(str(error)) from None
    if output == "json":
        steps = [{"step": step, "refused_because": reason or None} for step, reason in answers.items()]
        shown = {"steps": steps, "arriving": arrivals, "fields": fields, "cost": cost}
        print_json({"data": made.dataset, "cohort": made.cohort} | shown)
    else:
        _print(made, answers, arrivals, fields, cost)


def _cost(made: Tried, step: Step) -> dict[str, Any] | None:
    """Return what a training round would cost, and where its column of the ledger would stand; None for no promise."""
    from dp_accounting import NeighboringRelation

    from tacit.privacy.accounting import cost
    from tacit.privacy.records import COLUMN_OF

    entry = made.consent.cost(step.instruction, step.offer)
    if entry is None:
        return None
    unit, column = made.recipe.privacy.unit, COLUMN_OF[entry.noise_by]
    if unit == "none":
        return None
    budgets = made.directory.policy.budgets(unit)
    adjacency = NeighboringRelation.REPLACE_SPECIAL if unit == "client" else NeighboringRelation.ADD_OR_REMOVE_ONE
    found: dict[str, Any] = {
        "unit": unit,
        "row": made.directory.register.find(made.dataset).row or None,
        "column": column,
        "mechanism": entry.mechanism,
        "epsilon_of_one_round": cost(entry.event, entry.delta, adjacency).epsilon,
        "delta": entry.delta,
    }
    if not budgets and (made.dataset, unit) not in made.directory.ledgers():
        return found | {"granted": None}
    ledger = made.journal.ledger(made.dataset, unit, budgets)
    budget = ledger.state.opening.budgets.get(column)
    if budget is None:
        return found | {"granted": None}
    return found | {
        "granted": budget.epsilon,
        "granted_at_delta": budget.delta,
        "epsilon_spent_before": ledger.state.epsilon_committed(column),
        "epsilon_spent_after": budget.epsilon_of(ledger.state.committed(column) + budget.spent([entry.event])),
        "would_be_paid": ledger.allows([entry]),
    }


def _print(
    made: Tried,
    answers: dict[str, str],
    arrivals: list[Arriving],
    fields: list[Leaving],
    cost: dict[str, Any] | None,
) -> None:
    click.echo(f"tried on {made.dataset} as one of {made.cohort} clients; nothing left, and nothing was written")
    for step, reason in answers.items():
        click.echo(f"{step}: the policy would {'refuse it: ' + reason if reason else 'accept it'}")
    click.echo("\nwould come in")
    print_table(
        ("step", "field", "shape", "type", "bytes"),
        [(field.step, field.field, _shape(field.shape), field.kind, field.bytes) for field in arrivals],
    )
    click.echo("\nwould leave")
    rows = [
        (
            field.step,
            field.field,
            _shape(field.shape),
            field.bytes,
            field.masked,
            field.norm,
            field.norm_clipped,
            field.noise_deviation or None,
            field.norm_left,
            field.protection,
        )
        for field in fields
    ]
    headings = ("step", "field", "shape", "bytes", "masked", "norm", "clipped", "noise", "norm left", "protected by")
    print_table(headings, rows)
    click.echo()
    if cost is None:
        click.echo("privacy cost: none is counted, because the recipe promises nothing")
        return
    click.echo(f"privacy cost of a training round, unit {cost['unit']}{_protected(cost)}")
    print_fields({name.replace("_", " "): value for name, value in cost.items() if name not in ("unit", "row")})
    if cost["granted"] is None:
        click.echo("nothing is granted for it: the ledger would not pay")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _protected(cost: dict[str, Any]) -> str:
    return f", one {cost['row']}" if cost["unit"] == "example" and cost["row"] else ""
