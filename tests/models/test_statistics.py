import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.statistics import HASH_BUCKETS, category_buckets, class_counts, row_count, statistics, statistics_size

MIXED = Schema((Column("age", "numeric"), Column("job", "categorical"), Column("pay", "numeric")), "y", ("no", "yes"))
PICTURES = Schema((Column("image", "image", (2, 3, 4)),), "y", ("a", "b", "c"))

numbers = st.one_of(st.floats(-1e6, 1e6), st.just(float("nan")))
mixed_rows = st.lists(
    st.tuples(numbers, st.text(max_size=4), numbers, st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=40
)


def mixed(table: list[tuple]) -> Rows:
    age, job, pay, label = (list(column) for column in list(zip(*table, strict=True))[:4])
    return Rows(
        {"age": np.array(age, dtype=float), "job": np.array(job, dtype=object), "pay": np.array(pay, dtype=float)},
        np.array(label, dtype=np.int64),
    )


def pictures(dtype: type, count: int, seed: int) -> Rows:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, 2, 3, 4)) if dtype is np.uint8 else random.normal(size=(count, 2, 3, 4))
    return Rows({"image": pixels.astype(dtype)}, random.integers(0, 3, count))


@given(mixed_rows)
def test_the_clients_statistics_add_up_to_those_of_all_rows_however_the_rows_are_spread(table):
    rows = mixed(table)
    client = np.array([row[4] for row in table])
    parts = [statistics(rows.take(np.flatnonzero(client == number)), MIXED) for number in range(4)]
    # A sum of numbers of both signs may cancel: its error is relative to the sum of their sizes, below 4e7.
    np.testing.assert_allclose(np.sum(parts, axis=0), statistics(rows, MIXED), rtol=1e-9, atol=1e-7)


@given(st.sampled_from([np.uint8, np.float32]), st.integers(1, 30), st.integers(0, 30), st.integers(0, 2**32))
def test_the_statistics_of_images_add_up_too(dtype, count, cut, seed):
    rows = pictures(dtype, count, seed)
    order = np.arange(count)
    parts = [statistics(rows.take(part), PICTURES) for part in (order[:cut], order[cut:])]
    np.testing.assert_allclose(parts[0] + parts[1], statistics(rows, PICTURES), rtol=1e-9, atol=1e-9)


def test_every_number_is_where_the_definition_puts_it():
    rows = mixed([(1.0, "x", float("nan"), 1), (3.0, "", 2.0, 0), (float("nan"), "x", -2.0, 1)])
    total = statistics(rows, MIXED)
    assert len(total) == statistics_size(MIXED) == 3 + HASH_BUCKETS + 3 + 1 + 2
    assert total[:3].tolist() == [2, 4, 10]
    job = total[3 : 3 + HASH_BUCKETS]
    assert (job.sum(), job.max()) == (2, 2)
    assert total[-6:].tolist() == [2, 0, 8, 3, 1, 2]
    assert row_count(MIXED, total) == 3
    assert class_counts(MIXED, total).tolist() == [1, 2]


def test_a_pixel_is_a_share_of_the_brightest_if_it_is_a_byte_and_itself_if_it_is_a_float():
    pixels = np.array([[0, 255], [51, 102]], dtype=np.uint8).reshape(1, 1, 2, 2)
    schema = Schema((Column("image", "image", (1, 2, 2)),), "y")
    for values in (pixels, (pixels / 255).astype(np.float32)):
        total = statistics(Rows({"image": values}), schema)
        # 0, 1, 1/5 and 2/5
        np.testing.assert_allclose(total, [4, 1.6, 1.2, 1], rtol=1e-7)


def test_channels_are_counted_apart_and_in_order():
    pixels = np.zeros((5, 2, 3, 4), dtype=np.float32)
    pixels[:, 1] = 2.0
    total = statistics(Rows({"image": pixels}, np.zeros(5, dtype=np.int64)), PICTURES)
    assert total[:6].tolist() == [60, 0, 0, 60, 120, 240]


def test_a_client_without_rows_sends_zeros_of_the_same_length():
    empty = mixed([(1.0, "x", 1.0, 1)]).take(np.array([], dtype=np.int64))
    assert statistics(empty, MIXED).tolist() == [0.0] * statistics_size(MIXED)
    assert statistics(pictures(np.uint8, 0, 0), PICTURES).tolist() == [0.0] * statistics_size(PICTURES)


@given(mixed_rows)
def test_statistics_hold_numbers_only_and_their_length_tells_nothing_about_the_rows(table):
    total = statistics(mixed(table), MIXED)
    assert total.dtype == np.float64
    assert total.shape == (statistics_size(MIXED),)


def test_a_bucket_is_the_sha_256_of_the_column_and_the_value():
    content = b"tacit/category/v1\0" + (3).to_bytes(8, "big") + b"job" + "Köchin".encode()
    expected = int(hashlib.sha256(content).hexdigest()[:16], 16) % 4096
    values = np.array(["Köchin", "", "Köchin"], dtype=object)
    assert category_buckets("job", values).tolist() == [expected, -1, expected]


def test_a_value_has_another_bucket_in_another_column():
    values = np.array([f"value {n}" for n in range(100)], dtype=object)
    assert (category_buckets("a", values) != category_buckets("b", values)).sum() > 95
    # The length of the name keeps name and value apart.
    assert category_buckets("ab", np.array(["c"], dtype=object)) != category_buckets(
        "a", np.array(["bc"], dtype=object)
    )


def test_values_spread_evenly_over_the_buckets():
    values = np.array([str(n) for n in range(16 * HASH_BUCKETS)], dtype=object)
    counts = np.bincount(category_buckets("code", values), minlength=HASH_BUCKETS)
    # Chi-square with 4095 degrees of freedom: mean 4095, standard deviation sqrt(2 * 4095) = 90.5; five of them.
    assert np.square(counts - 16).sum() / 16 == pytest.approx(4095, abs=5 * 90.5)


def test_half_a_surrogate_pair_has_a_bucket_like_any_text():
    assert 0 <= category_buckets("job", np.array(["\ud800"], dtype=object))[0] < HASH_BUCKETS


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"age": [1.0]}, "column 'job': the rows do not have it"),
        ({"age": [1.0], "job": [1.0]}, "column 'job': holds float64 of shape"),
        ({"age": ["a"], "job": ["b"]}, "column 'age': holds <U1 of shape"),
        ({"age": [[1.0]], "job": ["b"]}, "column 'age': holds float64 of shape"),
        ({"age": [float("inf")], "job": np.array(["b"], dtype=object)}, "column 'age': its sums are not finite"),
        ({"age": [1e200], "job": np.array(["b"], dtype=object)}, "column 'age': its sums are not finite"),
    ],
)
def test_rows_that_do_not_fit_the_schema_are_refused(columns, message):
    schema = Schema((Column("age", "numeric"), Column("job", "categorical")), "y")
    with pytest.raises(InputError) as caught:
        statistics(Rows({name: np.array(values) for name, values in columns.items()}), schema)
    assert message in str(caught.value)


def test_pixels_of_another_width_and_rows_without_labels_are_refused():
    with pytest.raises(InputError, match="uint8 or float32 pixels"):
        statistics(Rows({"image": np.zeros((1, 2, 3, 4), dtype=np.uint16)}, np.zeros(1, dtype=np.int64)), PICTURES)
    with pytest.raises(InputError, match="1 rows have 0 labels; one label a row"):
        statistics(Rows({"image": np.zeros((1, 2, 3, 4), dtype=np.uint8)}), PICTURES)
