"""Who is let in, and what is kept out of logs."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest
from starlette.testclient import TestClient

BODY = {"inputs": [{"rooms": 1}]}
OPEN = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs", "/assets/style.css")


@pytest.fixture
def guarded(serve: Any, source: Any) -> TestClient:
    source.add_key("reader", "read")
    source.add_key("caller", "predict")
    source.add_key("chief", "admin")
    return serve(require_key=True)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_every_address_but_the_open_ones_refuses_a_caller_without_a_key(guarded: TestClient) -> None:
    checked = 0
    for path, operations in guarded.get("/openapi.json").json()["paths"].items():
        for method in operations:
            status = guarded.request(method, path.format(model="prices", version="1"), json=BODY).status_code
            assert status == (200 if path in OPEN else 401), path
            checked += 1
    assert checked > 15
    for path in ("/", "/models/prices", "/models/prices/versions/1"):
        assert guarded.get(path).status_code == 401
    assert guarded.post("/models/prices/versions/1/try", json=BODY).status_code == 401
    for path in OPEN:
        assert guarded.get(path).status_code == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic OnJlYWRlcg==", "reader", "Bearer " + "x" * 9999]
)
def test_a_header_that_is_no_known_key_is_a_401_that_says_how(guarded: TestClient, given: str) -> None:
    answer = guarded.get("/api/v1/models", headers={"Authorization": given})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="tacit"'
    assert "wrong" not in answer.text


def test_a_revoked_key_is_refused(guarded: TestClient, source: Any) -> None:
    assert guarded.get("/api/v1/models", headers=bearer("reader")).status_code == 200
    source.keys.clear()
    assert guarded.get("/api/v1/models", headers=bearer("reader")).status_code == 401


@pytest.mark.parametrize(
    ("secret", "reads", "describes", "predicts"),
    [("reader", 200, 200, 403), ("caller", 403, 200, 200), ("chief", 200, 200, 200)],
)
def test_a_key_may_do_what_its_scopes_say(
    guarded: TestClient, secret: str, reads: int, describes: int, predicts: int
) -> None:
    assert guarded.get("/api/v1/models", headers=bearer(secret)).status_code == reads
    assert guarded.get("/v2/models/prices", headers=bearer(secret)).status_code == describes
    answer = guarded.post("/api/v1/models/prices/predict", json=BODY, headers=bearer(secret))
    assert answer.status_code == predicts


def test_refusals_of_the_inference_protocol_keep_its_form(guarded: TestClient) -> None:
    answer = guarded.post("/v2/models/prices/infer", json={})
    assert (answer.status_code, answer.json()) == (401, {"error": "an API key is needed"})


def test_a_caller_without_a_key_learns_nothing_about_which_models_exist(guarded: TestClient) -> None:
    known, unknown = (guarded.get(f"/api/v1/models/{name}") for name in ("prices", "nothing"))
    assert known.status_code == unknown.status_code == 401
    assert known.json()["detail"] == unknown.json()["detail"]


def test_pages_also_take_the_key_as_a_password_and_the_api_does_not(guarded: TestClient) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(b"anyone:reader").decode()}
    assert guarded.get("/", headers=basic).status_code == 200
    assert guarded.get("/api/v1/models", headers=basic).status_code == 401
    assert guarded.get("/").headers["www-authenticate"].startswith("Basic ")
    assert guarded.post("/models/prices/versions/1/try", json=BODY, headers=basic).status_code == 403


def test_no_key_body_path_or_query_reaches_the_log(
    guarded: TestClient, source: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    guarded.get("/api/v1/models/patient-4711?name=patient-4711", headers=bearer("chief"))
    guarded.post("/api/v1/models/prices/predict", json={"inputs": [{"patient-4711": "x"}]}, headers=bearer("chief"))

    def fails(*_: object) -> None:
        raise RuntimeError("patient-4711")

    source.models = fails
    answer = guarded.get("/api/v1/models", headers=bearer("chief"))
    assert answer.status_code == 500
    assert answer.json()["detail"] == "the server failed; its log names this request"
    ours = [record for record in caplog.records if record.name.startswith("tacit")]
    assert any(answer.headers["x-request-id"] in record.getMessage() for record in ours)
    assert any("RuntimeError" in record.getMessage() for record in ours)
    for record in ours:
        assert "patient-4711" not in record.getMessage()
        assert "chief" not in record.getMessage()
        assert record.exc_info is None


def test_a_server_without_keys_answers_to_loopback_names_only(client: TestClient) -> None:
    for host, status in (("localhost:8100", 200), ("127.0.0.1", 200), ("[::1]:8100", 200), ("LOCALHOST", 200)):
        assert client.get("/livez", headers={"Host": host}).status_code == status
    for host in ("evil.example", "localhost.evil.example", "", "127.0.0.1@evil.example", "[::2]"):
        assert client.get("/livez", headers={"Host": host}).status_code == 421


def test_a_server_with_keys_answers_to_any_name(guarded: TestClient) -> None:
    assert guarded.get("/livez", headers={"Host": "models.example"}).status_code == 200
