"""The page shows a reviewer every value of a statement, the plain sentence first, and nothing that is not stated."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.identity import Identity
from tacit.server.signed_statement import SELF_SIGNED, sign_statement
from tacit.server.statement_page import OBSERVERS, SECTIONS, signature_line, statement_markdown

IDENTITY = Identity(bytes(range(32)))
STATEMENT: dict[str, Any] = {
    "sentence": "Whether any one client took part changes little.",
    "unit": "client",
    "epsilon": 7.98213,
    "epsilon_fellow_clients": 8.1,
    "epsilon_outsiders": 4.0,
    "delta": 1e-5,
    "hypothetical": False,
    "adjacency": "one client's contribution becomes zero",
    "mechanism": "distributed Skellam noise",
    "clip": 0.5,
    "noise_multiplier": 3.25,
    "participations": 20,
    "secure_aggregation": {"enabled": True, "adversary": "honest but curious", "min_cohort": 5},
    "trust": {"client to coordinator": "masked", "noise": "the other clients"},
    "profile": [{"delta": 1e-4, "coordinator": 7.5}, {"delta": 1e-6, "coordinator": None}],
    "assumptions": ["clients clip honestly", "at least 16 of 20 add their noise"],
    "not_covered": ["who took part"],
    "utility": {"metrics": {"accuracy": 0.91}},
    "something_new": {"inner": [1, 2], "words": ["a", "b"]},
}


def page() -> str:
    return statement_markdown(sign_statement(STATEMENT, IDENTITY, SELF_SIGNED))


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n\n")[2].partition("\n## ")[0]


def test_the_plain_sentence_comes_first() -> None:
    assert page().splitlines()[:3] == ["# Privacy statement", "", STATEMENT["sentence"]]


def test_the_three_numbers_stand_side_by_side_with_who_each_observer_is() -> None:
    rows = [line.strip("| ").split(" | ") for line in section(page(), "What is promised").splitlines()[2:5]]
    assert [(row[0], row[2]) for row in rows] == [
        ("the coordinator", "7.983"),
        ("a fellow client", "8.1"),
        ("an outsider", "4"),
    ]
    assert all(len(row[1].split()) > 5 for row in rows)
    assert "delta = 1e-05" in section(page(), "What is promised")


@given(st.floats(0.0005, 900.0))
def test_an_epsilon_is_never_shown_smaller_than_it_is(epsilon: float) -> None:
    text = statement_markdown(STATEMENT | {"epsilon": epsilon})
    shown = float(section(text, "What is promised").splitlines()[2].strip("| ").split(" | ")[2])
    assert epsilon <= shown <= epsilon + 0.0011


@pytest.mark.parametrize("none", [None, math.inf, math.nan, True, "8"])
def test_what_is_no_number_promises_nothing(none: object) -> None:
    text = statement_markdown(dict.fromkeys(OBSERVERS, none) | {"unit": "client"})
    assert text.count("| no bound |") == 3


def test_every_value_stands_under_the_question_that_it_answers() -> None:
    text = page()
    expected = {
        "Who is protected": ["client: everything that one client contributes", STATEMENT["adjacency"]],
        "What was done": ["distributed Skellam noise", "clipped to (L2):** 0.5", "over the sensitivity:** 3.25"],
        "Who took part": ["**Participations that count:** 20"],
        "What each party sees": ["**Client to coordinator:** masked", "withstand:** honest but curious"],
        "What it rests on": ["- clients clip honestly", "- at least 16 of 20 add their noise"],
        "What it does not cover": ["- who took part"],
        "What it is worth": ["**Accuracy:** 0.91"],
        "At other deltas": ["| Delta | Coordinator |", "| 0.0001 | 7.5 |", "| 1e-06 | none stated |"],
        "What else is stated": ["**Inner:** 1, 2", "- a"],
    }
    for title, found in expected.items():
        for piece in found:
            assert piece in section(text, title), (title, piece)


def test_a_heading_that_says_less_than_the_name_of_its_only_value_does_not_replace_it() -> None:
    text = statement_markdown({"secure_aggregation": {"enabled": True}, "not_covered": ["timing"]})
    assert section(text, "What each party sees") == "- **Secure aggregation:**\n  - **Enabled:** yes\n"
    assert section(text, "What it does not cover") == "- timing\n"


words = st.text("abcdefgh", min_size=1, max_size=6)
plain = st.recursive(
    words | st.integers(10**6, 10**7),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(words, inner, min_size=1, max_size=3),
    max_leaves=8,
)


def leaves(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [leaf for one in (value.values() if isinstance(value, dict) else value) for leaf in leaves(one)]
    return [str(value)]


@given(st.dictionaries(words | st.sampled_from([name for names in SECTIONS.values() for name in names]), plain))
def test_no_value_of_a_statement_is_left_out(statement: dict[str, Any]) -> None:
    text = statement_markdown(statement)
    for leaf in leaves(statement):
        assert leaf in text


def test_a_hypothetical_number_is_called_hypothetical_at_once() -> None:
    text = statement_markdown(STATEMENT | {"hypothetical": True})
    assert text.splitlines()[4].startswith("**Hypothetical, for study:**")
    assert "Hypothetical" not in page()


def test_a_page_is_text_whatever_a_statement_holds() -> None:
    hostile = "\x1b[31mred <script>alert(1)</script> | cell\n# heading"
    text = statement_markdown(
        {"sentence": hostile, "a|b": hostile, "not_covered": [hostile], "profile": [{"x": hostile}]}
    )
    assert "\x1b" not in text and "<script>" not in text.replace("\\<script\\>", "")
    assert "\n# heading" not in text and "| cell" not in text.replace("\\| cell", "")


def test_an_unsigned_statement_says_so() -> None:
    assert signature_line(STATEMENT) == "Not signed."
    assert section(statement_markdown(STATEMENT), "Signature") == "Not signed.\n"


def test_a_signed_statement_names_its_key_and_what_a_signature_cannot_say() -> None:
    line = signature_line(sign_statement(STATEMENT, IDENTITY, SELF_SIGNED))
    assert line.startswith("The signature fits. Signed (simulated, self-signed) with the Ed25519 key ")
    assert IDENTITY.public_key.hex() in line and "no signature can say" in line
    assert IDENTITY.secret_bytes().hex() not in line


def test_a_tampered_statement_is_called_so_on_the_page() -> None:
    tampered = json.loads(json.dumps(sign_statement(STATEMENT, IDENTITY, SELF_SIGNED))) | {"epsilon": 0.1}
    assert "The signature does not fit" in section(statement_markdown(tampered), "Signature")
