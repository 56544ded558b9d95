import numpy as np
import pytest

from tacit.models.data.rows import Column, Schema
from tacit.models.errors import InputError
from tacit.models.features import rows_from_images, rows_from_records
from tacit.models.spelling import nearest, suggestion, unknown

TABLE = Schema((Column("age", "numeric"), Column("job", "categorical")), "y", ("no", "yes"))
GREY = Schema((Column("image", "image", (1, 2, 3)),), "y", ("a", "b"))
COLOUR = Schema((Column("image", "image", (3, 2, 3)),), "y", ("a", "b"))


def test_records_become_rows_without_labels():
    rows = rows_from_records(TABLE, [{"age": 3, "job": " cook "}, {"job": None}, {"age": 2.5}, {}])
    np.testing.assert_array_equal(rows.columns["age"], [3.0, np.nan, 2.5, np.nan])
    assert rows.columns["job"].tolist() == ["cook", "", "", ""]
    assert (len(rows), len(rows.labels)) == (4, 0)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"age": "secret"}, "row 1, column 'age': the value is wrong; a finite number, or null"),
        ({"age": True}, "row 1, column 'age': the value is wrong"),
        ({"age": float("inf")}, "row 1, column 'age': the value is wrong"),
        ({"age": float("nan")}, "row 1, column 'age': the value is wrong"),
        ({"age": 10**400}, "row 1, column 'age': the value is wrong"),
        ({"age": [1]}, "row 1, column 'age': the value is wrong"),
        ({"job": 7}, "row 1, column 'job': the value is wrong; a string, or null"),
        ({"job": ["secret"]}, "row 1, column 'job': the value is wrong"),
        ({"aeg": 7}, "row 1: unknown column 'aeg'; the nearest is 'age'"),
        ({"y": "no"}, "row 1: unknown column 'y'"),
        (["secret"], "row 1: is no record"),
    ],
)
def test_a_faulty_record_is_named_by_row_and_column_and_not_shown(record, message):
    with pytest.raises(InputError) as caught:
        rows_from_records(TABLE, [{"age": 1}, record])
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_records_are_for_tables_and_there_must_be_some():
    with pytest.raises(InputError, match="there are no rows"):
        rows_from_records(TABLE, [])
    with pytest.raises(InputError, match="column 'image': is an image"):
        rows_from_records(GREY, [{"image": [[0]]}])


def test_an_array_becomes_rows_of_images():
    pixels = np.arange(12).reshape(2, 2, 3)
    for array in (pixels, pixels.astype(np.uint8), pixels[:, np.newaxis]):
        values = rows_from_images(GREY, array).columns["image"]
        assert (values.dtype, values.shape) == (np.uint8, (2, 1, 2, 3))
        np.testing.assert_array_equal(values[:, 0], pixels)
    values = rows_from_images(GREY, pixels / 12).columns["image"]
    assert values.dtype == np.float32


@pytest.mark.parametrize(
    ("schema", "array", "message"),
    [
        (TABLE, np.zeros((1, 2, 3)), "the model reads no images; records"),
        (GREY, np.zeros((1, 3, 2)), "column 'image': has the shape (1, 1, 3, 2); (images, 1, 2, 3)"),
        (GREY, np.zeros((0, 2, 3)), "has the shape (0, 1, 2, 3)"),
        (GREY, np.zeros(3), "has the shape (3,)"),
        (COLOUR, np.zeros((1, 2, 3)), "has the shape (1, 2, 3); (images, 3, 2, 3)"),
        (GREY, np.full((2, 2, 3), 256), "row 0, column 'image': has a pixel out of range; levels from 0 to 255"),
        (GREY, np.full((2, 2, 3), -1), "has a pixel out of range"),
        (GREY, np.full((2, 2, 3), np.nan), "has a pixel out of range; finite numbers"),
        (GREY, np.full((2, 2, 3), 1e300), "has a pixel out of range; finite numbers"),
        (GREY, np.full((2, 2, 3), "a"), "does not hold numbers"),
        (GREY, np.full((2, 2, 3), True), "does not hold numbers"),
    ],
)
def test_a_faulty_array_is_refused(schema, array, message):
    with pytest.raises(InputError) as caught:
        rows_from_images(schema, array)
    assert message in str(caught.value)


def test_the_row_of_a_faulty_pixel_is_named():
    pixels = np.zeros((5, 2, 3))
    pixels[3, 1, 1] = np.inf
    with pytest.raises(InputError, match="row 3, column 'image'"):
        rows_from_images(GREY, pixels)


def test_the_nearest_name_is_the_one_that_looks_most_alike():
    assert nearest("Epsilom", ["delta", "epsilon", "rounds"]) == "epsilon"
    assert nearest("x", []) is None


def test_what_nothing_resembles_is_told_what_there_is_instead():
    assert suggestion("label", ["age", "stay", "outcome"]) == "known are 'age', 'stay', 'outcome'"
    assert suggestion("lable", ["label", "age"]) == "the nearest is 'label'"
    assert suggestion("y", ["age", "label_y"]) == "the nearest is 'label_y'"
    assert suggestion("x", ["b"]) == "known is 'b'"
    assert suggestion("x", []) == "none is known"
    assert suggestion("?", [f"column {number}" for number in range(1000)]).endswith("'column 9' and others")


def test_an_unknown_name_stays_on_one_line_and_short():
    text = str(unknown("column", "a\nb" + "c" * 10_000, ["d" * 10_000]))
    assert "\n" not in text
    assert len(text) < 250
