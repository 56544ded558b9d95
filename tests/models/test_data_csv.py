import gzip
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tacit.models.data import open_source
from tacit.models.data.rows import Source
from tacit.models.errors import InputError

CLASSIFICATION = "tabular-classification"
REGRESSION = "tabular-regression"
ADULT_NAMES = (
    "age,workclass,fnlwgt,education,education_num,marital_status,occupation,relationship,race,sex,capital_gain,"
    "capital_loss,hours_per_week,native_country,income"
)


def opened(path: Path, options: str = "", *, task: str = CLASSIFICATION, label: str = "y") -> Source:
    return open_source(f"csv:{path}{'?' if options else ''}{options}", task=task, label=label, environ={})


def kinds(source: Source) -> dict[str, str]:
    return {column.name: column.kind for column in source.schema.columns}


@pytest.fixture
def table(tmp_path):
    def write(text: str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def refused(path: Path, options: str = "", *, task: str = CLASSIFICATION, label: str = "y") -> str:
    with pytest.raises(InputError) as caught:
        opened(path, options, task=task, label=label)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_columns_of_numbers_are_numeric_and_others_categorical(table):
    source = opened(table("a,b,y\n1, red,yes\n2.5e1,blue ,no\n-3,1,yes\n"))
    assert kinds(source) == {"a": "numeric", "b": "categorical"}
    assert source.train.columns["a"].tolist() == [1.0, 25.0, -3.0]
    assert source.train.columns["b"].tolist() == ["red", "blue", "1"]
    assert source.schema.classes == ("no", "yes")
    assert source.train.labels.tolist() == [1, 0, 1]


def test_missing_values_are_nan_or_empty_and_counted(table):
    source = opened(table("a,b,y\n1,?,u\nNA,x,v\n NaN ,,u\n,n/a,v\n"))
    assert np.isnan(source.train.columns["a"]).tolist() == [False, True, True, True]
    assert source.train.columns["b"].tolist() == ["", "x", "", ""]
    assert source.findings.missing == {"a": 3, "b": 3}
    assert (source.findings.rows, source.findings.columns) == (4, 2)
    assert source.findings.classes == {"u": 2, "v": 2}


def test_na_replaces_the_list_of_missing_values(table):
    source = opened(table("a,b,y\n-,NA,u\n1,x,v\n"), "na=-")
    assert np.isnan(source.train.columns["a"]).tolist() == [True, False]
    assert source.train.columns["b"].tolist() == ["NA", "x"]


def test_compression_a_byte_order_mark_and_windows_line_ends_do_not_show(table):
    text = "\ufeffa,y\r\n1,u\r\n2,v\r\n"
    for name in ("plain.csv", "packed.csv.gz"):
        source = opened(table(text, name))
        assert kinds(source) == {"a": "numeric"}
        assert source.train.labels.tolist() == [0, 1]


def test_quoted_fields_may_hold_separators_and_line_breaks(table):
    source = opened(table('a,y\n"one, two",u\n"three\nfour", v\n'))
    assert source.train.columns["a"].tolist() == ["one, two", "three\nfour"]


@pytest.mark.parametrize(
    ("separator", "option"), [("  ", "space"), ("\t", "tab"), (";", ";"), (";", "semicolon"), ("|", "|")]
)
def test_fields_may_be_separated_by_something_else(table, separator, option):
    text = "".join(separator.join(row) + "\n" for row in (("a", "b", "y"), ("1", "r", "u"), ("2", "g", "v")))
    assert kinds(opened(table(text), f"sep={option}")) == {"a": "numeric", "b": "categorical"}


def test_a_file_without_a_header_has_numbered_columns_or_given_names(table):
    path = table("1,u\n2,v\n")
    assert kinds(opened(path, "header=none", label="column2")) == {"column1": "numeric"}
    assert kinds(opened(path, "header=none&names=size,y")) == {"size": "numeric"}
    assert kinds(opened(table("p,q\n1,u\n2,v\n"), "names=size,y")) == {"size": "numeric"}


def test_lines_that_begin_with_the_comment_mark_are_skipped_and_still_counted(table):
    path = table("|1x3 something\n1,u\n2\n")
    assert "table.csv: line 3: has 1 fields; 2 fields" in refused(path, "header=none&names=a,y&comment=|")


def test_a_column_can_be_forced_to_a_kind_or_dropped(table):
    source = opened(table("a,b,c,y\n1,1,1,u\n2,2,2,v\n"), "categorical=a&drop=c")
    assert kinds(source) == {"a": "categorical", "b": "numeric"}
    assert source.train.columns["a"].tolist() == ["1", "2"]


def test_a_column_without_any_value_is_numeric_and_all_missing(table):
    source = opened(table("a,b,y\n,1,u\n?,1,v\n"))
    assert kinds(source) == {"a": "numeric", "b": "numeric"}
    assert source.findings.missing == {"a": 2}


def test_classes_that_are_numbers_are_in_numeric_order(table):
    source = opened(table("a,y\n1,10\n1,9\n1,-1\n"))
    assert source.schema.classes == ("-1", "9", "10")
    assert source.train.labels.tolist() == [2, 1, 0]


def test_classes_can_be_fixed_in_an_order_even_if_not_all_occur(table):
    source = opened(table("a,y\n1,u\n2,u\n"), "classes=v,u")
    assert source.schema.classes == ("v", "u")
    assert source.train.labels.tolist() == [1, 1]


def test_a_full_stop_behind_the_test_labels_is_stripped_if_the_training_labels_have_none(table):
    table("a,y\n3,u.\n4,v.\n", "test.csv")
    source = opened(table("a,y\n1,u\n2,v\n"), "test=test.csv")
    assert source.test is not None and source.test.labels.tolist() == [0, 1]
    source = opened(table("a,y\n1,u.\n2,v.\n"), "test=test.csv")
    assert source.schema.classes == ("u.", "v.")
    assert source.test is not None and source.test.labels.tolist() == [0, 1]


def test_the_test_part_has_the_kinds_of_the_training_part(table):
    table("y,a,b\nu,7,5\n", "test.csv")
    source = opened(table("a,b,y\n1,x,u\n2,z,v\n"), "test=test.csv")
    assert source.test is not None
    assert source.test.columns["a"].tolist() == [7.0]
    assert source.test.columns["b"].tolist() == ["5"]


def test_rows_without_a_target_are_dropped_and_counted(table):
    table("a,y\n1,\n2,1\n", "test.csv")
    source = opened(table("a,y\n1,0.5\n2,NA\n3,2\n"), "test=test.csv", task=REGRESSION)
    assert source.schema.classes == ()
    assert source.train.labels.tolist() == [0.5, 2.0]
    assert source.train.columns["a"].tolist() == [1.0, 3.0]
    assert source.test is not None and source.test.labels.tolist() == [1.0]
    assert source.findings.dropped == {"without a label": 1, "without a label, in the test part": 1}


def test_rows_without_a_class_are_dropped_and_counted(table):
    source = opened(table("a,y\n1,u\n2,?\n3,v\n"))
    assert source.train.columns["a"].tolist() == [1.0, 3.0]
    assert source.findings.dropped == {"without a label": 1}


def test_a_folder_is_one_file_per_client(table, tmp_path):
    table("a,y\n1,u\n2,v\n", "sites/north.csv")
    table("y,a\n,9\nv,3\n", "sites/south.csv.gz")
    table("a,y\n8,u\n", "sites/test.csv")
    table("not a table", "sites/README.md")
    source = opened(tmp_path / "sites", "test=test.csv")
    assert source.file_names == ("north.csv", "south.csv.gz")
    assert source.files.tolist() == [0, 0, 1]
    assert source.train.columns["a"].tolist() == [1.0, 2.0, 3.0]
    assert source.test is not None and len(source.test) == 1


def test_a_single_file_has_no_file_index(table):
    source = opened(table("a,y\n1,u\n2,v\n"))
    assert len(source.files) == 0 and source.file_names == ()


def test_a_constant_column_is_no_fault(table):
    assert opened(table("a,y\n5,u\n5,v\n")).train.columns["a"].tolist() == [5.0, 5.0]


def test_garbage_among_numbers_is_named_by_line_and_column_and_not_shown(table):
    rows = "".join(f"{n},{'u' if n % 2 else 'v'}\n" for n in range(20))
    message = refused(table("a,y\n" + rows + "secret,u\n"))
    assert "table.csv: line 22: the value in column 'a' is not a number" in message
    assert "categorical=a" in message
    assert "secret" not in message
    assert kinds(opened(table("a,y\n" + rows + "secret,u\n"), "categorical=a")) == {"a": "categorical"}


def test_a_column_that_is_often_no_number_is_categorical(table):
    assert kinds(opened(table("a,y\n1,u\n2,v\n3+,u\n"))) == {"a": "categorical"}


def test_an_identifier_with_an_underscore_is_no_number(table):
    assert kinds(opened(table("a,y\n1_0,u\n2_0,v\n"))) == {"a": "categorical"}


@pytest.mark.parametrize("value", ["inf", "-Infinity", "1e999"])
def test_an_infinite_value_is_refused(table, value):
    message = refused(table(f"a,y\n1,u\n{value},v\n"))
    assert "line 3: the value in column 'a' is infinite" in message
    assert value not in message.replace("infinite", "")


def test_classes_make_no_sense_for_a_regression(table):
    assert "option classes: a regression has no classes" in refused(
        table("a,y\n1,1\n2,2\n"), "classes=1,2", task=REGRESSION
    )


def test_an_infinite_or_garbled_target_is_refused(table):
    assert "line 3: the value in column 'y' is infinite; a finite number" in refused(
        table("a,y\n1,1\n2,inf\n"), task=REGRESSION
    )
    message = refused(table("a,y\n1,1\n2,high\n"), task=REGRESSION)
    assert "line 3: the value in column 'y' is not a number" in message
    assert "categorical" not in message


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", "", "table.csv: holds no rows"),
        ("a,y\n", "", "table.csv: holds no rows"),
        ("\n\n", "", "table.csv: holds no rows"),
        ("a,y\n1,u\n2\n", "", "table.csv: line 3: has 1 fields; 2 fields"),
        ("a,y\n1,u,7\n", "", "table.csv: line 2: has 3 fields; 2 fields"),
        ("a,y\n1,u\n", "", "the label has 1 class; at least two classes"),
        ("a,y\n1,\n", "", "the label has 0 classes; at least two classes"),
        ("a,label_y\n1,u\n2,v\n", "", "unknown label column 'y'; the nearest is 'label_y'"),
        ("1,u\n2,v\n", "", "its first line holds numbers; header=none"),
        ("a,a,y\n1,1,u\n", "", "table.csv: line 1: two columns have the same name"),
        ('a,y\n"1,u\n', "", "is not well-formed CSV"),
        ("y\nu\nv\n", "", "there is no feature column"),
        ("a,y\n1,u\n2,v\n", "numeric=b", "option numeric: unknown column 'b'; known are 'a', 'y'"),
        ("a,y\n1,u\n2,v\n", "drop=aa", "option drop: unknown column 'aa'; the nearest is 'a'"),
        ("a,y\n1,u\n2,v\n", "drop=y", "option drop: names the label"),
        ("a,y\n1,u\n2,v\n", "numeric=a&categorical=a", "column 'a' is both"),
        ("a,y\nx,u\n2,v\n", "numeric=a", "line 2: the value in column 'a' is not a number"),
        ("a,y\n1,u\n2,v\n", "classes=u,w", "line 3: the label is none of the classes; one of 2 classes"),
        ("a,y\n1,u\n2,v\n", "classes=u", "the label has 1 class"),
        ("a,y\n1,u\n2,v\n", "sep=comma-ish", "option sep: is no separator"),
        ("a,y\n1,u\n2,v\n", "header=yes", "option header: is not understood"),
        ("a,y\n1,u\n2,v\n", "test=absent.csv", "option test: absent.csv: there is no such file"),
    ],
)
def test_bad_input_is_one_line_that_says_where_and_what_would_be_right(table, text, options, message):
    assert message in refused(table(text), options)


