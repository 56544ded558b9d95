"""The numbers of a run that everything else refers to: `summary.json` and the privacy statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tacit.models.data.rows import Findings
from tacit.models.recipe import Recipe
from tacit.server.checkpoints import RunState
from tacit.server.masking import aggregation_facts
from tacit.server.statement import STATEMENT_ALONE
from tacit.server.store.records import ModelVersion, RoundRecord


def summarise(
    run: str,
    recipe: Recipe,
    clients: int,
    attempts: Sequence[RoundRecord],
    state: RunState,
    metrics: Mapping[str, float],
    per_client: Mapping[str, Any],
    statement: Mapping[str, Any],
    seconds: float,
    version: ModelVersion,
) -> dict[str, Any]:
    """Return the values of `summary.json`; the names are a contract."""
    rounds = [record for record in attempts if record.number > 0]
    completed = [record for record in rounds if record.outcome == "committed"]
    in_rounds = sum(record.seconds for record in rounds)
    asked = sum(len(record.participation) for record in rounds)
    return {
        "run": run,
        "recipe_name": recipe.name,
        "task": recipe.task.kind,
        "rounds_completed": len(completed),
        "clients": clients,
        "cohort": recipe.training.cohort or clients,
        "metrics": dict(metrics),
        "per_client": dict(per_client),
        "best_round": state.best_round or state.round,
        "stopped": state.stopped,
        "privacy": {name: value for name, value in statement.items() if name not in STATEMENT_ALONE},
        "secure_aggregation": aggregation_facts(recipe, clients),
        "timing": {
            "wall_seconds": seconds,
            "seconds_per_round": in_rounds / len(rounds) if rounds else None,
            "clients_per_second": asked / in_rounds if in_rounds else None,
        },
        "model": {"name": version.name, "version": version.version, "sha256": version.digest},
    }


def data_found(findings: Findings) -> dict[str, Any]:
    """Return what a connector found, as plain values."""
    return {
        "rows": findings.rows,
        "columns": findings.columns,
        "classes": dict(findings.classes),
        "missing": dict(findings.missing),
        "dropped": dict(findings.dropped),
    }
