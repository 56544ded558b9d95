"""The application over a real store, a real registry and real model files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tacit.server.registry import Registry
from tacit.server.serving.app import create_app
from tacit.server.serving.registered import RegisteredModels
from tacit.server.serving.settings import ServingSettings


@pytest.fixture
def keyless(registry: Registry) -> Iterator[TestClient]:
    settings = ServingSettings(require_key=False, refresh_seconds=0.0, failure_seconds=0.0, threads=2)
    with TestClient(create_app(RegisteredModels(registry), settings), base_url="http://127.0.0.1") as client:
        yield client


def share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


def predict(client: TestClient, model: str, *inputs: Any) -> Any:
    return client.post(f"/api/v1/models/{model}/predict", json={"inputs": inputs})


def test_raw_rows_are_preprocessed_and_predicted(keyless: TestClient) -> None:
    answer = predict(keyless, "income", {"age": 50, "job": "clerk"}, {"age": 20}, {"age": None, "job": " clerk "})
    high = [row["scores"]["high"] for row in answer.json()["predictions"]]
    # A missing number counts as the mean, 40.
    assert high == pytest.approx([share(1 + 2), share(-2), share(2)], rel=1e-6)
    assert [row["label"] for row in answer.json()["predictions"]] == ["high", "low", "high"]


def test_both_protocols_say_the_same(keyless: TestClient) -> None:
    rows = [{"age": 50.0, "job": "clerk"}, {"age": 33.5, "job": "baker"}]
    typed = predict(keyless, "income", *rows).json()["predictions"]
    inputs = [
        {"name": "age", "datatype": "FP64", "shape": [2], "data": [50.0, 33.5]},
        {"name": "job", "datatype": "BYTES", "shape": [2], "data": ["clerk", "baker"]},
    ]
    scores, label = keyless.post("/v2/models/income/infer", json={"inputs": inputs}).json()["outputs"]
    assert scores["data"] == [row["scores"][name] for row in typed for name in ("low", "high")]
    assert label["data"] == [row["label"] for row in typed]


def test_images_and_values(keyless: TestClient) -> None:
    half = [[[127, 127, 127], [128, 128, 128]]]
    dark, light = [[0] * 3] * 2, [[255] * 3] * 2
    predictions = predict(keyless, "shade", dark, half[0], light).json()["predictions"]
    assert [row["scores"]["light"] for row in predictions] == pytest.approx([share(-6), 0.5, share(6)], abs=1e-5)
    assert predict(keyless, "price", {"rooms": 3.5}).json()["predictions"] == [{"value": 350.0}]


def test_a_new_version_and_a_moved_alias_are_seen_without_a_restart(keyless: TestClient, registry: Registry) -> None:
    first = registry.resolve("price")
    keyless_version = lambda: predict(keyless, "price", {"rooms": 1}).headers["x-model-version"]  # noqa: E731
    assert keyless_version() == "1"
    registry.export("price", 1, registry.root.parent / "copy")
    card = registry.root.parent / "copy" / "README.md"
    card.write_text("# another card, hence another digest\n")
    second = registry.register(card.parent, "price", None, None, {}, {})
    assert (second.version, keyless_version()) == (2, "2")
    registry.promote("price", first.version, "champion")
    assert keyless_version() == "1"
    answer = keyless.post("/api/v1/models/price/versions/champion/predict", json={"inputs": [{"rooms": 1}]})
    assert answer.headers["x-model-digest"] == f"sha256:{first.digest}"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_version_with_a_damaged_file_is_refused_with_the_reason_and_without_a_path(
    keyless: TestClient, registry: Registry, name: str, damage: str
) -> None:
    path = registry.path(registry.resolve("price")) / name
    if damage == "flip":
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    answer = predict(keyless, "price", {"rooms": 1})
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("the files of this version cannot be used: ")
    assert str(registry.root) not in answer.text
    assert keyless.get("/v2/models/price/ready").status_code == 503
    assert predict(keyless, "shade", [[0] * 3] * 2).status_code == 200


def test_a_damaged_card_is_not_shown(keyless: TestClient, registry: Registry) -> None:
    assert keyless.get("/api/v1/models/price/card").json()["markdown"] == "# price\n\nWeights of a test.\n"
    (registry.path(registry.resolve("price")) / "README.md").write_text("# private\n")
    answer = keyless.get("/api/v1/models/price/card")
    assert answer.status_code == 503
    assert "# private" not in answer.text


def test_what_does_not_exist_is_a_404_without_a_path(keyless: TestClient, registry: Registry) -> None:
    for path in ("nothing", "price/versions/2", "price/versions/0", "price/versions/x", "price/versions/latest1"):
        answer = keyless.get(f"/api/v1/models/{path}")
        assert answer.status_code == 404
        assert str(registry.root) not in answer.text
    assert keyless.get("/api/v1/models/price/versions/latest").json()["version"] == 1


def test_keys_of_the_store_let_in_until_they_are_revoked(registry: Registry) -> None:
    key_id, secret = registry.store.create_key("test", ["read"])
    headers = {"Authorization": f"Bearer {secret}"}
    with TestClient(create_app(RegisteredModels(registry), ServingSettings(refresh_seconds=0.0))) as client:
        assert client.get("/api/v1/models", headers=headers).status_code == 200
        assert client.get("/api/v1/models", headers={"Authorization": f"Bearer {secret}x"}).status_code == 401
        registry.store.revoke_key(key_id)
        assert client.get("/api/v1/models", headers=headers).status_code == 401


def test_a_recorded_statement_is_returned_as_it_is(keyless: TestClient) -> None:
    assert keyless.get("/api/v1/models/income/privacy").json()["epsilon"] == 4.0
    assert keyless.get("/api/v1/models/price/privacy").json()["unit"] == "none"
