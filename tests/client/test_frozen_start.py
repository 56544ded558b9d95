"""A network's frozen start: computed once for each row an agent holds, and no part of what it trains or sends."""

import numpy as np
import pytest
import torch

from tacit.client.agent import step
from tacit.client.training import AgentState, Workbench, training_seed
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.messages import Instruction
from tacit.models.plan import Plan
from tacit.models.preparation import public_plan
from tacit.models.recipe import parse_recipe
from tacit.models.training import LocalTraining, train_locally
from tacit.models.vector import layout_of
from tacit.models.zoo.scatter import Scattering

SCHEMA = Schema((Column("image", "image", shape=(1, 8, 8)),), "label", ("left", "right"))
ROWS = 300
RECIPE = """
name = "r"
task.kind = "image-classification"
data.source = "s:"
population.clients = 1
model.name = "scatter"
secure_aggregation.enabled = false
[training]
local_steps = 3
batch_size = 32
device = "cpu"
"""


class Held:
    """Made-up images, half of them brighter on the right."""

    def training(self, plan: Plan) -> Rows:
        draws = np.random.default_rng(3)
        labels = draws.integers(0, 2, ROWS)
        images = draws.integers(0, 100, (ROWS, 1, 8, 8), dtype=np.uint8)
        images[labels == 1, :, :, 4:] += 100
        return Rows({"image": images}, labels)

    def test(self, plan: Plan) -> Rows | None:
        return None


def plan_of(*overrides: str) -> Plan:
    return public_plan(Plan(parse_recipe(RECIPE, overrides), SCHEMA), outputs=2, proximal_mu=0.0)


def train(plan: Plan, vector: np.ndarray, number: int = 1) -> Instruction:
    return Instruction("train", "run", number, 0, plan.encode(), arrays={"vector": vector})


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many images each pass through the scattering transform had."""
    seen: list[int] = []
    forward = Scattering.forward

    def noted(self: Scattering, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Scattering, "forward", noted)
    return seen


def test_each_row_passes_the_frozen_start_once_however_many_rounds_there_are(counted: list[int]) -> None:
    plan, bench, state = plan_of(), Workbench(), AgentState("a")
    vector = np.zeros(81 * 4 * 2 + 2, np.float32)
    for number in (1, 2, 3):
        state, reply = step(state, train(plan, vector, number), Held(), bench)
        assert reply.outcome == "ok", reply.reason
        vector = vector + reply.arrays["update"]
    assert sum(counted) <= ROWS + 1  # one more shows the features' shape


def test_the_update_is_that_of_training_the_whole_network() -> None:
    plan = plan_of()
    assert plan.architecture is not None and plan.features is not None
    network, vector = plan.architecture.build(0), np.zeros(81 * 4 * 2 + 2, np.float32)
    _, reply = step(AgentState("a"), train(plan, vector), Held(), Workbench())
    rows = Held().training(plan)
    expected = train_locally(
        network,
        layout_of(network),
        torch.from_numpy(vector),
        torch.from_numpy(plan.features.transform(rows)),
        torch.from_numpy(np.asarray(rows.labels)),
        plan.task(),
        LocalTraining(epochs=1, steps=3, batch_size=32, optimizer="sgd", learning_rate=0.05),
        training_seed(plan.recipe.seed, "a", 1, 0),
    )
    np.testing.assert_allclose(reply.arrays["update"], expected.delta.numpy(), atol=1e-6)


def test_rows_prepared_for_one_network_are_not_taken_for_another() -> None:
    state, bench = AgentState("a"), Workbench()
    state, first = step(state, train(plan_of(), np.zeros(81 * 4 * 2 + 2, np.float32)), Held(), bench)
    state, other = step(state, train(plan_of("model.name=logistic"), np.zeros(130, np.float32)), Held(), bench)
    state, again = step(state, train(plan_of(), np.zeros(81 * 4 * 2 + 2, np.float32)), Held(), bench)
    assert first.outcome == other.outcome == again.outcome == "ok"
    np.testing.assert_array_equal(first.arrays["update"], again.arrays["update"])
