"""How good a model is on rows that the coordinator holds itself: a public validation or test set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.models.data.rows import Rows
from tacit.models.plan import Plan
from tacit.models.tasks import Task
from tacit.models.training import evaluate, resolve_device
from tacit.models.vector import Layout, layout_of, write_vector


class CentralEvaluator:
    """Measures vectors of one run on one set of rows, which are transformed once."""

    def __init__(self, rows: Rows) -> None:
        """Build nothing before the first call."""
        self._rows = rows
        self._built: tuple[nn.Module, Layout, Task, Tensor, Tensor] | None = None

    def __call__(self, plan: Plan, vector: NDArray[np.float32]) -> Mapping[str, float]:
        """Return the task's metrics of a vector, shape `(parameters,)`, by name."""
        model, layout, task, inputs, targets = self._build(plan)
        write_vector(model, layout, torch.from_numpy(vector).to(inputs.device))
        return evaluate(model, inputs, targets, task, plan.schema)

    def _build(self, plan: Plan) -> tuple[nn.Module, Layout, Task, Tensor, Tensor]:
        if self._built is None:
            if plan.features is None or plan.architecture is None:
                raise ValueError("the plan has no features yet")
            device = resolve_device(plan.recipe.training.device)
            model = plan.architecture.build(plan.recipe.seed).to(device)
            task = plan.task()
            inputs = torch.from_numpy(plan.features.transform(self._rows)).to(device)
            targets = torch.from_numpy(np.asarray(self._rows.labels)).to(task.target_dtype).to(device)
            self._built = model, layout_of(model), task, inputs, targets
        return self._built
