"""A sum is the sum, needs one vector's memory, and stays finite."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.server.aggregation import _CHUNK, WeightedSum

SIZES = st.sampled_from([0, 1, 2, 5, 17])
WHOLE = st.integers(-1000, 1000).map(float)
WEIGHTS = st.integers(0, 1000).map(float)


@st.composite
def contributions(draw: st.DrawFn) -> list[tuple[np.ndarray, float]]:
    size = draw(SIZES)
    vectors = arrays.arrays(np.float32, size, elements=WHOLE)
    return draw(st.lists(st.tuples(vectors, WEIGHTS), min_size=1, max_size=6))


def summed(parts: list[tuple[np.ndarray, float]], dtype: type = np.float32) -> WeightedSum:
    total = WeightedSum(parts[0][0].size, dtype)
    for vector, weight in parts:
        total.add(vector.astype(dtype), weight)
    return total


# Whole numbers of this size are added without rounding (6 * 1000 * 1000 < 2^24), so sums can be compared exactly.


@given(contributions())
def test_the_total_is_the_weighted_sum(parts: list[tuple[np.ndarray, float]]) -> None:
    expected = sum(weight * vector.astype(np.float64) for vector, weight in parts)
    total = summed(parts)
    np.testing.assert_array_equal(total.total(), expected)
    assert total.weight == sum(weight for _, weight in parts)
    assert total.contributions == len(parts)


@given(contributions(), st.randoms())
def test_the_order_of_the_contributions_does_not_matter(parts: list[tuple[np.ndarray, float]], random: object) -> None:
    shuffled = parts.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(summed(parts).total(), summed(shuffled).total())


@given(contributions())
def test_the_mean_is_the_sum_over_the_weight(parts: list[tuple[np.ndarray, float]]) -> None:
    total = summed(parts)
    weight = sum(weight for _, weight in parts)
    if not weight:
        with pytest.raises(ZeroDivisionError):
            total.mean()
        return
    expected = total.total() / np.float32(weight)
    np.testing.assert_array_equal(total.mean(), expected)


@given(arrays.arrays(np.float32, 9, elements=WHOLE), st.integers(1, 1000), st.integers(1, 6))
def test_the_mean_of_equal_vectors_is_that_vector(vector: np.ndarray, weight: int, count: int) -> None:
    np.testing.assert_array_equal(summed([(vector, float(weight))] * count).mean(), vector)


@pytest.mark.parametrize("size", [_CHUNK - 1, _CHUNK, _CHUNK + 1, 3 * _CHUNK + 7])
def test_a_vector_of_several_chunks_is_summed_whole(size: int) -> None:
    vector = (np.arange(size) % 1000).astype(np.float32)
    total = summed([(vector, 2.0), (vector, 3.0)])
    np.testing.assert_array_equal(total.total(), 5 * vector)


def test_statistics_are_summed_in_double_precision() -> None:
    total = summed([(np.array([2.0**30]), 1.0), (np.array([1.0]), 1.0)], np.float64)
    assert total.total()[0] == 2.0**30 + 1


@pytest.mark.parametrize(
    "vector", [np.zeros(4, np.float32), np.zeros((3, 1), np.float32), np.zeros(3), np.zeros(3, int)]
)
def test_a_vector_of_another_shape_or_type_is_refused(vector: np.ndarray) -> None:
    total = WeightedSum(3, np.float32)
    with pytest.raises(ValueError, match="cannot be added to float32 of"):
        total.add(vector)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf, -np.inf])
def test_a_weight_that_is_negative_or_not_finite_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="a weight must be finite and not negative"):
        WeightedSum(2, np.float32).add(np.ones(2, np.float32), weight)


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf])
def test_an_entry_that_is_not_finite_is_refused(entry: float) -> None:
    total = summed([(np.ones(3, np.float32), 1.0)])
    with pytest.raises(ValueError, match="not finite, or too large"):
        total.add(np.array([0, entry, 0], np.float32))
    np.testing.assert_array_equal(total.total(), np.ones(3))
    assert (total.weight, total.contributions) == (1.0, 1)


@given(
    st.lists(
        st.tuples(arrays.arrays(np.float32, 3, elements=st.floats(width=32)), st.floats(0, 1e38)),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_is_added_the_sum_stays_finite_and_a_refusal_leaves_it_as_it_was(
    parts: list[tuple[np.ndarray, float]],
) -> None:
    total = WeightedSum(3, np.float32)
    for vector, weight in parts:
        before = total.total().copy(), total.weight
        try:
            total.add(vector, weight)
        except ValueError:
            np.testing.assert_array_equal(total.total(), before[0])
            assert total.weight == before[1]
        assert np.isfinite(total.total()).all()


def test_opposite_giants_are_refused_too_since_their_order_decides_whether_they_overflow() -> None:
    giant = np.array([1.5e38], np.float32)
    total = summed([(giant, 1.0)])
    with pytest.raises(ValueError, match="too large"):
        total.add(-giant)


def test_the_mean_is_taken_once() -> None:
    total = summed([(np.array([6.0], np.float32), 2.0)])
    assert total.mean()[0] == 6.0
    with pytest.raises(RuntimeError, match="a mean already"):
        total.mean()
    with pytest.raises(ValueError, match="too large"):
        total.add(np.array([1.0], np.float32))


def test_a_sum_of_any_number_of_vectors_holds_one() -> None:
    size = 4_000_000
    vector = np.ones(size, np.float32)
    tracemalloc.start()
    try:
        total = WeightedSum(size, np.float32)
        for _ in range(10):
            total.add(vector, 3.0)
        total.mean()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * vector.nbytes
