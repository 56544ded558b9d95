"""Which network a model is: enough to build it again anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tacit.models.errors import InputError
from tacit.models.zoo.catalogue import build
from tacit.models.zoo.factory import build_from_factory

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A network by its name in the zoo or by a user's factory, with its shapes and options.

    Attributes:
        name: a name of the zoo; `""` where a factory is given.
        factory: `package.module:function` of a user; `""` where a name is given.
        input_shape: the shape of one example, without the batch.
        outputs: how many numbers the network puts out for one example.
        options: plain JSON values.

    Raises:
        InputError: both or neither of name and factory are given, or the options are no plain JSON.
    """

    name: str
    factory: str
    input_shape: tuple[int, ...]
    outputs: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be built or written down."""
        if bool(self.name) == bool(self.factory):
            raise InputError("give either a name or a factory", where="model")
        try:
            json.dumps(dict(self.options), allow_nan=False)
        except (TypeError, ValueError):
            raise InputError("the options are no plain JSON", where="model") from None

    def build(self, seed: int) -> nn.Module:
        """Return the network with the initial values that `seed` (>= 0) determines; see `initial_model`."""
        return initial_model(self, seed)

    def size(self) -> int:
        """Return how many coordinates the vector of a network of the zoo has, without memory for a single one.

        Raises:
            InputError: it cannot be built.
        """
        import torch

        from tacit.models.vector import layout_of

        with torch.device("meta"):
            return layout_of(build(self.name, self.input_shape, self.outputs, self.options)).size

    def to_json_dict(self) -> dict[str, Any]:
        """Return the architecture as plain JSON."""
        return {
            "name": self.name,
            "factory": self.factory,
            "input_shape": list(self.input_shape),
            "outputs": self.outputs,
            "options": dict(self.options),
        }

    @classmethod
    def from_json_dict(cls, data: object) -> Architecture:
        """Read what `to_json_dict` wrote.

        Raises:
            InputError: a key is missing, unknown or of the wrong type.
        """
        expected = {"name": str, "factory": str, "input_shape": list, "outputs": int, "options": dict}
        if not isinstance(data, dict) or set(data) != set(expected):
            raise InputError("is no architecture", where="architecture", right=f"expected {', '.join(expected)}")
        for key, kind in expected.items():
            if type(data[key]) is not kind:
                raise InputError(f"is no {kind.__name__}", where=f"architecture.{key}")
        if not all(type(length) is int for length in data["input_shape"]):
            raise InputError("is no list of integers", where="architecture.input_shape")
        return cls(data["name"], data["factory"], tuple(data["input_shape"]), data["outputs"], dict(data["options"]))


def initial_model(architecture: Architecture, seed: int) -> nn.Module:
    """Return the network, on the CPU, with the initial values that `seed` (>= 0) determines.

    Torch's global generator is left as it was found.

    Raises:
        InputError: the architecture cannot be built.
    """
    import torch

    # The CPU generator only takes 32 bits of its seed, so all bits of ours are mixed into those.
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mixed)
        shape, outputs, options = architecture.input_shape, architecture.outputs, architecture.options
        if architecture.factory:
            return build_from_factory(architecture.factory, shape, outputs, options)
        return build(architecture.name, shape, outputs, options)
