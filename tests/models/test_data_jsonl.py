import csv
import gzip
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tacit.models.data import jsonl_files, open_source
from tacit.models.data.rows import Column, Schema, Source
from tacit.models.errors import InputError

CLASSIFICATION = "tabular-classification"
REGRESSION = "tabular-regression"


def opened(
    path: Path, options: str = "", *, task: str = CLASSIFICATION, label: str = "y", agreed: Schema | None = None
) -> Source:
    return open_source(f"jsonl:{path}{options}", task=task, label=label, environ={}, agreed=agreed)


def refused(path: Path, options: str = "", *, task: str = CLASSIFICATION) -> str:
    with pytest.raises(InputError) as caught:
        opened(path, options, task=task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kinds(source: Source) -> dict[str, str]:
    return {column.name: column.kind for column in source.schema.columns}


@pytest.fixture
def lines(tmp_path):
    def write(*rows: object, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def test_numbers_make_numeric_columns_and_text_and_truth_values_categorical_ones(lines):
    path = lines({"age": 31, "job": " cook", "old": True, "y": "u"}, {"age": 2.5e1, "job": "1", "old": False, "y": "v"})
    source = opened(path)
    assert kinds(source) == {"age": "numeric", "job": "categorical", "old": "categorical"}
    assert source.train.columns["age"].tolist() == [31.0, 25.0]
    assert source.train.columns["job"].tolist() == ["cook", "1"]
    assert source.train.columns["old"].tolist() == ["true", "false"]
    assert source.schema.classes == ("u", "v")


def test_keys_that_are_left_out_null_and_the_usual_marks_are_missing_values(lines):
    path = lines({"y": 0, "late": 7}, {"a": 1, "y": 1}, {"a": None, "b": "?", "y": 0}, {"a": 2, "b": "x", "y": 1})
    source = opened(path)
    assert source.findings.missing == {"a": 2, "b": 3, "late": 3}
    np.testing.assert_array_equal(source.train.columns["a"], [np.nan, 1.0, np.nan, 2.0])
    assert source.train.columns["b"].tolist() == ["", "", "", "x"]
    assert opened(path, "?na=x").train.columns["b"].tolist() == ["", "", "?", ""]


def test_the_order_of_keys_means_nothing(lines):
    one = opened(lines({"b": 1, "a": 2, "y": "u"}, {"y": "v", "a": 3, "b": 4}))
    other = opened(lines({"y": "u", "a": 2}, {"a": 3, "b": 4, "y": "v"}, name="other.jsonl"))
    assert one.schema == other.schema
    assert [column.name for column in one.schema.columns] == ["a", "b"]


def test_the_kind_of_a_column_is_decided_over_all_rows(lines):
    rows = [{"a": n, "y": n % 2} for n in range(20)]
    path = lines(*rows, {"a": "secret", "y": 1})
    message = refused(path)
    assert "rows.jsonl: line 21: the value in column 'a' is not a number, as nearly all others are" in message
    assert "secret" not in message
    assert kinds(opened(path, "?categorical=a")) == {"a": "categorical"}
    assert kinds(opened(lines({"a": 1, "y": 1}, {"a": "3+", "y": 2}))) == {"a": "categorical"}


def test_a_row_without_a_label_is_dropped_and_counted(lines):
    source = opened(lines({"a": 1, "y": 0.5}, {"a": 2}, {"a": 3, "y": None}, {"a": 4, "y": 2}), task=REGRESSION)
    assert source.train.labels.tolist() == [0.5, 2.0]
    assert source.findings.dropped == {"without a label": 2}


def test_a_folder_is_one_file_per_client_and_a_file_may_lack_a_key(lines, tmp_path):
    lines({"a": 1, "b": 5, "y": "u"}, {"a": 2, "y": "v"}, name="sites/north.jsonl")
    lines({"a": 3, "y": "u"}, name="sites/south.jsonl.gz")
    lines({"b": 9, "y": "v"}, name="sites/test.ndjson")
    source = opened(tmp_path / "sites", "?test=test.ndjson")
    assert source.file_names == ("north.jsonl", "south.jsonl.gz")
    assert source.files.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(source.train.columns["b"], [5.0, np.nan, np.nan])
    assert source.test is not None and source.test.columns["b"].tolist() == [9.0]


def test_a_key_of_the_test_part_that_the_training_part_lacks_is_refused(lines):
    path = lines({"size": 1, "y": "u"}, {"size": 2, "y": "v"})
    lines({"sise": 1, "y": "u"}, name="test.jsonl")
    assert "test.jsonl: unknown column 'sise'; the nearest is 'size'" in refused(path, "?test=test.jsonl")


def test_only_the_columns_that_are_asked_for_are_read(lines):
    path = lines({"a": 1, "tags": ["x"], "y": "u"}, {"a": 2, "tags": {}, "y": "v"})
    source = opened(path, "?columns=a,never,y")
    assert kinds(source) == {"a": "numeric", "never": "numeric"}
    assert source.findings.missing == {"never": 2}
    assert kinds(opened(path, "?drop=tags")) == {"a": "numeric"}


def test_the_agreed_dictionary_fills_what_one_owner_never_had(lines):
    agreed = Schema((Column("job", "categorical"), Column("age", "numeric")), "y", ("sick", "well"))
    source = opened(lines({"age": "30", "y": "well", "own": [1]}), agreed=agreed)
    assert kinds(source) == {"job": "categorical", "age": "numeric"}
    assert source.schema.classes == agreed.classes
    assert source.train.columns["job"].tolist() == [""]
    source = opened(lines({"age": 30, "job": "7", "y": "well"}), "?drop=job", agreed=agreed)
    assert kinds(source) == {"age": "numeric"}


GOOD = {"a": 1, "y": "u"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": "secret", "y":', "line 2: is no JSON object; one object a line"),
        ('["secret"]', "line 2: is no JSON object"),
        ('"secret"', "line 2: is no JSON object"),
        ('{"a": 1} {"secret": 1}', "line 2: is no JSON object"),
        ('{"a": NaN, "y": "secret"}', "line 2: is no JSON object"),
        ('{"a": -Infinity, "y": "secret"}', "line 2: is no JSON object"),
        ('{"a": "secret\\ud800"}', "line 2: is no JSON object"),
        ("[" * 100_000, "line 2: is no JSON object"),
        ('{"a":' * 100_000, "line 2: is no JSON object"),
        ('{"y": "u", "secret": [1]}', "line 2: the value of key 2 is nested; numbers, text"),
        ('{"y": "u", "a": {"secret": 1}}', "line 2: the value of key 2 is nested"),
        ('{"y": "u", "a": []}', "line 2: the value of key 2 is nested"),
        ('{"secret": 1, "a": 1, "secret ": 2}', "line 2: key 3 occurs twice; each key once"),
        ('{"a": 1, " ": "secret"}', "line 2: key 2: is no name"),
        ('{"a": 1, "sec\\nret": 1}', "line 2: key 2: is no name"),
        ('{"a": 1, "' + "secret" * 200 + '": 1}', "line 2: key 2: is no name"),
        ('{"a": 1e999, "y": "v"}', "line 2: the value in column 'a' is infinite"),
        (f'{{"a": 1{"0" * 5000}, "y": "v"}}', "line 2: the value in column 'a' is infinite"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_not_shown(lines, line, message):
    said = refused(lines(GOOD, line))
    assert f"rows.jsonl: {message}" in said
    assert "secret" not in said


def test_a_line_without_end_is_refused_before_it_is_read(lines, monkeypatch):
    monkeypatch.setattr(jsonl_files, "MAX_LINE_CHARACTERS", 100)
    assert "line 2: is too long; at most 100 characters" in refused(lines(GOOD, '{"a": "' + "x" * 1000 + '"}'))
    at_most = '{"y": "v", "a": "2"}'.ljust(99)
    assert len(opened(lines(GOOD, at_most)).train) == 2


def test_keys_that_are_data_do_not_become_columns_for_ever(lines, monkeypatch):
    monkeypatch.setattr(jsonl_files, "MAX_KEYS", 3)
    said = refused(lines(GOOD, {"secret1": 1}, {"secret2": 1}))
    assert "line 3: key 1: names one column too many; at most 3 columns" in said and "secret" not in said


def test_blank_lines_are_passed_over_and_still_counted(lines):
    assert "line 4: is no JSON object" in refused(lines(GOOD, "", "  ", "{"))


def test_files_that_are_missing_empty_truncated_or_no_text_are_refused(lines, tmp_path):
    assert "there is no such file or folder" in refused(tmp_path / "absent.jsonl")
    assert "the folder holds no table; files that end in .jsonl, .ndjson" in refused(tmp_path)
    assert "rows.jsonl: holds no rows" in refused(lines())
    assert "rows.jsonl: holds no rows" in refused(lines("", ""))
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xff"}\n')
    assert "latin.jsonl: is not UTF-8 text" in refused(tmp_path / "latin.jsonl")
    whole = lines(*[{"a": n, "y": n % 3} for n in range(300)], name="whole.jsonl.gz").read_bytes()
    for length in range(2, len(whole), 37):
        (tmp_path / "cut.jsonl.gz").write_bytes(whole[:length])
        assert "cut.jsonl.gz: " in refused(tmp_path / "cut.jsonl.gz")


def test_json_lines_serve_no_image_task(lines):
    assert "has no data for the task 'image-classification'" in refused(lines(GOOD), task="image-classification")


VALUES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8)
TABLES = st.lists(
    st.fixed_dictionaries({"y": st.sampled_from("uv")}, optional={name: VALUES for name in "abc"}), min_size=1
)


@given(TABLES)
def test_rows_mean_the_same_whether_they_are_written_as_json_lines_or_as_csv(rows):
    rows = [*rows, {"y": "u", "a": 1, "b": 1, "c": 1}, {"y": "v"}]
    words = {True: "true", False: "false", None: ""}
    table = io.StringIO()
    writer = csv.writer(table, quoting=csv.QUOTE_ALL)
    writer.writerow("abcy")
    for row in rows:
        values = [row.get(name) for name in "abcy"]
        writer.writerow([words[v] if isinstance(v, bool) or v is None else v for v in values])
    with TemporaryDirectory() as folder:
        (Path(folder) / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (Path(folder) / "rows.csv").write_text(table.getvalue(), newline="")
        found = []
        for scheme in ("jsonl", "csv"):
            try:
                source = open_source(f"{scheme}:{folder}/rows.{scheme}", task=CLASSIFICATION, label="y", environ={})
            except InputError as error:
                found.append(error.what)
            else:
                found.append((source.schema, source.findings, *(source.train.columns[n].tolist() for n in "abc")))
    assert repr(found[0]) == repr(found[1])


@given(st.binary(max_size=60) | st.text('{}[]":,ay1\n \\u0e-', max_size=60).map(str.encode))
@example(b'{"a":1,"y":1}\n{"a":2,"y":2}')
@example(b"\x1f\x8b")
def test_any_bytes_are_rows_or_bad_input_in_one_line(content):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "any.jsonl"
        path.write_bytes(content)
        try:
            source = opened(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert len(source.train) > 0 and len(source.schema.classes) >= 2
