"""What one client adds to an evaluation under a promise: two means over its own rows, each of them between 0 and 1.

Both are divided by the square root of two, so that their length (L2) is at most 1, which is what the noise covers:
nothing is ever clipped off. A row for which the model puts out no finite number counts as the worst that there is: a
client that refused because of it would say something of its rows that no noise covers, as often as it is asked.

Every client counts the same, however many rows it has, and how many that are is not part of it. What all add up to,
over how many they are, is the mean of the clients' own figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.models.evaluation_only import NOISED_SHARES
from tacit.models.evaluation_sums import no_known_sums
from tacit.models.plan import Plan
from tacit.models.tasks import Classification, TabularRegression
from tacit.models.training import feed

SHARES = "shares"
ERROR_CAP = 3.0  # a row's error counts as so many standard deviations of the targets at most
LOSS_CAP = 2.0  # a row's loss counts as so many times that of a guess among all classes at most


class EvaluationShares(Protocol):
    """Which two means of a client's rows a task's noised figures follow from."""

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return two values of each row, between 0 and 1 whatever comes, shape `(rows, 2)`."""
        ...

    def metrics(self, means: NDArray[np.float64]) -> dict[str, float]:
        """Return the figures by name, from the noised means of all clients, shape `(2,)`."""
        ...

    def deviations(self, noise: NDArray[np.float64]) -> dict[str, float]:
        """Return the standard deviation of each figure under noise of these ones, shape `(2,)`, by name."""
        ...


def evaluation_shares(plan: Plan) -> EvaluationShares:
    """Return what the noised figures of a plan's task follow from.

    Raises:
        InputError: the task has none that are known.
    """
    task = plan.task()
    if isinstance(task, Classification):
        return ClassificationShares(len(plan.schema.classes))
    if isinstance(task, TabularRegression):
        return RegressionShares(task.target_scale, task.target_mean)
    raise no_known_sums(task.kind)


class RowMeans:
    """Means over rows that come in batches."""

    def __init__(self, shares: EvaluationShares) -> None:
        """Start with no row."""
        self._shares = shares
        self._sum = np.zeros(NOISED_SHARES, dtype=np.float64)
        self._rows = 0

    def add(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        """Count rows."""

        def update(outputs: Tensor, batch_targets: Tensor) -> None:
            self._sum += self._shares.of(outputs, batch_targets).double().sum(0).numpy()
            self._rows += len(batch_targets)

        feed(model, inputs, targets, update)

    def vector(self) -> NDArray[np.float32]:
        """Return the means over all rows as they are summed: of a length of at most 1, shape `(2,)`."""
        return (self._sum / self._rows / math.sqrt(NOISED_SHARES)).astype(np.float32)


def means_of(vector: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the means that a mean over clients of their vectors says."""
    return np.asarray(vector, dtype=np.float64) * math.sqrt(NOISED_SHARES)


@dataclass(frozen=True)
class ClassificationShares:
    """Rows that are taken for what they are, and the loss."""

    classes: int

    @property
    def cap(self) -> float:
        """Return what a row's loss counts at most."""
        return LOSS_CAP * math.log(self.classes)

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return whether each row is right, and its loss over the cap."""
        outputs, targets = outputs.detach().double().cpu(), targets.cpu()
        finite = torch.isfinite(outputs).all(-1)
        outputs = torch.where(finite[:, None], outputs, 0.0)
        losses = F.cross_entropy(outputs, targets, reduction="none").clamp(0, self.cap) / self.cap
        right = (outputs.argmax(-1) == targets) & finite
        return torch.stack([right.double(), torch.where(finite, losses, 1.0)], dim=1)

    def metrics(self, means: NDArray[np.float64]) -> dict[str, float]:
        """Return the mean of the members' own accuracies, and of their own losses with each row's capped."""
        accuracy, loss = np.clip(means, 0.0, 1.0)
        return {"member_loss": float(loss) * self.cap, "member_accuracy": float(accuracy)}

    def deviations(self, noise: NDArray[np.float64]) -> dict[str, float]:
        """Return the standard deviations of the figures."""
        return {"member_loss": float(noise[1]) * self.cap, "member_accuracy": float(noise[0])}


@dataclass(frozen=True)
class RegressionShares:
    """Errors and their squares, in standard deviations of the targets."""

    target_scale: float
    target_mean: float

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each row's error and squared error, over what they count at most."""
        predicted = outputs.detach().cpu().double().squeeze(-1)
        errors = (predicted - (targets.cpu().double() - self.target_mean) / self.target_scale).abs()
        # Also where the plan's statistics make it none.
        capped = torch.nan_to_num(errors, nan=ERROR_CAP, posinf=ERROR_CAP).clamp(max=ERROR_CAP) / ERROR_CAP
        return torch.stack([capped, capped.square()], dim=1)

    def metrics(self, means: NDArray[np.float64]) -> dict[str, float]:
        """Return the mean of the members' own mean absolute, and squared, errors in the targets' unit, rows' capped."""
        return self._in_units(np.clip(means, 0.0, 1.0))

    def deviations(self, noise: NDArray[np.float64]) -> dict[str, float]:
        """Return the standard deviations of the figures."""
        return self._in_units(noise)

    def _in_units(self, values: NDArray[np.float64]) -> dict[str, float]:
        reach = ERROR_CAP * self.target_scale
        return {"member_mae": float(values[0]) * reach, "member_mse": float(values[1]) * reach**2}
