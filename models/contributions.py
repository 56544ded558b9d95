"""What one client adds to a masked sum: which blocks the vector has, and the values that go into them.

Dataset sizes and losses travel only in here, never beside it. A weight is a client's number of examples relative to the
mean of the federation, which is public once the preparation's sum is known, so that weights are near one and a grid of
fixed width serves large and small clients alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.secagg.layout import Block, Layout, WideBlock, largest_scale

UPDATE, WEIGHT, METRICS, STATISTICS = "update", "weight", "metrics", "statistics"

# Without a privacy mechanism nothing else bounds a coordinate; beyond this one is clamped, see docs/limitations.md.
UPDATE_CLIP = 8.0
WEIGHT_CLIP = 64.0
LOSS_CLIP = 1024.0
# Sums of squares of 40-bit values over 2^32 rows fit; the resolution is far below what preprocessing can tell.
STATISTICS_INTEGER_BITS = 112
STATISTICS_FRACTION_BITS = 24


def training_layout(parameters: int, cohort: int, bits: int = 32) -> Layout:
    """Return the blocks of a training round without noise: the weighted update, the weight, the weighted loss.

    Each scale is the finest power of two at which the sum over `cohort` clients cannot wrap in `bits` bits.

    Args:
        parameters: the size of the model's vector.
        cohort: how many clients the round is offered to.
        bits: of a coordinate.
    """
    blocks = ((UPDATE, parameters, UPDATE_CLIP), (WEIGHT, 1, WEIGHT_CLIP), (METRICS, 1, LOSS_CLIP))
    return Layout(
        tuple(
            Block(name, size, clip, 2.0 ** math.floor(math.log2(largest_scale(clip, cohort, bits))))
            for name, size, clip in blocks
        )
    )


def preparation_layout(size: int) -> Layout:
    """Return the one wide block of a preparation round: sums that must be exact whatever their range."""
    return Layout((WideBlock(STATISTICS, size, STATISTICS_INTEGER_BITS, STATISTICS_FRACTION_BITS),))


def training_values(
    update: NDArray[np.float32], loss: float, examples: int, mean_examples: float, by_examples: bool
) -> Mapping[str, NDArray[np.floating]]:
    """Return one client's values by block.

    Args:
        update: the trained minus the global vector, shape `(parameters,)`.
        loss: the mean training loss.
        examples: how many examples the client holds.
        mean_examples: the federation's mean, public.
        by_examples: weigh by the number of examples; otherwise all weights are one.
    """
    weight = min(examples / max(mean_examples, 1.0), WEIGHT_CLIP) if by_examples else 1.0
    return {
        UPDATE: update * np.float32(weight) if weight != 1.0 else update,
        WEIGHT: np.array([weight]),
        METRICS: np.array([weight * loss]),
    }
