"""A model as files: safetensors, `config.json` and the card, under one digest; and the vector of a round.

No file holds anything that could run: tensors are safetensors, everything else is JSON and text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tacit.models.artifact_files import CARD, CONFIG, WEIGHTS, files_digest, read_file, read_files
from tacit.models.data.rows import Rows
from tacit.models.data.schemas import StrictModel
from tacit.models.durable import write_directory, write_file
from tacit.models.errors import InputError
from tacit.models.features import Features
from tacit.models.tasks import Prediction, task_named
from tacit.models.vector import Layout, layout_of, state_dict_of, write_vector
from tacit.models.zoo.architecture import Architecture

FORMAT_VERSION = 1


@dataclass
class Artifact:
    """A trained model: all that is needed to turn raw rows into predictions.

    Attributes:
        architecture: the network.
        layout: the tensors in `vector`.
        vector: float32, shape `(layout.size,)`.
        features: the preprocessing.
        task_kind: the task's name.
        details: anything else that is to be known, as plain JSON under names such as `training` and `privacy`.
        target_mean, target_scale: of a regression; see `Task.with_target_statistics`.
    """

    architecture: Architecture
    layout: Layout
    vector: Tensor
    features: Features
    task_kind: str
    details: dict[str, Any] = field(default_factory=dict)
    target_mean: float = 0.0
    target_scale: float = 1.0


def write_artifact(directory: Path | str, artifact: Artifact, card: str) -> str:
    """Write a new model directory, whole or not at all, and return its digest.

    Args:
        directory: must not be there yet, or be empty.
        artifact: the model.
        card: the text of `README.md`.

    Raises:
        InputError: the directory is in use, a weight is no finite number, or `details` is no plain JSON.
        OSError: it cannot be written; nothing is left behind.
    """
    directory = Path(directory)
    _check_finite(artifact.vector, str(directory / WEIGHTS))
    config = {
        "format": FORMAT_VERSION,
        "task": {
            "kind": artifact.task_kind,
            "target_mean": artifact.target_mean,
            "target_scale": artifact.target_scale,
        },
        "architecture": artifact.architecture.to_json_dict(),
        "layout": {"digest": artifact.layout.digest, "entries": artifact.layout.to_json_list()},
        "features": artifact.features.to_json_dict(),
        "details": artifact.details,
    }
    try:
        text = json.dumps(config, indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise InputError("the details are no plain JSON", where=str(directory / CONFIG)) from None
    files = {
        WEIGHTS: _tensors_as_bytes(artifact.vector, artifact.layout),
        CONFIG: f"{text}\n".encode(),
        CARD: card.encode(),
    }
    write_directory(directory, files)
    return files_digest(files)


def read_artifact(directory: Path | str, digest: str | None = None) -> Artifact:
    """Read a model directory; nothing of it is imported or run.

    Args:
        directory: what `write_artifact` wrote.
        digest: the digest that the three files must have, or None to read whatever is there.

    Raises:
        InputError: a file is missing, damaged, inconsistent, or of a newer format, or the digest is another one.
    """
    directory = Path(directory)
    files = read_files(directory)
    if digest is not None and files_digest(files) != digest:
        raise InputError("are not the files of this digest", where=str(directory), right="restore them from a copy")
    where = str(directory / CONFIG)
    config = _parse_config(files[CONFIG], where)
    try:
        layout = Layout.from_json_list(config.layout.entries)
        architecture = Architecture.from_json_dict(config.architecture)
        features = Features.from_json_dict(config.features)
    except InputError as error:
        raise InputError(error.what, where=", ".join(filter(None, (where, error.where))), right=error.right) from None
    if layout.digest != config.layout.digest:
        raise InputError("the layout does not have its own digest", where=where)
    if tuple(features.input_shape) != architecture.input_shape:
        raise InputError("the features do not fit the architecture", where=where)
    vector = _vector_of(files[WEIGHTS], layout, str(directory / WEIGHTS))
    return Artifact(
        architecture=architecture,
        layout=layout,
        vector=vector,
        features=features,
        task_kind=config.task.kind,
        details=config.details,
        target_mean=config.task.target_mean,
        target_scale=config.task.target_scale,
    )


def write_vector_file(path: Path | str, vector: Tensor, layout: Layout) -> None:
    """Write a model's vector as safetensors, replacing an earlier file in one step.

    Raises:
        InputError: the vector is not of this layout.
        OSError: it cannot be written; the earlier file is still there, and nothing else is left behind.
    """
    write_file(Path(path), _tensors_as_bytes(vector, layout))


def read_vector_file(path: Path | str, layout: Layout) -> Tensor:
    """Return the vector that `write_vector_file` wrote, on the CPU.

    Raises:
        InputError: the file is missing or damaged, is of another layout, or holds a value that is not finite.
    """
    return _vector_of(read_file(Path(path)), layout, str(path))


class Predictor:
    """A model that answers: raw rows in, predictions out; safe to use from several threads at once.

    Attributes:
        schema: the columns that rows must have, and the classes.
        task: what the outputs mean.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: torch.device | str = "cpu",
        *,
        allow_factories: bool = False,
        batch_size: int = 1024,
    ) -> None:
        """Build the network and put the weights in.

        Args:
            artifact: the model.
            device: where it computes.
            allow_factories: whether a user's own architecture may be imported and run: code of the name that stands
                in the artifact.
            batch_size: how many rows it computes at once.

        Raises:
            InputError: the architecture is a user's own and that is not allowed, or it has not the artifact's layout,
                or the task is unknown or does not fit.
        """
        architecture = artifact.architecture
        if architecture.factory and not allow_factories:
            raise InputError(
                "the model's architecture is code of its own",
                where=f"model.factory {architecture.factory}",
                right="load it only where that code may run",
            )
        self.schema = artifact.features.schema
        task = task_named(artifact.task_kind)
        task.check(self.schema)
        if task.outputs(self.schema) != architecture.outputs:
            raise InputError(
                f"the architecture has {architecture.outputs} outputs",
                where=f"task {task.kind}",
                right=f"expected {task.outputs(self.schema)}",
            )
        self.task = task.with_target_statistics(artifact.target_mean, artifact.target_scale)
        self._features = artifact.features
        self._device = torch.device(device)
        self._batch_size = batch_size
        self._model = _network(architecture, artifact.layout)
        write_vector(self._model, artifact.layout, artifact.vector)
        self._model.to(self._device).eval().requires_grad_(False)

    def predict(self, rows: Rows) -> list[Prediction]:
        """Return what the model says about each row.

        Raises:
            InputError: the rows lack a column or have one of another shape.
        """
        return self.task.describe(self._outputs(rows), self.schema)

    def scores(self, rows: Rows) -> NDArray[np.float32]:
        """Return a probability for each class, shape `(rows, classes)`, or for a regression the values, `(rows,)`.

        Raises:
            InputError: the rows lack a column or have one of another shape.
        """
        return self.task.scores(self._outputs(rows)).numpy()

    def _outputs(self, rows: Rows) -> Tensor:
        inputs = torch.from_numpy(self._features.transform(rows))
        with torch.inference_mode():
            return torch.cat([self._model(batch.to(self._device)).cpu() for batch in inputs.split(self._batch_size)])


