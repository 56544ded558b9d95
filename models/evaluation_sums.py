"""What one client adds to an evaluation, and the metrics that follow from everybody's.

Every number is a sum over rows, so what several clients add up to is what their rows would give if they lay together,
and the metrics are those of the pooled rows: counts exactly, loss and confidences to 2^-24 a client, a regression's
errors to 2^-128.

What a model puts out is bounded first. A row with an output that is no finite number counts as the worst that there
is: a client that refused because of it, or whose sums did not fit, would say something of its own rows to a coordinator
that chooses the model, and without a mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.models.contributions import (
    LOSS_FRACTION_BITS,
    LOSS_INTEGER_BITS,
    MOMENT_FRACTION_BITS,
    MOMENT_INTEGER_BITS,
)
from tacit.models.errors import InputError
from tacit.models.plan import Plan
from tacit.models.tasks import Classification, TabularRegression
from tacit.models.training import feed
from tacit.privacy.secagg.layout import Layout, WideBlock

CONFUSION, CLASSES, SCORES = "confusion", "class-counts", "score-histograms"
CALIBRATION, CONFIDENCE, LOSS = "calibration-counts", "calibration-confidence", "loss"
ROWS, ERRORS = "rows", "errors"

# Of one client and cell: 1.4 * 10^14 rows, in three limbs.
COUNT_BITS = 47
# Up to so many classes every pair of them is counted, and the scores of each; for more, each class alone, no scores.
MOST_CLASSES_IN_FULL = 64
# Beyond any score or error of use, and as many rows of them as a client can hold still fit into its sums.
LARGEST_SCORE = 2.0**14
LARGEST_ERROR = 2.0**40  # in units of the targets' scale
SCORE_BINS = 200
CALIBRATION_BINS = 16  # fifteen of equal width, and one for certainty

Sums = Mapping[str, NDArray[np.float64]]
"""Values by block, each of shape `(size,)`."""


class EvaluationSums(Protocol):
    """Which sums a task's metrics follow from."""

    @property
    def blocks(self) -> tuple[WideBlock, ...]:
        """Return the blocks of the masked vector."""
        ...

    def of(self, outputs: Tensor, targets: Tensor) -> Sums:
        """Return the sums over a batch: the network's outputs, `(rows, outputs)`, and the targets, `(rows,)`."""
        ...

    def metrics(self, totals: Sums) -> dict[str, float]:
        """Return the metrics by name; what is undefined is NaN.

        Raises:
            InputError: no rows have these sums.
        """
        ...

    def tables(self, totals: Sums) -> dict[str, Any]:
        """Return the counts that a person may want beside the metrics, as plain values."""
        ...


def evaluation_sums(plan: Plan) -> EvaluationSums:
    """Return what the metrics of a plan's task follow from.

    Raises:
        InputError: the task's metrics are not known to follow from sums.
    """
    task = plan.task()
    if isinstance(task, Classification):
        return ClassificationSums(plan.schema.classes)
    if isinstance(task, TabularRegression):
        return RegressionSums(task.target_mean, task.target_scale)
    raise no_known_sums(task.kind)


def evaluation_layout(plan: Plan) -> Layout:
    """Return the blocks of an evaluation's masked vector."""
    return Layout(evaluation_sums(plan).blocks)


def count_rows(model: nn.Module, inputs: Tensor, targets: Tensor, sums: EvaluationSums) -> Sums:
    """Return one client's sums: what its rows add to an evaluation of `model`.

    Raises:
        InputError: there is no row.
    """
    totals = {block.name: np.zeros(block.size, dtype=np.float64) for block in sums.blocks}

    def update(outputs: Tensor, batch_targets: Tensor) -> None:
        for name, values in sums.of(outputs, batch_targets).items():
            totals[name] += values

    feed(model, inputs, targets, update)
    return totals


