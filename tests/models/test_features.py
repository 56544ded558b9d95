import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.data import open_source
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.features import Features, OneHot, Standardise, fit, statistics, statistics_size
from tacit.models.statistics import HASH_BUCKETS, category_buckets

NUMBERS = Schema((Column("a", "numeric"), Column("b", "numeric")), "y")
JOBS = Schema((Column("job", "categorical"),), "y")
MIXED = Schema((Column("a", "numeric"), Column("job", "categorical"), Column("b", "numeric")), "y", ("no", "yes"))


def numeric(a: list[float], b: list[float]) -> Rows:
    return Rows({"a": np.array(a, dtype=float), "b": np.array(b, dtype=float)})


def jobs(*values: str) -> Rows:
    return Rows({"job": np.array(values, dtype=object)})


def mixed(count: int, seed: int) -> Rows:
    random = np.random.default_rng(seed)
    a = random.normal(5, 3, count)
    a[random.random(count) < 0.1] = np.nan
    job = np.array([f"job {n}" if n else "" for n in random.integers(0, 6, count)], dtype=object)
    return Rows({"a": a, "job": job, "b": random.exponential(1e6, count)}, random.integers(0, 2, count))


@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.one_of(st.floats(-1, 1), st.just(float("nan")))), min_size=2, max_size=50
    )
)
def test_mean_and_standard_deviation_are_those_of_all_rows(table):
    a, b = (np.array(column) for column in zip(*table, strict=True))
    b[0] = 0.5
    for values, encoder in zip((a, b), fit(NUMBERS, statistics(numeric(a, b), NUMBERS)).encoders, strict=True):
        assert isinstance(encoder, Standardise)
        present = values[~np.isnan(values)]
        assert encoder.mean[0] == pytest.approx(present.mean(), rel=1e-9, abs=1e-9 * np.abs(present).max())
        # The variance is a difference: what is left of a spread below a thousandth of the values has fewer digits.
        if present.std() > 1e-3 * np.abs(present).max():
            assert encoder.scale[0] == pytest.approx(present.std(), rel=1e-6)


def test_the_fit_of_a_sum_over_clients_is_the_fit_of_all_rows():
    rows = mixed(500, 1)
    client = np.random.default_rng(2).integers(0, 7, 500)
    parts = [statistics(rows.take(np.flatnonzero(client == number)), MIXED) for number in range(7)]
    together, apart = fit(MIXED, statistics(rows, MIXED)), fit(MIXED, np.sum(parts, axis=0))
    np.testing.assert_allclose(apart.transform(rows), together.transform(rows), rtol=1e-6, atol=1e-6)


def test_transformed_numbers_have_mean_0_and_deviation_1_and_a_missing_one_is_0():
    rows = mixed(2000, 3)
    values = fit(MIXED, statistics(rows, MIXED)).transform(rows)
    assert values.dtype == np.float32
    present = ~np.isnan(rows.columns["a"])
    assert values[present, 0].mean() == pytest.approx(0, abs=1e-6)
    assert values[present, 0].std() == pytest.approx(1, rel=1e-5)
    assert (values[~present, 0] == 0).all()
    assert values[:, -1].std() == pytest.approx(1, rel=1e-5)


def test_a_constant_column_has_scale_1():
    for constant in (0.0, 7.0, 0.1, 1e9, -1e-9):
        rows = numeric([constant] * 30, [1.0, 2.0] * 15)
        features = fit(NUMBERS, statistics(rows, NUMBERS))
        assert features.encoders[0] == Standardise((pytest.approx(constant, rel=1e-12),), (1.0,))
        assert np.abs(features.transform(rows)[:, 0]).max() < 1e-5


def test_a_column_without_any_value_becomes_zeros():
    rows = numeric([np.nan, np.nan], [1.0, 3.0])
    assert fit(NUMBERS, statistics(rows, NUMBERS)).transform(rows).tolist() == [[0, -1], [0, 1]]


def test_extreme_numbers_stay_finite():
    features = fit(NUMBERS, statistics(numeric([0.0, 1.0], [0.0, 1.0]), NUMBERS))
    assert features.transform(numeric([1e308], [-1e308])).tolist() == [[1e6, -1e6]]


def test_a_frequent_category_has_a_slot_and_all_others_share_the_last():
    training = jobs(*["cook"] * 5, *["nurse"] * 6, *["rare"] * 4, "")
    features = fit(JOBS, statistics(training, JOBS), minimum_count=5)
    assert features.input_shape == (3,)
    values = features.transform(jobs("cook", "nurse", "rare", "", "never seen", "cook"))
    other = [0, 0, 1]
    assert values[2:5].tolist() == [other] * 3
    assert values.sum(axis=1).tolist() == [1] * 6
    assert values[0].tolist() == values[5].tolist() != values[1].tolist()
    assert values[:2, 2].tolist() == [0, 0]


