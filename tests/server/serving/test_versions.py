"""Which version answers, and that only intact ones do."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from starlette.testclient import TestClient

from tacit.server.store.errors import StoreUnavailable


def value(client: TestClient, path: str = "/api/v1/models/prices/predict") -> Any:
    return client.post(path, json={"inputs": [{"rooms": 1}]})


def model_of(source: Any) -> Any:
    return source.loaded[source.registered["prices"][0].digest]


def test_the_latest_version_answers_until_there_is_a_champion(client: TestClient, source: Any) -> None:
    assert value(client).headers["x-model-version"] == "1"
    source.add("prices", replace(model_of(source), offset=10.0))
    answer = value(client)
    assert answer.headers["x-model-version"] == "2"
    assert answer.json()["predictions"] == [{"value": 11.0}]
    source.aliases["prices"] = {"champion": 1}
    assert value(client).json()["predictions"] == [{"value": 1.0}]


def test_versions_can_be_asked_for_by_number_and_by_alias(client: TestClient, source: Any) -> None:
    source.add("prices", replace(model_of(source), offset=10.0))
    source.aliases["prices"] = {"challenger": 2}
    for selector, expected in (("1", 1.0), ("2", 11.0), ("challenger", 11.0)):
        answer = value(client, f"/api/v1/models/prices/versions/{selector}/predict")
        assert answer.json()["predictions"] == [{"value": expected}]
        rooms = {"name": "rooms", "datatype": "FP64", "shape": [1], "data": [1.0]}
        answer = client.post(f"/v2/models/prices/versions/{selector}/infer", json={"inputs": [rooms]})
        assert answer.json()["outputs"][0]["data"] == [expected]


def test_the_store_is_asked_at_most_once_in_the_refresh_time(serve: Any, source: Any) -> None:
    client = serve(refresh_seconds=60.0)
    for _ in range(5):
        assert value(client).status_code == 200
    assert source.resolved == 1


def test_a_version_is_loaded_once_even_when_many_ask_at_the_same_time(client: TestClient, source: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: value(client).status_code, range(16)))
    assert answers == [200] * 16
    assert len(source.loads) == 1


def test_the_least_recently_used_version_is_forgotten(serve: Any, source: Any) -> None:
    client = serve(loaded_versions=2)
    for model in ("prices", "numbers", "prices", "mixed", "prices", "numbers"):
        assert client.get(f"/v2/models/{model}/ready").status_code == 200
    names = {version[0].digest: name for name, version in source.registered.items()}
    assert [names[digest] for digest in source.loads] == ["prices", "numbers", "mixed", "numbers"]


def test_a_tampered_version_is_a_503_with_the_reason_and_is_not_served(client: TestClient, source: Any) -> None:
    source.tampered.add(source.registered["prices"][0].digest)
    answer = value(client)
    assert answer.status_code == 503
    assert answer.json()["detail"] == "its files are not those that were registered"
    ready = client.get("/v2/models/prices/ready")
    assert (ready.status_code, ready.json()) == (503, {"error": "its files are not those that were registered"})
    assert client.get("/v2/models/prices").status_code == 503
    assert client.get("/api/v1/models/prices/card").status_code == 503
    # What does not need the files is still told.
    assert client.get("/api/v1/models/prices/versions/1").status_code == 200


def test_a_failure_to_load_is_remembered_for_a_while(serve: Any, source: Any) -> None:
    client = serve(failure_seconds=60.0)
    source.tampered.add(source.registered["prices"][0].digest)
    assert [value(client).status_code for _ in range(3)] == [503] * 3
    assert len(source.loads) == 1


def test_a_restored_version_is_served_again(client: TestClient, source: Any) -> None:
    digest = source.registered["prices"][0].digest
    source.tampered.add(digest)
    assert value(client).status_code == 503
    source.tampered.clear()
    assert value(client).status_code == 200


def test_a_prediction_in_progress_keeps_its_version_when_a_new_one_appears(client: TestClient, source: Any) -> None:
    model = model_of(source)
    model.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(value, client)
        assert model.entered.wait(60)
        source.add("prices", replace(model, offset=10.0, gate=threading.Event()))
        assert value(client).headers["x-model-version"] == "2"
        model.gate.set()
        answer = slow.result()
    assert (answer.headers["x-model-version"], answer.json()["version"]) == ("1", 1)
    assert answer.json()["predictions"] == [{"value": 1.0}]


def test_a_store_that_does_not_answer_is_a_503_and_readiness_is_off(client: TestClient, source: Any) -> None:
    def unavailable(*_: object) -> Any:
        raise StoreUnavailable("sqlite:///secret-path: locked")

    source.resolve = source.models = unavailable
    for answer in (value(client), client.get("/api/v1/models")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "secret-path" not in answer.text
    assert client.get("/readyz").status_code == 503
    assert client.get("/v2/health/ready").json() == {"live": True, "ready": False}
    assert client.get("/livez").status_code == 200


def test_readiness_goes_off_when_the_server_drains(client: TestClient) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    client.app.state.service.draining = True
    assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (503, {"status": "draining"})
    assert value(client).status_code == 200
