"""The pages for people."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from tacit.server.serving.statement import is_guarantee, privacy_sentence, privacy_summary

PAGES = ("/", "/docs", "/models/numbers", "/models/pictures/versions/1")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_nothing_from_elsewhere_and_has_no_inline_code(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for address in re.findall(r"""\s(?:src|href|action)="([^"]*)""", answer.text):
        assert address.startswith(("/", "#"))
        if address.startswith("/"):
            assert client.get(address).status_code == 200
    assert not re.search(r"<script>|<style|style=|\son[a-z]+=", answer.text)


def test_the_index_lists_models_with_what_was_promised(client: TestClient) -> None:
    text = client.get("/").text
    text = text.replace("\u00a0", " ")
    assert "Differentially private per client: epsilon = 4, delta = 1e-05, against the coordinator." in text
    assert text.count("No privacy guarantee is recorded with this version.") == 3


def test_an_empty_registry_says_so(client: TestClient, source: Any) -> None:
    source.registered.clear()
    assert "No model is registered yet." in client.get("/").text


def test_a_model_page_has_a_field_for_every_column(client: TestClient) -> None:
    text = client.get("/models/mixed").text
    assert re.findall(r'data-kind="(\w+)" data-name="(\w+)"', text) == [("numeric", "age"), ("categorical", "job")]


def test_the_recorded_sentence_is_shown_beside_what_the_numbers_promise(client: TestClient, source: Any) -> None:
    model = source.loaded[source.registered["mixed"][0].digest]
    source.add("mixed", model, privacy={"unit": "none", "sentence": "Nothing bounds what it says."})
    text = client.get("/models/mixed").text
    assert "No privacy guarantee is recorded with this version." in text
    assert "As recorded: Nothing bounds what it says." in text
    assert "As recorded" not in client.get("/models/mixed/versions/1").text


@pytest.mark.parametrize(
    ("epsilon", "shown"), [(4, "4"), (8.0, "8"), (6.9870743, "6.98708"), (1e-7, "1e-07"), (1234567.0, "1.23457e+06")]
)
def test_an_epsilon_is_never_written_as_less_than_it_is(epsilon: float, shown: str) -> None:
    assert f"epsilon = {shown}, " in privacy_sentence({"unit": "client", "epsilon": epsilon, "delta": 1e-5})
    assert float(shown) >= epsilon


def test_a_statement_has_its_profile_as_a_table_and_its_assumptions_as_a_list(client: TestClient, source: Any) -> None:
    statement = {
        "unit": "client",
        "epsilon": 6.98708,
        "profile": [{"delta": 1e-5, "fellow_clients": 6.500001}, {"delta": 1e-8, "fellow_clients": 8.25}],
        "assumptions": ["clients clip", "noise is <added>"],
        "limits": [],
        "odd": [{"delta": 1e-5}, "no record"],
    }
    source.add("mixed", source.loaded[source.registered["mixed"][0].digest], privacy=statement)
    text = client.get("/models/mixed").text
    assert '<th scope="col">delta</th><th scope="col">fellow clients</th>' in text
    assert "<tr><td>1e-05</td><td>6.5001</td></tr><tr><td>1e-08</td><td>8.25</td></tr>" in text
    assert "<ul><li>clients clip</li><li>noise is &lt;added&gt;</li></ul>" in text
    assert re.search(r"<dt>epsilon</dt>\s*<dd>6.9871</dd>", text)  # never less than was accounted
    assert "<dt>limits</dt>" not in text and "no record" in text
    assert not re.search(r"<dd>\s*\[", text)


def test_the_interface_is_described_with_code_as_code(client: TestClient) -> None:
    text = client.get("/docs").text
    assert "JSON, or Markdown for <code>Accept: text/markdown</code>." in text and "`" not in text


@pytest.mark.parametrize("require_key", [True, False])
def test_the_interface_says_whether_a_key_is_asked_for(require_key: bool, serve: Any) -> None:
    text = serve(require_key=require_key).get("/docs").text
    assert ("Requests carry an API key" in text) is require_key
    assert ("TACIT_API_KEY" in text) is require_key
    assert ("without API keys" in text) is not require_key


def test_names_are_escaped(client: TestClient, source: Any) -> None:
    source.add("mixed", source.loaded[source.registered["mixed"][0].digest], privacy={"unit": "<b>client</b>"})
    assert "<b>" not in client.get("/models/mixed").text


def test_a_tampered_version_is_shown_as_not_served_and_has_no_form(client: TestClient, source: Any) -> None:
    source.tampered.add(source.registered["mixed"][0].digest)
    text = client.get("/models/mixed").text
    assert "This version is not served" in text
    assert "<form" not in text


def test_the_form_predicts_but_only_takes_json(client: TestClient) -> None:
    path = "/models/prices/versions/1/try"
    assert client.post(path, json={"inputs": [{"rooms": 2}]}).json()["predictions"] == [{"value": 2.0}]
    assert (
        client.post(path, content=b'{"inputs": [{"rooms": 2}]}', headers={"Content-Type": "text/plain"}).status_code
        == 415
    )


@pytest.mark.parametrize("name", ["base.html", "..%2Fapp.py", "try.js.map"])
def test_only_the_assets_are_served(client: TestClient, name: str) -> None:
    assert client.get(f"/assets/{name}").status_code == 404


@pytest.mark.parametrize(
    "statement",
    [
        {"unit": "none", "epsilon": 1.0, "delta": 1e-5},
        {"unit": "client", "epsilon": None, "delta": 1e-5},
        {"unit": "client", "epsilon": float("inf"), "delta": 1e-5},
        {"unit": "client", "epsilon": 1.0},
        {"unit": "client", "epsilon": True, "delta": 1e-5},
        {"unit": "planet", "epsilon": 1.0, "delta": 1e-5},
        {},
    ],
)
def test_an_incomplete_statement_promises_nothing(statement: dict[str, Any]) -> None:
    assert privacy_sentence(statement) == "No privacy guarantee is recorded with this version."
    assert privacy_summary(statement) == "none"
    assert not is_guarantee(statement)


@pytest.mark.parametrize("hypothetical", [True, None, "no", 0])
def test_a_statement_that_may_be_hypothetical_is_called_that(hypothetical: object) -> None:
    statement = {"unit": "client", "epsilon": 1.0, "delta": 1e-5, "hypothetical": hypothetical}
    assert privacy_sentence(statement).startswith("Hypothetical") and "no guarantee" in privacy_sentence(statement)
    assert privacy_summary(statement) == "hypothetical"
    assert not is_guarantee(statement)