def _network(architecture: Architecture, layout: Layout) -> nn.Module:
    if not architecture.factory:
        # Shapes first, without memory: whoever wrote the file may have written any number into it.
        try:
            with torch.device("meta"):
                _check_layout(architecture.build(seed=0), layout)
        except (RuntimeError, TypeError, OverflowError):  # what torch raises for sizes beyond 64 bits
            raise InputError("no network has these shapes", where="architecture") from None
    network = architecture.build(seed=0)
    _check_layout(network, layout)
    return network


def _check_layout(network: nn.Module, layout: Layout) -> None:
    if layout_of(network) != layout:
        raise InputError("the weights are not those of the architecture", where="model")


class _Task(StrictModel):
    kind: str
    target_mean: float
    target_scale: float = Field(gt=0)


class _Layout(StrictModel):
    digest: str
    entries: list[Any]


class _Config(StrictModel):
    format: Literal[1]
    task: _Task
    architecture: dict[str, Any]
    layout: _Layout
    features: dict[str, Any]
    details: dict[str, Any]


def _parse_config(data: bytes, where: str) -> _Config:
    try:
        # NaN and infinities are no JSON, though Python reads them.
        config = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InputError("is no JSON", where=where, right="restore it from a copy") from None
    version = config.get("format") if isinstance(config, dict) else None
    if type(version) is not int:
        raise InputError("says no format version", where=where, right="a model that Tacit wrote")
    if version > FORMAT_VERSION:
        raise InputError(
            f"is of format {version}, and this Tacit reads up to {FORMAT_VERSION}", where=where, right="upgrade Tacit"
        )
    try:
        return _Config.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        location = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{location}: {first['msg']}", where=where) from None


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def _tensors_as_bytes(vector: Tensor, layout: Layout) -> bytes:
    data: bytes = save(state_dict_of(vector.cpu(), layout), metadata={"format": "pt"})
    return data


def _vector_of(data: bytes, layout: Layout, where: str) -> Tensor:
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError):
        raise InputError("is truncated or damaged", where=where, right="restore it from a copy") from None
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    if shapes != {entry.name: (entry.shape, torch.float32) for entry in layout.entries}:
        raise InputError("does not hold the tensors of the layout", where=where)
    vector = torch.cat([tensors[entry.name].reshape(-1) for entry in layout.entries])
    _check_finite(vector, where)
    return vector


def _check_finite(vector: Tensor, where: str) -> None:
    if not bool(torch.isfinite(vector).all()):
        raise InputError("holds a value that is not finite", where=where)
