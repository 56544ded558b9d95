"""Sums of clipped gradients from one backward pass that stops at the layers' outputs.

For a layer `y = W x` an example's weight gradient is the product of the gradient at its output and its input. One pass
gives the former for all layers, so every norm, and after it the clipped sum, is a few matrix products; gradients of
convolutions are held one by one, as they are small, and gradients of linear layers never (Goodfellow 2015; Rochette,
Manoel, Tramel 2019). The sums are those of Opacus' hooks up to rounding; Opacus goes on with them from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.privacy.errors import PrivacyError


class Part(NamedTuple):
    """One parameter's share: squared norms of its gradients, `(batch,)`, and their sum weighted by `(batch,)`."""

    parameter: nn.Parameter
    squared: Tensor
    weighted: Callable[[Tensor], Tensor]


class _Call(NamedTuple):
    """One layer's forward pass, and the version of what it read and wrote."""

    name: str
    layer: nn.Module
    entered: Tensor
    left: Tensor
    versions: tuple[int, int]


class Calls(list[_Call]):
    """The calls of one forward pass, and memory that outlives them.

    A step needs the same tens of megabytes again and again; asking the system for them anew costs a sixth of the step.
    """

    def __init__(self) -> None:
        """Start with no calls and no memory."""
        super().__init__()
        self._kept: dict[tuple[str, int], Tensor] = {}

    def memory(self, name: str, place: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return uninitialised memory of this shape; the same name and place get the same memory in the next step."""
        count = math.prod(shape)
        kept = self._kept.get((name, place))
        if kept is None or kept.numel() < count:
            kept = self._kept[name, place] = like.new_empty(count + count // 8)
        return kept[:count].view(shape)


# How many numbers of patches are held at once: what stays in a processor's cache, and what keeps an accelerator busy.
_ON_CPU: Final = 1 << 20
_ELSEWHERE: Final = 1 << 27

Memory: TypeAlias = Callable[[int, tuple[int, ...], Tensor], Tensor]


@contextmanager
def recorded(module: nn.Module) -> Iterator[Calls]:
    """Record what enters and leaves every trained layer; the hooks are removed at the end.

    Raises:
        PrivacyError: a trained layer is of a kind that is not known here, or two layers share a parameter.
    """
    calls = Calls()
    handles = []
    seen: set[nn.Parameter] = set()
    try:
        for name, layer in module.named_modules():
            trained = {each for each in layer.parameters(recurse=False) if each.requires_grad}
            if not trained:
                continue
            if type(layer) not in _PARTS or trained & seen or not _plain(layer):
                raise PrivacyError(f"layer {name or 'model'} ({type(layer).__name__}) has no direct path; use hooks")
            seen |= trained
            handles.append(layer.register_forward_hook(_recorder(name, calls)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def add_clipped_sums(calls: Calls, losses: Tensor, l2_clip: float) -> None:
    """Put into every recorded parameter's `grad` the sum of the examples' gradients, each clipped to `l2_clip`.

    Args:
        calls: what `recorded` saw of the one forward pass behind `losses`.
        losses: every example's own loss, shape `(batch,)`.
        l2_clip: what each example's gradient, over all parameters together, is clipped to.

    Raises:
        PrivacyError: a layer ran not once, or not on every example, or another wrote over what it read or returned.
    """
    for call in calls:
        if (call.entered._version, call.left._version) != call.versions:
            raise PrivacyError(f"layer {call.name} was written over in place; use an activation that is not in place")
        if len(call.entered) != len(losses) or len(call.left) != len(losses):
            raise PrivacyError(f"layer {call.name} has no input for each example: expand it to the batch, or freeze it")
    if len({call.name for call in calls}) != len(calls):
        raise PrivacyError("a layer that runs more than once in a pass has no direct path; use hooks")
    gradients = torch.autograd.grad(losses.sum(), [call.left for call in calls])
    parts: list[Part] = []
    for call, gradient in zip(calls, gradients, strict=True):
        memory = partial(calls.memory, call.name)
        parts += _PARTS[type(call.layer)](call.layer, call.entered, gradient.detach(), memory)
    norms = torch.stack([part.squared for part in parts]).sum(dim=0).sqrt()
    factors = (l2_clip / (norms + 1e-6)).clamp(max=1.0)  # as Opacus does
    for part in parts:
        part.parameter.grad = part.weighted(factors)


def _recorder(name: str, calls: Calls) -> Callable[[nn.Module, Any, Tensor], None]:
    def record(layer: nn.Module, entered: tuple[Tensor, ...], left: Tensor) -> None:
        calls.append(_Call(name, layer, entered[0].detach(), left, (entered[0]._version, left._version)))

    return record


def _plain(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d):
        return True
    return (
        layer.groups == 1 and layer.padding_mode == "zeros" and layer.dilation == (1, 1) and _padding(layer) is not None
    )


def _padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    if isinstance(layer.padding, str):
        return (0, 0) if layer.padding == "valid" else None
    return layer.padding[0], layer.padding[1]


def _held(parameter: nn.Parameter, samples: Tensor) -> Part:
    """Return the part of gradients that are held one by one, shape `(batch, *parameter.shape)`."""
    rows = samples.flatten(1)
    return Part(parameter, _squared(rows), lambda factors: (factors @ rows).view_as(parameter))


def _squared(rows: Tensor) -> Tensor:
    """Return the squared norm of every row, without a copy of the squares."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square()


def _trained(layer: nn.Module, parts: Mapping[str, Callable[[nn.Parameter], Part]]) -> list[Part]:
    """Return the parts of those parameters that the layer has and trains."""
    own = dict(layer.named_parameters(recurse=False))
    return [part(own[name]) for name, part in parts.items() if name in own and own[name].requires_grad]


def _linear(layer: nn.Module, entered: Tensor, gradient: Tensor, memory: Memory) -> list[Part]:
    if entered.dim() == 2:

        def weight(parameter: nn.Parameter) -> Part:
            # |g x^T|^2 = |g|^2 |x|^2: the gradient of an example is never formed
            squared = _squared(entered) * _squared(gradient)
            return Part(parameter, squared, lambda factors: (gradient * factors[:, None]).T @ entered)

        return _trained(layer, {"weight": weight, "bias": lambda bias: _held(bias, gradient)})
    steps, entering = gradient.flatten(1, -2), entered.flatten(1, -2)
    return _trained(
        layer,
        {
            "weight": lambda weight: _held(weight, torch.bmm(steps.transpose(1, 2), entering)),
            "bias": lambda bias: _held(bias, steps.sum(dim=1)),
        },
    )


def _convolution(layer: nn.Module, entered: Tensor, gradient: Tensor, memory: Memory) -> list[Part]:
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"{type(layer).__name__} is no convolution")
    at_output = gradient.permute(0, 2, 3, 1).flatten(1, 2)  # without a copy where the gradient is channels last

    def weight(parameter: nn.Parameter) -> Part:
        products, order, shape = _products(layer, entered, at_output, memory)
        samples = products.flatten(1)

        def weighted(factors: Tensor) -> Tensor:
            return (factors @ samples).view(shape).permute(order)

        return Part(parameter, _squared(samples), weighted)

    return _trained(layer, {"weight": weight, "bias": lambda bias: _held(bias, at_output.sum(dim=1))})


