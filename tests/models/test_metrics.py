"""Metrics are those of scikit-learn, whatever the batches, and undefined where they are undefined."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from tacit.models.metrics import BinnedAuroc, ClassificationMetrics, RegressionMetrics

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def in_bins(scores: np.ndarray) -> np.ndarray:
    """Round scores down to the 200 bins, as the binned area does, in the same precision."""
    return (scores.astype(np.float32) * np.float32(199)).astype(np.int64)


def sample(seed: int, rows: int, classes: int, present: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, present, rows)
    outputs = generator.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[targets]
    return torch.tensor(outputs, dtype=torch.float32), torch.tensor(targets)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("classes", "present"), [(2, 2), (4, 4), (4, 3), (10, 2), (3, 1)])
def test_classification_metrics_are_those_of_scikit_learn(classes: int, present: int, device: str) -> None:
    outputs, targets = sample(1, 500, classes, present)
    metrics = ClassificationMetrics(classes)
    for start in range(0, 500, 64):
        metrics.update(outputs[start : start + 64].to(device), targets[start : start + 64].to(device))
    found = metrics.compute()

    scores = torch.softmax(outputs, 1).numpy()
    truth, guess = targets.numpy(), scores.argmax(1)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(truth, guess, average="macro", zero_division=0)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, guess), abs=1e-6)
    assert found["macro_precision"] == pytest.approx(precision, abs=1e-6)
    assert found["macro_recall"] == pytest.approx(recall, abs=1e-6)
    assert found["macro_f1"] == pytest.approx(f1, abs=1e-6)
    assert found["loss"] == pytest.approx(reference.log_loss(truth, scores, labels=range(classes)), rel=1e-5)
    counted = [1] if classes == 2 else range(present)
    if present == 1:
        assert math.isnan(found["auroc"])
    else:
        exact = np.mean([reference.roc_auc_score(truth == c, scores[:, c]) for c in counted])
        binned = np.mean([reference.roc_auc_score(truth == c, in_bins(scores[:, c])) for c in counted])
        assert found["auroc"] == pytest.approx(binned, abs=1e-12)
        assert found["auroc"] == pytest.approx(exact, abs=5e-3)
    confidence, right = scores.max(1), guess == truth
    bins = np.minimum((confidence * 15).astype(int), 14)
    error = sum(abs(confidence[bins == b].sum() - right[bins == b].sum()) for b in range(15)) / 500
    assert found["expected_calibration_error"] == pytest.approx(error, abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(1, 60), st.integers(1, 59))
def test_the_histograms_of_two_data_sets_add_up(seed: int, classes: int, rows: int, cut: int) -> None:
    outputs, targets = sample(seed, rows, classes, classes)
    scores = torch.softmax(outputs, 1)
    whole, left, right = BinnedAuroc(classes), BinnedAuroc(classes), BinnedAuroc(classes)
    whole.update(scores, targets)
    left.update(scores[:cut], targets[:cut])
    right.update(scores[cut:], targets[cut:])
    left.positives += right.positives
    left.totals += right.totals
    assert torch.equal(left.positives, whole.positives) and torch.equal(left.totals, whole.totals)


def test_a_single_row_is_enough() -> None:
    metrics = ClassificationMetrics(3)
    metrics.update(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    found = metrics.compute()
    assert found["accuracy"] == found["macro_f1"] == 1.0 and math.isnan(found["auroc"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_that_puts_out_no_number_has_no_metrics(bad: float) -> None:
    metrics = ClassificationMetrics(3)
    metrics.update(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 1]))
    metrics.update(torch.tensor([[bad, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 1]))
    metrics.update(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    found = metrics.compute()
    assert set(found) == set(ClassificationMetrics(3).compute())
    assert all(math.isnan(value) for value in found.values())
    regression = RegressionMetrics()
    regression.update(torch.tensor([[bad], [1.0]]), torch.tensor([0.0, 1.0]))
    assert all(math.isnan(value) for value in regression.compute().values())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1e6, 50.0), (-3.0, 1e-3)])
def test_regression_metrics_are_those_of_scikit_learn(mean: float, scale: float, device: str) -> None:
    generator = np.random.default_rng(2)
    truth = torch.tensor(mean + scale * generator.normal(size=300), dtype=torch.float32)
    outputs = torch.tensor(generator.normal(size=(300, 1)), dtype=torch.float32)
    metrics = RegressionMetrics(mean, scale)
    for start in range(0, 300, 70):
        metrics.update(outputs[start : start + 70].to(device), truth[start : start + 70].to(device))
    found = metrics.compute()
    guess = outputs.double().numpy()[:, 0] * scale + mean
    expected = truth.double().numpy()
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(expected, guess), rel=1e-6)
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(expected, guess), rel=1e-6)
    assert found["r2"] == pytest.approx(reference.r2_score(expected, guess), rel=1e-6)
    assert found["loss"] == pytest.approx(reference.mean_squared_error(expected, guess) / scale**2, rel=1e-6)


def test_r_squared_needs_two_rows_and_survives_equal_targets() -> None:
    one = RegressionMetrics()
    one.update(torch.tensor([[1.0]]), torch.tensor([2.0]))
    assert math.isnan(one.compute()["r2"]) and one.compute()["mae"] == 1.0
    equal = RegressionMetrics()
    equal.update(torch.tensor([[1.0], [2.0]]), torch.tensor([2.0, 2.0]))
    assert equal.compute()["r2"] == reference.r2_score([2.0, 2.0], [1.0, 2.0]) == 0.0


def test_nothing_counted_is_nothing_known() -> None:
    for metrics in (ClassificationMetrics(2), RegressionMetrics()):
        assert all(math.isnan(value) for value in metrics.compute().values())
