"""What travels is near the vector, what it loses comes later, and both ends compute the same."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays
from numpy.typing import NDArray

from tacit.models.broadcast import BLOCK, Form, decode, digest, encode, size_of

FORMS: tuple[Form, ...] = ("float16", "int8")
SIZES = st.sampled_from((0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 130 * BLOCK + 5))


@st.composite
def vectors(draw: st.DrawFn) -> NDArray[np.float32]:
    """Blocks of very different sizes, with a few drawn values and many from a normal distribution."""
    size = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    exponents = rng.choice(draw(st.lists(st.integers(-140, 120), min_size=1, max_size=4)), -(-size // BLOCK))
    with np.errstate(under="ignore"):
        vector = np.ldexp(rng.standard_normal(size), np.repeat(exponents, BLOCK)[:size]).astype(np.float32)
    few = draw(numpy_arrays(np.float32, min(size, 5), elements=st.floats(-(2.0**126), 2.0**126, width=32)))
    vector[: few.size] = few
    return vector


def by_block(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Return for each coordinate the value of its block."""
    return np.repeat(values, BLOCK)[:size]


def largest_of_blocks(vector: NDArray[np.float32]) -> NDArray[np.float64]:
    starts = range(0, vector.size, BLOCK)
    return np.array([np.abs(vector[at : at + BLOCK].astype(np.float64)).max() for at in starts])


@given(vectors())
def test_eight_bits_are_off_by_half_a_step_of_their_block(vector: NDArray[np.float32]) -> None:
    arrays, _ = encode(vector, None, "int8")
    off = np.abs(decode(arrays, vector.size).astype(np.float64) - vector)
    steps = largest_of_blocks(vector) / 127
    allowed = np.maximum((0.5 + 2.0**-16) * steps, np.where(steps < 2.0**-125, 2.0**-118, 0))
    assert (off <= by_block(allowed, vector.size)).all()


@given(vectors())
def test_half_precision_is_off_by_its_last_bit_whatever_the_size_of_the_model(vector: NDArray[np.float32]) -> None:
    arrays, _ = encode(vector, None, "float16")
    off = np.abs(decode(arrays, vector.size).astype(np.float64) - vector)
    largest = by_block(largest_of_blocks(vector), vector.size)
    # The scale is at most 2^-14 of the block's largest coordinate.
    allowed = np.maximum(2.0**-11 * np.abs(vector.astype(np.float64)), 2.0**-39 * largest)
    assert (off <= np.maximum(allowed, np.where(largest < 2.0**-110, 2.0**-110, 0))).all()