def test_a_label_with_a_thousand_values_is_no_class(table):
    rows = "".join(f"1,{n}\n" for n in range(1001))
    assert "1001 distinct values; at most 1000 classes, or a regression" in refused(table("a,y\n" + rows))


def test_a_test_label_that_was_never_trained_is_refused_without_showing_it(table):
    table("a,y\n1,zebra\n", "test.csv")
    message = refused(table("a,y\n1,u\n2,v\n"), "test=test.csv")
    assert "test.csv: line 2: the label is none of the classes" in message
    assert "zebra" not in message


def test_a_file_that_is_missing_or_no_text_is_refused(table, tmp_path):
    assert "there is no such file or folder" in refused(tmp_path / "absent.csv")
    (tmp_path / "latin.csv").write_bytes(b"a,y\n\xff\xfe,u\n")
    assert "latin.csv: is not UTF-8 text" in refused(tmp_path / "latin.csv")


def test_a_truncated_compressed_file_is_refused_wherever_it_ends(tmp_path):
    whole = gzip.compress(("a,y\n" + "".join(f"{n},{n % 3}\n" for n in range(300))).encode())
    for length in range(2, len(whole), 37):
        (tmp_path / "cut.csv.gz").write_bytes(whole[:length])
        assert "cut.csv.gz: " in refused(tmp_path / "cut.csv.gz")


