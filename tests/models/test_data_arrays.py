import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from tacit.models.data import open_source
from tacit.models.data.idx_files import read_idx
from tacit.models.data.rows import Column, Source
from tacit.models.errors import InputError

IMAGES = "image-classification"
CLASSIFICATION = "tabular-classification"
REGRESSION = "tabular-regression"


def opened(source: str, task: str = IMAGES) -> Source:
    return open_source(source, task=task, environ={})


def refused(source: str, task: str = IMAGES) -> str:
    with pytest.raises(InputError) as caught:
        opened(source, task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray, end: str = "") -> None:
    for content, values in (("images", images), ("labels", labels)):
        name = f"{part}-{content}-idx{values.ndim}-ubyte{end}"
        data = idx(values.astype(np.uint8))
        (folder / name).write_bytes(gzip.compress(data) if end else data)


PICTURES = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([7, 3, 7, 10])


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_hold_images_of_one_channel_and_numbered_classes(tmp_path, end):
    write_idx(tmp_path, "train", PICTURES, LABELS, end)
    write_idx(tmp_path, "t10k", PICTURES[:1], LABELS[1:2], end)
    source = opened(f"idx:{tmp_path}")
    assert source.schema.columns == (Column("image", "image", (1, 2, 3)),)
    assert source.schema.classes == ("3", "7", "10")
    assert source.train.labels.tolist() == [1, 0, 1, 2]
    np.testing.assert_array_equal(source.train.columns["image"][:, 0], PICTURES)
    assert source.test is not None and source.test.labels.tolist() == [0]
    assert source.findings.classes == {"3": 1, "7": 2, "10": 1}


def test_idx_classes_can_be_fixed_for_an_owner_who_holds_one_of_them(tmp_path):
    write_idx(tmp_path, "train", PICTURES[:1], LABELS[:1])
    source = opened(f"idx:{tmp_path}?classes=3,7,10")
    assert source.train.labels.tolist() == [1]
    assert source.test is None


def test_an_idx_file_that_is_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "file"
    for whole in (idx(PICTURES), gzip.compress(idx(PICTURES))):
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match="file: "):
                read_idx(path, dimensions=3)
        path.write_bytes(whole)
        np.testing.assert_array_equal(read_idx(path, dimensions=3), PICTURES)


def test_an_idx_header_that_promises_a_huge_array_is_refused_before_anything_is_allocated(tmp_path):
    (tmp_path / "file").write_bytes(bytes((0, 0, 8, 3)) + b"\xff" * 12 + b"12")
    with pytest.raises(InputError, match="is truncated"):
        read_idx(tmp_path / "file", dimensions=3)


def test_faulty_idx_folders_are_refused(tmp_path):
    assert "there is no such folder" in refused(f"idx:{tmp_path}/absent")
    assert "train-images-idx3-ubyte is missing" in refused(f"idx:{tmp_path}")
    write_idx(tmp_path, "train", PICTURES, LABELS[:3])
    assert "holds 3 labels for 4 images" in refused(f"idx:{tmp_path}")
    write_idx(tmp_path, "train", PICTURES, np.array([5, 5, 5, 5]))
    assert "the label has 1 class; at least two classes" in refused(f"idx:{tmp_path}")
    write_idx(tmp_path, "train", PICTURES[:0], LABELS[:0])
    assert "holds no pixels" in refused(f"idx:{tmp_path}")
    write_idx(tmp_path, "train", PICTURES, LABELS)
    write_idx(tmp_path, "t10k", PICTURES.reshape(4, 3, 2), LABELS)
    assert "training and test images differ in size" in refused(f"idx:{tmp_path}")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PICTURES) + b"1")
    assert "is longer than its header says" in refused(f"idx:{tmp_path}")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(LABELS.astype(np.uint8)))
    assert "has no header of the idx format" in refused(f"idx:{tmp_path}")
    assert "has no data for the task" in refused(f"idx:{tmp_path}", CLASSIFICATION)


@pytest.mark.skipif("TACIT_DATA" not in os.environ, reason="TACIT_DATA names no folder with real data")
def test_fashion_mnist_opens_from_its_raw_files():
    source = opened(f"idx:{os.environ['TACIT_DATA']}/fashion-mnist")
    assert source.findings.classes == {str(n): 6000 for n in range(10)}
    assert source.train.columns["image"].shape == (60000, 1, 28, 28)
    assert source.test is not None and np.bincount(source.test.labels).tolist() == [1000] * 10


