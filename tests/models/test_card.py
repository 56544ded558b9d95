"""A card says what it was told, in a header that YAML reads back and in words."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.card import model_card
from tacit.models.errors import InputError
from tacit.models.zoo import Architecture

MLP = Architecture("mlp", "", (28, 28), 10)


def card(**changes: Any) -> str:
    values: dict[str, Any] = {
        "name": "fashion",
        "task_kind": "image-classification",
        "architecture": MLP,
        "parameters": 50_890,
        "privacy_sentence": "Nothing is promised about single clients.",
        "metrics": {"accuracy": 0.89123, "auroc": math.nan},
    }
    return model_card(**(values | changes))


def header(text: str) -> Any:
    start, body, _ = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(body)


def test_the_header_is_what_model_hubs_read() -> None:
    found = header(card(license="Apache-2.0", federated={"rounds": 20}, privacy={"epsilon": 8.0, "delta": 1e-5}))
    assert found == {
        "license": "Apache-2.0",
        "library_name": "tacit",
        "pipeline_tag": "image-classification",
        "tags": ["federated-learning", "tacit"],
        "metrics": ["accuracy", "auroc"],
        "federated": {"rounds": 20},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
    }


def test_the_text_says_what_was_passed_in() -> None:
    text = card(intended_use="Sorting clothes.", data="Ten shops.", limits=["Not for shoes.", "Grey images only."])
    for said in (
        "# fashion\n",
        "## Intended use\n\nSorting clothes.\n",
        "## Data\n\nTen shops.\n",
        "| accuracy | 0.8912 |",
        "| auroc | undefined |",
        "## Privacy\n\nNothing is promised about single clients.\n",
        "- Not for shoes.\n- Grey images only.\n",
        "50,890 parameters",
    ):
        assert said in text


def test_what_was_not_passed_in_is_not_claimed() -> None:
    text = card(metrics={})
    assert "license" not in header(text)
    for said in ("None was stated.", "Nothing was stated about the data.", "None were measured.", "None were stated"):
        assert said in text


def test_a_name_cannot_add_lines() -> None:
    assert "\n# one ## two\n" in card(name="one\n\n## two")


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
tables = st.recursive(
    st.dictionaries(st.text(max_size=8), scalars | st.lists(scalars, max_size=3), max_size=4),
    lambda inner: st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(tables)
def test_yaml_reads_any_plain_table_back(table: dict[str, Any]) -> None:
    assert header(card(privacy=table))["privacy"] == table


def test_values_that_are_not_plain_are_refused() -> None:
    with pytest.raises(InputError, match="a value of type object is not plain"):
        card(privacy={"x": object()})
    with pytest.raises(InputError, match="a value of type dict is not plain"):
        card(privacy={"x": [{"y": 1}]})