@dataclass(frozen=True)
class ClassificationSums:
    """Counts of a classification: actual and predicted classes, scores in bins, confidences in bins, and the loss.

    Attributes:
        classes: the names of the classes, in the order of their indices.
    """

    classes: tuple[str, ...]

    @property
    def in_full(self) -> bool:
        """Say whether every pair of classes is counted, and the scores of each class."""
        return len(self.classes) <= MOST_CLASSES_IN_FULL

    @property
    def blocks(self) -> tuple[WideBlock, ...]:
        """Return the blocks of the masked vector."""
        classes = len(self.classes)
        if self.in_full:
            # Of two classes the scores of one say everything.
            ranked = 1 if classes == 2 else classes
            counts = [(CONFUSION, classes * classes), (SCORES, ranked * 2 * SCORE_BINS)]
        else:
            counts = [(CLASSES, 3 * classes)]
        counts.append((CALIBRATION, 2 * CALIBRATION_BINS))
        return (
            *(WideBlock(name, size, COUNT_BITS, 0) for name, size in counts),
            WideBlock(CONFIDENCE, CALIBRATION_BINS, LOSS_INTEGER_BITS, LOSS_FRACTION_BITS),
            WideBlock(LOSS, 1, LOSS_INTEGER_BITS, LOSS_FRACTION_BITS),
        )

    def of(self, outputs: Tensor, targets: Tensor) -> Sums:
        """Return the sums over a batch: logits `(rows, classes)`, class indices `(rows,)`."""
        targets, classes = targets.cpu(), len(self.classes)
        outputs = _scores(outputs.detach().float().cpu(), targets)
        probabilities = torch.softmax(outputs, dim=-1)
        confidences, predicted = probabilities.max(dim=-1)
        pairs = targets * classes + predicted
        right = predicted == targets
        bins = torch.bucketize(confidences, torch.linspace(0, 1, CALIBRATION_BINS), right=True) - 1
        sums = {
            CALIBRATION: torch.cat([_counted(bins, CALIBRATION_BINS), _counted(bins[right], CALIBRATION_BINS)]),
            CONFIDENCE: torch.bincount(bins, confidences.double(), minlength=CALIBRATION_BINS),
            LOSS: F.cross_entropy(outputs.double(), targets, reduction="sum").reshape(1),
        }
        if self.in_full:
            sums[CONFUSION] = _counted(pairs, classes * classes)
            sums[SCORES] = _histograms(probabilities, targets)
        else:
            counted = (targets[right], predicted, targets)
            sums[CLASSES] = torch.cat([_counted(one, classes) for one in counted])
        return {name: values.double().numpy() for name, values in sums.items()}

    def metrics(self, totals: Sums) -> dict[str, float]:
        """Return loss, accuracy, macro precision, recall and F1, AUROC and expected calibration error.

        What `ClassificationMetrics` computes of the same rows; with more classes than are counted in full, no AUROC.
        """
        hits, predicted, actual = self._by_class(totals)
        rows = float(actual.sum())
        self._check(totals, rows, hits, predicted, actual)
        there = predicted + actual > 0
        precision, recall = _ratio(hits, predicted), _ratio(hits, actual)
        found = {
            "loss": float(totals[LOSS][0]) / rows,
            "accuracy": float(hits.sum()) / rows,
            "macro_precision": float(precision[there].mean()),
            "macro_recall": float(recall[there].mean()),
            "macro_f1": float(_ratio(2 * hits, predicted + actual)[there].mean()),
        }
        if self.in_full:
            found["auroc"] = self._auroc(totals[SCORES])
        counts, correct = totals[CALIBRATION].reshape(2, -1)
        found["expected_calibration_error"] = float(np.abs(correct - totals[CONFIDENCE]).sum() / rows)
        return found

    def tables(self, totals: Sums) -> dict[str, Any]:
        """Return the rows, and of each class how many there are, were predicted and were predicted rightly."""
        hits, predicted, actual = self._by_class(totals)
        by_class = {
            name: {"rows": int(actual[at]), "predicted": int(predicted[at]), "right": int(hits[at])}
            for at, name in enumerate(self.classes)
        }
        tables: dict[str, Any] = {"rows": int(actual.sum()), "classes": by_class}
        if self.in_full:
            size = len(self.classes)
            tables["confusion"] = totals[CONFUSION].reshape(size, size).astype(np.int64).tolist()
        return tables

    def _by_class(self, totals: Sums) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return for each class how often it was predicted rightly, was predicted, and was there."""
        classes = len(self.classes)
        if not self.in_full:
            hits, predicted, actual = totals[CLASSES].reshape(3, classes)
            return hits, predicted, actual
        confusion = totals[CONFUSION].reshape(classes, classes)
        return confusion.diagonal(), confusion.sum(0), confusion.sum(1)

    def _auroc(self, scores: NDArray[np.float64]) -> float:
        """Return the area; see `BinnedAuroc`."""
        totals, positives = scores.reshape(2, -1, SCORE_BINS)
        negatives = totals - positives
        above = positives.sum(1, keepdims=True) - positives.cumsum(1)
        pairs = positives.sum(1) * negatives.sum(1)
        areas = (negatives * (above + positives / 2)).sum(1)[pairs > 0] / pairs[pairs > 0]
        return float(areas.mean()) if len(areas) else math.nan

    def _check(
        self,
        totals: Sums,
        rows: float,
        hits: NDArray[np.float64],
        predicted: NDArray[np.float64],
        actual: NDArray[np.float64],
    ) -> None:
        counts, correct = totals[CALIBRATION].reshape(2, -1)
        slack = 1e-6 * (1 + rows)
        possible = [
            rows >= 1,
            all((totals[block.name] >= 0).all() for block in self.blocks),
            (hits <= np.minimum(predicted, actual)).all(),
            predicted.sum() == rows == counts.sum(),
            correct.sum() == hits.sum() and (correct <= counts).all(),
            (totals[CONFIDENCE] <= counts + slack).all(),
        ]
        if self.in_full:
            scored, positives = totals[SCORES].reshape(2, -1, SCORE_BINS)
            own = actual[-len(scored) :]
            possible += [
                (positives <= scored).all(),
                (scored.sum(1) == rows).all(),
                (positives.sum(1) == own).all(),
            ]
        if not all(possible):
            raise _impossible()


@dataclass(frozen=True)
class RegressionSums:
    """Sums of a regression: rows, errors and their squares, targets and their squares, in units of the targets' scale.

    Attributes:
        target_mean: of the targets that the model was trained on; sums are relative to it.
        target_scale: their standard deviation.
    """

    target_mean: float
    target_scale: float

    @property
    def blocks(self) -> tuple[WideBlock, ...]:
        """Return the blocks of the masked vector."""
        return (WideBlock(ROWS, 1, COUNT_BITS, 0), WideBlock(ERRORS, 4, MOMENT_INTEGER_BITS, MOMENT_FRACTION_BITS))

    def of(self, outputs: Tensor, targets: Tensor) -> Sums:
        """Return the sums over a batch: outputs `(rows, 1)`, targets `(rows,)`."""
        predicted = outputs.detach().cpu().double().squeeze(-1)
        predicted = predicted.nan_to_num(nan=LARGEST_ERROR).clamp(-LARGEST_ERROR, LARGEST_ERROR)
        wanted = (targets.cpu().double() - self.target_mean) / self.target_scale
        wanted = wanted.clamp(-LARGEST_ERROR, LARGEST_ERROR)
        errors = predicted - wanted
        sums = [errors.abs().sum(), errors.square().sum(), wanted.sum(), wanted.square().sum()]
        return {ROWS: np.array([float(len(targets))]), ERRORS: torch.stack(sums).numpy()}

    def metrics(self, totals: Sums) -> dict[str, float]:
        """Return the mean squared error in standardised units as `loss`, and in the targets' unit MAE, RMSE and R2."""
        rows, (absolute, squared, first, second) = float(totals[ROWS][0]), map(float, totals[ERRORS])
        # The square of a sum of n values is at most n times the sum of their squares, up to rounding.
        possible = rows >= 1 and min(absolute, squared, second) >= 0
        slack = 1 + 1e-9
        if not possible or absolute**2 > slack * rows * squared or first**2 > slack * rows * second:
            raise _impossible()
        spread = second - first**2 / rows
        return {
            "loss": squared / rows,
            "mae": absolute / rows * self.target_scale,
            "rmse": math.sqrt(squared / rows) * self.target_scale,
            "r2": 1 - squared / spread if rows > 1 and spread > 0 else math.nan,
        }

    def tables(self, totals: Sums) -> dict[str, Any]:
        """Return the number of rows."""
        return {"rows": int(totals[ROWS][0])}


