import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tacit.models.data import open_source
from tacit.models.data.rows import Source
from tacit.models.errors import InputError

CLASSIFICATION = "tabular-classification"
REGRESSION = "tabular-regression"


def write(path: Path, **columns) -> Path:
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return path


def opened(path: Path, options: str = "", *, task: str = CLASSIFICATION) -> Source:
    return open_source(f"parquet:{path}{options}", task=task, label="y", environ={})


def refused(path: Path, options: str = "") -> str:
    with pytest.raises(InputError) as caught:
        opened(path, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_types_decide_the_kinds_of_columns(tmp_path):
    path = write(
        tmp_path / "a.parquet",
        whole=[1, None, 3],
        real=[0.5, float("nan"), 2.0],
        exact=[Decimal("1.5"), Decimal("2.5"), None],
        text=["1", None, " b "],
        truth=[True, False, None],
        packed=pyarrow.array(["r", "g", None]).dictionary_encode(),
        y=["u", "v", "u"],
    )
    source = opened(path)
    assert {column.name: column.kind for column in source.schema.columns} == {
        "whole": "numeric",
        "real": "numeric",
        "exact": "numeric",
        "text": "categorical",
        "truth": "categorical",
        "packed": "categorical",
    }
    np.testing.assert_array_equal(source.train.columns["whole"], [1.0, np.nan, 3.0])
    np.testing.assert_array_equal(source.train.columns["exact"], [1.5, 2.5, np.nan])
    assert source.train.columns["text"].tolist() == ["1", "", "b"]
    assert source.train.columns["truth"].tolist() == ["true", "false", ""]
    assert source.findings.missing == {"whole": 1, "real": 1, "exact": 1, "text": 1, "truth": 1, "packed": 1}
    assert source.train.labels.tolist() == [0, 1, 0]


def test_kinds_can_be_forced(tmp_path):
    path = write(tmp_path / "a.parquet", code=[1, None, 3], text=["1", "2", "3"], gone=[1, 2, 3], y=[1, 2, 1])
    source = opened(path, "?categorical=code&numeric=text&drop=gone")
    assert source.train.columns["code"].tolist() == ["1", "", "3"]
    assert source.train.columns["text"].tolist() == [1.0, 2.0, 3.0]
    assert source.schema.classes == ("1", "2")


def test_a_regression_drops_rows_without_a_target(tmp_path):
    source = opened(write(tmp_path / "a.parquet", a=[1, 2, 3], y=[0.5, None, 2.0]), task=REGRESSION)
    assert source.train.labels.tolist() == [0.5, 2.0]
    assert source.findings.dropped == {"without a label": 1}


def test_a_folder_is_one_file_per_client_beside_a_test_part(tmp_path):
    write(tmp_path / "y=1" / "b.parquet", a=[3, 4], y=["u", "v"])
    write(tmp_path / "y=1" / "a.parquet", a=[1, 2], y=["u", "v"])
    write(tmp_path / "y=1" / "t.parquet", a=[9], y=["u"])
    source = opened(tmp_path / "y=1", "?test=t.parquet")
    assert source.file_names == ("a.parquet", "b.parquet")
    assert source.files.tolist() == [0, 0, 1, 1]
    assert source.train.columns["a"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert source.test is not None and source.test.columns["a"].tolist() == [9.0]


def test_bad_files_are_refused(tmp_path):
    assert "there is no such file or folder" in refused(tmp_path / "absent.parquet")
    assert "the folder holds no table; files that end in .parquet" in refused(tmp_path)
    whole = write(tmp_path / "a.parquet", a=[1, 2], y=["u", "v"]).read_bytes()
    for length in range(0, len(whole), 11):
        (tmp_path / "cut.parquet").write_bytes(whole[:length])
        assert "cut.parquet: is not a whole Parquet file" in refused(tmp_path / "cut.parquet")
    assert "holds no rows" in refused(write(tmp_path / "b.parquet", a=pyarrow.array([], pyarrow.int8()), y=[]))
    assert "the label has 1 class" in refused(write(tmp_path / "c.parquet", a=[1, 2], y=["u", "u"]))
    assert "unknown label column 'y'" in refused(write(tmp_path / "d.parquet", a=[1, 2], x=["u", "v"]))
    message = refused(write(tmp_path / "e.parquet", a=[1.0, float("inf")], y=["u", "v"]))
    assert "e.parquet: row 1: the value in column 'a' is infinite" in message
    day = datetime.date(2020, 1, 1)
    message = refused(write(tmp_path / "f.parquet", a=[day, day], y=["u", "v"]))
    assert "f.parquet: column 'a' is of type date32[day]; numbers, text or truth values, or drop= it" in message


def test_text_that_is_not_utf_8_is_refused(tmp_path):
    broken = pyarrow.array([b"\xff", b"a"]).view(pyarrow.string())
    assert "holds text that is not UTF-8" in refused(write(tmp_path / "a.parquet", a=broken, y=["u", "v"]))


def test_a_column_that_cannot_be_read_can_be_dropped(tmp_path):
    day = datetime.date(2020, 1, 1)
    source = opened(write(tmp_path / "a.parquet", a=[1, 2], when=[day, day], y=["u", "v"]), "?drop=when")
    assert [column.name for column in source.schema.columns] == ["a"]


def test_files_of_one_folder_must_agree_on_types(tmp_path):
    write(tmp_path / "sites" / "a.parquet", a=[1, 2], y=["u", "v"])
    write(tmp_path / "sites" / "b.parquet", a=["1", "2"], y=["u", "v"])
    assert "b.parquet: column 'a' is of another type" in refused(tmp_path / "sites")
