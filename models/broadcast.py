"""How the global vector travels to agents: as it is, or in fewer bytes, with what that loses made up for later.

The vector is cut into blocks of `BLOCK` coordinates, the last one shorter. Block b has a scale `s_b`, and a coordinate
c travels as a code k, from which everybody computes `s_b k` in float32:

- `int8`: `s_b = max |c| / 127`, and `k` is `c / s_b` rounded to the nearest integer, ties to even: block-wise and
  symmetric (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization", section 2). The error is at most half
  a scale, but for float32's own rounding: `(1/2 + 2^-16) s_b`.
- `float16`: `s_b` is the power of two that brings `max |c|` into `[2^14, 2^15)`, so that nothing overflows and nothing
  vanishes because the whole model is small; `k` is the nearest half-precision number. The error is at most `2^-11 |c|`,
  or `2^-25 s_b` if that is more.

A block whose scale would be no normal float32 number travels as zeros: all of it is below 2^-110.

Error feedback (Seide et al. 2014, "1-bit stochastic gradient descent", section 2; Karimireddy et al. 2019, "Error
feedback fixes SignSGD", algorithm 2): round t sends `q_t = Q(w_t + e_t)` and carries `e_(t+1) = w_t + e_t - q_t`, from
`e_1 = 0`. So `q_1 + ... + q_T = w_1 + ... + w_T - e_(T+1)`: what agents trained from adds up to the models themselves,
but for one rounding, and a change that is too small for one round's grid arrives over several. One round is off by
`e_t - e_(t+1)`, at most two roundings. All arithmetic is float32's, coordinate by coordinate, so that it is the same on
every machine; `w_t + e_t` loses float32's last bit.

What comes out follows from models that are released anyway, and from nothing else, so it costs no privacy
(post-processing). What agents return is relative to `q_t` and is applied to `w_t`, which is never rounded: added to
`q_t`, every round's rounding would stay in the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tacit.models.messages import all_finite, float32_vector

Form: TypeAlias = Literal["float32", "float16", "int8"]
Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""A vector as it travels: `vector`, or `codes` and `scales`; empty for none."""

BLOCK: Final = 1024  # coordinates that share a scale
VECTOR, CODES, SCALES = "vector", "codes", "scales"

_PIECE: Final = 128 * BLOCK  # coordinates that are worked on at a time: half a megabyte
_LARGEST: Final = 2.0**127
_SMALLEST_SCALE: Final = np.finfo(np.float32).tiny


