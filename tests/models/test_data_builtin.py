import numpy as np
import pytest

from tacit.models.data import open_source
from tacit.models.data.rows import Column, Source
from tacit.models.errors import InputError

CLASSIFICATION = "tabular-classification"
REGRESSION = "tabular-regression"
IMAGES = "image-classification"


def opened(source: str, task: str) -> Source:
    return open_source(source, task=task, environ={})


def nearest_centre_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    half = len(labels) // 2
    centres = np.stack([features[:half][labels[:half] == kind].mean(axis=0) for kind in np.unique(labels)])
    distances = np.square(features[half:, np.newaxis] - centres).sum(axis=2)
    return float((distances.argmin(axis=1) == labels[half:]).mean())


def test_the_digits_are_images_or_columns_of_the_same_pixels():
    images, table = opened("sklearn:digits", IMAGES), opened("sklearn:digits", CLASSIFICATION)
    assert images.schema.columns == (Column("image", "image", (1, 8, 8)),)
    assert len(table.schema.columns) == 64
    pixels = images.train.columns["image"]
    assert (pixels.dtype, pixels.min(), pixels.max()) == (np.float32, 0.0, 1.0)
    columns = np.stack([table.train.columns[column.name] for column in table.schema.columns], axis=1)
    np.testing.assert_array_equal(pixels.reshape(-1, 64) * 16, columns)
    assert images.schema.classes == table.schema.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("name", "rows", "columns", "classes"),
    [("breast_cancer", 569, 30, ("benign", "malignant")), ("wine", 178, 13, ("class_0", "class_1", "class_2"))],
)
def test_the_tables_of_scikit_learn_have_named_classes(name, rows, columns, classes):
    source = opened(f"sklearn:{name}", CLASSIFICATION)
    assert (len(source.train), len(source.schema.columns), source.schema.classes) == (rows, columns, classes)
    assert sum(source.findings.classes.values()) == rows


def test_diabetes_is_a_regression():
    source = opened("sklearn:diabetes", REGRESSION)
    assert source.train.labels.dtype == np.float64
    assert (len(source.train), len(source.schema.columns), source.schema.classes) == (442, 10, ())
    with pytest.raises(InputError, match="no data for the task 'tabular-classification'; task tabular-regression"):
        opened("sklearn:diabetes", CLASSIFICATION)


@pytest.mark.parametrize(
    ("source", "task"),
    [
        ("synthetic:classification?rows=50&classes=3&seed=4", CLASSIFICATION),
        ("synthetic:regression?rows=50&seed=4", REGRESSION),
        ("synthetic:images?rows=50&seed=4", IMAGES),
    ],
)
def test_made_up_data_depends_on_the_seed_and_on_nothing_else(source, task):
    first, again, other = opened(source, task), opened(source, task), opened(source.replace("=4", "=5"), task)
    assert first.schema == again.schema
    for name, values in first.train.columns.items():
        np.testing.assert_array_equal(values, again.train.columns[name])
        assert not np.array_equal(values, other.train.columns[name])
    np.testing.assert_array_equal(first.train.labels, again.train.labels)


def test_made_up_classes_can_be_learnt():
    source = opened("synthetic:classification?rows=600&features=8&classes=3&seed=1", CLASSIFICATION)
    features = np.stack(list(source.train.columns.values()), axis=1)
    assert features.shape == (600, 8)
    assert source.findings.classes == {"0": 200, "1": 200, "2": 200}
    assert nearest_centre_accuracy(features, source.train.labels) > 0.9


def test_made_up_images_can_be_learnt():
    source = opened("synthetic:images?rows=400&classes=5&size=6", IMAGES)
    pixels = source.train.columns["image"]
    assert (pixels.shape, pixels.dtype) == ((400, 1, 6, 6), np.uint8)
    assert nearest_centre_accuracy(pixels.reshape(400, -1) / 255, source.train.labels) > 0.9


def test_a_made_up_regression_is_linear_up_to_its_noise():
    source = opened("synthetic:regression?rows=2000&features=5&noise=0.1", REGRESSION)
    features = np.stack(list(source.train.columns.values()), axis=1)
    weights, *_ = np.linalg.lstsq(features, source.train.labels, rcond=None)
    residual = source.train.labels - features @ weights
    # 2000 rows estimate a standard deviation to about 1.6 %.
    assert residual.std() == pytest.approx(0.1, rel=0.08)
    assert np.linalg.norm(weights) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    "source",
    [
        "synthetic:classification?rows=1",
        "synthetic:classification?rows=3&classes=4",
        "synthetic:classification?noise=-1",
        "synthetic:classification?features=0",
        "synthetic:classification?size=3",
        "synthetic:classification?seed=x",
    ],
)
def test_impossible_options_are_refused(source):
    with pytest.raises(InputError, match="option"):
        opened(source, CLASSIFICATION)
