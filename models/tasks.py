"""What is learned: which data fit, how many outputs, which loss, which metrics, and how a prediction reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tacit.models.data.rows import Schema
from tacit.models.errors import InputError
from tacit.models.spelling import unknown

# Imported where something is computed: a recipe that names a task is read and checked without torch.
if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class ClassPrediction:
    """The likeliest class of one row, its score, and the score of every class by name; scores sum to 1."""

    label: str
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class ValuePrediction:
    """The value predicted for one row, in the unit of the training targets."""

    value: float


Prediction = ClassPrediction | ValuePrediction


class Metrics(Protocol):
    """Counts over any number of batches, and the numbers that follow from them."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch: outputs of the network, `(batch, outputs)`, and targets, `(batch,)`, on any one device."""

    def compute(self) -> dict[str, float]:
        """Return the metrics of all batches so far by name; what is undefined is NaN."""


class Task(Protocol):
    """Everything about a model that does not depend on its architecture."""

    @property
    def kind(self) -> str:
        """Return the name by which a recipe asks for the task."""

    @property
    def target_dtype(self) -> torch.dtype:
        """Return the type of the targets that `loss` takes."""

    @property
    def selection_metric(self) -> tuple[str, Literal["max", "min"]]:
        """Return the metric that says which of two models is better, and in which direction."""

    def check(self, schema: Schema) -> None:
        """Raise `InputError` if data of this schema cannot be learned from as this task."""

    def outputs(self, schema: Schema) -> int:
        """Return how many numbers the network puts out for one row."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch: outputs `(batch, outputs)`, targets `(batch,)`."""

    def metrics(self, schema: Schema) -> Metrics:
        """Return metrics that have counted nothing yet."""

    def scores(self, outputs: Tensor) -> Tensor:
        """Return, on the CPU, the probability of each class, `(batch, classes)`, or the values, `(batch,)`."""

    def describe(self, outputs: Tensor, schema: Schema) -> list[Prediction]:
        """Return what the network's outputs `(batch, outputs)` say about each row."""

    def with_target_statistics(self, mean: float, scale: float) -> Task:
        """Return the task for a network whose outputs are `(target - mean) / scale`.

        A task without numeric targets returns itself. What loss, metrics and predictions take and return stays in
        the targets' own unit, except that the loss is divided by `scale ** 2`.
        """