def no_known_sums(kind: str) -> InputError:
    """Return what to raise about a task whose metrics are not known to follow from sums."""
    return InputError(
        f"{kind!r} has no metrics that add up over clients",
        where="evaluation.only",
        right="a classification or a tabular-regression",
    )


def _scores(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return logits within bounds; of a row with one that is no finite number, certainty of a class that it is not."""
    classes = outputs.shape[1]
    wrong = F.one_hot((targets + 1) % classes, classes) * LARGEST_SCORE
    finite = torch.isfinite(outputs).all(dim=-1, keepdim=True)
    return torch.where(finite, outputs.clamp(-LARGEST_SCORE, LARGEST_SCORE), wrong)


def _impossible() -> InputError:
    return InputError("contradict each other: some member's were false", where="the summed counts")


def _counted(indices: Tensor, size: int) -> Tensor:
    return torch.bincount(indices, minlength=size)


def _histograms(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return for each class that is ranked the histogram of all rows' scores, then those of the rows of the class."""
    from tacit.models.metrics import BinnedAuroc

    counted = BinnedAuroc(probabilities.shape[1], SCORE_BINS)
    counted.update(probabilities, targets)
    ranked = slice(1, 2) if probabilities.shape[1] == 2 else slice(None)
    return torch.cat([counted.totals[ranked].flatten(), counted.positives[ranked].flatten()])


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares, 0 of nothing."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
