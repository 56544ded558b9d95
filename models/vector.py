"""A model as one flat float32 vector, and the layout that says where each tensor lies in it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from tacit.models.errors import InputError


@dataclass(frozen=True)
class Entry:
    """One tensor of a model: `size` numbers of the vector from `offset` on, in row-major order."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in the order of its state dict, packed without gaps.

    Two models have the same layout exactly if they have the same digest.

    Raises:
        InputError: a name occurs twice, a size is not the product of its shape, or there is a gap.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        """Refuse what is no packed layout."""
        offset = 0
        for entry in self.entries:
            if entry.size != math.prod(entry.shape) or any(length < 0 for length in entry.shape):
                raise InputError("the size is not the product of the shape", where=f"layout entry {entry.name}")
            if entry.offset != offset:
                raise InputError(
                    f"the offset is {entry.offset}", where=f"layout entry {entry.name}", right=f"expected {offset}"
                )
            offset += entry.size
        if len({entry.name for entry in self.entries}) != len(self.entries):
            raise InputError("two entries have the same name", where="layout")

    @cached_property
    def size(self) -> int:
        """Return how many numbers the vector holds."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of the layout as JSON with sorted keys and no white space."""
        text = json.dumps(self.to_json_list(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json_list(self) -> list[dict[str, Any]]:
        """Return the entries as plain JSON; offsets and sizes follow from the order and the shapes."""
        return [{"name": entry.name, "shape": list(entry.shape)} for entry in self.entries]

    @classmethod
    def from_json_list(cls, data: object) -> Layout:
        """Read what `to_json_list` wrote.

        Raises:
            InputError: `data` is no list of names and shapes.
        """
        if not isinstance(data, list):
            raise InputError("is no list of entries", where="layout")
        named: list[tuple[str, tuple[int, ...]]] = []
        for item in data:
            name, shape = (item.get("name"), item.get("shape")) if isinstance(item, dict) else (None, None)
            if not isinstance(name, str) or not isinstance(shape, list) or not all(type(n) is int for n in shape):
                raise InputError("an entry has no name or no shape", where="layout")
            named.append((name, tuple(shape)))
        return packed(named)


def packed(named_shapes: Iterable[tuple[str, tuple[int, ...]]]) -> Layout:
    """Return the layout that puts tensors of these names and shapes one after the other."""
    entries: list[Entry] = []
    offset = 0
    for name, shape in named_shapes:
        size = math.prod(shape)
        entries.append(Entry(name, shape, offset, size))
        offset += size
    return Layout(tuple(entries))


def layout_of(model: nn.Module) -> Layout:
    """Return the layout of every floating-point parameter and persistent buffer of `model`.

    A parameter that two modules share is counted once, under its first name. Integer and boolean buffers (counters,
    masks) are part of no vector: they never travel.

    Raises:
        InputError: a tensor is float64, half precision or complex, is not initialised yet, or there is none at all.
    """
    named: list[tuple[str, tuple[int, ...]]] = []
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise InputError("carries extra state that is no tensor", where=f"model entry {name}")
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise InputError("has no shape yet", where=f"model entry {name}", right="run the lazy module once first")
        if not (value.is_floating_point() or value.is_complex()) or id(value) in seen:
            continue
        if value.dtype != torch.float32:
            kind = str(value.dtype).removeprefix("torch.")
            raise InputError(f"is {kind}", where=f"model entry {name}", right="models travel as float32")
        seen.add(id(value))
        named.append((name, tuple(value.shape)))
    if not named:
        raise InputError("the model has no floating-point parameter")
    return packed(named)


def read_vector(model: nn.Module, layout: Layout) -> Tensor:
    """Return the model's tensors as a fresh float32 vector of shape `(layout.size,)` on the model's device.

    Raises:
        InputError: the model does not have this layout.
    """
    return torch.cat([tensor.detach().reshape(-1) for tensor in _tensors(model, layout)])


def write_vector(model: nn.Module, layout: Layout, vector: Tensor) -> None:
    """Copy `vector` of shape `(layout.size,)` into the model's tensors, in place.

    Raises:
        InputError: the model does not have this layout, or the vector not its size or not float32.
    """
    tensors = _tensors(model, layout)
    with torch.no_grad():
        for tensor, values in zip(tensors, _pieces(vector, layout), strict=True):
            tensor.copy_(values)


def state_dict_of(vector: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Return the tensors by name as views into `vector`, without those that the layout counts once under another name.

    Raises:
        InputError: the vector has not the layout's size, or is not float32.
    """
    return {entry.name: values for entry, values in zip(layout.entries, _pieces(vector, layout), strict=True)}


def _pieces(vector: Tensor, layout: Layout) -> list[Tensor]:
    if vector.shape != (layout.size,) or vector.dtype != torch.float32:
        found = f"{str(vector.dtype).removeprefix('torch.')} of shape {tuple(vector.shape)}"
        raise InputError(f"the vector is {found}", right=f"expected float32 of shape ({layout.size},)")
    pieces = vector.detach().split([entry.size for entry in layout.entries])
    return [piece.view(entry.shape) for piece, entry in zip(pieces, layout.entries, strict=True)]


def _tensors(model: nn.Module, layout: Layout) -> Sequence[Tensor]:
    state = model.state_dict(keep_vars=True)
    try:
        tensors = [state[entry.name] for entry in layout.entries]
    except KeyError as error:
        raise InputError("the model does not have this entry", where=f"layout entry {error.args[0]}") from None
    for tensor, entry in zip(tensors, layout.entries, strict=True):
        if tensor.shape != entry.shape or tensor.dtype != torch.float32:
            raise InputError(
                f"the model has shape {tuple(tensor.shape)}",
                where=f"layout entry {entry.name}",
                right=f"expected float32 of shape {entry.shape}",
            )
    return tensors