def test_a_folder_without_tables_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("nothing here")
    assert "the folder holds no table; files that end in .csv" in refused(tmp_path)


def test_files_of_one_folder_must_have_the_same_columns(table, tmp_path):
    table("a,y\n1,u\n2,v\n", "sites/north.csv")
    table("aa,y\n1,u\n", "sites/south.csv")
    message = refused(tmp_path / "sites")
    assert "south.csv: has no column 'a'" in message
    table("a,b,y\n1,2,u\n", "sites/south.csv")
    assert "south.csv: unknown column 'b'; known are 'a'" in refused(tmp_path / "sites")


def test_a_table_serves_no_image_task(table):
    message = refused(table("a,y\n1,u\n2,v\n"), task="image-classification")
    assert "has no data for the task 'image-classification'; task tabular-classification or" in message


@given(st.binary(max_size=60) | st.text('ay,1\n"; u?.e_\0', max_size=60).map(str.encode))
@example(b"a,y\n1,\xff\n")
@example(b'y,a\n"\n')
@example(b"\x1f\x8b")
def test_any_bytes_are_a_table_or_bad_input_in_one_line(content):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "any.csv"
        path.write_bytes(content)
        try:
            source = opened(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert len(source.train) > 0 and len(source.schema.classes) >= 2


needs_data = pytest.mark.skipif("TACIT_DATA" not in os.environ, reason="TACIT_DATA names no folder with real data")


@needs_data
def test_adult_opens_from_its_raw_files():
    data = Path(os.environ["TACIT_DATA"]) / "adult"
    source = opened(data / "adult.data", f"header=none&names={ADULT_NAMES}&test=adult.test", label="income")
    assert source.schema.classes == ("<=50K", ">50K")
    assert (len(source.train), source.test and len(source.test)) == (32561, 16281)
    # The counts that the UCI page gives.
    assert source.findings.classes == {"<=50K": 24720, ">50K": 7841}
    assert source.findings.missing == {"workclass": 1836, "occupation": 1843, "native_country": 583}
    numeric = {name for name, kind in kinds(source).items() if kind == "numeric"}
    assert numeric == {"age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"}


@needs_data
def test_german_credit_opens_from_its_raw_file():
    path = Path(os.environ["TACIT_DATA"]) / "german-credit" / "german.data"
    source = opened(path, "header=none&sep=space", label="column21")
    assert source.findings.classes == {"1": 700, "2": 300}
    assert sum(kind == "numeric" for kind in kinds(source).values()) == 7
    assert sum(kind == "categorical" for kind in kinds(source).values()) == 13


@needs_data
@pytest.mark.slow
def test_beijing_air_opens_as_one_client_a_station():
    path = Path(os.environ["TACIT_DATA"]) / "beijing-air"
    source = opened(path, "drop=No", task=REGRESSION, label="PM2.5")
    assert len(source.file_names) == len(list(path.glob("*.csv.gz")))
    assert np.bincount(source.files).tolist() == [35064] * len(source.file_names)
    assert {name for name, kind in kinds(source).items() if kind == "categorical"} == {"wd", "station"}
    assert np.isfinite(source.train.labels).all()
