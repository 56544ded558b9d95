"""A data register: no rows ever get a second budget, and a name keeps what it stood for."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.register import DataSet, Register, absolute, parse_register, place_of
from tacit.models.errors import InputError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,20}", fullmatch=True)


def csv(path: object) -> DataSet:
    return DataSet(source=f"csv:{path}")


def with_one(path: object) -> Register:
    return Register().with_added("visits", csv(path), {})


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "a" * 65, "café", "a\nb"])
def test_a_name_that_no_ledger_could_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no name of a data set; a name has 1 to 64 ASCII letters"):
        Register().with_added(name, csv("x.csv"), {})


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown data set 'vists'; the nearest is 'visits'"):
        with_one("/x.csv").find("vists")


@pytest.mark.parametrize(
    "again",
    [
        "csv:{folder}/x.csv",
        "csv:{folder}/../{base}/x.csv",
        "csv:{folder}/link.csv",
        "csv:{folder}/hard.csv",
        "csv:{folder}/x.csv?sep=;",
        "jsonl:{folder}/x.csv",
        "csv:${{HERE}}/x.csv",
        "csv:{folder}",
    ],
)
def test_no_second_name_gets_the_same_rows_however_they_are_named(again: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,label\n1,0\n")
    (tmp_path / "link.csv").symlink_to(path)
    os.link(path, tmp_path / "hard.csv")
    source = again.format(folder=tmp_path, base=tmp_path.name)
    with pytest.raises(InputError, match=r"would get a second privacy budget; use 'visits'$"):
        with_one(path).with_added("other", DataSet(source=source), {"HERE": str(tmp_path)})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sql:sqlite:///a.db?query=select * from t", "sql:sqlite:///a.db?query=SELECT  *%20from t;", True),
        ("sql:sqlite:///a.db?query=select * from t", "sql:sqlite:///a.db?query=select * from u", False),
        ("sql:sqlite:///a.db?query=select * from t", "sql:sqlite+pysqlite:///./b/../a.db?table=T", True),
        ("sql:sqlite:///a.db?table=t", "sql:sqlite:///a.db?table=u", False),
        ("sql:sqlite:///a.db?table=t", "sql:sqlite:///b.db?table=t", False),
        ("sql:postgresql://me:pw@host/db?table=t", "sql:postgresql+psycopg://host/db?table=t", True),
        ("sql:postgresql://host/db?table=t", "sql:postgresql://other/db?table=t", False),
        ("synthetic:regression?seed=1&rows=5", "synthetic:regression?rows=5&seed=1", True),
        ("synthetic:regression?seed=1", "synthetic:regression?seed=2", False),
    ],
)
def test_sources_that_are_no_files_are_compared_by_what_they_say(one: str, other: str, same: bool) -> None:
    assert (place_of(one, {}) == place_of(other, {})) is same


def test_a_folder_beside_another_one_is_another_source(tmp_path: Path) -> None:
    both = with_one(tmp_path / "a").with_added("other", csv(tmp_path / "ab"), {})
    assert list(both.sets) == ["visits", "other"]


def test_a_name_with_a_new_source_keeps_the_old_one_from_every_other_name() -> None:
    changed = with_one("/a.csv").with_added("visits", csv("/b.csv"), {})
    assert changed.find("visits").former == ("csv:/a.csv",)
    for path in ("/a.csv", "/b.csv"):
        with pytest.raises(InputError, match="second privacy budget"):
            changed.with_added("other", csv(path), {})
    back = changed.with_added("visits", csv("/a.csv"), {}).find("visits")
    assert (back.source, back.former) == ("csv:/a.csv", ("csv:/b.csv",))


def test_a_removed_name_keeps_its_source_and_can_have_it_back() -> None:
    removed = with_one("/a.csv").without("visits")
    assert not removed.sets
    with pytest.raises(InputError, match="unknown data set 'visits'; none is known"):
        removed.find("visits")
    with pytest.raises(InputError, match="or add it again under that name"):
        removed.with_added("other", csv("/a.csv"), {})
    assert removed.with_added("visits", csv("/a.csv"), {}).find("visits").source == "csv:/a.csv"


def test_what_cannot_be_compared_is_refused_and_says_which_variable_is_missing() -> None:
    register = Register().with_added("visits", DataSet(source="csv:${WARD}/a.csv"), {"WARD": "/w"})
    with pytest.raises(InputError, match="^data set visits: the environment variable WARD is not set; set WARD$"):
        register.with_added("other", csv("/b.csv"), {})


@pytest.mark.parametrize("source", ["", "nothing", "csv:", "csv:x?sep", "csv:${", "csv:${NOT_SET}/x"])
def test_an_address_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="^data source"):
        Register().with_added("visits", DataSet(source=source), {})


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31m", "a\udcff", "\x00"])
@pytest.mark.parametrize("key", ["source", "label", "task", "row"])
def test_a_text_that_cannot_be_written_or_shown_is_refused(key: str, text: str) -> None:
    entry = csv("/x.csv").model_copy(update={key: f"csv:{text}"})
    with pytest.raises(InputError, match=f"data set visits: '{key}' is not usable; printable characters"):
        Register().with_added("visits", entry, {})


def test_a_relative_path_becomes_absolute_and_a_variable_stays() -> None:
    here = Path("/home-of/agent")
    assert absolute("csv:../x.csv?sep=;", here) == "csv:/home-of/x.csv?sep=;"
    assert absolute("sql:sqlite:///a.db?table=t", here) == "sql:sqlite:////home-of/agent/a.db?table=t"
    for other in (
        *("csv:/x.csv", "csv:${WARD}/x.csv", "sklearn:wine", "nonsense", "csv:"),
        *(
            "sql:sqlite:////a.db?table=t",
            "sql:sqlite:///${DB}?table=t",
            "sql:postgresql://host/db?table=t",
            "sql:${DB}",
        ),
    ):
        assert absolute(other, here) == other


@given(st.dictionaries(NAMES, st.builds(
    DataSet,
    source=st.text(max_size=50),
    label=st.text(max_size=20),
    row=st.text(max_size=64),
    former=st.lists(st.text(max_size=20), max_size=3).map(tuple),
    removed=st.booleans(),
), max_size=4))  # fmt: skip
def test_a_register_that_is_written_is_read_as_it_was(entries: dict[str, DataSet]) -> None:
    register = Register(entries)
    assert parse_register(register.to_toml(), where="data.toml") == register


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[visits\n", "is not valid TOML"),
        ("visits = 1\n", "holds something that is no data set"),
        ("[visits]\n", "'source' is not usable; field required"),
        ("[visits]\nsource = 1\n", "'source' is not usable"),
        ("[visits]\nsource = 'csv:x'\nsauce = 1\n", "'sauce' is not usable"),
        ("['a b']\nsource = 'csv:x'\n", "is not what `tacit agent data` writes"),
        ("x = " + "[" * 20_000, "is not"),
        ("x = " + "9" * 5_000, "is not"),
    ],
)
def test_a_broken_register_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_register(text, where="data.toml")
    assert str(caught.value).startswith("data.toml: ") and why in str(caught.value)
    assert "\n" not in str(caught.value)
