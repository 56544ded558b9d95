"""What a run over the members of a federation is for: to train a model, or to evaluate one that is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.models.plan import Plan, decode_plan
from tacit.server.checkpoints import RunState
from tacit.server.evaluation import CentralEvaluator
from tacit.server.evaluation_release import release_evaluation
from tacit.server.federated_evaluation import (
    EVALUATES,
    EvaluationRun,
    evaluated_version,
    evaluation_start,
    figures_of,
    identified,
)
from tacit.server.kept_run import Ending, KeptRun
from tacit.server.learning import Evaluate
from tacit.server.public_sample import PublicSample, open_public_sample
from tacit.server.run import Run
from tacit.server.store.records import ModelVersion, RunRecord

SIGNED_AS = "the coordinator of the federation"


class Purpose(Protocol):
    """Where a run starts from, and what becomes of its end."""

    @property
    def plan(self) -> Plan:
        """Return the plan of the first round."""
        ...

    @property
    def initial(self) -> NDArray[np.float32] | None:
        """Return the vector to begin with; None to initialise from the seed."""
        ...

    @property
    def made_with(self) -> Mapping[str, Any]:
        """Return what a process that goes on with the run must know, beside the recipe."""
        ...

    @property
    def run(self) -> type[Run]:
        """Return what drives the rounds."""
        ...

    @property
    def validate(self) -> Evaluate | None:
        """Return what measures a vector on the validation share; None if there is none."""
        ...

    def release(
        self, kept: KeptRun, state: RunState, clients: int, seconds: float, ledger: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Write down what came of the run, and return its summary.

        Args:
            kept: the run.
            state: how it ended.
            clients: how many there were.
            seconds: how long it took.
            ledger: what the population's ledger stands at; None without a promise.
        """
        ...


def purpose_of(kept: KeptRun, begun: RunRecord | None) -> Purpose:
    """Return what a run is for, as its recipe says.

    Args:
        kept: the run.
        begun: what the store knows of it; None before it begins.

    Raises:
        InputError: the recipe, its public sample or its model cannot be used.
    """
    if kept.recipe.evaluation.only:
        version = evaluated_version(kept, begun)
        return ToEvaluate(version, *evaluation_start(kept, version))
    sample = open_public_sample(kept.recipe, os.environ)
    return ToTrain(sample, *kept.starting_point(sample.schema))


@dataclass(frozen=True)
class ToTrain:
    """To train a model; columns, classes, selection and the test come from a public sample."""

    sample: PublicSample
    plan: Plan
    initial: NDArray[np.float32] | None
    run: type[Run] = Run

    @property
    def made_with(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}

    @property
    def validate(self) -> Evaluate | None:
        """Return what measures a vector on the public validation share; None if there is none."""
        return CentralEvaluator(self.sample.validation) if self.sample.validation is not None else None

    def release(
        self, kept: KeptRun, state: RunState, clients: int, seconds: float, ledger: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Test the model and register it."""
        metrics = CentralEvaluator(self.sample.test)(decode_plan(state.plan), state.vector)
        ending = Ending(
            state,
            metrics,
            clients,
            seconds,
            "Rows that the members brought and kept. Columns and classes come from the public sample that the run's"
            " recipe names.",
            per_client={},
            found={"mode": "federation", "public_sample": self.sample.described()},
            signed_as=SIGNED_AS,
            ledger=ledger,
        )
        return kept.release(ending)[0]


@dataclass(frozen=True)
class ToEvaluate:
    """To evaluate a registered model; columns and classes are that model's."""

    version: ModelVersion
    plan: Plan
    initial: NDArray[np.float32] | None
    run: type[Run] = EvaluationRun
    validate: Evaluate | None = None

    @property
    def made_with(self) -> Mapping[str, Any]:
        """Return which version the recipe's reference named when the run began."""
        return {EVALUATES: identified(self.version)}

    def release(
        self, kept: KeptRun, state: RunState, clients: int, seconds: float, ledger: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Write the figures down; nothing is registered."""
        found = {"mode": "federation"}
        ending = Ending(state, figures_of(state), clients, seconds, "", {}, found, signed_as=SIGNED_AS, ledger=ledger)
        return release_evaluation(kept, ending, self.version)[0]
