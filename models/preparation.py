"""The preparation round: what each client adds to one sum, and the plan that follows from the total."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.rows import Rows, Schema
from tacit.models.features import fit, statistics, statistics_size
from tacit.models.plan import Plan
from tacit.models.zoo.architecture import Architecture

_TARGET_SUMS = 3


def preparation_size(schema: Schema) -> int:
    """Return how many numbers every client adds."""
    return statistics_size(schema) + (0 if schema.classes else _TARGET_SUMS)


def preparation_sums(rows: Rows, schema: Schema) -> NDArray[np.float64]:
    """Return one client's numbers: its feature statistics, and for a regression count, sum and squares of its targets.

    They mean something only when added up; the total over clients is that of all their rows together.
    """
    sums = statistics(rows, schema)
    if schema.classes:
        return sums
    targets = np.asarray(rows.labels, dtype=np.float64)
    return np.concatenate([sums, [len(targets), targets.sum(), np.square(targets).sum()]])


def prepared_plan(plan: Plan, total: NDArray[np.float64], outputs: int, proximal_mu: float) -> Plan:
    """Return the plan with features, target scale and architecture, as they follow from the total.

    Raises:
        InputError: the total cannot be one of statistics.
    """
    schema, model = plan.schema, plan.recipe.model
    size = statistics_size(schema)
    features = fit(schema, total[:size], minimum_count=plan.recipe.data.minimum_count)
    mean, scale = 0.0, 1.0
    if not schema.classes:
        count, first, second = (float(value) for value in total[size:])
        mean = first / max(count, 1.0)
        scale = float(np.sqrt(max(second / max(count, 1.0) - mean * mean, 0.0))) or 1.0
    return replace(
        plan,
        features=features,
        architecture=Architecture(
            name="" if model.factory else model.name,
            factory=model.factory,
            input_shape=features.input_shape,
            outputs=outputs,
            options=model.options,
        ),
        proximal_mu=proximal_mu,
        target_mean=mean,
        target_scale=scale,
    )
