"""`tacit runs`: what was run, with which settings and which result."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import click

from tacit.printing import Format, format_option, print_fields, print_json, print_table
from tacit.server.cli.options import db_option
from tacit.server.store import RoundRecord, RunRecord, open_store
from tacit.server.store.records import RUN_STATUSES, RunStatus


@click.group()
def runs() -> None:
    """List, inspect and compare runs."""


@runs.command("list")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many, newest first."
)
@click.option("--status", type=click.Choice(RUN_STATUSES), help="Only runs in this state.")
@db_option
@format_option
def list_(limit: int, status: RunStatus | None, db: str, output: Format) -> None:
    """List the newest runs.

    Example: tacit runs list --status finished
    """
    with open_store(db, create=False) as store:
        found = store.list_runs(limit, status)
    if output == "json":
        print_json([_overview(run) for run in found])
        return
    print_table(
        ("run", "recipe", "task", "status", "rounds", "metrics", "epsilon", "started"),
        [
            (
                run.run,
                run.recipe_name,
                run.task,
                run.status,
                run.rounds_committed,
                _part(run, "metrics"),
                _part(run, "privacy").get("epsilon"),
                run.created_at,
            )
            for run in found
        ],
        empty="no run is recorded yet",
    )


@runs.command()
@click.argument("run")
@db_option
@format_option
def show(run: str, db: str, output: Format) -> None:
    """Show a run: its state, its result, and what happened in each round.

    Example: tacit runs show 20260314-101500-fashion
    """
    with open_store(db, create=False) as store:
        record, rounds = store.get_run(run), store.rounds(run)
    if output == "json":
        details = {
            "recipe_toml": record.recipe_toml,
            "environment": record.environment,
            "summary": record.summary,
            "rounds": [_round_overview(one) for one in rounds],
        }
        print_json(_overview(record) | details)
        return
    print_fields(
        {
            "run": record.run,
            "recipe": f"{record.recipe_name} (sha256 {record.recipe_sha256})",
            "task": record.task,
            "status": record.status,
            "reason": record.reason,
            "started": record.created_at,
            "finished": record.finished_at,
            "directory": record.directory,
            **{f"test {name}": value for name, value in _part(record, "metrics").items()},
            **{f"privacy {name}": value for name, value in _part(record, "privacy").items()},
            **{f"timing {name}": value for name, value in _part(record, "timing").items()},
        }
    )
    names = list(dict.fromkeys(name for one in rounds for name in one.metrics))
    outcomes = ("reported", "dropped", "late", "refused", "selected")
    click.echo()
    print_table(
        ("round", "attempt", "outcome", "seconds", *outcomes, *names),
        [
            (
                one.number,
                one.attempt,
                one.outcome,
                one.seconds,
                *(_counts(one).get(outcome, 0) for outcome in outcomes),
                *(one.metrics.get(name) for name in names),
            )
            for one in rounds
        ],
        empty="no round yet",
    )


@runs.command()
@click.argument("names", metavar="RUN RUN...", nargs=-1, required=True)
@db_option
@format_option
def compare(names: tuple[str, ...], db: str, output: Format) -> None:
    """Put runs side by side: the settings in which they differ, and their results.

    Example: tacit runs compare 20260314-101500-fashion 20260314-113000-fashion
    """
    if len(set(names)) < 2:
        raise click.UsageError("name at least two different runs")
    with open_store(db, create=False) as store:
        records = [store.get_run(name) for name in dict.fromkeys(names)]
    settings = {run.run: _flat(tomllib.loads(run.recipe_toml)) for run in records}
    results = {run.run: _results(run) for run in records}
    differing = {key: row for key, row in _by_key(settings).items() if any(value != row[0] for value in row[1:])}
    if output == "json":
        print_json(
            {
                "runs": [run.run for run in records],
                "settings": {key: dict(zip(settings, row, strict=True)) for key, row in differing.items()},
                "results": {key: dict(zip(results, row, strict=True)) for key, row in _by_key(results).items()},
            }
        )
        return
    rows = [(key, *row) for key, row in (differing | _by_key(results)).items()]
    print_table(("", *settings), rows)


def _overview(run: RunRecord) -> dict[str, Any]:
    return {
        "run": run.run,
        "recipe_name": run.recipe_name,
        "task": run.task,
        "status": run.status,
        "reason": run.reason,
        "rounds_completed": run.rounds_committed,
        "metrics": _part(run, "metrics"),
        "privacy": _part(run, "privacy"),
        "recipe_sha256": run.recipe_sha256,
        "directory": run.directory,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
        "finished_at": run.finished_at,
    }


def _round_overview(one: RoundRecord) -> dict[str, Any]:
    return {
        "number": one.number,
        "attempt": one.attempt,
        "outcome": one.outcome,
        "seconds": one.seconds,
        "metrics": one.metrics,
        "participation": one.participation,
        "committed_at": one.committed_at,
    }


def _part(run: RunRecord, name: str) -> Mapping[str, Any]:
    """Return a table of the summary, an empty one for a run that has none (yet)."""
    part = (run.summary or {}).get(name)
    return part if isinstance(part, Mapping) else {}


def _counts(one: RoundRecord) -> Counter[str]:
    return Counter(participation.outcome for participation in one.participation)


def _results(run: RunRecord) -> dict[str, Any]:
    return {
        "status": run.status,
        "rounds completed": run.rounds_committed,
        "seconds": (run.finished_at - run.created_at).total_seconds() if run.finished_at else None,
        **{f"test {name}": value for name, value in _part(run, "metrics").items()},
        **{f"privacy {name}": value for name, value in _part(run, "privacy").items()},
    }


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{"a.b": c}` for `{"a": {"b": c}}`."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _by_key(by_run: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn `{run: {key: value}}` into `{key: [value of each run, or None]}`, keys in order of appearance."""
    keys = dict.fromkeys(key for values in by_run.values() for key in values)
    return {key: [values.get(key) for values in by_run.values()] for key in keys}
