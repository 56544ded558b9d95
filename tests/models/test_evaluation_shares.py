"""What members add to an evaluation under a promise: bounded whatever their rows are, and their own means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tacit.models.evaluation_shares import (
    ERROR_CAP,
    LOSS_CAP,
    ClassificationShares,
    EvaluationShares,
    RegressionShares,
    RowMeans,
    means_of,
)


class Given(nn.Module):
    """A network that puts out what it is given."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def vector_of(shares: EvaluationShares, outputs: Tensor, targets: Tensor) -> np.ndarray:
    means = RowMeans(shares)
    means.add(Given(), outputs, targets)
    return means.vector()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 60), spread=st.floats(1e-3, 1e6), classes=st.integers(2, 9))
def test_no_rows_make_a_vector_longer_than_what_the_noise_covers(
    seed: int, rows: int, spread: float, classes: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(0, spread, (rows, classes)), dtype=torch.float32)
    labels = torch.tensor(rng.integers(0, classes, rows))
    values = torch.tensor(rng.normal(0, spread, (rows, 1)), dtype=torch.float32)
    targets = torch.tensor(rng.normal(0, spread, rows), dtype=torch.float32)
    for shares, outputs, wanted in (
        (ClassificationShares(classes), logits, labels),
        (RegressionShares(2.0, 1.0), values, targets),
    ):
        vector = vector_of(shares, outputs, wanted)
        assert np.linalg.norm(vector.astype(np.float64)) <= 1 + 1e-6
        assert (vector >= 0).all()


def test_every_member_counts_the_same_and_the_figures_are_the_means_of_their_own() -> None:
    # One member is right in one of one row, the other in one of four: the mean is 5/8, not 2/5.
    sure, wrong = [9.0, 0.0], [0.0, 9.0]
    shares = ClassificationShares(2)
    one = vector_of(shares, torch.tensor([sure]), torch.tensor([0]))
    other = vector_of(shares, torch.tensor([sure, wrong, wrong, wrong]), torch.tensor([0, 0, 0, 0]))
    found = shares.metrics(means_of((one + other) / 2))
    assert found["member_accuracy"] == pytest.approx(5 / 8, abs=1e-6)
    right, capped = math.log1p(math.exp(-9)), LOSS_CAP * math.log(2)
    assert found["member_loss"] == pytest.approx((right + (right + 3 * capped) / 4) / 2, abs=1e-6)


def test_a_regressions_figures_are_in_the_targets_unit_and_no_row_counts_beyond_the_cap() -> None:
    shares = RegressionShares(10.0, 100.0)
    # Off by 5, by 20, and by so much that it counts as three deviations.
    outputs = torch.tensor([[0.5], [-2.0], [1e6]])
    vector = vector_of(shares, outputs, torch.tensor([100.0, 100.0, 100.0]))
    found = shares.metrics(means_of(vector))
    farthest = ERROR_CAP * 10.0
    assert found["member_mae"] == pytest.approx((5 + 20 + farthest) / 3, rel=1e-6)
    assert found["member_mse"] == pytest.approx((25 + 400 + farthest**2) / 3, rel=1e-6)


def test_batches_are_one_mean_over_all_rows() -> None:
    rng = np.random.default_rng(4)
    outputs, targets = torch.tensor(rng.normal(size=(2500, 3)), dtype=torch.float32), torch.tensor([0, 1, 2, 1] * 625)
    parts = RowMeans(ClassificationShares(3))
    parts.add(Given(), outputs[:100], targets[:100])
    parts.add(Given(), outputs[100:], targets[100:])
    np.testing.assert_allclose(parts.vector(), vector_of(ClassificationShares(3), outputs, targets), rtol=1e-6)


def test_noise_cannot_take_a_figure_out_of_its_range() -> None:
    assert ClassificationShares(2).metrics(np.array([1.4, -0.2])) == {"member_loss": 0.0, "member_accuracy": 1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_without_a_finite_output_counts_as_the_worst_and_nobody_refuses_for_it(bad: float) -> None:
    # A refusal would tell the coordinator, which writes the model, of one member's rows, and cost nothing.
    classified = vector_of(ClassificationShares(2), torch.tensor([[bad, 0.0], [9.0, 0.0]]), torch.tensor([0, 0]))
    accuracy, loss = means_of(classified)
    assert accuracy == pytest.approx(1 / 2, abs=1e-6)
    assert loss == pytest.approx((1 + math.log1p(math.exp(-9)) / (LOSS_CAP * math.log(2))) / 2, abs=1e-6)
    regressed = vector_of(RegressionShares(1.0, 0.0), torch.tensor([[bad], [0.0]]), torch.tensor([0.0, 0.0]))
    np.testing.assert_allclose(means_of(regressed), [1 / 2, 1 / 2], atol=1e-6)


@pytest.mark.parametrize("statistics", [(0.0, 4.0), (math.nan, 0.0), (-1.0, math.inf), (1e-320, 4.0)])
def test_statistics_that_no_targets_have_leave_a_bounded_share(statistics: tuple[float, float]) -> None:
    # The coordinator writes them too; 4.0 is the target of one row, so that 0 is divided by 0 there alone.
    shares = RegressionShares(*statistics)
    vector = vector_of(shares, torch.tensor([[0.0], [1.0]]), torch.tensor([4.0, 5.0]))
    assert np.isfinite(vector).all() and np.linalg.norm(vector) <= 1
