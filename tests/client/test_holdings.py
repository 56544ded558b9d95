"""An owner's rows under the federation's dictionary: the same meaning for everybody, and no word of them outside."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.holdings import SourceHoldings, conform
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.plan import Plan
from tacit.models.recipe import parse_recipe

AGE, JOB = Column("age", "numeric"), Column("job", "categorical")
AGREED = Schema((AGE, JOB), "income", ("high", "low"))


def plan_for(schema: Schema = AGREED, kind: str = "tabular-classification") -> Plan:
    recipe = f'name = "r"\n[task]\nkind = "{kind}"\n[data]\nsource = "s:"\nlabel = "{schema.label}"\n'
    return Plan(parse_recipe(recipe + "[population]\nclients = 3\n"), schema)


def some_rows(**columns: object) -> Rows:
    values = {"age": np.array([31.0, np.nan]), "job": np.array(["nurse", ""], dtype=object)} | columns
    return Rows(values, np.array([0, 1]))  # type: ignore[arg-type]


# One dictionary for all


def test_rows_under_the_agreed_dictionary_are_left_as_they_are() -> None:
    rows = some_rows()
    same = conform(rows, AGREED, AGREED)
    assert list(same.columns) == ["age", "job"]
    assert same.columns["age"] is rows.columns["age"]
    assert same.labels.tolist() == [0, 1]


def test_columns_that_the_federation_does_not_have_are_left_out_and_the_order_is_the_federations() -> None:
    own = Schema((JOB, Column("secret", "numeric"), AGE), "income", ("high", "low"))
    rows = conform(some_rows(secret=np.array([1.0, 2.0])), own, AGREED)
    assert list(rows.columns) == ["age", "job"]


@given(st.permutations(["a", "b", "c", "d"]), st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_labels_keep_their_names_whatever_their_numbers(names: list[str], labels: list[int]) -> None:
    own = Schema((AGE,), "y", tuple(names))
    agreed = Schema((AGE,), "y", ("a", "b", "c", "d"))
    rows = conform(Rows({"age": np.zeros(len(labels))}, np.array(labels)), own, agreed)
    assert [agreed.classes[label] for label in rows.labels] == [own.classes[label] for label in labels]


def test_an_owner_of_one_class_has_the_federations_number_for_it() -> None:
    rows = conform(some_rows(), Schema((AGE, JOB), "income", ("low", "high")), AGREED)
    assert rows.labels.tolist() == [1, 0]


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=9, unique=True))
def test_codes_that_look_like_numbers_keep_all_their_digits(codes: list[int]) -> None:
    own = Schema((Column("job", "numeric"),), "y", ("a", "b"))
    agreed = Schema((JOB,), "y", ("a", "b"))
    rows = Rows({"job": np.array(codes, np.float64)}, np.zeros(len(codes), np.int64))
    assert conform(rows, own, agreed).columns["job"].tolist() == [str(code) for code in codes]


def test_a_missing_number_becomes_a_missing_category() -> None:
    own = Schema((Column("job", "numeric"),), "y", ("a", "b"))
    rows = Rows({"job": np.array([0.25, np.nan])}, np.zeros(2, np.int64))
    column = conform(rows, own, Schema((JOB,), "y", ("a", "b"))).columns["job"]
    assert column.tolist() == ["0.25", ""] and column.dtype == object


def test_targets_of_a_regression_pass_unchanged() -> None:
    schema = Schema((AGE,), "price")
    rows = Rows({"age": np.zeros(2)}, np.array([1.5, -2.0]))
    assert conform(rows, schema, schema).labels.tolist() == [1.5, -2.0]


CLASSES = ("high", "low")
MISFITS = {
    "a missing column": (Schema((AGE,), "income", CLASSES), AGREED, "data: the data has no column 'job'"),
    "a category for a number": (
        Schema((Column("age", "categorical"), JOB), "income", CLASSES),
        AGREED,
        "column 'age': is categorical, the federation's is numeric",
    ),
    "an image of another size": (
        Schema((Column("x", "image", (1, 2, 2)),), "income", CLASSES),
        Schema((Column("x", "image", (1, 4, 4)),), "income", CLASSES),
        "column 'x': is image",
    ),
    "numbers for classes": (Schema((AGE, JOB), "income"), AGREED, "label 'income': the labels are numbers"),
    "classes for numbers": (AGREED, Schema((AGE, JOB), "income"), "label 'income': the labels are classes"),
}


@pytest.mark.parametrize(("own", "agreed", "expected"), MISFITS.values(), ids=MISFITS)
def test_rows_that_do_not_fit_the_dictionary_are_refused_without_a_value(
    own: Schema, agreed: Schema, expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        conform(some_rows(x=np.zeros((2, 1, 2, 2), np.uint8)), own, agreed)
    assert expected in str(caught.value)
    assert "HIV" not in str(caught.value)


def test_rows_of_a_class_that_nobody_agreed_on_are_left_out() -> None:
    own = Schema((AGE, JOB), "income", ("low", "HIV positive", "high"))
    rows = Rows({"age": np.arange(4.0), "job": np.array(list("abcd"), dtype=object)}, np.array([0, 1, 2, 1]))
    fitted = conform(rows, own, AGREED)
    assert [AGREED.classes[label] for label in fitted.labels] == ["low", "high"]
    assert (fitted.columns["age"].tolist(), fitted.columns["job"].tolist()) == ([0.0, 2.0], ["a", "c"])


# Sources


def csv_file(folder: Path, text: str) -> SourceHoldings:
    path = folder / "patients.csv"
    path.write_text(text)
    return SourceHoldings("csv:${ROOT}/patients.csv", {"ROOT": str(folder)})


def test_a_source_is_read_at_first_need_and_once(tmp_path: Path) -> None:
    holdings = csv_file(tmp_path, "age,job,income\n31,nurse,low\n40,clerk,high\n")
    plan = plan_for()
    assert holdings.training(plan).columns["age"].tolist() == [31, 40]
    (tmp_path / "patients.csv").unlink()
    assert len(holdings.training(plan)) == 2
    assert holdings.test(plan) is None


def test_another_dictionary_makes_it_read_again(tmp_path: Path) -> None:
    holdings = csv_file(tmp_path, "age,job,income\n31,nurse,low\n40,clerk,high\n")
    assert holdings.training(plan_for()).labels.tolist() == [1, 0]
    other = plan_for(Schema((Column("income", "categorical"), JOB), "age"), "tabular-regression")
    assert holdings.training(other).labels.tolist() == [31.0, 40.0]
    assert holdings.training(plan_for()).labels.tolist() == [1, 0]


def test_an_owner_of_one_class_and_of_codes_that_look_like_numbers_reads_what_everybody_reads(tmp_path: Path) -> None:
    holdings = csv_file(tmp_path, "age,job,income\n31,1234567,low\n40,1234568,low\n")
    rows = holdings.training(plan_for())
    assert rows.columns["job"].tolist() == ["1234567", "1234568"]
    assert rows.labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "ages"),
    [
        ("age,job,income\n31,nurse,low\n40,clerk,HIV\n50,judge,high\n", [31.0, 50.0]),
        ("age,job,income\n40,clerk,HIV\n", []),
        ("age,job,income\n31,nurse,low\n", [31.0]),
    ],
)
def test_whether_a_row_has_another_label_than_the_coordinator_names_is_said_to_the_owner_alone(
    tmp_path: Path, text: str, ages: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Who writes the classes could ask for any value of any column, if the agent failed where one is there, or none."""
    rows = csv_file(tmp_path, text).training(plan_for())
    assert rows.columns["age"].tolist() == ages and len(rows.labels) == len(ages)
    said = "1 rows with a label of no class, or none are left out"
    assert (said in caplog.text) == ("HIV" in text) and "HIV" not in caplog.text