def encode(
    vector: NDArray[np.float32], carry: NDArray[np.float32] | None, form: Form
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32] | None]:
    """Return a vector of shape `(parameters,)` as it travels, and what the next round's makes up for.

    Args:
        vector: the global vector, w.
        carry: what the last round's quantiser has lost, e, shape `(parameters,)`; None for nothing.
        form: what a coordinate travels as. "float32" loses nothing, takes no carry and copies nothing.

    Raises:
        OverflowError: a coordinate is not finite, or 2^127 and more in size.
    """
    if form == "float32":
        return {VECTOR: vector}, None
    codes = np.empty(vector.size, dtype=form)
    scales = np.empty(_blocks(vector.size), dtype=np.float32)
    lost = np.empty(vector.size, dtype=np.float32)
    for start in range(0, vector.size, _PIECE):
        span = slice(start, start + _PIECE)
        with np.errstate(over="ignore", invalid="ignore"):
            wanted = vector[span] if carry is None else vector[span] + carry[span]
        largest = np.maximum.reduceat(np.abs(wanted), np.arange(0, wanted.size, BLOCK))
        if not (largest < _LARGEST).all():
            raise OverflowError("the vector cannot travel: a coordinate is not finite, or beyond 2^127")
        scale = _scales(largest, form)
        scales[start // BLOCK : start // BLOCK + scale.size] = scale
        spread = _spread(scale, wanted.size)
        ratio = np.divide(wanted, spread, out=np.zeros_like(wanted), where=spread > 0)
        codes[span] = np.rint(ratio) if form == "int8" else ratio
        np.subtract(wanted, _values(codes[span], spread), out=lost[span])
    return {CODES: codes, SCALES: scales}, lost


def decode(arrays: Arrays, size: int) -> NDArray[np.float32]:
    """Return the vector that everybody trains from, shape `(size,)`; one that travels as it is comes without a copy.

    Raises:
        ValueError: no such vector of `size` finite coordinates came.
    """
    if CODES not in arrays:
        _check_one_form(arrays)
        return float32_vector(arrays, VECTOR, size)
    if size_of(arrays) != size:
        raise ValueError(f"the vector has {size_of(arrays)} coordinates, not {size}")
    decoded = np.empty(size, dtype=np.float32)
    for at, piece in enumerate(_pieces(arrays)):
        decoded[at * _PIECE : at * _PIECE + piece.size] = piece
    if not all_finite(decoded):
        raise ValueError("the vector holds a value that is not finite")
    return decoded


def digest(arrays: Arrays) -> bytes:
    """Return the SHA-256 of the vector that everybody trains from, however it travels; of nothing if there is none.

    It never holds the whole vector, so that it can be asked of what a stranger sent.

    Raises:
        ValueError: the arrays are no vector, or more than one.
    """
    _check_one_form(arrays)
    hashed = hashlib.sha256()
    if CODES in arrays:
        for piece in _pieces(arrays):
            hashed.update(piece.data)
    elif VECTOR in arrays:
        hashed.update(np.ascontiguousarray(arrays[VECTOR]).data)
    return hashed.digest()


def size_of(arrays: Arrays) -> int | None:
    """Return how many coordinates a vector has, None if there is none."""
    found = arrays.get(CODES, arrays.get(VECTOR))
    return None if found is None else int(found.size)


def _check_one_form(arrays: Arrays) -> None:
    """Refuse a vector that comes in two forms: one would be in the digest that everybody agrees on, one be used."""
    if {VECTOR, CODES} <= set(arrays) or set(arrays) - {VECTOR, CODES, SCALES}:
        raise ValueError(f"a vector comes as {VECTOR!r} alone, or as {CODES!r} and {SCALES!r}")


def _pieces(arrays: Arrays) -> Iterator[NDArray[np.float32]]:
    """Yield the decoded vector piece by piece."""
    _check_one_form(arrays)
    codes, scales = arrays[CODES], arrays.get(SCALES)
    if codes.dtype not in (np.int8, np.float16) or codes.ndim != 1:
        raise ValueError(f"codes are int8 or float16 in a row, not {codes.dtype} of shape {codes.shape}")
    if scales is None or scales.dtype != np.float32 or scales.shape != (_blocks(codes.size),):
        raise ValueError(f"{codes.size} codes have a float32 scale for every {BLOCK} of them")
    with np.errstate(over="ignore", invalid="ignore"):  # a stranger's numbers
        for start in range(0, codes.size, _PIECE):
            part = codes[start : start + _PIECE]
            yield _values(part, _spread(scales[start // BLOCK : (start + _PIECE) // BLOCK], part.size))


def _values(codes: NDArray[Any], spread: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.multiply(codes, spread, dtype=np.float32)


def _scales(largest: NDArray[np.float32], form: Form) -> NDArray[np.float32]:
    """Return the scales of blocks by their largest size; 0 for those that travel as zeros."""
    if form == "int8":
        scale = largest / np.float32(127)
    else:
        scale = np.ldexp(np.float32(1), np.frexp(largest)[1] - 15)
    return np.where((scale >= _SMALLEST_SCALE) & (largest > 0), scale, np.float32(0))


def _spread(scales: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return each coordinate's scale."""
    return np.repeat(scales, BLOCK)[:size]


def _blocks(size: int) -> int:
    return -(-size // BLOCK)
