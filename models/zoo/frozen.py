"""Layers at the start of a model that nothing trains, so that a trainer needs their features only once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_EXAMPLES_AT_ONCE = 256


class Frozen(nn.Sequential):
    """Layers without parameters or persistent buffers that always give an example the same features.

    What a layer computes may depend neither on the other examples of a batch nor on chance, so dropout has no place
    here. As nothing in it is learned, nothing in it travels, and no privacy is spent on it.
    """


def split_frozen(model: nn.Module) -> tuple[Frozen, nn.Module]:
    """Return the frozen start of a model, empty if it has none, and the rest, which shares its parameters.

    Training the rest on `frozen_features` trains the model; both have the same vector, as the start holds no part of
    it.
    """
    if isinstance(model, nn.Sequential) and len(model) and isinstance(model[0], Frozen):
        return model[0], model[1:]
    return Frozen(), model


def frozen_features(start: Frozen, inputs: Tensor) -> Tensor:
    """Return what a frozen start makes of inputs of shape `(examples, *input_shape)`, on their device.

    An empty start returns the inputs themselves. Only a few hundred examples' intermediate results are held at once.
    """
    if not len(start):
        return inputs
    with torch.no_grad():
        features = inputs.new_empty(len(inputs), *start(inputs.new_zeros(1, *inputs.shape[1:])).shape[1:])
        for first in range(0, len(inputs), _EXAMPLES_AT_ONCE):
            features[first : first + _EXAMPLES_AT_ONCE] = start(inputs[first : first + _EXAMPLES_AT_ONCE])
    return features
