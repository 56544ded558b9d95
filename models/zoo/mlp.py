"""A multilayer perceptron."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn


class Options(BaseModel):
    """Widths of the hidden layers, the dropout after each, and the activation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    hidden: list[Annotated[int, Field(ge=1, le=65_536)]] = Field(default=[64], max_length=32)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    activation: Literal["relu", "gelu", "tanh"] = "relu"


_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def build(input_shape: tuple[int, ...], outputs: int, options: Options) -> nn.Module:
    """Return linear layers over the flattened example with an activation after each but the last."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for hidden in options.hidden:
        layers += [nn.Linear(width, hidden), _ACTIVATIONS[options.activation]()]
        if options.dropout:
            layers.append(nn.Dropout(options.dropout))
        width = hidden
    layers.append(nn.Linear(width, outputs))
    return nn.Sequential(*layers)
