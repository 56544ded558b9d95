"""A small convolutional network for images of 8x8 and more."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from tacit.models.errors import InputError

_Width = Annotated[int, Field(ge=1)]


class Options(BaseModel):
    """Channels of the two convolutions, the width of the dense layer, and the dropout before the last layer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    channels: list[_Width] = Field(default=[32, 64], min_length=2, max_length=2)
    dense: _Width = 128
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)


def build(input_shape: tuple[int, ...], outputs: int, options: Options) -> nn.Module:
    """Return two 3x3 convolutions, each followed by pooling, and two linear layers.

    Raises:
        InputError: `input_shape` is not `(channels, height, width)` with height and width of at least 8.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 8:
        raise InputError(
            f"the inputs have shape {input_shape}",
            where="model cnn",
            right="expected (channels, height, width), 8x8 up",
        )
    channels, height, width = input_shape
    first, second = options.channels
    layers: list[nn.Module] = [
        nn.Conv2d(channels, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (width // 4), options.dense),
        nn.ReLU(),
    ]
    if options.dropout:
        layers.append(nn.Dropout(options.dropout))
    layers.append(nn.Linear(options.dense, outputs))
    return nn.Sequential(*layers)