@dataclass(frozen=True)
class Classification:
    """One of the schema's classes for each row: softmax, cross entropy.

    Attributes:
        kind: the task's name.
        takes_images: whether a row is one image (a sound is one too, its spectrogram), or else numbers and categories.
    """

    kind: str
    takes_images: bool
    selection_metric: tuple[str, Literal["max", "min"]] = ("accuracy", "max")

    @property
    def target_dtype(self) -> torch.dtype:
        """Return the type of class numbers."""
        import torch

        return torch.int64

    def check(self, schema: Schema) -> None:
        """Refuse fewer than two classes, a class named twice, and columns of the wrong kind."""
        _check_columns(self.kind, schema, self.takes_images)
        if not schema.classes:
            raise InputError(
                f"the label {schema.label!r} has no classes", where=f"task {self.kind}", right="use tabular-regression"
            )
        if len(schema.classes) < 2:
            raise InputError(
                f"the label {schema.label!r} has one class", where=f"task {self.kind}", right="expected two or more"
            )
        if len(set(schema.classes)) != len(schema.classes):
            raise InputError(f"the label {schema.label!r} names a class twice", where=f"task {self.kind}")

    def outputs(self, schema: Schema) -> int:
        """Return one output a class, for two classes too."""
        return len(schema.classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy."""
        from torch.nn import functional as F

        return F.cross_entropy(outputs, targets)

    def metrics(self, schema: Schema) -> Metrics:
        """Return accuracy and its relatives; see `ClassificationMetrics`."""
        # Here, because importing torchmetrics takes a second that serving and the command line need not wait for.
        from tacit.models.metrics import ClassificationMetrics

        return ClassificationMetrics(len(schema.classes))

    def scores(self, outputs: Tensor) -> Tensor:
        """Return the probability of each class, float32, `(batch, classes)`."""
        import torch

        return torch.softmax(outputs.detach().float(), dim=-1).cpu()

    def describe(self, outputs: Tensor, schema: Schema) -> list[Prediction]:
        """Return the likeliest class, and the probabilities of all."""
        probabilities = self.scores(outputs)
        best = probabilities.argmax(dim=-1).tolist()
        return [
            ClassPrediction(schema.classes[index], row[index], dict(zip(schema.classes, row, strict=True)))
            for index, row in zip(best, probabilities.tolist(), strict=True)
        ]

    def with_target_statistics(self, mean: float, scale: float) -> Classification:
        """Return the task itself: classes have no unit."""
        return self


@dataclass(frozen=True)
class TabularRegression:
    """One number for each row: mean squared error.

    The network puts out `(target - target_mean) / target_scale`. With 0 and 1 that is the target itself, and targets
    far from zero or of a large scale then train badly at any ordinary learning rate: the loss and its gradients grow
    with their square. Give the statistics of the training targets (`with_target_statistics`) to have the network learn
    standardised targets, while everything that goes in and comes out stays in the targets' unit.
    """

    kind: str = "tabular-regression"
    target_mean: float = 0.0
    target_scale: float = 1.0
    selection_metric: tuple[str, Literal["max", "min"]] = ("rmse", "min")

    @property
    def target_dtype(self) -> torch.dtype:
        """Return the type of single numbers."""
        import torch

        return torch.float32

    def check(self, schema: Schema) -> None:
        """Refuse labels that are classes, and columns that are images."""
        _check_columns(self.kind, schema, takes_images=False)
        if schema.classes:
            raise InputError(
                f"the label {schema.label!r} has classes", where=f"task {self.kind}", right="use tabular-classification"
            )

    def outputs(self, schema: Schema) -> int:
        """Return 1."""
        return 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error in units of the targets' scale."""
        from torch.nn import functional as F

        return F.mse_loss(outputs.squeeze(-1), (targets - self.target_mean) / self.target_scale)

    def metrics(self, schema: Schema) -> Metrics:
        """Return the errors in the targets' own unit; see `RegressionMetrics`."""
        from tacit.models.metrics import RegressionMetrics

        return RegressionMetrics(self.target_mean, self.target_scale)

    def scores(self, outputs: Tensor) -> Tensor:
        """Return the values in the targets' own unit, float32, `(batch,)`."""
        return (outputs.detach().squeeze(-1).cpu().double() * self.target_scale + self.target_mean).float()

    def describe(self, outputs: Tensor, schema: Schema) -> list[Prediction]:
        """Return the value in the targets' own unit."""
        return [ValuePrediction(value) for value in self.scores(outputs).tolist()]

    def with_target_statistics(self, mean: float, scale: float) -> TabularRegression:
        """Return the task for standardised targets; a scale of 0 (all targets equal) counts as 1."""
        if not (abs(mean) < float("inf") and 0 <= scale < float("inf")):
            raise InputError(f"target mean {mean} and scale {scale}", where=f"task {self.kind}", right="must be finite")
        return TabularRegression(self.kind, mean, scale or 1.0)


_BUILT_IN: Mapping[str, Task] = {
    "audio-classification": Classification("audio-classification", takes_images=True),
    "image-classification": Classification("image-classification", takes_images=True),
    "tabular-classification": Classification("tabular-classification", takes_images=False),
    "tabular-regression": TabularRegression(),
}


def task_named(kind: str) -> Task:
    """Return a task by its name: Tacit's own, else what an installed package offers as entry point `tacit.tasks`.

    Such an entry point names a callable without arguments that returns a `Task`.

    Raises:
        InputError: there is no such task (the nearest is named), or it cannot be loaded.
    """
    if kind in _BUILT_IN:
        return _BUILT_IN[kind]
    offered = entry_points(group="tacit.tasks")
    if kind not in offered.names:
        raise unknown("task", kind, [*_BUILT_IN, *offered.names], where="task.kind")
    try:
        factory: Callable[[], Any] = offered[kind].load()
        task: Task = factory()
    except Exception as error:  # an installed package's code may raise anything
        raise InputError(f"task {kind!r} cannot be loaded: {type(error).__name__}", where="task.kind") from error
    return task


def _check_columns(kind: str, schema: Schema, takes_images: bool) -> None:
    kinds = [column.kind for column in schema.columns]
    if takes_images and kinds != ["image"]:
        raise InputError(
            f"the data has {len(kinds)} columns of which {kinds.count('image')} are images",
            where=f"task {kind}",
            right="expected exactly one, an image",
        )
    if not takes_images and (not kinds or "image" in kinds):
        found = "has an image column" if kinds else "has no columns"
        raise InputError(f"the data {found}", where=f"task {kind}", right="expected numbers and categories")
