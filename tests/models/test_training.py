"""A local pass: the same from the same seed, and what the definition says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.models.data.rows import Column, Schema
from tacit.models.errors import InputError
from tacit.models.tasks import task_named
from tacit.models.training import (
    LocalResult,
    LocalTraining,
    TrainingDiverged,
    _passes,
    evaluate,
    resolve_device,
    train_locally,
)
from tacit.models.vector import layout_of, read_vector
from tacit.models.zoo import Architecture

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
CLASSIFICATION = task_named("tabular-classification")
REGRESSION = task_named("tabular-regression")
SCHEMA = Schema((Column("x", "numeric"),), "label", ("a", "b", "c"))
ONE_PASS = LocalTraining(epochs=1, steps=None, batch_size=8, optimizer="sgd", learning_rate=0.1)


def blobs(rows: int, device: str = "cpu", shape: tuple[int, ...] = (6,)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    targets = torch.randint(0, 3, (rows,), generator=generator)
    inputs = torch.randn(rows, *shape, generator=generator) + targets.view(-1, *(1 for _ in shape))
    return inputs.to(device), targets.to(device)


def train(
    architecture: Architecture, given: LocalTraining, seed: int, rows: int = 37, device: str = "cpu"
) -> LocalResult:
    model = architecture.build(seed=0).to(device)
    layout = layout_of(model)
    inputs, targets = blobs(rows, device, architecture.input_shape)
    return train_locally(model, layout, read_vector(model, layout), inputs, targets, CLASSIFICATION, given, seed)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("logistic", "", (6,), 3),
        Architecture("mlp", "", (6,), 3, {"dropout": 0.3}),
        Architecture("cnn", "", (1, 8, 8), 3),
        Architecture("resnet", "", (3, 8, 8), 3, {"blocks": [1, 1], "width": 8}),
    ],
    ids=lambda architecture: architecture.name,
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_same_seed_gives_the_same_bits(architecture: Architecture, optimizer: str, device: str) -> None:
    given = LocalTraining(2, None, 8, optimizer, 0.01, proximal_mu=0.1)
    torch.manual_seed(1)
    first = train(architecture, given, seed=11, device=device)
    torch.manual_seed(2)
    second = train(architecture, given, seed=11, device=device)
    assert torch.equal(first.delta.view(torch.int32), second.delta.view(torch.int32))
    assert first.loss == second.loss
    assert not torch.equal(first.delta, train(architecture, given, seed=12, device=device).delta)


def test_a_used_model_gives_what_a_fresh_one_gives() -> None:
    architecture = Architecture("mlp", "", (6,), 3)
    model = architecture.build(seed=0)
    layout = layout_of(model)
    start = read_vector(model, layout)
    inputs, targets = blobs(30)
    first = train_locally(model, layout, start, inputs, targets, CLASSIFICATION, ONE_PASS, seed=3)
    kept = first.delta.clone()
    train_locally(model, layout, start + 1, inputs, targets, CLASSIFICATION, ONE_PASS, seed=4)
    again = train_locally(model, layout, start, inputs, targets, CLASSIFICATION, ONE_PASS, seed=3)
    assert torch.equal(again.delta, kept) and torch.equal(first.delta, kept)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(read_vector(model, layout) - start, kept)


def test_dropout_follows_the_seed_and_not_the_global_generator() -> None:
    architecture = Architecture("mlp", "", (6,), 3, {"dropout": 0.5})
    whole = LocalTraining(epochs=1, steps=None, batch_size=37, optimizer="sgd", learning_rate=0.1)
    torch.manual_seed(8)
    expected = torch.rand(3)
    torch.manual_seed(8)
    one, other = train(architecture, whole, seed=1), train(architecture, whole, seed=2)
    assert torch.equal(torch.rand(3), expected)
    # One batch of everything: what differs is the dropout, far beyond the rounding of another order.
    assert float((one.delta - other.delta).norm()) > 0.1 * float(one.delta.norm())


def test_a_pass_of_plain_descent_is_a_loop_over_torch_optim() -> None:
    model = Architecture("mlp", "", (6,), 3).build(seed=0)
    layout = layout_of(model)
    inputs, targets = blobs(37)
    given = LocalTraining(2, None, 8, "sgd", 0.1, momentum=0.9, weight_decay=0.01)
    result = train(Architecture("mlp", "", (6,), 3), given, seed=5)

    order = torch.Generator().manual_seed(int(np.random.SeedSequence(5).generate_state(2)[0]))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    start, losses = read_vector(model, layout), []
    for _ in range(2):
        for batch in torch.randperm(37, generator=order).split(8):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs[batch]), targets[batch])
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(batch)
    torch.testing.assert_close(result.delta, read_vector(model, layout) - start, rtol=1e-4, atol=1e-6)
    assert result.examples == 37
    assert result.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_proximal_term_adds_mu_times_the_distance_to_the_gradient() -> None:
    """On one weight w with loss (w - 1)^2 from w = 0, each step is w <- w - r (2 (w - 1) + mu w)."""
    model = nn.Linear(1, 1, bias=False)
    layout = layout_of(model)
    given = LocalTraining(1, 5, 1, "sgd", learning_rate=0.1, proximal_mu=3.0)
    result = train_locally(model, layout, torch.zeros(1), torch.ones(1, 1), torch.ones(1), REGRESSION, given, seed=0)
    weight = 0.0
    for _ in range(5):
        weight -= 0.1 * (2 * (weight - 1) + 3 * weight)
    assert float(result.delta) == pytest.approx(weight, rel=1e-6)
    # It settles at 2 / (2 + mu) of the way instead of at the minimum of the loss.
    longer = LocalTraining(1, 200, 1, "sgd", learning_rate=0.1, proximal_mu=3.0)
    settled = train_locally(model, layout, torch.zeros(1), torch.ones(1, 1), torch.ones(1), REGRESSION, longer, seed=0)
    assert float(settled.delta) == pytest.approx(2 / 5, rel=1e-6)


@settings(deadline=None, max_examples=15)
@given(st.floats(0.1, 3.0))
def test_a_stronger_pull_leaves_the_model_nearer_to_the_global_one(mu: float) -> None:
    def distance(mu: float) -> float:
        # learning_rate * mu stays below 1/2, so that no step jumps over the global vector.
        given = LocalTraining(8, None, 37, "sgd", 0.08, proximal_mu=mu)
        return float(train(Architecture("logistic", "", (6,), 3), given, seed=1).delta.norm())

    assert distance(2 * mu) < distance(mu) < distance(0.0)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 4))
def test_every_epoch_holds_every_example_once(examples: int, batch_size: int, epochs: int) -> None:
    given = LocalTraining(epochs, None, batch_size, "sgd", 0.1)
    passes = list(_passes(examples, given, torch.Generator().manual_seed(1), torch.device("cpu")))
    assert len(passes) == epochs
    for batches in passes:
        assert sorted(torch.cat(batches).tolist()) == list(range(examples))
        assert all(len(batch) == batch_size for batch in batches[:-1]) and 1 <= len(batches[-1]) <= batch_size


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 60))
def test_steps_cycle_through_the_data_and_stop_exactly(examples: int, batch_size: int, steps: int) -> None:
    given = LocalTraining(1, steps, batch_size, "sgd", 0.1)
    passes = list(_passes(examples, given, torch.Generator().manual_seed(1), torch.device("cpu")))
    assert sum(len(batches) for batches in passes) == steps
    for batches in passes[:-1]:
        assert sorted(torch.cat(batches).tolist()) == list(range(examples))


def test_frozen_parameters_do_not_move_even_under_weight_decay() -> None:
    model = Architecture("mlp", "", (6,), 3).build(seed=0)
    layout = layout_of(model)
    model[1].weight.requires_grad_(False)
    inputs, targets = blobs(20)
    given = LocalTraining(1, None, 8, "sgd", 0.1, weight_decay=0.5)
    delta = train_locally(model, layout, read_vector(model, layout), inputs, targets, CLASSIFICATION, given, 0).delta
    moved = {entry.name: bool(delta[entry.offset : entry.offset + entry.size].any()) for entry in layout.entries}
    assert moved == {"1.weight": False, "1.bias": True, "3.weight": True, "3.bias": True}
    with pytest.raises(InputError, match="no parameter to train"):
        model.requires_grad_(False)
        train_locally(model, layout, read_vector(model, layout), inputs, targets, CLASSIFICATION, given, 0)


def test_a_shared_parameter_trains_as_one() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    layout = layout_of(model)
    inputs, targets = blobs(20, shape=(3,))
    train_locally(model, layout, read_vector(model, layout), inputs, targets, CLASSIFICATION, ONE_PASS, 0)
    assert model[1].weight is model[0].weight


def test_no_data_is_refused_before_anything_changes() -> None:
    model = Architecture("mlp", "", (6,), 3).build(seed=0)
    layout = layout_of(model)
    before = read_vector(model, layout)
    for rows, labels in [(0, 0), (3, 2)]:
        with pytest.raises(InputError, match=f"training data: {rows} examples and {labels} targets"):
            train_locally(
                model,
                layout,
                before + 1,
                torch.zeros(rows, 6),
                torch.zeros(labels, dtype=torch.int64),
                CLASSIFICATION,
                ONE_PASS,
                0,
            )
    assert torch.equal(read_vector(model, layout), before)


def test_a_loss_that_explodes_is_an_arithmetic_error() -> None:
    inputs, targets = torch.full((8, 1), 1e3), torch.ones(8)
    model = nn.Linear(1, 1)
    layout = layout_of(model)
    wild = LocalTraining(20, None, 4, "sgd", learning_rate=10.0)
    with pytest.raises(TrainingDiverged, match="lower training.learning_rate"):
        train_locally(model, layout, torch.zeros(2), inputs, targets, REGRESSION, wild, 0)
    last_step = LocalTraining(1, 1, 8, "sgd", learning_rate=3e38)  # the one loss is finite, the weights are not
    with pytest.raises(TrainingDiverged):
        train_locally(model, layout, torch.zeros(2), inputs, targets, REGRESSION, last_step, 0)
    with pytest.raises(TrainingDiverged):
        train_locally(model, layout, torch.zeros(2), inputs * float("nan"), targets, REGRESSION, ONE_PASS, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"steps": 0},
        {"batch_size": 0},
        {"optimizer": "sdg"},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"momentum": 0.9, "optimizer": "adam"},
        {"weight_decay": -1.0},
        {"proximal_mu": float("inf")},
    ],
)
def test_settings_that_nobody_can_train_with_are_refused(change: dict[str, object]) -> None:
    values: dict[str, object] = {
        "epochs": 1,
        "steps": None,
        "batch_size": 8,
        "optimizer": "sgd",
        "learning_rate": 0.1,
    }
    with pytest.raises(InputError, match="training."):
        LocalTraining(**(values | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
def test_evaluation_does_not_depend_on_the_batches_and_restores_the_mode(device: str) -> None:
    model = Architecture("mlp", "", (6,), 3, {"dropout": 0.5}).build(seed=0).to(device)
    inputs, targets = blobs(50, device)
    whole = evaluate(model, inputs, targets, CLASSIFICATION, SCHEMA)
    parts = evaluate(model, inputs, targets, CLASSIFICATION, SCHEMA, batch_size=7)
    assert whole == pytest.approx(parts, rel=1e-5)
    guesses = model.eval()(inputs).argmax(1)
    assert whole["accuracy"] == pytest.approx(float((guesses == targets).float().mean()))
    evaluate(model.train(), inputs, targets, CLASSIFICATION, SCHEMA)
    assert model.training
    with pytest.raises(InputError, match="evaluation data: 0 examples"):
        evaluate(model, inputs[:0], targets[:0], CLASSIFICATION, SCHEMA)


def test_training_separates_what_can_be_separated() -> None:
    model = Architecture("logistic", "", (6,), 3).build(seed=0)
    layout = layout_of(model)
    inputs, targets = blobs(300)
    given = LocalTraining(20, None, 16, "adam", 0.05)
    train_locally(model, layout, read_vector(model, layout), inputs, targets, CLASSIFICATION, given, 0)
    # Three blobs at distance sqrt(6) in a row, variance 1: the best possible rule is right in
    # 1 - (4/3) Phi(-sqrt(6)/2) = 0.853 of all cases.
    assert evaluate(model, inputs, targets, CLASSIFICATION, SCHEMA)["accuracy"] > 0.8


def test_devices_are_found_or_refused() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "mps:0", "auto:0"):
        with pytest.raises(InputError, match="expected auto, cpu"):
            resolve_device(name)
    with pytest.raises(InputError, match="no cuda:99: this machine has"):
        resolve_device("cuda:99")
    if not torch.backends.mps.is_available():
        with pytest.raises(InputError, match="no mps device"):
            resolve_device("mps")
    if torch.cuda.is_available():
        assert resolve_device("cuda") == resolve_device("auto") == torch.device("cuda", 0)
