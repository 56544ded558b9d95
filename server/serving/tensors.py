"""Open Inference Protocol tensors: from JSON or bytes to numpy, from numpy to JSON or bytes, and their metadata.

JSON carries `data` flat in row-major order or nested as `shape` says. The binary extension carries little-endian
numbers after the JSON, and each element of a BYTES tensor behind its length in four bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.server.serving.problem import Refusal

NUMBERS: Mapping[str, np.dtype[Any]] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
}
TEXT = "BYTES"
_MAX_DIMENSIONS = 8
_LENGTH = np.dtype("<u4")


@dataclass(frozen=True)
class TensorMetadata:
    """What a tensor is called and looks like; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, object]:
        """Return the protocol's form."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, repr=False)
class Tensor:
    """A named array of one of the protocol's datatypes; texts are object arrays of `str`."""

    name: str
    datatype: str
    values: NDArray[Any]


def tensor_from_json(where: str, declared: Mapping[str, Any], binary: memoryview | None) -> Tensor:
    """Read one input tensor.

    Args:
        where: how to call this input in an error, without its name, which is the caller's.
        declared: the JSON object: name, shape, datatype, and data unless the elements come in `binary`.
        binary: the elements, for a tensor that declares `binary_data_size`.

    Raises:
        Refusal: 400, when anything does not fit; it says what would, and repeats no value.
    """
    name, datatype = declared.get("name"), declared.get("datatype")
    if not isinstance(name, str) or not name:
        raise Refusal(400, f"{where}: name must be a text that is not empty")
    shape = _shape(where, declared.get("shape"))
    if not isinstance(datatype, str) or (datatype != TEXT and datatype not in NUMBERS):
        raise Refusal(400, f"{where}: datatype must be one of {', '.join([*NUMBERS, TEXT])}")
    if binary is not None:
        if "data" in declared:
            raise Refusal(400, f"{where}: has data as well as binary_data_size; give one of them")
        if datatype == TEXT:
            values = _texts_from_bytes(where, binary, shape)
        else:
            values = _numbers_from_bytes(where, binary, shape, datatype)
    else:
        flat = _flat(where, declared.get("data"), shape)
        values = _texts(where, flat) if datatype == TEXT else _numbers(where, flat, datatype)
    if datatype.startswith("FP") and not np.isfinite(values).all():
        raise Refusal(400, f"{where}: NaN and infinity are not accepted")
    return Tensor(name, datatype, values.reshape(shape))


def tensor_to_json(tensor: Tensor) -> dict[str, object]:
    """Write a tensor with its elements flat in row-major order."""
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.values.shape),
        "data": tensor.values.ravel().tolist(),
    }


def tensor_to_binary(tensor: Tensor) -> tuple[dict[str, object], bytes]:
    """Write a tensor as a JSON object that declares how many bytes follow, and those bytes."""
    if tensor.datatype == TEXT:
        texts = [text.encode() for text in tensor.values.ravel()]
        data = b"".join(len(text).to_bytes(_LENGTH.itemsize, "little") + text for text in texts)
    else:
        data = tensor.values.astype(NUMBERS[tensor.datatype], copy=False).tobytes()
    declared: dict[str, object] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.values.shape),
        "parameters": {"binary_data_size": len(data)},
    }
    return declared, data


def _shape(where: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or not 1 <= len(shape) <= _MAX_DIMENSIONS:
        raise Refusal(400, f"{where}: shape must be a list of 1 to {_MAX_DIMENSIONS} sizes")
    if any(type(size) is not int or size < 1 for size in shape):
        raise Refusal(400, f"{where}: each size in shape must be a positive integer")
    return tuple(shape)


def _flat(where: str, data: Any, shape: tuple[int, ...]) -> list[Any]:
    """Return the elements in row-major order; compare counts before anything is allocated."""
    if not isinstance(data, list):
        raise Refusal(400, f"{where}: data must be a list")
    flat: list[Any] = data
    if data and isinstance(data[0], list):
        level: list[Any] = [data]
        for size in shape:
            if any(type(part) is not list or len(part) != size for part in level):
                raise Refusal(400, f"{where}: data is not nested as its shape says")
            level = list(chain.from_iterable(level))
        flat = level
    if len(flat) != math.prod(shape):
        raise Refusal(400, f"{where}: the number of elements in data is not what its shape says")
    return flat


def _numbers(where: str, flat: Sequence[Any], datatype: str) -> NDArray[Any]:
    dtype = NUMBERS[datatype]
    # Looked at by type because numpy would also read "1.5", true and None as numbers.
    if not set(map(type, flat)) <= ({int, float} if dtype.kind == "f" else {int}):
        kind = "numbers" if dtype.kind == "f" else "integers"
        raise Refusal(400, f"{where}: data of datatype {datatype} must be {kind}")
    try:
        with np.errstate(over="ignore"):  # an overflow becomes an infinity, which is refused with the others
            return np.array(flat, dtype=dtype)
    except OverflowError:
        raise Refusal(400, f"{where}: a number does not fit datatype {datatype}") from None


def _texts(where: str, flat: Sequence[Any]) -> NDArray[Any]:
    if not set(map(type, flat)) <= {str}:
        raise Refusal(400, f"{where}: data of datatype {TEXT} must be texts")
    return np.array(flat, dtype=object)


def _numbers_from_bytes(where: str, data: memoryview, shape: tuple[int, ...], datatype: str) -> NDArray[Any]:
    if len(data) != math.prod(shape) * NUMBERS[datatype].itemsize:
        raise Refusal(400, f"{where}: binary_data_size is not what its shape and datatype say")
    return np.frombuffer(data, dtype=NUMBERS[datatype])


def _texts_from_bytes(where: str, data: memoryview, shape: tuple[int, ...]) -> NDArray[Any]:
    texts: list[str] = []
    begin = 0
    while begin < len(data):
        start = begin + _LENGTH.itemsize
        end = start + int.from_bytes(data[begin:start], "little")
        if start > len(data) or end > len(data):
            raise Refusal(400, f"{where}: the binary data ends within an element")
        try:
            texts.append(str(data[start:end], "utf-8"))
        except UnicodeDecodeError:
            raise Refusal(400, f"{where}: texts must be UTF-8") from None
        begin = end
    if len(texts) != math.prod(shape):
        raise Refusal(400, f"{where}: the number of elements in the binary data is not what its shape says")
    return np.array(texts, dtype=object)
