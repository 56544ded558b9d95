"""Multinomial logistic regression, or linear regression with one output."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict
from torch import nn


class Options(BaseModel):
    """Logistic regression has no options."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def build(input_shape: tuple[int, ...], outputs: int, options: Options) -> nn.Module:
    """Return one linear layer over the flattened example, starting from zero.

    The loss is convex, so zero is as good a start as any, and it is the same one for every seed.
    """
    linear = nn.Linear(math.prod(input_shape), outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.Flatten(), linear)
