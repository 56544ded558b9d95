"""What commands print is safe for terminals and valid for programs."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.printing import cell, print_fields, print_json, print_table


@dataclass(frozen=True)
class Thing:
    name: str
    values: dict[int, tuple[float, ...]]
    at: datetime


def refuse(text: str) -> float:
    raise AssertionError(f"{text} is not JSON")


def test_json_is_valid_also_where_a_figure_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    thing = Thing("x", {1: (math.nan, math.inf, 0.5)}, datetime(2026, 3, 14, tzinfo=UTC))
    print_json([thing, {"path": Path("a/b"), "scopes": frozenset({"read", "admin"})}])
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == [
        {"name": "x", "values": {"1": [None, None, 0.5]}, "at": "2026-03-14T00:00:00+00:00"},
        {"path": "a/b", "scopes": ["admin", "read"]},
    ]


def test_what_has_no_json_is_an_error_and_not_a_repr() -> None:
    with pytest.raises(TypeError, match="a object cannot be printed as JSON"):
        print_json({"x": object()})


def test_columns_are_aligned_and_numbers_are_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "value"), [("a", 1), ("bcdef", 22.5), ("", None)])
    assert capsys.readouterr().out.splitlines() == ["name   value", "a          1", "bcdef   22.5", ""]


def test_wide_tables_are_not_cut_when_no_terminal_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [("x" * 300, "y" * 300)])
    assert "x" * 300 + "  " + "y" * 300 in capsys.readouterr().out


def test_a_table_without_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a",), [], empty="nothing yet")
    assert capsys.readouterr().out == "nothing yet\n"


def test_a_terminal_gets_a_drawn_table_without_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    print_table(("name",), [("[red]not red[/red]",)])
    assert "[red]not red[/red]" in capsys.readouterr().out


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"run": "r", "reason": "", "aliases": [], "rounds": 0, "masked": False})
    assert capsys.readouterr().out.splitlines() == ["run     r", "rounds  0", "masked  no"]


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_no_text_reaches_the_terminal_with_control_characters(value: object) -> None:
    assert cell(value).isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456789, "0.123457"),
        (math.nan, "nan"),
        (True, "yes"),
        (12, "12"),
        (None, ""),
        ({"accuracy": 0.5, "loss": 1.0}, "accuracy=0.5, loss=1"),
        (["a", "b"], "a, b"),
        (datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC), "2026-03-14 09:26:53Z"),
        ("\x1b[2J", "\ufffd[2J"),
    ],
)
def test_a_cell_is_short(value: object, text: str) -> None:
    assert cell(value) == text
