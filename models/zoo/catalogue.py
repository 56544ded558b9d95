"""The architectures by name, and how one is built."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tacit.models.errors import InputError
from tacit.models.spelling import unknown
from tacit.models.zoo.options import OPTIONS, Options

if TYPE_CHECKING:
    from torch import nn

NAMES: tuple[str, ...] = tuple(OPTIONS)


def build(name: str, input_shape: tuple[int, ...], outputs: int, options: Mapping[str, Any]) -> nn.Module:
    """Return a fresh network, initialised from torch's global generator.

    Args:
        name: one of `NAMES`.
        input_shape: the shape of one example, without the batch.
        outputs: how many numbers the network puts out for one example.
        options: the architecture's own options; those left out have their defaults.

    Raises:
        InputError: the name or an option is unknown (the nearest is named), or a value does not fit.
    """
    checked = check_options(name, options)
    if outputs < 1 or not input_shape or any(length < 1 for length in input_shape):
        raise InputError(f"no network from shape {tuple(input_shape)} to {outputs} outputs", where=f"model {name}")
    module = importlib.import_module(f"tacit.models.zoo.{name}")
    network: nn.Module = module.build(tuple(input_shape), outputs, checked)
    return network


def check_options(name: str, options: Mapping[str, Any]) -> Options:
    """Return an architecture's options with their defaults; needs no data and no torch: a slip is found early.

    Raises:
        InputError: the name or an option is unknown (the nearest is named), or a value does not fit.
    """
    if name not in OPTIONS:
        raise unknown("model", name, NAMES, where="model.name")
    known = OPTIONS[name]
    for option in options:
        if option not in known.model_fields:
            raise unknown("option", option, known.model_fields, where=f"model {name}")
    try:
        return known.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in ("model", *first["loc"]))
        raise InputError(f"{first['msg']}, not {first['input']!r}", where=where) from None
