"""A signed statement is what was signed, wherever it was kept; anything else is found."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tacit.privacy.identity import Identity
from tacit.server.registry import Registry
from tacit.server.run_directory import RunDirectory
from tacit.server.signed_statement import (
    LABEL,
    SELF_SIGNED,
    SignatureMismatch,
    Signer,
    check_statement,
    is_signed,
    sign_statement,
)
from tacit.server.store import NewModelVersion, open_store

IDENTITY = Identity(bytes(range(32)))
STATEMENT = {
    "unit": "client",
    "epsilon": 7.5,
    "epsilon_outsiders": math.inf,
    "delta": 1e-5,
    "hypothetical": False,
    "accountant": None,
    "participations": 12,
    "secure_aggregation": {"enabled": True, "mode": "real"},
    "not_covered": ("who took part", "how long it took"),
    "sentence": "Nobody learns much; “quotes” and \N{SNOWMAN} included.",
}


def signed() -> dict[str, Any]:
    return sign_statement(STATEMENT, IDENTITY, SELF_SIGNED)


words = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
statements = st.dictionaries(words.filter(lambda word: word not in ("signature", "signed_by")), values, max_size=5)


def test_a_statement_keeps_its_values_and_says_who_signed_it() -> None:
    found = signed()
    assert check_statement(found) == Signer(IDENTITY.public_key, "simulated, self-signed")
    assert found["signed_by"] == {"public_key": IDENTITY.public_key.hex(), "kind": SELF_SIGNED}
    assert {name: found[name] for name in ("unit", "epsilon", "participations")} == {
        "unit": "client",
        "epsilon": 7.5,
        "participations": 12,
    }
    assert found["epsilon_outsiders"] is None, "JSON has no infinity"


@given(statements)
def test_any_statement_can_be_signed_and_survives_json(statement: dict[str, Any]) -> None:
    found = json.loads(json.dumps(sign_statement(statement, IDENTITY, "k"), indent=2, allow_nan=False))
    assert check_statement(found).public_key == IDENTITY.public_key


def test_a_statement_survives_a_run_directory_and_the_registry(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_json("privacy.json", signed())
    check_statement(directory.read_json("privacy.json"))
    with open_store(str(tmp_path / "tacit.db")) as store:
        store.add_model_version(NewModelVersion("m", "c" * 64, None, None, details={"privacy": signed()}))
        check_statement(Registry(store).find("m").details["privacy"])


@given(st.data())
def test_any_change_of_any_value_is_found(data: st.DataObject) -> None:
    found = signed()
    name = data.draw(st.sampled_from([name for name in found if name != "signature"]))
    other = data.draw(values)
    assume(json.dumps(other) != json.dumps(found[name]))
    with pytest.raises(SignatureMismatch):
        check_statement(found | {name: other})


@pytest.mark.parametrize("name", sorted([*STATEMENT, "signed_by", "signature"]))
def test_a_value_that_was_taken_out_is_found(name: str) -> None:
    with pytest.raises(SignatureMismatch):
        check_statement({key: value for key, value in signed().items() if key != name})


def test_a_value_that_was_put_in_is_found() -> None:
    with pytest.raises(SignatureMismatch, match="not what was signed"):
        check_statement(signed() | {"audited": True})


def test_another_key_or_quality_in_place_of_the_signers_is_found() -> None:
    other = Identity(bytes(32)).public_key.hex()
    for change in ({"public_key": other}, {"kind": "coordinator"}, {"more": 1}):
        with pytest.raises(SignatureMismatch, match="not what was signed"):
            check_statement(signed() | {"signed_by": signed()["signed_by"] | change})


def test_a_signature_for_another_purpose_fits_no_statement() -> None:
    found = {name: value for name, value in signed().items() if name != "signature"}
    message = json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
    assert found | {"signature": IDENTITY.sign(LABEL, message).hex()} == signed(), "the bytes that are signed"
    with pytest.raises(SignatureMismatch, match="not what was signed"):
        check_statement(found | {"signature": IDENTITY.sign("tacit/ledger/1/population", message).hex()})


@pytest.mark.parametrize("bad", [None, 7, "", "zz", [], {}, "ab" * 64])
def test_a_signature_that_is_none_is_refused_in_one_line(bad: object) -> None:
    for change in ({"signature": bad}, {"signed_by": bad}, {"signed_by": {"public_key": bad, "kind": "k"}}):
        with pytest.raises(SignatureMismatch) as caught:
            check_statement(signed() | change)
        assert "\n" not in str(caught.value)


def test_what_is_not_signed_says_so() -> None:
    assert not is_signed(STATEMENT) and is_signed(signed())
    with pytest.raises(SignatureMismatch, match="the statement is not signed"):
        check_statement(STATEMENT)


def test_a_statement_is_signed_once() -> None:
    with pytest.raises(ValueError, match="signed already"):
        sign_statement(signed(), IDENTITY, SELF_SIGNED)


def test_what_is_not_plain_is_not_signed() -> None:
    with pytest.raises(TypeError, match="a set cannot be part of a statement"):
        sign_statement({"clients": {1, 2}}, IDENTITY, SELF_SIGNED)
