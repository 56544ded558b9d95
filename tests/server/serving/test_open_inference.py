"""The Open Inference Protocol as a stock client of it speaks it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def infer(client: TestClient, model: str, *inputs: dict[str, Any], **more: Any) -> Any:
    return client.post(f"/v2/models/{model}/infer", json={"inputs": list(inputs), **more})


def outputs(answer: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output for output in answer["outputs"]}


def test_the_server_says_that_it_lives_is_ready_and_what_it_is(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"live": True, "ready": True}
    for path in ("/v2", "/v2/"):
        metadata = client.get(path).json()
        assert metadata["name"] == "tacit"
        assert metadata["extensions"] == ["binary_tensor_data"]
        assert set(metadata) == {"name", "version", "extensions"}


def test_metadata_names_every_column_with_its_datatype_and_shape(client: TestClient) -> None:
    assert client.get("/v2/models/mixed").json() == {
        "name": "mixed",
        "versions": ["1"],
        "platform": "tacit_safetensors",
        "inputs": [
            {"name": "age", "datatype": "FP64", "shape": [-1]},
            {"name": "job", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    assert client.get("/v2/models/pictures/versions/1").json()["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, 1, 2, 3]}
    ]
    assert client.get("/v2/models/prices").json()["outputs"] == [{"name": "value", "datatype": "FP32", "shape": [-1]}]


def test_a_model_that_loads_is_ready(client: TestClient) -> None:
    for path in ("/v2/models/mixed/ready", "/v2/models/mixed/versions/1/ready"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"name": "mixed", "ready": True}


def test_inference_with_one_tensor_a_column(client: TestClient) -> None:
    # sums: 0.5 + len("x") = 1.5 -> 0.75 for the second class; 0.1 + 0 -> 0.05
    answer = infer(
        client, "mixed", tensor("age", "FP64", [2], [0.5, 0.1]), tensor("job", "BYTES", [2, 1], ["x", ""]), id="42"
    )
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("mixed", "1", "42")
    scores, label = outputs(body)["scores"], outputs(body)["label"]
    assert (scores["datatype"], scores["shape"]) == ("FP32", [2, 2])
    assert scores["data"] == pytest.approx([0.25, 0.75, 0.95, 0.05])
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["high", "low"]}
    assert answer.headers["x-model-version"] == "1"
    assert answer.headers["x-model-digest"].startswith("sha256:")
    assert {part.split(";")[0] for part in answer.headers["server-timing"].split(", ")} >= {"predict", "total"}


def test_an_id_that_was_not_given_is_not_made_up(client: TestClient) -> None:
    assert "id" not in infer(client, "prices", tensor("rooms", "FP32", [1], [3])).json()


@pytest.mark.parametrize(
    "matrix",
    [
        tensor("input-0", "FP64", [2, 2], [1.0, 0.5, 0.0, 0.25]),
        tensor("input-0", "FP32", [2, 2], [[1.0, 0.5], [0.0, 0.25]]),
    ],
)
def test_all_numeric_columns_may_come_as_one_matrix_flat_or_nested(client: TestClient, matrix: dict[str, Any]) -> None:
    data = outputs(infer(client, "numbers", matrix).json())["scores"]["data"]
    assert data == pytest.approx([0.25, 0.75, 0.875, 0.125])


def test_integers_are_numbers_too(client: TestClient) -> None:
    for datatype in ("INT64", "INT32", "UINT8"):
        answer = infer(client, "prices", tensor("rooms", datatype, [2, 1], [[3], [4]]))
        assert outputs(answer.json())["value"]["data"] == [3.0, 4.0]


@pytest.mark.parametrize("shape", [[1, 1, 2, 3], [1, 2, 3]])
@pytest.mark.parametrize(("datatype", "pixel"), [("UINT8", 255), ("FP32", 1.0)])
def test_images_are_levels_or_shares_with_or_without_channel(
    client: TestClient, shape: list[int], datatype: str, pixel: float
) -> None:
    answer = infer(client, "pictures", tensor("image", datatype, shape, [pixel] * 6)).json()
    assert outputs(answer)["label"]["data"] == ["light"]


def test_only_the_outputs_that_are_asked_for_are_sent(client: TestClient) -> None:
    rooms = tensor("a", "FP64", [1], [1.0]), tensor("b", "FP64", [1], [1.0])
    answer = infer(client, "numbers", *rooms, outputs=[{"name": "label"}]).json()
    assert [output["name"] for output in answer["outputs"]] == ["label"]


def test_parameters_of_other_extensions_are_left_alone(client: TestClient) -> None:
    declared = tensor("rooms", "FP32", [1], [3]) | {"parameters": {"content_type": "np"}}
    assert infer(client, "prices", declared, parameters={"priority": 1}).status_code == 200


def test_binary_tensors_go_in_and_come_out(client: TestClient) -> None:
    age = np.array([0.5, 0.1], dtype="<f4").tobytes()
    job = b"".join(len(text).to_bytes(4, "little") + text for text in (b"x", b""))
    head = json.dumps(
        {
            "inputs": [
                {"name": "age", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": len(age)}},
                {"name": "job", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(job)}},
            ],
            "outputs": [
                {"name": "scores", "parameters": {"binary_data": True}},
                {"name": "label", "parameters": {"binary_data": True}},
            ],
        }
    ).encode()
    answer = client.post(
        "/v2/models/mixed/infer",
        content=head + age + job,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert answer.status_code == 200
    length = int(answer.headers["inference-header-content-length"])
    described = outputs(json.loads(answer.content[:length]))
    size = described["scores"]["parameters"]["binary_data_size"]
    assert size == 4 * 4
    scores = np.frombuffer(answer.content[length : length + size], dtype="<f4")
    assert scores.tolist() == pytest.approx([0.25, 0.75, 0.95, 0.05])
    assert answer.content[length + size :] == b"\x04\0\0\0high\x03\0\0\0low"


WRONG = {
    "no inputs": [],
    "a datatype that does not exist": [tensor("rooms", "FLOAT", [1], [1.0])],
    "a text where a number is wanted": [tensor("rooms", "BYTES", [1], ["1.0"])],
    "a text in a number tensor": [tensor("rooms", "FP64", [1], ["987654"])],
    "a boolean in a number tensor": [tensor("rooms", "FP64", [1], [True])],
    "null in a number tensor": [tensor("rooms", "FP64", [1], [None])],
    "a fraction in an integer tensor": [tensor("rooms", "INT64", [1], [1.5])],
    "an integer out of range": [tensor("rooms", "INT8", [1], [987654])],
    "a number that overflows to infinity": [tensor("rooms", "FP32", [1], [1e300])],
    "an integer too large for a float": [tensor("rooms", "FP64", [1], [10**400])],
    "fewer elements than the shape says": [tensor("rooms", "FP64", [3], [987654.0])],
    "a shape of another rank": [tensor("rooms", "FP64", [1, 1, 1], [987654.0])],
    "two columns for one": [tensor("rooms", "FP64", [1, 2], [1.0, 2.0])],
    "no rows": [tensor("rooms", "FP64", [0], [])],
    "a negative size": [tensor("rooms", "FP64", [-1], [1.0])],
    "a huge size": [tensor("rooms", "FP64", [2**62, 2**62], [1.0])],
    "ragged data": [tensor("rooms", "FP64", [2, 1], [[1.0], [2.0, 3.0]])],
    "a shape that is no list": [{"name": "rooms", "datatype": "FP64", "shape": "x", "data": [1.0]}],
    "data that is no list": [tensor("rooms", "FP64", [1], "x")],
    "no data": [{"name": "rooms", "datatype": "FP64", "shape": [1]}],
    "an input that the model does not have": [tensor("rooms", "FP64", [1], [1]), tensor("x987654", "FP64", [1], [1])],
    "an input twice": [tensor("rooms", "FP64", [1], [1]), tensor("rooms", "FP64", [1], [1])],
    "binary data that is not there": [
        {"name": "rooms", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}
    ],
    "an input that is no object": [7],
}


@pytest.mark.parametrize("inputs", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_a_400_in_the_protocols_form_that_repeats_no_value(client: TestClient, inputs: Any) -> None:
    answer = client.post("/v2/models/prices/infer", content=json.dumps({"inputs": inputs}))
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert "987654" not in answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_finite_number_is_refused(client: TestClient, number: str) -> None:
    body = '{"inputs": [{"name": "rooms", "datatype": "FP64", "shape": [1], "data": [%s]}]}' % number  # noqa: UP031
    answer = client.post("/v2/models/prices/infer", content=body)
    assert answer.status_code == 400
    assert "NaN and infinity" in answer.json()["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"inputs": {}}', b'{"inputs": [], "id": 3}']
)
def test_a_body_that_is_no_request_is_a_400(client: TestClient, body: bytes) -> None:
    answer = client.post("/v2/models/prices/infer", content=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


def test_columns_of_different_lengths_are_refused(client: TestClient) -> None:
    answer = infer(client, "mixed", tensor("age", "FP64", [2], [1, 2]), tensor("job", "BYTES", [1], ["x"]))
    assert (answer.status_code, answer.json()) == (400, {"error": "the inputs have different numbers of rows"})


def test_a_missing_column_is_named(client: TestClient) -> None:
    answer = infer(client, "mixed", tensor("age", "FP64", [1], [1]))
    assert (answer.status_code, answer.json()) == (400, {"error": "inputs are missing: job"})


def test_an_output_that_does_not_exist_is_refused(client: TestClient) -> None:
    answer = infer(client, "prices", tensor("rooms", "FP64", [1], [1]), outputs=[{"name": "scores"}])
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "outputs[0]: name must be one of value, each at most once"},
    )


@pytest.mark.parametrize("header", ["-1", "x", "99999", "9" * 5000])
def test_a_wrong_length_of_the_json_is_refused(client: TestClient, header: str) -> None:
    answer = client.post("/v2/models/prices/infer", content=b"{}", headers={"Inference-Header-Content-Length": header})
    assert answer.status_code == 400


def test_what_does_not_exist_is_a_404_in_the_protocols_form(client: TestClient) -> None:
    for path in ("/v2/models/nothing", "/v2/models/prices/versions/9", "/v2/models/prices/ready/now"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert list(answer.json()) == ["error"]
    assert client.get("/v2/models/prices/infer").status_code == 405
