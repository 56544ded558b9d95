"""`tacit predict` against a running service."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from tacit.__main__ import run
from tacit.server.registry import Registry
from tacit.server.serving.app import create_app
from tacit.server.serving.registered import RegisteredModels
from tacit.server.serving.settings import ServingSettings

Predict = Callable[..., tuple[int, str, str]]


@pytest.fixture
def url(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service in a thread of this process, and its key in the environment."""
    monkeypatch.setenv("TACIT_API_KEY", registry.store.create_key("test", ["predict"]).secret)
    app = create_app(RegisteredModels(registry), ServingSettings(threads=2, body_bytes=5 * 2**20))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def predict(url: str, capsys: pytest.CaptureFixture[str]) -> Predict:
    """Run the command with a model, files and options; return its exit code and what it printed."""

    def ask(model: str, *options: object) -> tuple[int, str, str]:
        code = run(["predict", "--url", url, "--model", model, *map(str, options)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ask


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_of_a_csv_file_are_predicted_and_printed(predict: Predict, tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.csv", "job,age\nclerk,50\nbaker,\n")
    code, out, err = predict("income", "--input", rows)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["row", "label", "score"],
        ["0", "high", "0.952574"],
        ["1", "low", "0.5"],
    ]


def test_columns_that_the_model_does_not_have_are_left_out_and_named(predict: Predict, tmp_path: Path) -> None:
    code, out, err = predict(
        "price", "--input", written(tmp_path / "rows.csv", "price,rooms\n1,2\n"), "--format", "json"
    )
    assert code == 0
    assert json.loads(out) == {"model": "price", "version": 1, "predictions": [{"value": 200.0}]}
    assert "no such column: price" in err


@pytest.mark.parametrize("text", ['[{"rooms": 2}, {"rooms": 3}]', '{"inputs": [{"rooms": 2}, {"rooms": 3}]}'])
def test_json_files_hold_rows_or_a_request(predict: Predict, tmp_path: Path, text: str) -> None:
    code, out, _ = predict(
        "price", "--input", written(tmp_path / "rows.json", text), "--version", "1", "--format", "json"
    )
    assert code == 0
    assert [row["value"] for row in json.loads(out)["predictions"]] == [200.0, 300.0]


def test_pictures_and_arrays_are_predicted(predict: Predict, tmp_path: Path) -> None:
    light, dark = np.full((2, 3), 255, np.uint8), np.zeros((2, 3), np.uint8)
    Image.fromarray(light).save(tmp_path / "light.png")
    Image.fromarray(dark).save(tmp_path / "dark.png")
    np.save(tmp_path / "both.npy", np.stack([dark, light]))
    np.savez(tmp_path / "both.npz", image=np.stack([dark, light])[:, np.newaxis] / np.float32(255))
    pictures = ("--input", tmp_path / "light.png", "--input", tmp_path / "dark.png")
    for options, labels in (
        (pictures, ["light", "dark"]),
        (("--input", tmp_path / "both.npy"), ["dark", "light"]),
        (("--input", tmp_path / "both.npz"), ["dark", "light"]),
    ):
        code, out, _ = predict("shade", *options, "--format", "json")
        assert code == 0
        assert [row["label"] for row in json.loads(out)["predictions"]] == labels


def test_arrays_of_numbers_are_rows_of_a_table(predict: Predict, tmp_path: Path) -> None:
    np.save(tmp_path / "rooms.npy", np.array([[1.0], [2.0]]))
    np.savez(tmp_path / "people.npz", age=np.array([50.0, np.nan]), job=np.array(["clerk", "baker"]))
    _, out, _ = predict("price", "--input", tmp_path / "rooms.npy", "--format", "json")
    assert [row["value"] for row in json.loads(out)["predictions"]] == [100.0, 200.0]
    _, out, _ = predict("income", "--input", tmp_path / "people.npz", "--format", "json")
    assert [row["label"] for row in json.loads(out)["predictions"]] == ["high", "low"]


def test_large_files_are_sent_in_parts(predict: Predict, tmp_path: Path) -> None:
    many = written(tmp_path / "rows.csv", "rooms\n" + "".join(f"{number}\n" for number in range(2500)))
    code, out, _ = predict("price", "--input", many, "--format", "json")
    assert code == 0
    assert [row["value"] for row in json.loads(out)["predictions"]] == [100.0 * number for number in range(2500)]
    long = "x" * 2_000_000
    rows = written(tmp_path / "long.json", json.dumps([{"age": 40, "job": long}] * 4))
    assert predict("income", "--input", rows)[0] == 0


WRONG = {
    "an unknown kind of file": ("price", "rows.txt", "rooms\n1\n", "is no file of rows by its name"),
    "an empty file": ("price", "rows.csv", "", "lacks the column rooms"),
    "no rows": ("price", "rows.csv", "rooms\n", "has no rows"),
    "a missing column": (
        "price",
        "rows.csv",
        "room\n987654\n",
        "lacks the column rooms; the model's columns (not room)",
    ),
    "a column twice": ("price", "rows.csv", "rooms,rooms\n1,2\n", "names a column twice"),
    "a text for a number": ("price", "rows.csv", "rooms\n1\n987654x\n", "line 3, column rooms: is no finite number"),
    "infinity": ("price", "rows.csv", "rooms\ninf\n", "is no finite number"),
    "a row too long": ("price", "rows.csv", "rooms\n1,987654\n", "line 2: has 2 cells"),
    "broken JSON": ("price", "rows.json", "[", "is no JSON"),
    "NaN in JSON": ("price", "rows.json", '[{"rooms": NaN}]', "is no JSON"),
    "JSON without rows": ("price", "rows.json", '{"rows": [987654]}', "holds no list of rows"),
    "a wrong value in JSON": (
        "price",
        "rows.json",
        '[{"rooms": "987654"}]',
        "row 0, column 'rooms': the value is wrong",
    ),
    "a table for a model of images": ("shade", "rows.csv", "rooms\n1\n", "the model takes images"),
    "a picture for a model of tables": ("price", "rows.png", "x", "the model takes no images"),
    "no picture": ("shade", "rows.png", "987654", "is no PNG picture"),
    "no array": ("shade", "rows.npy", "987654", "is no file of plain NumPy arrays"),
    "a model that does not exist": ("nothing", "rows.csv", "a\n1\n", "there is no such model"),
}


@pytest.mark.parametrize(("model", "name", "text", "says"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_line_that_repeats_no_value_and_exit_code_2(
    predict: Predict, tmp_path: Path, model: str, name: str, text: str, says: str
) -> None:
    code, out, err = predict(model, "--input", written(tmp_path / name, text))
    assert (code, out) == (2, "")
    assert says in err and err.count("\n") == 1
    assert "987654" not in err


def test_a_picture_of_another_size_is_refused(predict: Predict, tmp_path: Path) -> None:
    Image.new("L", (5, 5)).save(tmp_path / "square.png")
    code, _, err = predict("shade", "--input", tmp_path / "square.png")
    assert code == 2 and "is 5 x 5 pixels; 3 x 2, what the model takes" in err


def test_an_array_with_objects_is_not_unpickled(predict: Predict, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    code, _, err = predict("shade", "--input", tmp_path / "objects.npy")
    assert code == 2 and "is no file of plain NumPy arrays" in err


def test_a_file_that_is_not_there_is_exit_code_2(predict: Predict, tmp_path: Path) -> None:
    code, _, err = predict("price", "--input", tmp_path / "nothing.csv")
    assert code == 2 and "cannot be read (No such file or directory)" in err


@pytest.mark.parametrize("key", ["", "wrong", "schlüssel"])
def test_a_missing_or_wrong_key_is_exit_code_2_and_is_not_repeated(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("TACIT_API_KEY", key)
    code, _, err = predict("price", "--input", written(tmp_path / "rows.csv", "rooms\n1\n"))
    assert code == 2 and "TACIT_API_KEY" in err
    assert not key or key not in err


def test_a_service_that_is_not_there_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    rows = written(tmp_path / "rows.csv", "rooms\n1\n")
    assert run(["predict", "--url", f"http://127.0.0.1:{port}", "--model", "price", "--input", str(rows)]) == 1
    err = capsys.readouterr().err
    assert "cannot be reached" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:8100", "ftp://host", "http://", "http://host:99999", "http://u:987654@host", "http://[x"]
)
def test_a_wrong_address_is_exit_code_2(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = written(tmp_path / "rows.csv", "rooms\n1\n")
    assert run(["predict", "--url", address, "--model", "price", "--input", str(rows)]) == 2
    err = capsys.readouterr().err
    assert "--url" in err and "987654" not in err


def test_an_answer_of_something_else_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "hello" in self.path else 500)
            self.send_header("Content-Length", "12")
            self.end_headers()
            self.wfile.write(b"\x1b[31mhello\x1b[")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rows = written(tmp_path / "rows.csv", "rooms\n1\n")
        for model, says in (("hello", "is not that of a Tacit service"), ("x", "status 500")):
            address = f"http://127.0.0.1:{server.server_port}"
            assert run(["predict", "--url", address, "--model", model, "--input", str(rows)]) == 1
            err = capsys.readouterr().err
            assert says in err and "\x1b" not in err
        server.shutdown()
