"""What a statement says about the model that a run started from: for whoever was in both, the costs add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tacit.server.store.records import ModelVersion

NUMBERS = ("epsilon", "epsilon_fellow_clients", "epsilon_outsiders")


def with_lineage(statement: Mapping[str, Any], earlier: ModelVersion) -> dict[str, Any]:
    """Return the statement of a run that started from a registered model.

    Two releases that are `(e1, d1)` and `(e2, d2)` private are `(e1 + e2, d1 + d2)` private together (Dwork, Rothblum,
    Vadhan 2010, section 3). Nobody here knows whether the two federations had clients in common, so the sums are what
    is stated. Where the earlier model promised nothing, or to another unit, its part has no number, and the sentence
    says so.
    """
    before = earlier.details.get("privacy")
    before = before if isinstance(before, Mapping) else {}
    name = f"{earlier.name}@{earlier.version}"
    composed: dict[str, Any] = {
        "started_from": {"model": name, "sha256": earlier.digest, "unit": before.get("unit", "none")}
        | {key: before.get(key) for key in (*NUMBERS, "delta")}
        | {"hypothetical": bool(before.get("hypothetical") or before.get("reproducible_noise"))},
    }
    if statement["unit"] == "none":
        return dict(statement) | composed
    sentence = str(statement["sentence"])
    if before.get("unit") != statement["unit"] or before.get("delta") is None or before.get("reproducible_noise"):
        sentence += f" It started from {name}, whose own training data this promise does not cover."
        return dict(statement) | composed | {"sentence": sentence}
    alone = {key: statement[key] for key in (*NUMBERS, "delta")}
    sums = {key: _sum(statement[key], before.get(key)) for key in (*NUMBERS, "delta")}
    hypothetical = bool(statement["hypothetical"] or before.get("hypothetical"))
    said = sums["epsilon"] if sums["epsilon"] is not None else sums["epsilon_outsiders"]
    numbers = "nothing bounds" if said is None else f"epsilon is {said:.4g} at delta {sums['delta']:g} for"
    sentence += f" It started from {name}: {numbers} what both together say about whoever was in both."
    return dict(statement) | composed | sums | {"alone": alone, "hypothetical": hypothetical, "sentence": sentence}


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
