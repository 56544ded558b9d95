"""What each architecture can be told; apart from how it is built, so that a recipe is checked without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_Width = Annotated[int, Field(ge=1, le=65_536)]


class Options(BaseModel):
    """The options of an architecture; those left out have their defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CnnOptions(Options):
    """Channels of the convolutions, width of the dense layer, dropout before the last layer, and the activation."""

    channels: list[_Width] = Field(default=[16, 32], min_length=2, max_length=2)
    dense: _Width = 64
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    activation: Literal["relu", "tanh"] = "relu"


class LogisticOptions(Options):
    """Logistic regression has no options."""


class MlpOptions(Options):
    """Widths of the hidden layers, the dropout after each, and the activation."""

    hidden: list[_Width] = Field(default=[64], max_length=32)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    activation: Literal["relu", "gelu", "tanh"] = "relu"


class ResnetOptions(Options):
    """Basic blocks in each stage, and the channels of the first stage; each later stage has twice as many."""

    blocks: list[Annotated[int, Field(ge=1, le=64)]] = Field(default=[2, 2, 2, 2], min_length=1, max_length=5)
    width: int = Field(default=64, ge=8, le=4096, multiple_of=8)


class ScatterOptions(Options):
    """The scattering transform has no options."""


OPTIONS: Mapping[str, type[Options]] = {
    "cnn": CnnOptions,
    "logistic": LogisticOptions,
    "mlp": MlpOptions,
    "resnet": ResnetOptions,
    "scatter": ScatterOptions,
}
"""The architectures by name, each of which is built by the module of that name."""
