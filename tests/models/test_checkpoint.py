"""A model survives its files, and nothing but the model that was written does."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tacit.models.artifact_files import digest_of
from tacit.models.checkpoint import (
    Artifact,
    Predictor,
    read_artifact,
    read_vector_file,
    write_artifact,
    write_vector_file,
)
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.features import Features, Standardise
from tacit.models.tasks import ClassPrediction, ValuePrediction
from tacit.models.vector import layout_of, packed, read_vector
from tacit.models.zoo import Architecture

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
TABLE = Schema((Column("age", "numeric"), Column("income", "numeric")), "risk", ("low", "high"))
FEATURES = Features(TABLE, (Standardise((40.0,), (10.0,)), Standardise((3e4,), (1e4,))))
ROWS = Rows({"age": np.array([30.0, 50.0, np.nan]), "income": np.array([2e4, 5e4, 3e4])})
CARD = "# A card\n"


def artifact(architecture: Architecture | None = None, seed: int = 3) -> Artifact:
    architecture = architecture or Architecture("mlp", "", (2,), 2, {"hidden": [4]})
    model = architecture.build(seed)
    layout = layout_of(model)
    details = {"training": {"rounds": 3}, "privacy": {"epsilon": 2.5, "unit": "client"}}
    return Artifact(architecture, layout, read_vector(model, layout), FEATURES, "tabular-classification", details)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, str]:
    directory = tmp_path / "model"
    return directory, write_artifact(directory, artifact(), CARD)


def test_a_model_survives_its_files_to_the_last_bit(written: tuple[Path, str]) -> None:
    directory, digest = written
    original, again = artifact(), read_artifact(directory, digest)
    assert torch.equal(original.vector.view(torch.int32), again.vector.view(torch.int32))
    assert again.architecture == original.architecture and again.layout == original.layout
    assert again.features == original.features and again.details == original.details
    assert again.task_kind == original.task_kind
    assert (directory / "README.md").read_text() == CARD
    assert sorted(os.listdir(directory)) == ["README.md", "config.json", "model.safetensors"]
    assert os.listdir(directory.parent) == ["model"]


def test_the_digest_is_that_of_the_listing_of_the_three_files(written: tuple[Path, str]) -> None:
    directory, digest = written
    names = ["README.md", "config.json", "model.safetensors"]
    listing = "".join(f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    assert hashlib.sha256(listing.encode()).hexdigest() == digest == digest_of(directory)


def test_the_same_model_has_the_same_digest_anywhere(written: tuple[Path, str], tmp_path: Path) -> None:
    assert write_artifact(tmp_path / "again", artifact(), CARD) == written[1]
    assert write_artifact(tmp_path / "card", artifact(), CARD + "\n") != written[1]
    assert write_artifact(tmp_path / "seed", artifact(seed=4), CARD) != written[1]


def test_the_weights_are_a_state_dict_that_torch_loads(written: tuple[Path, str]) -> None:
    model = artifact().architecture.build(seed=9)
    model.load_state_dict(load_file(written[0] / "model.safetensors"))
    assert torch.equal(read_vector(model, artifact().layout), artifact().vector)


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_one_changed_byte_anywhere_is_noticed_by_the_digest(written: tuple[Path, str], name: str) -> None:
    directory, digest = written
    data = (directory / name).read_bytes()
    for position in range(0, len(data), max(1, len(data) // 40)):
        (directory / name).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(InputError, match="are not the files of this digest"):
            read_artifact(directory, digest)


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_a_missing_file_is_named(written: tuple[Path, str], name: str) -> None:
    (written[0] / name).unlink()
    for read in (read_artifact, digest_of):
        with pytest.raises(InputError, match=f"{name}: cannot be read") as caught:
            read(written[0])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 9, 60, 0.5, -1])
def test_a_truncated_file_is_named_without_any_digest(written: tuple[Path, str], name: str, kept: float) -> None:
    path = written[0] / name
    data = path.read_bytes().rstrip()
    path.write_bytes(data[: int(len(data) * kept) if kept == 0.5 else int(kept)])
    with pytest.raises(InputError, match=name) as caught:
        read_artifact(written[0])
    assert "\n" not in str(caught.value)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(format=2), "is of format 2, and this Tacit reads up to 1; upgrade Tacit"),
        (lambda c: c.update(format=2, layout="anything new"), "upgrade Tacit"),
        (lambda c: c.update(format="1"), "says no format version"),
        (lambda c: c.update(format=0), "format: "),
        (lambda c: c.pop("features"), "features: Field required"),
        (lambda c: c.update(more=1), "more: Extra inputs"),
        (lambda c: c["layout"].update(digest="0" * 64), "the layout does not have its own digest"),
        (lambda c: c["layout"]["entries"].reverse(), "the layout does not have its own digest"),
        (lambda c: c["architecture"].update(outputs="2"), "architecture.outputs: is no int"),
        (lambda c: c["architecture"].update(input_shape=[3]), "the features do not fit the architecture"),
        (lambda c: c["features"].update(version=2), "features"),
        (lambda c: c["task"].update(target_scale=0.0), "task.target_scale: "),
        (lambda c: c.update(details={"x": float("nan")}), "is no JSON"),
    ],
)
def test_a_config_that_was_meddled_with_is_refused(
    written: tuple[Path, str], change: Callable[[dict[str, Any]], object], said: str
) -> None:
    changed(written[0] / "config.json", change)
    with pytest.raises(InputError, match="config.json") as caught:
        read_artifact(written[0])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_nested_without_end_is_no_json(written: tuple[Path, str]) -> None:
    (written[0] / "config.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match="config.json: is no JSON"):
        read_artifact(written[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("1.bias"),
        lambda t: t.update(more=torch.zeros(1)),
        lambda t: t.update({"1.bias": torch.zeros(5)}),
        lambda t: t.update({"1.bias": torch.zeros(4, dtype=torch.float64)}),
        lambda t: t.update({"1.bias": torch.tensor([0.0, 0.0, float("nan"), 0.0])}),
        lambda t: t.update({"1.bias": torch.tensor([0.0, 0.0, float("inf"), 0.0])}),
    ],
)
def test_weights_of_another_layout_or_without_a_value_are_refused(
    written: tuple[Path, str], change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    path = written[0] / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match="model.safetensors: (does not hold the tensors|holds a value)"):
        read_artifact(written[0])


def test_what_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    broken = artifact()
    broken.vector[0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        write_artifact(tmp_path / "nan", broken, CARD)
    odd = artifact()
    odd.details["training"] = {1, 2}
    with pytest.raises(InputError, match="the details are no plain JSON"):
        write_artifact(tmp_path / "details", odd, CARD)
    short = artifact()
    short.vector = short.vector[1:]
    with pytest.raises(InputError, match="expected float32 of shape"):
        write_artifact(tmp_path / "short", short, CARD)
    assert os.listdir(tmp_path) == []


def test_a_model_is_never_overwritten(written: tuple[Path, str]) -> None:
    with pytest.raises(InputError, match="is there already"):
        write_artifact(written[0], artifact(seed=5), CARD)
    assert digest_of(written[0]) == written[1]


def test_a_vector_survives_its_file(tmp_path: Path) -> None:
    layout = packed([("a", (2, 2)), ("b", ()), ("c", (0,))])
    vector = torch.tensor([1.0, -0.0, 1e-45, 3.4e38, 2.0])
    write_vector_file(tmp_path / "round.safetensors", torch.zeros(5), layout)
    write_vector_file(tmp_path / "round.safetensors", vector, layout)
    again = read_vector_file(tmp_path / "round.safetensors", layout)
    assert torch.equal(again.view(torch.int32), vector.view(torch.int32))
    with pytest.raises(InputError, match="does not hold the tensors of the layout"):
        read_vector_file(tmp_path / "round.safetensors", packed([("a", (5,))]))
    with pytest.raises(InputError, match="cannot be read"):
        read_vector_file(tmp_path / "other", layout)


def test_a_full_disk_keeps_the_earlier_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, path = packed([("a", (3,))]), tmp_path / "round.safetensors"
    write_vector_file(path, torch.ones(3), layout)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_vector_file(path, torch.zeros(3), layout)
    assert read_vector_file(path, layout).tolist() == [1, 1, 1] and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("device", DEVICES)
def test_a_predictor_runs_the_preprocessing_and_the_network(written: tuple[Path, str], device: str) -> None:
    predictor = Predictor(read_artifact(*written), device)
    standardised = torch.tensor([[-1.0, -1.0], [1.0, 2.0], [0.0, 0.0]])
    model = artifact().architecture.build(seed=3)
    expected = torch.softmax(model(standardised), dim=1).detach().numpy()
    scores = predictor.scores(ROWS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    for row, prediction in zip(expected, predictor.predict(ROWS), strict=True):
        assert isinstance(prediction, ClassPrediction)
        assert prediction.label == TABLE.classes[int(row.argmax())]
        assert list(prediction.scores.values()) == pytest.approx(row.tolist(), rel=1e-5)


def test_batches_do_not_change_predictions_and_no_rows_give_none(written: tuple[Path, str]) -> None:
    read = read_artifact(*written)
    whole, single = Predictor(read).scores(ROWS), Predictor(read, batch_size=1).scores(ROWS)
    np.testing.assert_allclose(whole, single, rtol=1e-6)
    nothing = ROWS.take(np.empty(0, dtype=np.int64))
    assert Predictor(read).predict(nothing) == [] and Predictor(read).scores(nothing).shape == (0, 2)


def test_dropout_is_off_when_predicting() -> None:
    predictor = Predictor(artifact(Architecture("mlp", "", (2,), 2, {"dropout": 0.9})))
    assert np.array_equal(predictor.scores(ROWS), predictor.scores(ROWS))


def test_threads_share_a_predictor(written: tuple[Path, str]) -> None:
    predictor = Predictor(read_artifact(*written))
    expected = predictor.scores(ROWS)
    found: list[bool] = []

    def predict_often() -> None:
        found.extend(np.array_equal(predictor.scores(ROWS), expected) for _ in range(50))

    threads = [threading.Thread(target=predict_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200


def test_a_regression_predicts_in_the_unit_of_its_targets(tmp_path: Path) -> None:
    schema = Schema(TABLE.columns, "price")
    architecture = Architecture("logistic", "", (2,), 1)
    layout = layout_of(architecture.build(0))
    regression = Artifact(
        architecture,
        layout,
        torch.tensor([0.5, 0.25, 1.0]),
        Features(schema, FEATURES.encoders),
        "tabular-regression",
        {},
        target_mean=100.0,
        target_scale=20.0,
    )
    digest = write_artifact(tmp_path / "model", regression, CARD)
    predictor = Predictor(read_artifact(tmp_path / "model", digest))
    # 100 + 20 (1 + z_age / 2 + z_income / 4) with z = (-1, -1), (1, 2), (0, 0)
    expected = [105.0, 140.0, 120.0]
    assert predictor.predict(ROWS) == [ValuePrediction(value) for value in expected]
    assert predictor.scores(ROWS).tolist() == expected


def test_a_users_own_architecture_is_not_imported_unless_the_caller_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    module = tmp_path / "theirs" / "their_network.py"
    module.write_text("from torch import nn\ndef make(shape, outputs):\n    return nn.Linear(shape[0], outputs)\n")
    monkeypatch.syspath_prepend(str(tmp_path / "theirs"))
    layout = packed([("weight", (2, 2)), ("bias", (2,))])
    own = Architecture("", "their_network:make", (2,), 2)
    digest = write_artifact(
        tmp_path / "model", Artifact(own, layout, torch.ones(6), FEATURES, "tabular-classification"), CARD
    )
    read = read_artifact(tmp_path / "model", digest)
    with pytest.raises(InputError, match="architecture is code of its own"):
        Predictor(read)
    assert "their_network" not in sys.modules
    try:
        assert len(Predictor(read, allow_factories=True).predict(ROWS)) == 3
    finally:
        sys.modules.pop("their_network", None)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        (Architecture("mlp", "", (2,), 2, {"hidden": [5]}), "the weights are not those of the architecture"),
        (Architecture("mlp", "", (2,), 3, {"hidden": [4]}), "the architecture has 3 outputs"),
        (Architecture("mpl", "", (2,), 2), "unknown model 'mpl'"),
        (Architecture("mlp", "", (2,), 2, {"hidden": [65_536] * 32}), "the weights are not those of the architecture"),
        (Architecture("mlp", "", (2**62, 2**62), 2), "no network has these shapes"),
    ],
)
def test_weights_of_another_network_are_refused_without_building_it(architecture: Architecture, said: str) -> None:
    other = artifact()
    other.architecture = architecture
    with pytest.raises(InputError, match=said):
        Predictor(other)


def test_the_task_must_fit_the_data() -> None:
    other = artifact()
    other.task_kind = "image-classification"
    with pytest.raises(InputError, match="expected exactly one, an image"):
        Predictor(other)
    other.task_kind = "unheard-of"
    with pytest.raises(InputError, match="unknown task"):
        Predictor(other)


def test_a_killed_writer_leaves_no_directory_under_the_final_name(tmp_path: Path) -> None:
    code = (
        "import os, sys, signal; from pathlib import Path; from tacit.models import durable\n"
        "rename = os.rename\n"
        "os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "durable.write_directory(Path(sys.argv[1]), {'a': b'1'})\n"
    )
    finished = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=False)
    assert finished.returncode == -9
    assert not (tmp_path / "model").exists()