def _products(
    layer: nn.Conv2d, entered: Tensor, at_output: Tensor, memory: Memory
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Return the examples' weight gradients and how one of them, of the shape returned last, is to be permuted.

    The patches that the kernel saw are laid out in memory, a few examples at a time so that the product finds them in
    the cache, in the order that is copied in longer runs: a patch's pixels side by side, or a pixel's patches.
    """
    rows, columns = _padding(layer) or (0, 0)
    (height, width), (down, right) = layer.kernel_size, layer.stride
    batch, places, outputs = at_output.shape
    inputs, out_width = entered.shape[1], (entered.shape[3] + 2 * columns - width) // right + 1
    pixels = entered.permute(0, 2, 3, 1)
    by_place = inputs * width >= out_width
    size = inputs * height * width
    products = memory(1, (batch, outputs, size) if by_place else (batch, size, outputs), pixels)
    at_once = max(1, (_ON_CPU if pixels.device.type == "cpu" else _ELSEWHERE) // (places * size))
    for first in range(0, batch, at_once):
        spread = _padded(pixels[first : first + at_once], rows, columns, memory)
        windows = spread.unfold(1, height, down).unfold(2, width, right)  # (batch, out height, out width, inputs, ...)
        ordered = windows.permute((0, 1, 2, 4, 5, 3) if by_place else (0, 4, 5, 3, 1, 2))
        patches = memory(0, tuple(ordered.shape), pixels).copy_(ordered).flatten(3).flatten(1, 2)
        here, room = at_output[first : first + at_once], products[first : first + at_once]
        if by_place:
            torch.bmm(here.transpose(1, 2), patches, out=room)
        else:
            torch.bmm(patches.view(len(here), size, places), here, out=room)
    if by_place:
        return products, (0, 3, 1, 2), (outputs, height, width, inputs)
    return products, (3, 2, 0, 1), (height, width, inputs, outputs)


def _padded(pixels: Tensor, rows: int, columns: int, memory: Memory) -> Tensor:
    """Return pixels, `(batch, height, width, channels)`, with that many zeros on each side."""
    if not rows and not columns:
        return pixels
    batch, height, width, channels = pixels.shape
    room = memory(2, (batch, height + 2 * rows, width + 2 * columns, channels), pixels).zero_()
    room[:, rows : rows + height, columns : columns + width] = pixels
    return room


def _group_norm(layer: nn.Module, entered: Tensor, gradient: Tensor, memory: Memory) -> list[Part]:
    if not isinstance(layer, nn.GroupNorm):
        raise TypeError(f"{type(layer).__name__} is no group normalisation")
    normal = F.group_norm(entered, layer.num_groups, eps=layer.eps)
    return _trained(
        layer,
        {
            "weight": lambda weight: _held(weight, (gradient * normal).flatten(2).sum(dim=2)),
            "bias": lambda bias: _held(bias, gradient.flatten(2).sum(dim=2)),
        },
    )


def _layer_norm(layer: nn.Module, entered: Tensor, gradient: Tensor, memory: Memory) -> list[Part]:
    if not isinstance(layer, nn.LayerNorm):
        raise TypeError(f"{type(layer).__name__} is no layer normalisation")
    shape = list(layer.normalized_shape)
    normal = F.layer_norm(entered, shape, eps=layer.eps)

    def summed(samples: Tensor) -> Tensor:
        return samples.reshape(len(samples), -1, *shape).sum(dim=1)

    return _trained(
        layer,
        {
            "weight": lambda weight: _held(weight, summed(gradient * normal)),
            "bias": lambda bias: _held(bias, summed(gradient)),
        },
    )


_PARTS: Final[dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor, Memory], list[Part]]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}
