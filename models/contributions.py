"""What one client adds to a masked sum: which blocks the vector has, and the values that go into them.

Dataset sizes and losses travel only in here, never beside it. A weight is a client's number of examples relative to the
mean of the federation, which is public once the preparation's sum is known, so that weights are near one and a grid of
fixed width serves large and small clients alike.

Nothing is cut off silently: what does not fit is not sent, and its client drops out of the round with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.rows import Schema
from tacit.models.errors import InputError
from tacit.models.plan import Plan
from tacit.models.preparation import count_places
from tacit.privacy.secagg.layout import Block, Layout, WideBlock, largest_scale

UPDATE, WEIGHT, METRICS = "update", "weight", "metrics"
COUNTS, MOMENTS = "counts", "moments"

# Far beyond any update that is of use, and still a grid of 2^-13 for 1000 clients in 32 bits, whose rounding errors
# average out: that of the mean is below 3e-6.
UPDATE_CLIP = 256.0
# How many average clients one can weigh at most, so that none is nearly the whole sum.
WEIGHT_CLIP = 64.0
WEIGHT_FRACTION_BITS = 32
# Losses up to 10^12, exact to 10^-7.
LOSS_INTEGER_BITS, LOSS_FRACTION_BITS = 40, 24
# Pixels of 10^8 images of a megapixel.
COUNT_BITS = 48
# Sums of squares of 2^32 values of any unit between 10^-16 and 10^14.
MOMENT_INTEGER_BITS, MOMENT_FRACTION_BITS = 128, 128

Values = Mapping[str, NDArray[np.floating]]


def training_layout(parameters: int, cohort: int, bits: int = 32) -> Layout:
    """Return the blocks of a training round without noise: the weighted update, the weight, the weighted loss.

    The scale of the update is the finest power of two at which the sum over `cohort` clients cannot wrap in `bits`
    bits; weight and loss are summed exactly.

    Args:
        parameters: the size of the model's vector.
        cohort: how many clients the round is offered to.
        bits: of a coordinate.
    """
    scale = 2.0 ** math.floor(math.log2(largest_scale(UPDATE_CLIP, cohort, bits)))
    return Layout(
        (
            Block(UPDATE, parameters, UPDATE_CLIP, scale),
            WideBlock(WEIGHT, 1, int(math.log2(WEIGHT_CLIP)), WEIGHT_FRACTION_BITS),
            WideBlock(METRICS, 1, LOSS_INTEGER_BITS, LOSS_FRACTION_BITS),
        )
    )


def training_values(
    update: NDArray[np.float32], loss: float, examples: int, mean_examples: float, by_examples: bool
) -> Values:
    """Return one client's values by block.

    Args:
        update: the trained minus the global vector, shape `(parameters,)`.
        loss: the mean training loss.
        examples: how many examples the client holds.
        mean_examples: the federation's mean, public.
        by_examples: weigh by the number of examples, but by no more than `WEIGHT_CLIP`; otherwise all weights are one.

    Raises:
        InputError: a coordinate is beyond `UPDATE_CLIP`.
    """
    weight = min(examples / max(mean_examples, 1.0), WEIGHT_CLIP) if by_examples else 1.0
    weighted = update * np.float32(weight) if weight != 1.0 else update
    if not within_reach(weighted):
        raise InputError(
            "the update is larger than a masked sum can carry", right="a smaller learning rate, or fewer local steps"
        )
    return {UPDATE: weighted, WEIGHT: np.array([weight]), METRICS: np.array([weight * loss])}


def within_reach(update: NDArray[np.float32]) -> bool:
    """Say whether a sum without noise can carry an update: no coordinate is beyond `UPDATE_CLIP`."""
    return not max(update.max(), -update.min()) > UPDATE_CLIP


def asks_for_statistics(plan: Plan) -> bool:
    """Say whether a plan is one of a preparation: it has no features yet, or does not know how large clients are."""
    return plan.features is None or plan.mean_examples == 0


def preparation_layout(plan: Plan) -> Layout:
    """Return the blocks of a preparation round: sums that are exact, counts apart from what needs a large range.

    Where the features are known, as those of a warm start are, the number of rows is all that is asked for.
    """
    if plan.features is not None:
        return Layout((WideBlock(COUNTS, 1, COUNT_BITS, 0),))
    places = count_places(plan.schema)
    counts, moments = int(places.sum()), int((~places).sum())
    exact = WideBlock(COUNTS, counts, COUNT_BITS, 0)
    if not moments:
        return Layout((exact,))
    return Layout((exact, WideBlock(MOMENTS, moments, MOMENT_INTEGER_BITS, MOMENT_FRACTION_BITS)))


def preparation_values(sums: NDArray[np.float64], schema: Schema) -> Values:
    """Return one client's statistics by block."""
    places = count_places(schema)
    return {COUNTS: sums[places], MOMENTS: sums[~places]} if not places.all() else {COUNTS: sums}


def preparation_total(blocks: Mapping[str, NDArray[np.float64]], schema: Schema) -> NDArray[np.float64]:
    """Return the summed statistics, put together again from their blocks."""
    places = count_places(schema)
    total = np.empty(len(places), dtype=np.float64)
    total[places] = blocks[COUNTS]
    if MOMENTS in blocks:
        total[~places] = blocks[MOMENTS]
    return total


def update_layout(parameters: int, cohort: int, bits: int = 32) -> Layout:
    """Return the one block of a round in which nothing but updates may leave, as finely as `training_layout` has it."""
    return Layout(training_layout(parameters, cohort, bits).blocks[:1])
