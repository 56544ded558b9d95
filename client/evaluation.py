"""An agent's part in an evaluation: counts over rows of its own, of a model that it does not train."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.client.training import Holdings, NoRows, Refused, Workbench, as_tensor, as_tensors
from tacit.models import broadcast
from tacit.models.data.rows import Rows
from tacit.models.evaluation_only import NOISED_SHARES
from tacit.models.evaluation_shares import RowMeans, evaluation_shares
from tacit.models.evaluation_sums import Sums, count_rows, evaluation_sums
from tacit.models.messages import Instruction
from tacit.models.plan import Plan
from tacit.models.vector import write_vector


def evaluation_values(instruction: Instruction, plan: Plan, holdings: Holdings, bench: Workbench) -> Sums:
    """Return what the agent's rows add to an exact evaluation of the instruction's vector, by block.

    Whatever the model puts out, it is not refused.

    Raises:
        Refused: there are no rows of the kind that the plan asks for.
        InputError: the task's metrics do not follow from sums.
        ValueError: the plan or the vector cannot be used.
    """
    sums = evaluation_sums(plan)
    parts = _loaded(instruction, plan, holdings, bench)
    counted = [count_rows(model, inputs, targets, sums) for model, inputs, targets in parts]
    return {name: np.sum([one[name] for one in counted], axis=0) for name in counted[0]}


def evaluation_vector(
    instruction: Instruction, plan: Plan, holdings: Holdings, bench: Workbench
) -> NDArray[np.float32]:
    """Return what the agent adds under a promise, before noise: nothing where no row is of the coordinator's classes.

    It is not refused whatever the model puts out either.

    Raises:
        Refused: no rows are held out here.
        InputError: the task has no noised figures.
        ValueError: the plan or the vector cannot be used.
    """
    means = RowMeans(evaluation_shares(plan))
    try:
        for model, inputs, targets in _loaded(instruction, plan, holdings, bench):
            means.add(model, inputs, targets)
    except NoRows:
        return np.zeros(NOISED_SHARES, np.float32)
    return means.vector()


def _loaded(
    instruction: Instruction, plan: Plan, holdings: Holdings, bench: Workbench
) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """Yield the instruction's model, with inputs and targets of each part of the rows; of one part at least."""
    if plan.features is None:
        raise ValueError("the plan has no features")
    model, layout, task, device = bench.network(instruction.plan, plan)
    vector = broadcast.decode(instruction.arrays, layout.size)
    found = list(_parts(holdings, plan))
    if not found:
        raise Refused("no held-out rows")
    parts = [rows for rows in found if len(rows)]
    if not parts:
        raise NoRows("no held-out rows" if plan.recipe.evaluation.rows == "held-out" else "no rows")
    write_vector(model, layout, as_tensor(vector).to(device))
    for rows in parts:
        held = as_tensors(rows, plan.features, task, device)
        yield model, held.inputs, held.targets


def _parts(holdings: Holdings, plan: Plan) -> Iterator[Rows]:
    """Yield the rows that are never trained on here and, where the plan asks for all, those that may have been."""
    held_out = holdings.test(plan)
    if held_out is not None:
        yield held_out
    if plan.recipe.evaluation.rows == "all":
        yield holdings.training(plan)
