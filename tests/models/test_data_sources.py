import subprocess
import sys
from pathlib import Path

import pytest

from tacit.models.data import open_source
from tacit.models.data.options import listed, parse_address, real_number, whole_number, written
from tacit.models.data.rows import Column, Schema
from tacit.models.errors import InputError

TABULAR = "tabular-classification"
IMAGES = "image-classification"

CONNECTOR = """
import numpy as np
from tacit.models.data.assemble import Part, assemble
from tacit.models.data.rows import Column

def open_echo(location, options, *, task, label):
    part = Part({"x": np.arange(4.0)}, np.arange(4) % 2, place=lambda row: f"row {row}")
    return assemble((Column("x", "numeric"),), part, None, task=task, label=label, where=location)
"""


def install(folder: Path, scheme: str, target: str) -> None:
    (folder / "echo_connector.py").write_text(CONNECTOR)
    metadata = folder / "echo_connector-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-connector\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[tacit.connectors]\n{scheme} = {target}\n")


def test_a_variable_in_the_location_and_in_an_option_comes_from_the_environment(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,a\n2,b\n")
    (tmp_path / "b.csv").write_text("x,y\n3,a\n")
    environ = {"DATA": str(tmp_path), "TEST": "b"}
    source = open_source("csv:${DATA}/a.csv?test=${DATA}/${TEST}.csv", task=TABULAR, label="y", environ=environ)
    assert len(source.train) == 2
    assert source.test is not None and source.test.columns["x"].tolist() == [3.0]


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(InputError, match="TACIT_DATA is not set"):
        open_source("csv:${TACIT_DATA}/a.csv", task=TABULAR, environ={"OTHER": "1"})


def test_what_a_variable_holds_never_becomes_an_option():
    address = parse_address("csv:${DIR}/a.csv?sep=${SEP}", {"DIR": "/d?header=none", "SEP": ";&drop=x"})
    assert address.location == "/d?header=none/a.csv"
    assert dict(address.options) == {"sep": ";&drop=x"}


def test_an_address_does_not_show_what_a_variable_held():
    assert "hunter2" not in repr(parse_address("csv:${SECRET}", {"SECRET": "hunter2"}))


def test_an_option_value_may_hold_percent_escapes_equals_signs_and_question_marks():
    assert parse_address("csv:a?na=?,NA&classes=<=50K,>50K&sep=%26", {}).options == {
        "na": "?,NA",
        "classes": "<=50K,>50K",
        "sep": "&",
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data/train.csv", "names no scheme"),
        (":data", "names no scheme"),
        ("csv:", "names no location"),
        ("csv:?sep=tab", "names no location"),
        ("csv:a?sep", "an option has no name or no value"),
        ("csv:a?=tab", "an option has no name or no value"),
        ("csv:a?sep=tab&sep=space", "'sep' is given twice"),
        ("csv:${A", r"\$\{ is not followed by a name"),
        ("csv:${A-B}", r"\$\{ is not followed by a name"),
        ("csv:a?separator=tab", "unknown option 'separator'; the nearest is 'sep'"),
        ("cvs:a", "unknown scheme 'cvs'; the nearest is 'csv'"),
        ("sklearn:digit", "unknown data set 'digit'; the nearest is 'digits'"),
        ("sklearn:digits?rows=3", "unknown option 'rows'"),
        ("synthetic:clasification", "unknown kind 'clasification'; the nearest is 'classification'"),
    ],
)
def test_a_malformed_address_is_one_clear_line(source, message):
    with pytest.raises(InputError, match=message) as caught:
        open_source(source, task=TABULAR, environ={})
    assert "\n" not in str(caught.value)


def test_lists_are_read_as_one_csv_line():
    assert listed({"names": 'a, "b, c" ,d'}, "names") == ("a", "b, c", "d")
    assert listed({}, "names") == ()
    with pytest.raises(InputError, match="names something twice"):
        listed({"names": "a,a"}, "names")


def test_a_list_that_is_written_reads_the_same():
    names = ("a", "b,c", 'say "d"', "<=50K")
    assert listed({"names": written(names)}, "names") == names


@pytest.mark.parametrize("text", ["", "1.5", "-1", "٣", "1_0", "11", "0", "9" * 30])
def test_a_whole_number_is_digits_within_its_range(text):
    with pytest.raises(InputError, match="option rows"):
        whole_number({"rows": text}, "rows", 3, minimum=1, maximum=10)


def test_numbers_have_defaults_and_ranges():
    assert whole_number({}, "rows", 3, minimum=1, maximum=10) == 3
    assert real_number({"noise": "0.5"}, "noise", 1.0, minimum=0.0, maximum=1.0) == 0.5
    for text in ("nan", "2", "x"):
        with pytest.raises(InputError, match="option noise"):
            real_number({"noise": text}, "noise", 1.0, minimum=0.0, maximum=1.0)


def test_an_installed_distribution_adds_a_scheme(tmp_path, monkeypatch):
    install(tmp_path, "echo", "echo_connector:open_echo")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = open_source("echo:anything", task=TABULAR, environ={})
    assert source.train.columns["x"].tolist() == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(InputError, match="the nearest is 'echo'"):
        open_source("ecco:anything", task=TABULAR, environ={})
    sys.modules.pop("echo_connector")


def test_an_installed_distribution_cannot_replace_a_scheme_of_ours(tmp_path, monkeypatch):
    install(tmp_path, "synthetic", "echo_connector:open_echo")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(open_source("synthetic:classification?rows=20", task=TABULAR, environ={}).train) == 20


def test_a_connector_that_cannot_be_loaded_is_bad_input(tmp_path, monkeypatch):
    install(tmp_path, "echo", "echo_connector:no_such_name")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="connector cannot be loaded"):
        open_source("echo:anything", task=TABULAR, environ={})
    sys.modules.pop("echo_connector", None)


def test_the_agreed_dictionary_decides_what_one_owners_rows_leave_open(tmp_path):
    (tmp_path / "own.csv").write_text("code,age,y\n1,30,sick\n2,?,sick\n")
    agreed = Schema((Column("code", "categorical"), Column("age", "numeric")), "y", ("well", "sick"))
    source = open_source(f"csv:{tmp_path}/own.csv", task=TABULAR, label="y", environ={}, agreed=agreed)
    assert source.schema == agreed
    assert source.train.columns["code"].tolist() == ["1", "2"]
    assert source.train.labels.tolist() == [1, 1]


def test_the_address_wins_over_the_agreed_dictionary(tmp_path):
    (tmp_path / "own.csv").write_text("code,age,y\n1,30,sick\n2,31,well\n")
    agreed = Schema((Column("code", "categorical"), Column("age", "numeric")), "y", ("well", "sick"))
    address = f"csv:{tmp_path}/own.csv?numeric=code&drop=age&classes=sick,well"
    source = open_source(address, task=TABULAR, label="y", environ={}, agreed=agreed)
    assert source.schema == Schema((Column("code", "numeric"),), "y", ("sick", "well"))


def test_the_agreed_dictionary_is_no_hindrance_to_sources_that_are_fixed_already():
    agreed = open_source("sklearn:digits", task=IMAGES, environ={}).schema
    assert open_source("sklearn:digits", task=IMAGES, environ={}, agreed=agreed).schema == agreed


def test_opening_the_door_loads_no_heavy_package():
    heavy = "{'sklearn', 'pyarrow', 'PIL', 'pandas', 'torch', 'scipy', 'sqlalchemy', 'sqlite3'}"
    program = f"import sys, tacit.models.data, tacit.models.features; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
