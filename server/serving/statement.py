"""The privacy statement of a model version, and one sentence that says no more than it does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, Context
from typing import Any

from tacit.server.store.records import ModelVersion

_NOTHING = "No privacy guarantee is recorded with this version."
NO_STATEMENT: Mapping[str, Any] = {
    "unit": "none",
    "epsilon": None,
    "delta": None,
    "sentence": _NOTHING,
}


def privacy_statement(version: ModelVersion) -> Mapping[str, Any]:
    """Return the statement recorded with a version; `NO_STATEMENT` when there is none."""
    recorded = version.details.get("privacy")
    return recorded if isinstance(recorded, Mapping) and recorded.get("unit") else NO_STATEMENT


def is_guarantee(statement: Mapping[str, Any]) -> bool:
    """Tell whether a statement promises anything: a unit, and numbers that are finite and not hypothetical."""
    return _has_numbers(statement) and statement.get("hypothetical", False) is False


def privacy_sentence(statement: Mapping[str, Any]) -> str:
    """Say in one sentence what a statement promises; whatever is missing or not finite promises nothing."""
    if not _has_numbers(statement):
        return _NOTHING
    epsilon, against = _promised(statement)
    numbers = f"epsilon = {at_most(epsilon)}, delta = {statement['delta']:g}"
    if not is_guarantee(statement):
        return f"Hypothetical, for study: it holds no guarantee ({numbers} per {statement['unit']})."
    return f"Differentially private per {statement['unit']}: {numbers}, against {against}."


def privacy_summary(statement: Mapping[str, Any]) -> str:
    """Say the same in as few words as fit a table."""
    if not _has_numbers(statement):
        return "none"
    epsilon, _ = _promised(statement)
    return f"epsilon {at_most(epsilon)} per {statement['unit']}" if is_guarantee(statement) else "hypothetical"


def at_most(epsilon: float, digits: int = 6) -> str:
    """Write a finite epsilon with some digits, rounded up: no page may promise more than was accounted."""
    return f"{float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(epsilon))):.{digits}g}"


def _has_numbers(statement: Mapping[str, Any]) -> bool:
    known = statement.get("unit") in ("client", "example")
    return known and _finite(_promised(statement)[0]) and _finite(statement.get("delta"))


def _promised(statement: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the epsilon that is promised and against whom: of noise that the coordinator makes, readers alone."""
    if _finite(statement.get("epsilon")):
        return statement["epsilon"], "the coordinator"
    return statement.get("epsilon_outsiders"), "readers of the model alone, not the coordinator"


def _finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
