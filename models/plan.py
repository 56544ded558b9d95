"""The plan: what stays the same for a whole run and every party must agree on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tacit.models.data.rows import Column, Schema
from tacit.models.features import Features
from tacit.models.messages import canonical_json
from tacit.models.recipe import Recipe, recipe_from_dict
from tacit.models.zoo.architecture import Architecture


@dataclass(frozen=True)
class Plan:
    """The recipe, the dictionary of the data and, once the preparation round is over, features and architecture."""

    recipe: Recipe
    schema: Schema
    features: Features | None = None
    architecture: Architecture | None = None
    proximal_mu: float = 0.0

    def encode(self) -> bytes:
        """Return the canonical bytes that travel."""
        return canonical_json(
            {
                "recipe": self.recipe.to_dict(),
                "schema": schema_to_json(self.schema),
                "features": self.features.to_json_dict() if self.features else None,
                "architecture": self.architecture.to_json_dict() if self.architecture else None,
                "proximal_mu": self.proximal_mu,
            }
        )


@lru_cache(maxsize=8)
def decode_plan(encoded: bytes) -> Plan:
    """Return the plan of canonical bytes; every instruction of a run carries the same ones, so they are kept.

    Raises:
        ValueError: they are not the bytes of a plan.
    """
    try:
        values = json.loads(encoded)
        return Plan(
            recipe=recipe_from_dict(values["recipe"], where="plan"),
            schema=schema_from_json(values["schema"]),
            features=Features.from_json_dict(values["features"]) if values["features"] else None,
            architecture=Architecture.from_json_dict(values["architecture"]) if values["architecture"] else None,
            proximal_mu=float(values["proximal_mu"]),
        )
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"the plan cannot be read ({type(error).__name__})") from None


def schema_to_json(schema: Schema) -> dict[str, Any]:
    """Return plain values for a dictionary."""
    return {
        "columns": [{"name": c.name, "kind": c.kind, "shape": list(c.shape)} for c in schema.columns],
        "label": schema.label,
        "classes": list(schema.classes),
    }


def schema_from_json(values: dict[str, Any]) -> Schema:
    """Return the dictionary of plain values."""
    columns = tuple(Column(str(c["name"]), c["kind"], tuple(int(s) for s in c["shape"])) for c in values["columns"])
    return Schema(columns, str(values["label"]), tuple(str(name) for name in values["classes"]))
