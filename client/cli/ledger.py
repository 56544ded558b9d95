"""`tacit agent ledger`: what the data have spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tacit.client.cli.options import dir_option
from tacit.printing import Format, format_option, print_json, print_table

if TYPE_CHECKING:
    from tacit.privacy.ledger import Verified


@click.command()
@click.argument("name", required=False)
@dir_option
@format_option
def ledger(name: str | None, path: Path, output: Format) -> None:
    """Show what each data set has spent of its budgets, by run, and what is left; NAME shows one of them alone.

    Each ledger is verified from its first record; exits 1 if one is not what was written here. A column is assured if
    its noise is the agent's own or that of pinned organisations, and promised if it is anybody else's word.

    Example: tacit agent ledger visits
    """
    from tacit.client.directory import AgentDirectory
    from tacit.models.spelling import unknown
    from tacit.privacy.ledger import LedgerBroken

    directory = AgentDirectory.open(path)
    kept = directory.ledgers()
    if name is not None:
        known = dict.fromkeys((*directory.register.sets, *(dataset for dataset, _ in kept)))
        if name not in known:
            raise unknown("data set", name, known)
        kept = [(dataset, unit) for dataset, unit in kept if dataset == name]
    found, broken = [], []
    for dataset, unit in kept:
        try:
            found.append(_described(dataset, unit, directory.ledger(dataset, unit)))
        except LedgerBroken as error:
            broken.append(f"{dataset}, unit {unit}: {error}")
    if output == "json":
        print_json(found)
    else:
        _print(found)
    if broken:
        raise click.ClickException("; ".join(broken))


def _described(dataset: str, unit: str, verified: Verified) -> dict[str, Any]:
    state = verified.ledger
    columns = {}
    for column, budget in state.opening.budgets.items():
        committed = state.committed(column)
        runs = sorted({run for run, paid in state.spent_by_run if paid == column} | _waiting_runs(verified, column))
        columns[column] = {
            "epsilon_granted": budget.epsilon,
            "delta": budget.delta,
            "epsilon_spent": state.epsilon_committed(column),
            # At the ledger's one Renyi order divergences add up, and epsilons do not.
            "share_left": max(0.0, 1.0 - committed.divergence / budget.limit),
            "epsilon_by_run": {run: state.epsilon_committed(column, run) for run in runs},
        }
    return {
        "data": dataset,
        "unit": unit,
        "records": state.counter,
        "not_countersigned": verified.unanchored,
        "open_reservations": len(state.waiting),
        "columns": columns,
    }


def _waiting_runs(verified: Verified, column: str) -> set[str]:
    return {key[0] for key in verified.ledger.waiting if key[3] == column}


def _print(found: list[dict[str, Any]]) -> None:
    rows = [
        (
            one["data"],
            one["unit"],
            column,
            spent["epsilon_spent"],
            spent["epsilon_granted"],
            spent["delta"],
            f"{spent['share_left']:.1%}",
            one["records"],
            one["not_countersigned"],
        )
        for one in found
        for column, spent in one["columns"].items()
    ]
    headings = ("data set", "unit", "column", "epsilon spent", "of", "at delta", "left", "records", "not countersigned")
    print_table(headings, rows, empty="no data set has spent anything")
    by_run = [
        (one["data"], one["unit"], column, run, epsilon)
        for one in found
        for column, spent in one["columns"].items()
        for run, epsilon in spent["epsilon_by_run"].items()
    ]
    if by_run:
        click.echo()
        print_table(("data set", "unit", "column", "run", "epsilon of the run alone"), by_run)
