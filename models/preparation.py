"""The preparation round: what each client adds to one sum, and the plan that follows from the total."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.rows import Rows, Schema
from tacit.models.errors import InputError
from tacit.models.features import Features, Standardise, fit, statistics, statistics_size
from tacit.models.plan import Plan
from tacit.models.statistics import row_count, statistics_counts
from tacit.models.zoo.architecture import Architecture

_TARGET_SUMS = 3
# Of pixels in [0, 1]: public constants for where even exact sums over everybody would be a release.
PIXEL_MEAN = 0.3
PIXEL_SCALE = 0.4


def preparation_size(schema: Schema) -> int:
    """Return how many numbers every client adds."""
    return statistics_size(schema) + (0 if schema.classes else _TARGET_SUMS)


def count_places(schema: Schema) -> NDArray[np.bool_]:
    """Return which of the numbers are counts; the others are sums and sums of squares."""
    places = statistics_counts(schema)
    return places if schema.classes else np.concatenate([places, [True, False, False]])


def preparation_sums(rows: Rows, schema: Schema) -> NDArray[np.float64]:
    """Return one client's numbers: its feature statistics, and for a regression count, sum and squares of its targets.

    They mean something only when added up; the total over clients is that of all their rows together.

    Raises:
        InputError: the rows do not fit the schema, a row has no target, or a sum is not finite.
    """
    sums = statistics(rows, schema)
    if schema.classes:
        return sums
    targets = np.asarray(rows.labels, dtype=np.float64)
    if len(targets) != len(rows):
        raise InputError(f"{len(rows)} rows have {len(targets)} targets", right="one target a row")
    with np.errstate(over="ignore"):
        moments = np.array([len(targets), targets.sum(), np.square(targets).sum()])
    if not np.isfinite(moments).all():
        raise InputError("the targets' sums are not finite", where=f"label {schema.label!r}", right="smaller values")
    return np.concatenate([sums, moments])


def check_sums(sums: NDArray[np.float64], schema: Schema) -> None:
    """Refuse numbers that no rows have: one client's, so that it is left out, or the total.

    Raises:
        InputError: they are not finite, of another number, or contradict each other.
    """
    fit(schema, sums[: statistics_size(schema)])
    if not schema.classes:
        _target_moments(sums, schema)


def prepared_plan(plan: Plan, total: NDArray[np.float64], clients: int, outputs: int, proximal_mu: float) -> Plan:
    """Return the plan with features, target scale and architecture, as they follow from the total over `clients`.

    Raises:
        InputError: the total cannot be one of statistics.
    """
    schema = plan.schema
    size = statistics_size(schema)
    features = fit(schema, total[:size], minimum_count=plan.recipe.data.minimum_count)
    mean, scale = 0.0, 1.0
    if not schema.classes:
        mean, scale = _target_moments(total, schema)
    prepared = replace(
        plan,
        features=features,
        proximal_mu=proximal_mu,
        target_mean=mean,
        target_scale=scale,
        mean_examples=max(row_count(schema, total[:size]) / max(clients, 1), 1.0),
    )
    return _with_network(prepared, outputs)


def has_public_features(schema: Schema) -> bool:
    """Say whether the preprocessing can do without statistics of anybody's rows: that of images can."""
    return [column.kind for column in schema.columns] == ["image"] and bool(schema.classes)


def public_plan(plan: Plan, outputs: int, proximal_mu: float) -> Plan:
    """Return the plan of images scaled by public constants: nothing is asked of anybody, so nothing is released."""
    (column,) = plan.schema.columns
    channels = column.shape[0]
    features = Features(plan.schema, (Standardise((PIXEL_MEAN,) * channels, (PIXEL_SCALE,) * channels),))
    return _with_network(replace(plan, features=features, proximal_mu=proximal_mu), outputs)


def _with_network(plan: Plan, outputs: int) -> Plan:
    if plan.features is None:
        raise ValueError("a network needs features")
    model = plan.recipe.model
    return replace(
        plan,
        architecture=Architecture(
            name="" if model.factory else model.name,
            factory=model.factory,
            input_shape=plan.features.input_shape,
            outputs=outputs,
            options=model.options,
        ),
    )


def _target_moments(sums: NDArray[np.float64], schema: Schema) -> tuple[float, float]:
    """Return mean and standard deviation of the targets; a deviation of 0 counts as 1."""
    where = f"summed statistics, label {schema.label!r}"
    found = sums[statistics_size(schema) :]
    if found.shape != (_TARGET_SUMS,) or not np.isfinite(found).all():
        raise InputError(f"has not {_TARGET_SUMS} finite sums", where=where)
    rows = round(row_count(schema, sums[:-_TARGET_SUMS]))
    count, first, second = (float(value) for value in found)
    if round(count) != rows:
        raise InputError("has an impossible count", where=where, right=f"one target for each of {rows} rows")
    mean = first / rows
    variance = second / rows - mean * mean
    # The square of a sum of n values is at most n times the sum of their squares, up to rounding.
    if variance < -1e-3 * max(mean * mean, 1.0):
        raise InputError("has an impossible sum of squares", where=where, right="at least the squared sum / count")
    return mean, float(np.sqrt(variance)) if variance > 1e-12 * second / rows else 1.0
