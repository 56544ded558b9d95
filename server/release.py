"""Turn a run's final state into a registered model, and a registered model into the start of another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tacit.models.card import model_card
from tacit.models.checkpoint import Artifact, read_artifact, write_artifact
from tacit.models.data.rows import Schema
from tacit.models.errors import InputError
from tacit.models.plan import Plan, decode_plan
from tacit.models.recipe import Recipe
from tacit.models.vector import layout_of
from tacit.server.checkpoints import RunState
from tacit.server.registry import Registry
from tacit.server.statement import STATEMENT_ALONE
from tacit.server.store.records import ModelVersion

INIT_SCHEME = "registry:"


def release(
    state: RunState,
    metrics: Mapping[str, float],
    statement: Mapping[str, Any],
    directory: Path,
    registry: Registry,
    run: str,
    *,
    data: str,
) -> ModelVersion:
    """Write the artifact of a final state to `directory` and register it under the recipe's name.

    Released twice (after a crash in between), the same state becomes one version.

    Args:
        state: the final state of a run.
        metrics: test metrics by name.
        statement: what was promised about the training data; recorded with the version.
        directory: where the artifact's files go; must not be there yet, or hold this very artifact.
        registry: where the version is registered.
        run: the run's name.
        data: one sentence for the card: what the model was trained on.

    Raises:
        InputError: the directory holds something else.
    """
    plan = decode_plan(state.plan)
    if plan.architecture is None or plan.features is None:
        raise ValueError("a run without features has nothing to release")
    recipe = plan.recipe
    lineage = {
        "run": run,
        "recipe": recipe.name,
        "recipe_sha256": recipe.digest,
        "round": state.round,
        "rounds": recipe.training.rounds,
        "strategy": recipe.strategy.name,
        "init": recipe.model.init,
    }
    artifact = Artifact(
        architecture=plan.architecture,
        layout=layout_of(plan.architecture.build(recipe.seed)),
        vector=torch.from_numpy(state.vector),
        features=plan.features,
        task_kind=recipe.task.kind,
        details={"training": lineage, "privacy": dict(statement)},
        target_mean=plan.target_mean,
        target_scale=plan.target_scale,
    )
    card = model_card(
        name=recipe.name,
        task_kind=recipe.task.kind,
        architecture=plan.architecture,
        parameters=artifact.layout.size,
        privacy_sentence=str(statement["sentence"]),
        metrics=metrics,
        data=data,
        federated={name: value for name, value in lineage.items() if value != ""},
        privacy={name: value for name, value in statement.items() if name not in STATEMENT_ALONE},
    )
    _write(directory, artifact, card)
    return registry.register(
        directory, recipe.name, run, state.round, dict(metrics), {"training": lineage, "privacy": dict(statement)}
    )


def warm_start(plan: Plan, registry: Registry, version: ModelVersion | None = None) -> tuple[Plan, NDArray[np.float32]]:
    """Return the plan with a registered model's preprocessing and architecture, and that model's vector.

    The preprocessing is part of what the model learned, so it is taken over instead of being fitted again.

    Args:
        plan: the recipe and the dictionary of the data.
        registry: has the model.
        version: the very model; None for the one that the recipe's reference names now.

    Raises:
        InputError: there is no such model, or it was trained for other data or with another architecture.
    """
    reference = plan.recipe.model.init
    version = version or initial_version(plan.recipe, registry)
    artifact = read_artifact(registry.path(version), version.digest)
    model = plan.recipe.model
    if artifact.task_kind != plan.recipe.task.kind or artifact.features.schema != plan.schema:
        raise InputError("was trained for other data", where=reference, right="the same task, columns and classes")
    same = artifact.architecture.factory == model.factory if model.factory else artifact.architecture.name == model.name
    if not same:
        found = artifact.architecture.factory or artifact.architecture.name
        raise InputError(f"is a {found}", where=reference, right="name the same architecture in [model]")
    started = replace(
        plan,
        features=artifact.features,
        architecture=artifact.architecture,
        target_mean=artifact.target_mean,
        target_scale=artifact.target_scale,
    )
    return started, artifact.vector.numpy()


def dictionary_of(version: ModelVersion, registry: Registry) -> Schema:
    """Return the dictionary of the data that a registered model was trained on.

    Raises:
        InputError: its files are not what was registered.
    """
    return read_artifact(registry.path(version), version.digest).features.schema


def initial_version(recipe: Recipe, registry: Registry) -> ModelVersion:
    """Return the registered model that a recipe starts from.

    Raises:
        InputError: there is no such model.
    """
    reference = recipe.model.init
    if not reference.startswith(INIT_SCHEME):
        raise InputError(f"{reference!r} names no model", where="model.init", right='"registry:NAME@ALIAS"')
    return registry.find(reference.removeprefix(INIT_SCHEME))


def _write(directory: Path, artifact: Artifact, card: str) -> None:
    """Write the artifact; a directory that an interrupted release left is kept when its model is this one."""
    if directory.exists():
        earlier = read_artifact(directory)
        if not torch.equal(earlier.vector, artifact.vector):
            raise InputError("holds another model", where=str(directory), right="remove it and resume the run")
        return
    write_artifact(directory, artifact, card)