@pytest.mark.parametrize("form", FORMS)
@given(first=vectors(), rounds=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_what_agents_train_from_and_the_carry_add_up_to_the_models(
    form: Form, first: NDArray[np.float32], rounds: int, seed: int
) -> None:
    rng, vector, carry = np.random.default_rng(seed), first, None
    models, sent = np.zeros(first.size), np.zeros(first.size)
    rounded = np.zeros(first.size)
    for _ in range(rounds):
        arrays, following = encode(vector, carry, form)
        decoded = decode(arrays, vector.size)
        models += vector
        sent += decoded
        wanted = vector.astype(np.float64) + (0 if carry is None else carry)
        # Two float32 operations make a carry: the addition, and a difference that is exact but at a step's very edge.
        rounded += 2.0**-23 * np.abs(wanted) + 2.0**-140
        carry = following
        vector = (vector * rng.uniform(0.9, 1.1)).astype(np.float32)
    assert carry is not None
    slack = rounded + 2.0**-50 * (np.abs(models) + np.abs(sent))
    assert (np.abs(sent + carry - models) <= slack).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_coordinate_below_the_grid_arrives_over_the_rounds(form: Form) -> None:
    vector = np.array([1.0, 0.001, 1e-9], np.float32)
    alone, carry, total = encode(vector, None, "int8")[0], None, np.zeros(3)
    assert decode(alone, 3)[1] == 0
    rounds = 200
    for _ in range(rounds):
        arrays, carry = encode(vector, carry, form)
        total += decode(arrays, 3)
    step = 1 / 127
    assert np.abs(total / rounds - vector).max() <= 0.51 * step / rounds


@pytest.mark.parametrize("form", FORMS)
@given(vector=vectors())
def test_the_same_vector_and_carry_travel_as_the_same_bytes_and_stay_as_they_are(
    form: Form, vector: NDArray[np.float32]
) -> None:
    _, carry = encode(vector, None, form)
    assert carry is not None
    kept = vector.tobytes(), carry.tobytes()
    arrays, lost = encode(vector, carry, form)
    again, lost_again = encode(vector.copy(), carry.copy(), form)
    assert lost is not None and lost_again is not None and lost.tobytes() == lost_again.tobytes()
    assert [values.tobytes() for values in arrays.values()] == [values.tobytes() for values in again.values()]
    assert (vector.tobytes(), carry.tobytes()) == kept


@pytest.mark.parametrize("form", FORMS)
@given(vector=vectors())
def test_the_digest_is_that_of_what_is_trained_from(form: Form, vector: NDArray[np.float32]) -> None:
    arrays, _ = encode(vector, None, form)
    assert digest(arrays) == hashlib.sha256(decode(arrays, vector.size).tobytes()).digest()
    assert digest({"vector": vector}) == hashlib.sha256(vector.tobytes()).digest()
    assert size_of(arrays) == size_of({"vector": vector}) == vector.size


def test_a_vector_that_travels_as_it_is_is_not_copied_and_loses_nothing() -> None:
    vector = np.arange(5, dtype=np.float32)
    arrays, carry = encode(vector, None, "float32")
    assert carry is None and arrays["vector"] is vector and decode(arrays, 5) is vector


def test_where_there_is_no_vector_there_is_no_size_and_the_digest_is_of_nothing() -> None:
    assert size_of({}) is None and digest({}) == hashlib.sha256().digest()


@pytest.mark.parametrize(("form", "bytes_each"), [("float16", 2), ("int8", 1)])
@pytest.mark.parametrize("size", [1, BLOCK, 10 * BLOCK + 1])
def test_a_coordinate_takes_its_code_and_a_thousandth_of_a_scale(form: Form, bytes_each: int, size: int) -> None:
    arrays, _ = encode(np.ones(size, np.float32), None, form)
    assert sum(values.nbytes for values in arrays.values()) == bytes_each * size + 4 * -(-size // BLOCK)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**127, -(2.0**127)])
def test_what_has_no_finite_code_does_not_travel(form: Form, value: float) -> None:
    with pytest.raises(OverflowError):
        encode(np.array([0, value], np.float32), None, form)
    with pytest.raises(OverflowError):
        encode(np.array([0, 2.0**126], np.float32), np.array([0, 2.0**126], np.float32), form)


def strange() -> dict[str, dict[str, NDArray[Any]]]:
    codes, scales = np.ones(BLOCK + 1, np.int8), np.ones(2, np.float32)
    return {
        "nothing": {},
        "no scales": {"codes": codes},
        "no codes": {"scales": scales},
        "too few codes": {"codes": codes[:-1], "scales": scales[:1]},
        "too many codes": {"codes": np.ones(BLOCK + 2, np.int8), "scales": scales},
        "too few scales": {"codes": codes, "scales": scales[:1]},
        "too many scales": {"codes": codes, "scales": np.ones(3, np.float32)},
        "codes of another type": {"codes": codes.astype(np.int16), "scales": scales},
        "codes that are float32": {"codes": codes.astype(np.float32), "scales": scales},
        "scales of another type": {"codes": codes, "scales": scales.astype(np.float16)},
        "two axes": {"codes": codes[:, None], "scales": scales},
        "an infinite scale": {"codes": codes, "scales": np.array([1, np.inf], np.float32)},
        "a scale that is no number": {"codes": codes, "scales": np.array([1, np.nan], np.float32)},
        "an infinite code": {"codes": np.full(BLOCK + 1, np.inf, np.float16), "scales": scales},
        "a product that is infinite": {"codes": 2 * codes, "scales": np.full(2, 3e38, np.float32)},
        "codes beside a vector": {"codes": codes, "vector": np.ones(BLOCK + 1, np.float32)},
    }


@pytest.mark.parametrize("name", strange())
def test_what_is_no_vector_of_finite_numbers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="vector|codes"):
        decode(strange()[name], BLOCK + 1)


@pytest.mark.parametrize("name", strange())
def test_the_digest_of_anything_is_a_digest_or_refused(name: str) -> None:
    try:
        assert len(digest(strange()[name])) == 32
    except ValueError as error:
        assert "codes" in str(error)
