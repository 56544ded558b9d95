"""Multinomial logistic regression, or linear regression with one output."""

from __future__ import annotations

import math

from torch import nn

from tacit.models.zoo.options import LogisticOptions


def build(input_shape: tuple[int, ...], outputs: int, options: LogisticOptions) -> nn.Module:
    """Return one linear layer over the flattened example, starting from zero.

    The loss is convex, so zero is as good a start as any, and it is the same one for every seed.
    """
    linear = nn.Linear(math.prod(input_shape), outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Flatten(), linear)
