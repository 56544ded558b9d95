"""The plan: what stays the same for a whole run and every party must agree on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from tacit.models.data.rows import Schema
from tacit.models.data.schemas import schema_from_json_dict, schema_to_json_dict
from tacit.models.errors import InputError
from tacit.models.features import Features
from tacit.models.messages import canonical_json
from tacit.models.recipe import Recipe, recipe_from_dict
from tacit.models.tasks import Task, task_named
from tacit.models.zoo.architecture import Architecture


@dataclass(frozen=True)
class Plan:
    """The recipe, the dictionary of the data and, once the preparation round is over, features and architecture.

    Attributes:
        recipe: what is run.
        schema: the dictionary of the data.
        features: the preprocessing.
        architecture: the network.
        proximal_mu: the strategy's proximal term.
        target_mean: mean of the targets of a regression.
        target_scale: their standard deviation.
        mean_examples: a client's mean number of examples, which weights are relative to; 0 asks for it.
    """

    recipe: Recipe
    schema: Schema
    features: Features | None = None
    architecture: Architecture | None = None
    proximal_mu: float = 0.0
    target_mean: float = 0.0
    target_scale: float = 1.0
    mean_examples: float = 1.0

    def task(self) -> Task:
        """Return the recipe's task, which knows the scale of the targets once the preparation is over."""
        return task_named(self.recipe.task.kind).with_target_statistics(self.target_mean, self.target_scale)

    def encode(self) -> bytes:
        """Return the canonical bytes that travel."""
        return canonical_json(
            {
                "recipe": self.recipe.to_dict(),
                "schema": schema_to_json_dict(self.schema),
                "features": self.features.to_json_dict() if self.features else None,
                "architecture": self.architecture.to_json_dict() if self.architecture else None,
                "proximal_mu": self.proximal_mu,
                "target_mean": self.target_mean,
                "target_scale": self.target_scale,
                "mean_examples": self.mean_examples,
            }
        )


@lru_cache(maxsize=8)
def decode_plan(encoded: bytes) -> Plan:
    """Return the plan of canonical bytes; every instruction of a run carries the same ones, so they are kept.

    Raises:
        InputError: its recipe says something that no recipe can, or names another network than the plan has, or the
            network does not fit the data.
        ValueError: they are not the bytes of a plan.
    """
    try:
        values = json.loads(encoded)
        plan = Plan(
            recipe=recipe_from_dict(values["recipe"], where="plan"),
            schema=schema_from_json_dict(values["schema"]),
            features=Features.from_json_dict(values["features"]) if values["features"] else None,
            architecture=Architecture.from_json_dict(values["architecture"]) if values["architecture"] else None,
            proximal_mu=float(values["proximal_mu"]),
            target_mean=float(values["target_mean"]),
            target_scale=float(values["target_scale"]),
            mean_examples=float(values["mean_examples"]),
        )
        _check_architecture(plan)
        return plan
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"the plan cannot be read ({type(error).__name__})") from None


def _check_architecture(plan: Plan) -> None:
    """Refuse a network that the recipe does not name: owners approve recipes, models and code by what recipes say."""
    model, found = plan.recipe.model, plan.architecture
    if found is None:
        return
    named = ("", model.factory) if model.factory else (model.name, "")
    # The options of a warm start are those of the model that it starts from.
    same_options = bool(model.init) or dict(found.options) == model.options
    if (found.name, found.factory) != named or not same_options:
        raise InputError("has another network than its recipe names", where="plan", right="the recipe's [model]")
    # Rows that a network has no output for would end the round of just those members that hold some.
    outputs = plan.task().outputs(plan.schema)
    features = plan.features
    fits = features is not None and (features.schema, features.input_shape) == (plan.schema, found.input_shape)
    if not fits or found.outputs != outputs:
        raise InputError("has a network that does not fit its data", where="plan", right=f"{outputs} outputs")
