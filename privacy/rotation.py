"""Random rotation: spreads a vector's energy evenly over its coordinates, so that none needs many bits.

`R = E_2 E_1`, each `E = H D` on a window of `m = 2^floor(log2 n)` coordinates, the first `m` and then the last `m`: `D`
random signs, `H` the normalised Walsh-Hadamard matrix. If n is a power of two, `R = E_1`. Two overlapping windows take
the place of one padded to a power of two (Kairouz, Liu, Steinke 2021), so the dimension, and with it the upload and the
noise, stays n. `R` is orthogonal: L2 norms and sums pass through it unchanged, and `unrotate` is its inverse.

Whatever the vector `x`, each rotated coordinate is a sum over random signs whose squared weights add up to at most
`|x|^2 / m`, so by Hoeffding `P[|y_i| > t] <= 2 exp(-t^2 m / (2 |x|^2))`, over the signs. The signs are public: rotation
protects nothing, it saves bits.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import PrivacyError
from tacit.privacy.randomness import KEY_BYTES, Keystream

_LABEL: Final = b"tacit/rotation/1\x00"
_CACHED: Final = 1 << 15  # two buffers of 256 KiB
_CHUNK: Final = 1 << 16  # coordinates whose signs are unpacked at a time


Real = TypeVar("Real", np.float32, np.float64)


def rotate(vector: NDArray[np.floating], seed: bytes) -> NDArray[np.float64]:
    """Return the rotated copy of `vector`, shape `(n,)`, for a public seed of 32 bytes; n may be any positive number.

    Raises:
        PrivacyError: the vector is not one-dimensional or empty, or the seed does not have 32 bytes.
    """
    rotated = _checked(vector).astype(np.float64)
    for window, signs in _windows(seed, rotated.size):
        _flip(rotated[window], signs)
        _hadamard(rotated[window])
    return rotated


def unrotate(rotated: NDArray[Real], seed: bytes) -> None:
    """Undo `rotate` for the same seed where the vector lies, shape `(n,)`; sums of rotated vectors become sums.

    A few megabytes are used beside it, however long it is. A vector of float32 is rounded to float32 four times, twice
    a window, and added up in float64 between: each coordinate is off by some 2^-24 of the vector's root mean square.

    Raises:
        PrivacyError: the vector is not one-dimensional or empty, or the seed does not have 32 bytes.
    """
    for window, signs in reversed(_windows(seed, _checked(rotated).size)):
        _hadamard(rotated[window])
        _flip(rotated[window], signs)


def coordinate_bound(l2_clip: float, dimension: int, log2_failure: float = -40.0) -> float:
    """Return a `t` that no rotated coordinate of a vector of norm `l2_clip` exceeds but with 2^log2_failure.

    The probability is over the rotation's signs and covers all `dimension` coordinates of one vector.
    """
    window = 1 << (dimension.bit_length() - 1)
    return l2_clip * math.sqrt(2.0 * (math.log(2.0 * dimension) - log2_failure * math.log(2.0)) / window)


def _checked(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    if vector.ndim != 1 or not vector.size:
        raise PrivacyError(f"a rotation is of a vector with at least one coordinate, not of shape {vector.shape}")
    return vector


def _windows(seed: bytes, dimension: int) -> list[tuple[slice, NDArray[np.uint8]]]:
    """Return the windows in the order of rotation, each with its signs, eight to a byte; a power of two needs one."""
    if len(seed) != KEY_BYTES:
        raise PrivacyError(f"a rotation seed has {KEY_BYTES} bytes, not {len(seed)}")
    size = 1 << (dimension.bit_length() - 1)
    spans = [slice(0, size)] if size == dimension else [slice(0, size), slice(dimension - size, dimension)]
    stream = Keystream(hashlib.sha256(_LABEL + seed).digest())
    return [(span, np.frombuffer(stream.bytes(max(1, size // 8)), dtype=np.uint8)) for span in spans]


def _flip(values: NDArray[Real], signs: NDArray[np.uint8]) -> None:
    """Change the sign of each coordinate whose bit is set, in place."""
    for start in range(0, values.size, _CHUNK):
        part = values[start : start + _CHUNK]
        bits = np.unpackbits(signs[start // 8 : (start + _CHUNK) // 8], count=part.size, bitorder="little")
        part *= 1 - 2 * bits.view(np.int8)


def _hadamard(values: NDArray[Real]) -> None:
    """Multiply `values`, shape `(m,)` with m a power of two, by the normalised Walsh-Hadamard matrix, in place.

    Laid out as a matrix, the transform is one along the columns and one along the rows. Additions alone, in a fixed
    order: the result is the same on every machine, which a matrix product would not promise.
    """
    rows = 1 << ((values.size.bit_length() - 1) // 2)
    matrix = values.reshape(rows, -1)
    _butterflies(matrix)
    _butterflies(matrix.T, 1.0 / math.sqrt(values.size))


def _butterflies(matrix: NDArray[Real], scale: float = 1.0) -> None:
    """Apply the transform along the first axis, in place, a cacheful of columns at a time, and multiply by `scale`.

    Constant geometry: each pass adds and subtracts the two halves and interleaves the results, so after as many passes
    as the row index has bits every row is back in its place and no pass has strides of its own. Every addition is over
    long contiguous rows, also of a transposed matrix, which is turned on its way into the cache and back.
    """
    rows = matrix.shape[0]
    width = min(matrix.shape[1], max(64, _CACHED // rows))
    here, there = np.empty(rows * width), np.empty(rows * width)
    for start in range(0, matrix.shape[1], width):
        part = matrix[:, start : start + width]
        here.reshape(rows, width)[...] = part
        for _ in range(rows.bit_length() - 1):
            upper, lower = here.reshape(2, rows // 2, width)
            interleaved = there.reshape(rows // 2, 2, width)
            np.add(upper, lower, out=interleaved[:, 0])
            np.subtract(upper, lower, out=interleaved[:, 1])
            here, there = there, here
        np.multiply(here.reshape(rows, width), scale, out=part)
