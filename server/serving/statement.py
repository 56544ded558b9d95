"""The privacy statement of a model version, and one sentence that says no more than it does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tacit.server.store.records import ModelVersion

NO_STATEMENT: Mapping[str, Any] = {
    "unit": "none",
    "epsilon": None,
    "delta": None,
    "statement": "No privacy guarantee was recorded with this version.",
}


def privacy_statement(version: ModelVersion) -> Mapping[str, Any]:
    """Return the statement recorded with a version; `NO_STATEMENT` when there is none."""
    recorded = version.details.get("privacy")
    return recorded if isinstance(recorded, Mapping) and recorded.get("unit") else NO_STATEMENT


def privacy_sentence(statement: Mapping[str, Any]) -> str:
    """Say in one sentence what a statement promises; whatever is missing or not finite promises nothing."""
    unit, epsilon, delta = (statement.get(key) for key in ("unit", "epsilon", "delta"))
    if unit not in ("client", "example") or not _finite(epsilon) or not _finite(delta):
        return "No privacy guarantee is recorded with this version."
    if statement.get("hypothetical"):
        return f"Hypothetical, for study: it holds no guarantee. (epsilon = {epsilon:g}, delta = {delta:g} per {unit})"
    return f"Differentially private per {unit}: epsilon = {epsilon:g}, delta = {delta:g}, against the coordinator."


def _finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
