"""Limits hold before anything large is read or computed."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from tacit.server.serving.app import create_app
from tacit.server.serving.settings import ServingSettings

PATH = "/api/v1/models/prices/predict"


def test_a_body_that_declares_to_be_too_long_is_a_413(serve: Any) -> None:
    client = serve(body_bytes=100)
    assert client.post(PATH, content=b" " * 101).status_code == 413
    assert client.post("/v2/models/prices/infer", content=b" " * 101).status_code == 413
    assert client.post(PATH, content=json.dumps({"inputs": [{"rooms": 1}]}).ljust(100)).status_code == 200


def test_a_body_that_hides_its_length_is_refused_without_being_read_to_its_end(serve: Any, source: Any) -> None:
    read = 0
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 50, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    app = create_app(source, ServingSettings(require_key=False, body_bytes=100))
    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")],
    }
    asyncio.run(app(scope, receive, send))
    assert answers[0]["status"] == 413
    assert (b"connection", b"close") in answers[0]["headers"]
    assert read == 3


@pytest.mark.parametrize("length", ["9" * 30, "9" * 10_000])
def test_an_absurd_length_is_refused(serve: Any, length: str) -> None:
    client = serve(body_bytes=100)
    assert client.post(PATH, content=b"{}", headers={"Content-Length": length}).status_code == 413


def test_a_body_that_does_not_arrive_is_a_408(source: Any) -> None:
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    app = create_app(source, ServingSettings(require_key=False, body_seconds=0.01))
    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    asyncio.run(app(scope, receive, send))
    assert answers[0]["status"] == 408


def test_a_compressed_body_is_refused(client: TestClient) -> None:
    assert client.post(PATH, content=b"x", headers={"Content-Encoding": "gzip"}).status_code == 415


def test_one_prediction_more_than_the_limit_is_a_503_that_says_when_to_come_back(serve: Any, source: Any) -> None:
    client = serve(in_flight=2)
    model = source.loaded[source.registered["prices"][0].digest]
    model.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(client.post, PATH, json={"inputs": [{"rooms": 1}]}) for _ in range(2)]
        while client.app.state.service._in_flight < 2:
            model.entered.wait(0.01)
        refused = client.post(PATH, json={"inputs": [{"rooms": 1}]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/livez").status_code == 200
        model.gate.set()
        assert [answer.result().status_code for answer in slow] == [200, 200]
    assert client.post(PATH, json={"inputs": [{"rooms": 1}]}).status_code == 200


def test_a_refused_request_gives_its_place_back(serve: Any) -> None:
    client = serve(in_flight=1)
    for _ in range(3):
        assert client.post(PATH, content=b"{").status_code == 400


@pytest.mark.parametrize("limit", ["body_bytes", "rows", "in_flight", "loaded_versions", "threads", "body_seconds"])
def test_a_limit_that_would_refuse_everything_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=limit):
        ServingSettings(**{limit: 0})


def test_every_response_carries_the_security_headers_and_a_number(client: TestClient) -> None:
    for path in ("/livez", "/", "/nothing", "/v2/models/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert len(headers["x-request-id"]) == 32
        assert headers["server-timing"].startswith("total;dur=")


def test_a_request_number_is_kept_if_it_is_harmless(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    assert client.get("/livez", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"
