"""An evaluation over a network: owners decide, the coordinator is killed in the middle, and the figures are right."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tacit.models.checkpoint import read_artifact
from tacit.models.data import open_source
from tacit.models.data.rows import Rows
from tacit.models.plan import Plan
from tacit.models.recipe import load_recipe, parse_recipe
from tacit.models.wire import PULL
from tacit.server.evaluation import CentralEvaluator
from tacit.server.registry import Registry
from tacit.server.run_queue import enqueue
from tacit.server.signed_statement import check_statement
from tacit.server.store import open_store
from tacit.simulations import simulate

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .exchanges import Exchanges, Step  # noqa: TID252
from .wards import NAMES, POLICY, Commands, Running, Wards, until  # noqa: TID252
from .wire_proxy import Call, HttpWire  # noqa: TID252

ALLOWS = POLICY.replace("[approved]\n", '[approved]\nevaluations = ["all"]\n').replace(
    "[privacy]\n", "[privacy]\naccept_unprotected = true\n"
)
# Exact sums of a model that is there are fine with this owner, but not of its own rows.
ELSEWHERE = ALLOWS.replace('evaluations = ["all"]', 'evaluations = ["held-out"]')
EVALUATE = """
name = "how-good"
[task]
kind = "tabular-classification"
[data]
source = "the members' own"
[population]
clients = 5
[model]
init = "registry:ward@latest"
[training]
deadline_seconds = 300
device = "cpu"
[evaluation]
only = true
rows = "all"
[secure_aggregation]
min_cohort = 4
colluding = 0.0
"""


def rows_of(wards: Wards, names: tuple[str, ...]) -> Rows:
    parts = [
        open_source(f"csv:{wards.path / 'rows' / name}", task="tabular-classification", label="y", environ=os.environ)
        for name in names
    ]
    columns = {key: np.concatenate([part.train.columns[key] for part in parts]) for key in parts[0].train.columns}
    return Rows(columns, np.concatenate([part.train.labels for part in parts]))


@pytest.mark.slow
def test_a_model_is_evaluated_by_owners_who_allow_it_and_the_run_survives_its_coordinator(
    tmp_path: Path, seeded_commands: Commands
) -> None:
    port, through = free_port(), free_port()
    policies = dict.fromkeys(NAMES[:4], ALLOWS) | {NAMES[4]: ELSEWHERE}
    wards = Wards(tmp_path, seeded_commands, port=port, through=through, policies=policies)
    known = Exchanges.of(wards)
    coordinator: list[Running] = []
    killed: list[Step] = []

    def loses(call: Call) -> bool:
        """Kill the coordinator as soon as it asks anybody for figures."""
        step = known.step(call)
        dies = not killed and step is not None and (step.action, step.attempt) == ("mask", "1.0") and call.path == PULL
        if dies:
            killed.append(step)
            coordinator[-1].kill()
        return dies

    with ExitStack() as ends:
        ends.enter_context(HttpWire(port, loses, port=through, ends=wards.ends))
        ends.callback(wards.close)
        # A model of a hundred others' rows.
        training = load_recipe(wards.recipe, ["privacy.unit=none"])
        simulate(
            training, out=tmp_path / "training", db=str(wards.hub.db), models=Path(wards.hub.models),
            key=tmp_path / "simulated.key",
        )  # fmt: skip
        coordinator.append(wards.up())
        wards.enrol()
        wards.join()
        enqueue(wards.hub.path, parse_recipe(EVALUATE), datetime.now(UTC))
        until(lambda: bool(killed), why=lambda: wards.log)
        until(lambda: not coordinator[-1].alive)
        coordinator.append(wards.up())
        until(lambda: "evaluated   ward version 1" in wards.log, why=lambda: wards.log)
        with open_store(wards.hub.db, create=False) as store:
            (run,) = [run for run in store.list_runs(None) if run.recipe_name == "how-good"]
            assert run.status == "finished" and run.rounds_committed == 1
            registry = Registry(store, Path(wards.hub.models))
            assert [model.versions for model in store.list_models()] == [1]
            version = registry.find("ward@1")
            assert [one.run for one in registry.evaluations(version)] == [run.run]
            (attempt,) = [one for one in store.rounds(run.run) if one.number == 1]
        refused = {one.client: one.reason for one in attempt.participation if one.outcome == "refused"}
        assert set(refused) == {NAMES[4]} and refused[NAMES[4]].startswith("evaluation-not-allowed: ")
        codes = [entry.get("details", entry).get("code") for entry in wards.account(NAMES[4])]
        assert "evaluation-not-allowed" in codes
        directory = wards.hub.path / "runs" / run.run
        figures = json.loads((directory / "evaluation.json").read_text())
        pooled = rows_of(wards, NAMES[:4])
        assert figures["members"] == 4 and figures["rows"] == len(pooled)
        artifact = read_artifact(registry.path(version), version.digest)
        plan = Plan(training, artifact.features.schema, artifact.features, artifact.architecture)
        expected = CentralEvaluator(pooled)(plan, artifact.vector.numpy())
        assert figures["metrics"] == pytest.approx(dict(expected), abs=1e-5)
        statement = json.loads((directory / "privacy.json").read_text())
        check_statement(statement)
        assert not statement["simulated"] and "may be of rows that the model was trained on" in statement["sentence"]