def test_the_minimum_count_is_the_one_that_is_asked_for():
    total = statistics(jobs("cook", "nurse", "nurse"), JOBS)
    assert [fit(JOBS, total, minimum_count=count).input_shape for count in (1, 2, 3)] == [(3,), (2,), (1,)]
    with pytest.raises(InputError, match="minimum_count is 0"):
        fit(JOBS, total, minimum_count=0)


def test_columns_stand_side_by_side_in_the_order_of_the_schema():
    rows = mixed(200, 4)
    features = fit(MIXED, statistics(rows, MIXED))
    values = features.transform(rows)
    assert values.shape == (200, *features.input_shape) == (200, 1 + (5 + 1) + 1)
    assert set(np.unique(values[:, 1:7])) == {0.0, 1.0}
    # job 1 to job 5 have a slot each, a missing job has the last.
    assert values[:, 6].astype(bool).tolist() == (rows.columns["job"] == "").tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_are_standardised_by_channel(dtype):
    random = np.random.default_rng(5)
    pixels = random.integers(0, 256, (3000, 2, 3, 3))
    pixels[:, 1] //= 4
    pixels = pixels.astype(np.uint8) if dtype is np.uint8 else (pixels / 255).astype(np.float32)
    rows = Rows({"image": pixels})
    schema = Schema((Column("image", "image", (2, 3, 3)),), "y")
    features = fit(schema, statistics(rows, schema))
    values = features.transform(rows)
    assert (features.input_shape, values.shape, values.dtype) == ((2, 3, 3), (3000, 2, 3, 3), np.float32)
    scaled = pixels / 255 if dtype is np.uint8 else pixels.astype(float)
    mean, deviation = scaled.mean(axis=(0, 2, 3), keepdims=True), scaled.std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(values, (scaled - mean) / deviation, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_features_read_from_json_transform_bit_for_bit_alike(seed, count):
    rows = mixed(count, seed)
    features = fit(MIXED, statistics(rows, MIXED), minimum_count=2)
    again = Features.from_json_dict(json.loads(json.dumps(features.to_json_dict())))
    assert again == features
    assert again.digest == features.digest
    assert again.transform(rows).tobytes() == features.transform(rows).tobytes()


def test_features_of_images_read_from_json_are_the_same():
    schema = Schema((Column("image", "image", (1, 2, 2)),), "y", ("a", "b"))
    features = Features(schema, (Standardise((0.1,), (0.3,)),))
    assert Features.from_json_dict(json.loads(json.dumps(features.to_json_dict()))) == features


def test_the_digest_depends_on_every_number():
    features = Features(JOBS, (OneHot((1, 2)),))
    assert features.digest != Features(JOBS, (OneHot((1, 3)),)).digest
    # Sorted keys, no spaces: a change of this form would orphan every saved model.
    canonical = (
        '{"encoders":[{"buckets":[1,2],"kind":"one-hot"}],"schema":{"classes":[],'
        '"columns":[{"kind":"categorical","name":"job","shape":[]}],"label":"y"},"version":1}'
    )
    assert features.digest == hashlib.sha256(canonical.encode()).hexdigest()


def test_no_category_of_the_rows_is_in_the_json():
    rows = jobs(*["astronaut"] * 9)
    assert "astronaut" not in json.dumps(fit(JOBS, statistics(rows, JOBS)).to_json_dict())


def changed(path: tuple, value: object) -> object:
    document = Features(
        MIXED, (Standardise((1.0,), (2.0,)), OneHot((3, 9)), Standardise((0.0,), (1.0,)))
    ).to_json_dict()
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("version",), "1"),
        (("version",), KeyError),
        (("extra",), 1),
        (("encoders",), []),
        (("encoders", 0, "mean"), ["1.0"]),
        (("encoders", 0, "mean"), [1.0, 2.0]),
        (("encoders", 0, "mean"), [float("nan")]),
        (("encoders", 0, "mean"), 1.0),
        (("encoders", 0, "mean"), [True]),
        (("encoders", 0, "mean"), [10**400]),
        (("encoders", 0, "scale"), [0.0]),
        (("encoders", 0, "scale"), [-1.0]),
        (("encoders", 0, "scale"), [float("inf")]),
        (("encoders", 0, "kind"), "one-hot"),
        (("encoders", 0), {"kind": "one-hot", "buckets": [1]}),
        (("encoders", 1), {"kind": "standardise", "mean": [0.0], "scale": [1.0]}),
        (("encoders", 1, "buckets"), [3, 3]),
        (("encoders", 1, "buckets"), [9, 3]),
        (("encoders", 1, "buckets"), [-1]),
        (("encoders", 1, "buckets"), [HASH_BUCKETS]),
        (("encoders", 1, "buckets"), [1.0]),
        (("encoders", 1, "names"), ["secret"]),
        (("schema", "columns"), []),
        (("schema", "columns", 0, "kind"), "text"),
        (("schema", "columns", 0, "kind"), "image"),
        (("schema", "columns", 0, "shape"), [1, 2, 3]),
        (("schema", "columns", 0, "name"), "job"),
        (("schema", "columns", 0, "name"), ""),
        (("schema", "label"), "job"),
        (("schema", "classes"), ["one"]),
        (("schema", "classes"), ["one", "one"]),
        (("schema", "classes"), [1, 2]),
    ],
)
def test_json_that_is_not_exactly_right_is_refused_in_one_line(path, value):
    with pytest.raises(InputError) as caught:
        Features.from_json_dict(changed(path, value))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("document", [None, [], "features", 7, {}])
