"""A simulated federation: one data set divided over agents, with what the coordinator may look at held out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from tacit.client.agent import Agent
from tacit.client.training import Workbench
from tacit.models.data import open_source
from tacit.models.data.rows import Findings, Rows, Schema, Source
from tacit.models.data.splits import split
from tacit.models.errors import InputError
from tacit.models.recipe import Recipe
from tacit.simulations.engine import FIRST_NODE
from tacit.simulations.population import (
    Partition,
    SimulatedHoldings,
    label_classes,
    matching_test_parts,
    partition,
)

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Federation:
    """What a simulation is made of.

    Attributes:
        schema: the dictionary of the data.
        agents: the agents by node id.
        names: the agents' names by node id.
        validation: rows of no client, for selection and early stopping; None without a share.
        test: rows of no client, for the end; None when every client keeps its own.
        findings: what the connector found.
        partition_summary: rows and classes of each client, which only a simulation can know.
    """

    schema: Schema
    agents: dict[int, Agent]
    names: dict[int, str]
    validation: Rows | None
    test: Rows | None
    findings: Findings
    partition_summary: dict[str, Any]


def build_federation(recipe: Recipe) -> Federation:
    """Open a recipe's data and divide it as the recipe's seed says.

    Raises:
        InputError: the data cannot be used, or not divided so.
    """
    source = open_source(recipe.data.source, task=recipe.task.kind, label=recipe.data.label, environ=os.environ)
    rng = np.random.default_rng([recipe.seed, 1])
    rows = np.arange(len(source.train))
    test, rows = _central_test(recipe, source, rows, rng)
    validation, rest = split(len(rows), recipe.evaluation.validation, rng)
    validation_rows = source.train.take(rows[validation]) if len(validation) else None
    rows = rows[rest]
    divided = partition(source, rows, recipe.population, rng)
    cohort, found = recipe.training.cohort, len(divided.names)
    if cohort is not None and cohort > found:
        # Only the data say how many clients there are when it comes divided by file or by column.
        raise InputError(f"is {cohort}, the data has {found} clients", where="training.cohort", right="ask for fewer")
    if recipe.data.test == "per-client":
        kept, held = _held_out(divided, recipe.data.test_share, rng)
        divided, test_rows, test_parts = kept, source.train, held
    elif test is not None:
        classified = bool(source.schema.classes)
        edges = np.concatenate([source.train.labels, test.labels])
        classes = label_classes(edges, classified)
        train_classes, test_classes = np.split(classes, [len(source.train)])
        test_rows, test_parts = test, matching_test_parts(train_classes, divided.parts, test_classes, rng)
    else:
        test_rows, test_parts = None, [_NONE] * len(divided.parts)
    bench = Workbench(own_code=True)
    agents, names = {}, {}
    for index, (name, part, test_part) in enumerate(zip(divided.names, divided.parts, test_parts, strict=True)):
        holdings = SimulatedHoldings(source.train, part, test_rows, test_part)
        agents[FIRST_NODE + index] = Agent(name, holdings, bench)
        names[FIRST_NODE + index] = name
    summary = _summary(source, divided, [len(part) for part in test_parts])
    return Federation(source.schema, agents, names, validation_rows, test, source.findings, summary)


def _central_test(
    recipe: Recipe, source: Source, rows: np.ndarray, rng: np.random.Generator
) -> tuple[Rows | None, np.ndarray]:
    wanted = recipe.data.test
    if wanted == "per-client":
        return None, rows
    if wanted not in ("", "split"):
        from tacit.client.holdings import conform

        other = open_source(wanted, task=recipe.task.kind, label=recipe.data.label, environ=os.environ)
        return conform(other.train, other.schema, source.schema), rows
    if wanted == "" and source.test is not None:
        return source.test, rows
    held, rest = split(len(rows), recipe.data.test_share, rng)
    if not len(held):
        raise InputError(f"{len(rows)} rows leave none to test on", where="data.test", right="give a test source")
    return source.train.take(rows[held]), rows[rest]


def _held_out(divided: Partition, share: float, rng: np.random.Generator) -> tuple[Partition, list[np.ndarray]]:
    kept, held = [], []
    for part in divided.parts:
        test, rest = split(len(part), share, rng)
        kept.append(part[rest])
        held.append(part[test])
    return Partition(divided.names, tuple(kept)), held


def _summary(source: Source, divided: Partition, test_rows: list[int]) -> dict[str, Any]:
    classes = source.schema.classes
    counts = (
        [np.bincount(source.train.labels[part], minlength=len(classes)).tolist() for part in divided.parts]
        if (classes)
        else []
    )
    return {
        "clients": list(divided.names),
        "classes": list(classes),
        "counts": counts,
        "rows": [len(part) for part in divided.parts],
        "test_rows": test_rows,
    }
