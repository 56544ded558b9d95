"""A multilayer perceptron."""

from __future__ import annotations

import math

from torch import nn

from tacit.models.zoo.options import MlpOptions

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def build(input_shape: tuple[int, ...], outputs: int, options: MlpOptions) -> nn.Module:
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