def test_something_else_than_features_is_refused(document):
    with pytest.raises(InputError, match="^features: "):
        Features.from_json_dict(document)


def test_an_image_of_absurd_size_is_refused():
    schema = {"columns": [{"name": "i", "kind": "image", "shape": [1 << 20, 1 << 20, 3]}], "label": "y", "classes": []}
    document = {"version": 1, "schema": schema, "encoders": []}
    with pytest.raises(InputError, match="too large"):
        Features.from_json_dict(document)


def test_an_image_stands_alone():
    schema = Schema((Column("image", "image", (1, 2, 2)), Column("a", "numeric")), "y")
    rows = Rows({"image": np.zeros((1, 1, 2, 2), dtype=np.uint8), "a": np.zeros(1)})
    with pytest.raises(InputError, match="an image beside other columns"):
        fit(schema, statistics(rows, schema))


TOTAL = statistics(mixed(100, 6), MIXED)
JOB = 3 + int(category_buckets("job", np.array(["job 1"], dtype=object))[0])


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, -1, "column 'a': has an impossible count; from 0 to 100"),
        (0, 101, "column 'a': has an impossible count"),
        (1, np.nan, "holds a value that is not finite"),
        (2, np.inf, "holds a value that is not finite"),
        (2, -1, "column 'a': has an impossible sum of squares"),
        (2, 0.5 * TOTAL[1] ** 2 / TOTAL[0], "column 'a': has an impossible sum of squares"),
        (JOB, -1, "column 'job': has an impossible count"),
        (JOB, 101, "column 'job': has an impossible count"),
        (-3, 0, "counts no rows"),
        (-3, -100, "counts no rows"),
        (-2, -1, "has an impossible count of a class"),
        (-1, 101, "has an impossible count of a class"),
    ],
)
def test_a_total_that_no_rows_could_have_is_refused(index, value, message):
    total = TOTAL.copy()
    total[index] = value
    with pytest.raises(InputError) as caught:
        fit(MIXED, total)
    assert message in str(caught.value)


def test_a_total_of_another_length_is_refused():
    with pytest.raises(InputError, match=rf"is of shape \(3,\); \({statistics_size(MIXED)},\)"):
        fit(MIXED, np.zeros(3))


@given(st.integers(0, 2**32))
def test_a_total_that_was_rounded_to_fixed_point_still_fits(seed):
    noise = np.random.default_rng(seed).uniform(-1e-4, 1e-4, len(TOTAL))
    rows = mixed(100, 6)
    np.testing.assert_allclose(
        fit(MIXED, TOTAL + noise).transform(rows), fit(MIXED, TOTAL).transform(rows), rtol=1e-3, atol=1e-4
    )


def test_rows_that_lack_a_column_are_refused():
    features = Features(NUMBERS, (Standardise((0.0,), (1.0,)), Standardise((0.0,), (1.0,))))
    with pytest.raises(InputError, match="column 'b': the rows do not have it"):
        features.transform(Rows({"a": np.zeros(1)}))


@pytest.mark.skipif("TACIT_DATA" not in os.environ, reason="TACIT_DATA names no folder with real data")
@pytest.mark.slow
def test_fashion_mnist_has_the_mean_and_deviation_that_are_quoted_for_it():
    source = open_source("idx:${TACIT_DATA}/fashion-mnist", task="image-classification", environ=os.environ)
    features = fit(source.schema, statistics(source.train, source.schema))
    values = features.transform(source.train)
    assert values.std(dtype=np.float64) == pytest.approx(1.0, abs=1e-6)
    assert features.encoders[0] == Standardise((pytest.approx(0.2860, abs=1e-4),), (pytest.approx(0.3530, abs=1e-4),))
