"""The typed API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

PREDICT = "/api/v1/models/{}/predict"


def predict(client: TestClient, model: str, inputs: Any) -> Any:
    return client.post(PREDICT.format(model), json={"inputs": inputs})


def test_models_are_listed_with_their_aliases(client: TestClient, source: Any) -> None:
    source.aliases["prices"] = {"champion": 1}
    models = client.get("/api/v1/models").json()["models"]
    assert [model["name"] for model in models] == ["mixed", "numbers", "pictures", "prices"]
    assert models[3] == {
        "name": "prices",
        "versions": 1,
        "aliases": {"champion": 1},
        "created_at": "2026-01-02T03:04:05Z",
    }


def test_a_version_shows_its_digest_metrics_and_privacy_and_undefined_metrics_are_null(client: TestClient) -> None:
    version = client.get("/api/v1/models/numbers/versions/1").json()
    assert version["digest"] == f"{1:064x}"
    assert version["metrics"] == {"accuracy": 0.5, "auroc": None}
    assert version["privacy"]["epsilon"] == 4.0
    assert version["run"] == "run-1" and version["round"] == 3


def test_a_model_shows_its_versions_and_which_one_answers(client: TestClient, source: Any) -> None:
    source.add("prices", source.loaded[source.registered["prices"][0].digest])
    detail = client.get("/api/v1/models/prices").json()
    assert detail["default"] == 2
    assert [version["version"] for version in detail["versions"]] == [1, 2]
    source.aliases["prices"] = {"champion": 1}
    detail = client.get("/api/v1/models/prices").json()
    assert detail["default"] == 1
    assert [version["aliases"] for version in detail["versions"]] == [["champion"], []]


def test_classes_are_predicted_with_their_scores(client: TestClient) -> None:
    # 0.5 + len("x") = 1.5, half of it for the second class; a missing value counts nothing.
    answer = predict(client, "mixed", [{"age": 0.5, "job": "x"}, {"age": None}])
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "mixed",
        "version": 1,
        "predictions": [
            {"label": "high", "score": 0.75, "scores": {"low": 0.25, "high": 0.75}},
            {"label": "low", "score": 1.0, "scores": {"low": 1.0, "high": 0.0}},
        ],
    }
    assert answer.headers["x-model-version"] == "1"


def test_values_are_predicted(client: TestClient) -> None:
    assert predict(client, "prices", [{"rooms": 3}]).json()["predictions"] == [{"value": 3.0}]


@pytest.mark.parametrize(
    "image",
    [[[255, 255, 255], [255, 255, 255]], [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]], {"image": [[255] * 3, [255] * 3]}],
)
def test_images_are_nested_lists(client: TestClient, image: Any) -> None:
    assert predict(client, "pictures", [image]).json()["predictions"][0]["label"] == "light"


UNFIT = {
    "no rows": ("mixed", []),
    "rows that are no list": ("mixed", {"age": 987654}),
    "a row that is no object": ("mixed", [987654]),
    "a key that is no column": ("mixed", [{"987654": 1}]),
    "a text for a number": ("mixed", [{"age": "987654"}]),
    "a number for a text": ("mixed", [{"job": 987654}]),
    "a list for a number": ("mixed", [{"age": [987654]}]),
    "a boolean for a number": ("mixed", [{"age": True}]),
    "an infinite number": ("mixed", [{"age": 1e300, "job": "x" * 3}, {"age": 10**400}]),
    "a record for an image": ("pictures", [{"pixels": [[987654]]}]),
    "an image of another size": ("pictures", [[[1, 2], [3, 4]]]),
    "a ragged image": ("pictures", [[[1, 2, 3], [4, 5]]]),
    "pixels out of range": ("pictures", [[[1, 2, 3], [4, 5, 987654]]]),
    "pixels that are texts": ("pictures", [[["987654"] * 3] * 2]),
    "pixels that are null": ("pictures", [None]),
}


@pytest.mark.parametrize(("model", "inputs"), UNFIT.values(), ids=UNFIT.keys())
def test_unfit_inputs_are_a_422_problem_that_repeats_no_value(client: TestClient, model: str, inputs: Any) -> None:
    answer = predict(client, model, inputs)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert problem["status"] == 422
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "987654" not in answer.text


def test_other_keys_than_inputs_are_refused(client: TestClient) -> None:
    answer = client.post(PREDICT.format("prices"), json={"inputs": [{"rooms": 1}], "version": 1})
    assert answer.status_code == 422


@pytest.mark.parametrize("body", [b"", b"{", b'{"inputs": [{"rooms": NaN}]}', b"\xff"])
def test_a_body_that_is_not_json_is_a_400_problem(client: TestClient, body: bytes) -> None:
    answer = client.post(PREDICT.format("prices"), content=body)
    assert (answer.status_code, answer.json()["title"]) == (400, "Bad Request")


def test_too_many_rows_are_refused(serve: Any) -> None:
    client = serve(rows=2)
    assert predict(client, "prices", [{"rooms": 1}] * 2).status_code == 200
    assert predict(client, "prices", [{"rooms": 1}] * 3).status_code == 422


def test_a_model_that_answers_nan_fails_instead_of_sending_it(client: TestClient, source: Any) -> None:
    object.__setattr__(source.loaded[source.registered["prices"][0].digest], "offset", float("nan"))
    answer = predict(client, "prices", [{"rooms": 1}])
    assert (answer.status_code, answer.json()["status"]) == (500, 500)
    inputs = [{"name": "rooms", "datatype": "FP64", "shape": [1], "data": [1.0]}]
    assert client.post("/v2/models/prices/infer", json={"inputs": inputs}).status_code == 500


@pytest.mark.parametrize("path", ["/api/v1/models/nothing", "/api/v1/models/prices/versions/2", "/api/v2", "/nothing"])
def test_what_does_not_exist_is_a_404_problem_that_does_not_repeat_it(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "nothing" not in answer.json()["detail"].replace("there is nothing at this address", "")


@pytest.mark.parametrize("name", ["x" * 201, "%00", "a%0Ab", "..%2F..", "%F0%9F%92%A9", "%FF"])
def test_an_odd_name_is_a_404(client: TestClient, source: Any, name: str) -> None:
    asked = source.resolved
    for path in (f"/api/v1/models/{name}", f"/v2/models/prices/versions/{name}", f"/models/{name}"):
        assert client.get(path).status_code == 404
    assert source.resolved == asked or name in ("%F0%9F%92%A9", "%FF")


def test_the_recorded_statement_is_returned_and_a_missing_one_promises_nothing(client: TestClient) -> None:
    recorded = client.get("/api/v1/models/numbers/privacy").json()
    assert recorded == {"unit": "client", "epsilon": 4.0, "delta": 1e-5, "hypothetical": False}
    missing = client.get("/api/v1/models/mixed/versions/1/privacy").json()
    assert missing["unit"] == "none"
    assert missing["epsilon"] is None and missing["delta"] is None


def test_an_infinite_epsilon_is_null(client: TestClient, source: Any) -> None:
    source.add(
        "mixed", source.loaded[source.registered["mixed"][0].digest], privacy={"unit": "none", "epsilon": float("inf")}
    )
    answer = client.get("/api/v1/models/mixed/privacy")
    assert json.loads(answer.text, parse_constant=pytest.fail) == {"unit": "none", "epsilon": None}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/markdown", "text/markdown; charset=utf-8"),
        ("text/*, application/json;q=0.5", "text/markdown; charset=utf-8"),
        ("text/markdown;q=0.1, */*", "application/json"),
        ("text/html, text/markdown;q=0.9, */*;q=0.8", "text/markdown; charset=utf-8"),
    ],
)
def test_a_card_comes_as_the_caller_likes_it(client: TestClient, accept: str | None, kind: str) -> None:
    answer = client.get("/api/v1/models/prices/card", headers={"Accept": accept} if accept else {})
    assert answer.headers["content-type"] == kind
    if kind == "application/json":
        assert answer.json()["markdown"] == "# prices\n"
        assert answer.json()["version"]["name"] == "prices"
    else:
        assert answer.text == "# prices\n"


def test_a_card_in_another_form_is_a_406(client: TestClient) -> None:
    assert client.get("/api/v1/models/prices/card", headers={"Accept": "image/png"}).status_code == 406


def test_the_description_names_every_endpoint(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v2/models/{model}/infer", "/api/v1/models/{model}/predict", "/livez", "/readyz"} <= set(paths)
    body = paths["/api/v1/models/{model}/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["inputs"]


def test_the_description_says_which_endpoints_need_a_key(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    (scheme,) = description["components"]["securitySchemes"]
    for path, operations in description["paths"].items():
        for operation in operations.values():
            expected = [] if "health" in path or path.endswith("z") else [{scheme: []}]
            assert operation.get("security", []) == expected, path