def test_the_sources_own_test_part_is_never_trained_on(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("age,job,income\n50,judge,high\n")
    (tmp_path / "train.csv").write_text("age,job,income\n31,nurse,low\n40,clerk,high\n")
    holdings = SourceHoldings(f"csv:{tmp_path}/train.csv?test=test.csv", {})
    test = holdings.test(plan_for())
    assert test is not None and test.columns["job"].tolist() == ["judge"]
    assert holdings.training(plan_for()).columns["job"].tolist() == ["nurse", "clerk"]


SECRETS = {
    "a first line of data taken for a header": "Alice,HIV,low\nBob,flu,high\n",
    "a value that is no number": "age,job,income\n" + "31,nurse,low\n" * 50 + "Alice,HIV,low\n",
    "a line of too many fields": "age,job,income\n31,nurse,low,Alice HIV\n",
    "an open quote": 'age,job,income\n31,"Alice HIV,low\n',
    "an infinite number": "age,job,income\n31,HIV,low\ninf,HIV,low\n",
    "columns of other names": "Alice,HIV,x\n1,2,3\n",
    "nothing": "",
}


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_a_source_that_cannot_be_used_is_said_outside_as_a_fact_and_explained_in_the_log(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(InputError) as caught:
        csv_file(tmp_path, text).training(plan_for())
    assert str(caught.value) == "the agent's data source cannot be used; its own log says why"
    assert "patients.csv" in caplog.text or "column" in caplog.text


def test_a_path_that_does_not_exist_does_not_leave_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError) as caught:
        SourceHoldings("csv:/home/alice/patients.csv", {}).training(plan_for())
    assert "alice" not in str(caught.value)
    assert "/home/alice/patients.csv" in caplog.text


def test_a_repr_holds_no_data(tmp_path: Path) -> None:
    holdings = csv_file(tmp_path, "age,job,income\n31,nurse,low\n40,clerk,high\n")
    rows = holdings.training(plan_for())
    assert "nurse" not in repr(holdings) + repr(rows)