def test_a_matrix_becomes_numeric_columns(tmp_path):
    x = np.array([[1, np.nan], [3, 4], [5, 6]])
    np.savez(tmp_path / "a.npz", x=x, y=[1, 0, 1], x_test=x[:1], y_test=[[0]])
    source = opened(f"npz:{tmp_path}/a.npz", CLASSIFICATION)
    assert [column.name for column in source.schema.columns] == ["x0", "x1"]
    np.testing.assert_array_equal(source.train.columns["x1"], x[:, 1])
    assert source.findings.missing == {"x1": 1}
    assert source.train.labels.tolist() == [1, 0, 1]
    assert source.test is not None and source.test.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("y", "classes", "labels"),
    [
        (np.array(["b", "a", "b"]), ("a", "b"), [1, 0, 1]),
        (np.array([True, False, True]), ("False", "True"), [1, 0, 1]),
        (np.array([10.0, 9.0, 10.0]), ("9", "10"), [1, 0, 1]),
        (np.array([0.5, 0.25, 0.5]), ("0.25", "0.5"), [1, 0, 1]),
    ],
)
def test_labels_of_any_plain_type_become_classes(tmp_path, y, classes, labels):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 1)), y=y)
    source = opened(f"npz:{tmp_path}/a.npz", CLASSIFICATION)
    assert (source.schema.classes, source.train.labels.tolist()) == (classes, labels)


def test_a_regression_has_float_targets_and_drops_rows_without_one(tmp_path):
    np.savez(tmp_path / "a.npz", x=[[1], [2], [3]], y=[0.5, np.nan, 2])
    source = opened(f"npz:{tmp_path}/a.npz", REGRESSION)
    assert source.train.labels.tolist() == [0.5, 2.0]
    assert source.train.columns["x0"].tolist() == [1.0, 3.0]
    assert source.findings.dropped == {"without a label": 1}


def test_arrays_of_images_may_have_their_channels_first_last_or_none(tmp_path):
    random = np.random.default_rng(1)
    colour = random.integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
    for x, expected in (
        (colour, colour),
        (np.moveaxis(colour, 1, 3), colour),
        (colour[:, 0], colour[:, :1]),
        (colour.astype(np.int64), colour),
    ):
        np.savez(tmp_path / "a.npz", x=x, y=LABELS)
        pixels = opened(f"npz:{tmp_path}/a.npz").train.columns["image"]
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, expected)


def test_float_pixels_stay_as_they_are(tmp_path):
    x = np.linspace(-1, 1, 4 * 6).reshape(4, 2, 3)
    np.savez(tmp_path / "a.npz", x=x, y=LABELS)
    pixels = opened(f"npz:{tmp_path}/a.npz").train.columns["image"]
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[:, 0], x.astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [[1.0], [2.0]]}, "has no array y"),
        ({"y": [1, 2]}, "has no array x"),
        ({"x": [[1.0], [2.0]], "y": [0, 1], "x_test": [[1.0]]}, "has one of x_test and y_test"),
        ({"x": [[1.0], [2.0]], "y": [0, 1], "x_test": [[1.0, 2.0]], "y_test": [1]}, "x_test has another shape"),
        ({"x": [1.0, 2.0], "y": [0, 1]}, "x: has the shape (2,)"),
        ({"x": np.zeros((0, 3)), "y": []}, "x: has the shape (0, 3)"),
        ({"x": [["a"], ["b"]], "y": [0, 1]}, "x: does not hold numbers"),
        ({"x": [[1j], [2]], "y": [0, 1]}, "x: does not hold numbers"),
        ({"x": [[1.0], [2.0]], "y": [0, 1, 0]}, "y: has the shape (3,); (2,)"),
        ({"x": [[1.0], [2.0]], "y": [b"a", b"b"]}, "y: does not hold labels"),
        ({"x": [[1.0, 2.0], [3.0, np.inf]], "y": [0, 1]}, "x: row 1, column 1: is infinite"),
        ({"x": [[1.0], [2.0]], "y": [1, 1]}, "the label has 1 class"),
        ({"x": np.zeros((2, 2, 2)), "y": [0, 1]}, "has no data for the task"),
    ],
)
def test_faulty_archives_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **{name: np.array(value) for name, value in arrays.items()})
    assert message in refused(f"npz:{tmp_path}/a.npz", CLASSIFICATION)


def test_pixels_out_of_range_are_refused(tmp_path):
    for value, message in ((256, "whole-number pixel out of range"), (-1, "whole-number pixel out of range")):
        np.savez(tmp_path / "a.npz", x=np.full((4, 2, 2), value), y=LABELS)
        assert message in refused(f"npz:{tmp_path}/a.npz")
    np.savez(tmp_path / "a.npz", x=np.full((4, 2, 2), np.nan), y=LABELS)
    assert "has a pixel that is no finite number" in refused(f"npz:{tmp_path}/a.npz")


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


def test_nothing_is_ever_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("objects.npz", x=np.array([[Trap()], [Trap()]], dtype=object), y=[0, 1])
    Path("pickle.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("objects", "pickle"):
        assert "is truncated, or no archive of plain arrays" in refused(f"npz:{name}.npz", CLASSIFICATION)
    assert not Path("unpickled").exists()


def test_an_archive_that_is_cut_anywhere_or_of_another_format_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", x=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2)
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        assert "is truncated" in refused(f"npz:{tmp_path}/cut.npz", CLASSIFICATION)
    np.save(tmp_path / "single.npy", np.zeros(3))
    assert "no archive" in refused(f"npz:{tmp_path}/single.npy", CLASSIFICATION)
    assert "there is no such file" in refused(f"npz:{tmp_path}/absent.npz", CLASSIFICATION)
