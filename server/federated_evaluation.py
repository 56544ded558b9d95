"""An evaluation of a registered model over the members of a federation: one masked round, and nothing is trained.

Every member counts, on rows of its own, how the model does; the coordinator sees what all of them add up to. It is a
run like any other: asked, refused, recorded and resumed in the same way. What it leaves is figures, not a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.rows import Schema
from tacit.models.errors import InputError
from tacit.models.evaluation_shares import SHARES, evaluation_shares, means_of
from tacit.models.evaluation_sums import Sums, evaluation_layout, evaluation_sums
from tacit.models.noise import NoisePlan
from tacit.models.plan import Plan, decode_plan
from tacit.server.attempts import RunFailed, Summing
from tacit.server.checkpoints import RunState
from tacit.server.exchanges import Occasion, TrainingResult
from tacit.server.kept_run import KeptRun
from tacit.server.masked import MaskedRound
from tacit.server.masking import Masking
from tacit.server.release import dictionary_of, initial_version, warm_start
from tacit.server.reports import RoundReport
from tacit.server.run import Run
from tacit.server.secure_sum import masked_sum
from tacit.server.store.records import LedgerLine, ModelVersion, RunRecord

EVALUATES = "evaluates"


class MaskedEvaluation(MaskedRound):
    """A round whose counts are only ever seen added up, exactly."""

    def __init__(
        self,
        at: Occasion,
        plan: Plan,
        vector: NDArray[np.float32],
        clients: Sequence[str],
        masking: Masking,
        snapshot: bytes = b"",
        wanted: int | None = None,
    ) -> None:
        """Offer the round to `clients`, or go on with it; see `masked_sum`."""
        arrays, layout = {"vector": vector}, evaluation_layout(plan)
        super().__init__(masked_sum(at, arrays, layout, clients, masking, None, snapshot, wanted))

    def result(self) -> Sums:
        """Return the sums over the survivors, by block."""
        return self.sum.aggregate.blocks


class EvaluationRun(Run):
    """The run: its plan is that of the registered model, its `initial` that model's vector, which stays as it is."""

    def execute(self) -> RunState:
        """Run to the end and return the final state, with the sums.

        Raises:
            RunFailed: there is no sum: too few clients answered, the budget is spent, or the sum is impossible.
        """
        state = super().execute()
        if not state.sums:
            raise RunFailed(state.stopped or "nobody was asked")
        return state

    def _prepare(self) -> RunState:
        # Kept before anybody is asked: what is evaluated stays the same if an alias moves while the run is broken off.
        return self._begin(self.plan, RoundReport(0, self.recorder.attempts(0), True, "nothing to prepare", 0.0, ()))

    def _training(
        self, at: Occasion, state: RunState, cohort: tuple[str, ...], wanted: int, snapshot: bytes
    ) -> tuple[Summing, NoisePlan | None]:
        if self.masking is None:
            raise ValueError("an evaluation is masked")
        if self.budget is not None:
            return super()._training(at, state, cohort, wanted, snapshot)
        plan = decode_plan(state.plan)
        return MaskedEvaluation(at, plan, state.vector, cohort, self.masking, snapshot, wanted), None

    def _apply(self, state: RunState, report: RoundReport, result: Any, lines: Sequence[LedgerLine] = ()) -> RunState:
        if result is None:
            return super()._apply(state, report, result, lines)
        sums = {SHARES: means_of(result.mean_update)} if isinstance(result, TrainingResult) else dict(result)
        following = replace(state, round=report.number, sums=sums, has_result=True)
        try:
            metrics = figures_of(following)
        except InputError as error:
            self._keep(replace(report, committed=False, reason=str(error)), None, lines)
            raise RunFailed(str(error)) from None
        self._keep(replace(report, metrics=metrics), following, lines)
        return following

    def _over(self, state: RunState, report: RoundReport, lines: Sequence[LedgerLine]) -> RunState:
        """End without a sum: asking members again whose counts have left would show the difference of two sums."""
        self._keep(report, None, lines)
        raise RunFailed(f"the evaluation failed after counts had left: {report.reason}{report.mostly}")


def evaluated_version(kept: KeptRun, begun: RunRecord | None) -> ModelVersion:
    """Return the version that a run evaluates: what the recipe names now, or what it named when the run began.

    Raises:
        InputError: there is no such model.
    """
    if begun is None:
        return initial_version(kept.recipe, kept.registry)
    named = begun.environment.get(EVALUATES)
    if named is None:
        raise InputError("does not say which version it evaluates", where=f"run {kept.name}", right="start a new run")
    return kept.registry.resolve(named["name"], int(named["version"]))


def figures_of(state: RunState) -> dict[str, float]:
    """Return the metrics that follow from the sums of a finished evaluation, by name.

    Raises:
        InputError: no rows have these sums.
    """
    plan = decode_plan(state.plan)
    if plan.recipe.privacy.unit != "none":
        return evaluation_shares(plan).metrics(state.sums[SHARES])
    return evaluation_sums(plan).metrics(state.sums)


def identified(version: ModelVersion) -> dict[str, Any]:
    """Return what identifies a version."""
    return {"name": version.name, "version": version.version, "sha256": version.digest}


def evaluation_start(
    kept: KeptRun, version: ModelVersion, schema: Schema | None = None
) -> tuple[Plan, NDArray[np.float32] | None]:
    """Return the plan and the vector of a registered model.

    Args:
        kept: the run.
        version: the model.
        schema: the dictionary of the data, which must be the model's; None to take the model's.

    Raises:
        InputError: the model is for other data, another task or another architecture than the recipe says, or its
            task's metrics do not follow from sums.
    """
    plan = Plan(kept.recipe, schema or dictionary_of(version, kept.registry))
    plan, vector = warm_start(plan, kept.registry, version)
    evaluation_sums(plan)
    return plan, vector
