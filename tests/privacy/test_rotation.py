"""Rotation: orthogonal, invertible, linear, and it really flattens."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard

from tacit.privacy.errors import PrivacyError
from tacit.privacy.rotation import coordinate_bound, rotate, unrotate

SEED = bytes(range(32))

sizes = st.integers(1, 700)
seeds = st.integers(0, 2**32 - 1)


@given(sizes, seeds)
def test_unrotating_undoes_the_rotation_and_lengths_stay(size: int, seed: int) -> None:
    vector = np.random.default_rng(seed).normal(size=size)
    rotated = rotate(vector, seed.to_bytes(32, "big"))
    assert rotated.shape == vector.shape
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(vector), rel=1e-12)
    unrotate(rotated, seed.to_bytes(32, "big"))
    assert rotated == pytest.approx(vector, abs=1e-12)


@given(sizes, seeds)
def test_a_vector_of_float32_comes_back_but_for_a_few_roundings(size: int, seed: int) -> None:
    vector = np.random.default_rng(seed).normal(size=size)
    rotated = rotate(vector, SEED).astype(np.float32)
    unrotate(rotated, SEED)
    # Five roundings of half a unit in the last place: of the input, and twice in each of two windows; the transforms
    # keep lengths, so that what one rounding does stays as long as it was.
    assert np.linalg.norm(rotated - vector) <= 5 * 2.0**-24 * np.linalg.norm(vector) * 1.01 + 1e-30


def test_undoing_a_rotation_takes_no_second_vector() -> None:
    rotated = np.ones(3 << 19, dtype=np.float32)  # 6 MB
    unrotate(rotated[:10], SEED)  # whatever is made once
    tracemalloc.start()
    try:
        unrotate(rotated, SEED)
        assert tracemalloc.get_traced_memory()[1] < rotated.nbytes / 4
    finally:
        tracemalloc.stop()


@given(sizes, seeds)
def test_the_sum_of_rotated_vectors_is_the_rotated_sum(size: int, seed: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, size))
    assert rotate(first, SEED) + rotate(second, SEED) == pytest.approx(rotate(first + second, SEED), abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 8, 64, 512, 2048])
def test_a_power_of_two_is_one_hadamard_matrix_times_signs(size: int) -> None:
    matrix = np.array([rotate(unit, SEED) for unit in np.eye(size)]).T * math.sqrt(size)
    signs = matrix[0] / hadamard(size)[0]
    assert set(np.round(signs, 9)) <= {-1.0, 1.0}
    assert np.allclose(matrix, hadamard(size) * signs, atol=1e-9)
    if size >= 64:
        assert abs(signs.mean()) < 5 / math.sqrt(size)


@pytest.mark.parametrize("size", [1000, 1024, 1025, 65_000])
@pytest.mark.parametrize("place", [0, -1])
def test_a_single_spike_is_spread_within_the_bound(size: int, place: int) -> None:
    spike = np.zeros(size)
    spike[place] = 3.0
    flat = np.abs(rotate(spike, SEED))
    window = 2 ** math.floor(math.log2(size))
    assert flat.max() <= coordinate_bound(3.0, size)
    assert flat.max() < 3.0 * 6 / math.sqrt(window)


def test_the_coordinate_bound_is_hoeffdings_over_all_coordinates() -> None:
    bound = coordinate_bound(2.0, 1000, log2_failure=-40.0)
    assert 1000 * 2 * math.exp(-(bound**2) * 512 / (2 * 2.0**2)) == pytest.approx(2.0**-40)


def test_another_seed_is_another_rotation_and_the_input_is_left_alone() -> None:
    vector = np.ones(100, dtype=np.float32)
    assert not np.allclose(rotate(vector, SEED), rotate(vector, bytes(32)))
    assert np.array_equal(vector, np.ones(100))


@pytest.mark.parametrize("vector", [np.zeros(0), np.zeros((2, 2))])
def test_only_vectors_are_rotated(vector: np.ndarray) -> None:
    with pytest.raises(PrivacyError, match="rotation is of a vector"):
        rotate(vector, SEED)


def test_a_seed_of_another_length_is_refused() -> None:
    with pytest.raises(PrivacyError, match="32 bytes"):
        rotate(np.zeros(4), b"short")
