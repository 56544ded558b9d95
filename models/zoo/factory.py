"""A user's own architecture, named as `package.module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tacit.models.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def build_from_factory(
    factory: str, input_shape: tuple[int, ...], outputs: int, options: Mapping[str, Any]
) -> nn.Module:
    """Import and call a user's `function(input_shape, outputs, **options)`, and check the network that it returns.

    This runs the user's code: whoever calls it has decided that this code may run here.

    Raises:
        InputError: the name cannot be imported or called, what it returns is no network that maps a batch of
            `(batch, *input_shape)` to `(batch, outputs)`, or the network keeps running statistics.
    """
    import torch
    from torch import nn

    function = find_factory(factory)
    where = f"model.factory {factory}"
    try:
        network = function(tuple(input_shape), outputs, **options)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"failed with {_one_line(error)}", where=where) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"returned {type(network).__name__}", where=where, right="expected a torch.nn.Module")
    _refuse_running_statistics(network, where)
    training = network.training
    try:
        with torch.no_grad():
            found = tuple(network.eval()(torch.zeros(2, *input_shape)).shape)
    except Exception as error:
        shape = tuple(input_shape)
        raise InputError(f"cannot map inputs of shape {shape}: {_one_line(error)}", where=where) from error
    if found != (2, outputs):
        raise InputError(f"maps two examples to shape {found}", where=where, right=f"expected (2, {outputs})")
    return network.train(training)


def find_factory(factory: str) -> Callable[..., Any]:
    """Import a user's function without calling it; this runs the code of its module.

    Raises:
        InputError: there is no such module or function, or the module cannot be imported.
    """
    where = f"model.factory {factory}"
    module_name, colon, function_name = factory.partition(":")
    parts = [*module_name.split("."), *function_name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise InputError("is no factory", where=where, right="expected package.module:function")
    try:
        function: Any = importlib.import_module(module_name)
        for part in function_name.split("."):
            function = getattr(function, part)
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"failed with {_one_line(error)}", where=where) from error
    if not callable(function):
        raise InputError("is no function", where=where, right="expected package.module:function")
    found: Callable[..., Any] = function
    return found


def _refuse_running_statistics(network: nn.Module, where: str) -> None:
    for name, module in network.named_modules():
        # Batch and instance normalisation in all their variants say so by this attribute.
        if getattr(module, "track_running_stats", False):
            raise InputError(
                f"{type(module).__name__} ({name or 'the network itself'}) keeps running statistics, "
                "which are silently wrong once they are averaged over clients",
                where=where,
                right="use torch.nn.GroupNorm",
            )


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
