"""The registry with the artifacts and the digest that training really writes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tacit.models.artifact_files import digest_of
from tacit.models.checkpoint import Artifact, read_artifact, write_artifact
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.features import fit
from tacit.models.statistics import statistics
from tacit.models.vector import layout_of, read_vector
from tacit.models.zoo.architecture import Architecture
from tacit.server.registry import FILES, Registry
from tacit.server.store import open_store

Write = Callable[[int], Path]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with open_store(str(tmp_path / "tacit.db")) as store:
        yield Registry(store, tmp_path / "models-store")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the artifact of an untrained model, as the seed initialises it."""
    schema = Schema((Column("length", "numeric"), Column("width", "numeric")), "kind", ("short", "long"))
    rows = Rows({"length": np.arange(4.0), "width": np.arange(4.0) ** 2}, np.array([0, 0, 1, 1]))
    features = fit(schema, statistics(rows, schema))
    architecture = Architecture("mlp", "", features.input_shape, 2, {"hidden": [4]})

    def write_seed(seed: int) -> Path:
        model = architecture.build(seed)
        layout = layout_of(model)
        artifact = Artifact(architecture, layout, read_vector(model, layout), features, "tabular-classification")
        write_artifact(tmp_path / f"model-{seed}", artifact, "# Kinds\n")
        return tmp_path / f"model-{seed}"

    return write_seed


def test_a_registered_model_has_the_digest_of_its_artifact(registry: Registry, write: Write) -> None:
    directory = write(1)
    version = registry.register(directory, "kinds", None, None, {}, {})
    assert version.digest == digest_of(directory) == digest_of(registry.path(version))
    assert set(version.files) == set(FILES) == {path.name for path in directory.iterdir()}
    registry.verify(version)


def test_what_is_exported_is_the_model_that_was_registered(registry: Registry, write: Write, tmp_path: Path) -> None:
    first, second = (registry.register(write(seed), "kinds", None, None, {}, {}) for seed in (1, 2))
    assert (first.version, second.version) == (1, 2) and first.digest != second.digest
    registry.promote("kinds", 1, "champion")
    exported = read_artifact(registry.export("kinds", "champion", tmp_path / "exported"), first.digest)
    assert exported.vector.equal(read_artifact(tmp_path / "model-1").vector)
    assert not exported.vector.equal(read_artifact(tmp_path / "model-2").vector)


def test_one_changed_weight_is_found(registry: Registry, write: Write) -> None:
    version = registry.register(write(1), "kinds", None, None, {}, {})
    weights = registry.path(version) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: model kinds version 1: is not the file"):
        registry.verify(version)
