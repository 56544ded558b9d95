"""What members count adds up to what their rows would give together, and the metrics are those of the pooled rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from tacit.models.contributions import MOMENT_INTEGER_BITS
from tacit.models.data.rows import Column, Schema
from tacit.models.errors import InputError
from tacit.models.evaluation_sums import (
    CALIBRATION,
    CLASSES,
    CONFIDENCE,
    CONFUSION,
    COUNT_BITS,
    ERRORS,
    LOSS,
    MOST_CLASSES_IN_FULL,
    ROWS,
    SCORE_BINS,
    SCORES,
    ClassificationSums,
    EvaluationSums,
    RegressionSums,
    Sums,
    count_rows,
    evaluation_layout,
    evaluation_sums,
)
from tacit.models.metrics import ClassificationMetrics, RegressionMetrics
from tacit.models.plan import Plan
from tacit.models.recipe import parse_recipe
from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg.encoding import decode, encode
from tacit.privacy.secagg.layout import Layout, bits_for

RECIPE = """
name = "r"
[task]
kind = "tabular-classification"
[data]
source = "s:"
[population]
clients = 3
"""


def names(classes: int) -> tuple[str, ...]:
    return tuple(f"class {at}" for at in range(classes))


def classified(seed: int, rows: int, classes: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, rows)
    outputs = rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[targets]
    return torch.tensor(outputs, dtype=torch.float32), torch.tensor(targets)


def valued(seed: int, rows: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    targets = rng.normal(40, 9, rows)
    outputs = (targets - 40) / 9 + rng.normal(0, 0.4, rows)
    return torch.tensor(outputs[:, None], dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)


def added(parts: list[Sums]) -> dict[str, np.ndarray]:
    return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}


def cut(rows: int, cuts: list[int]) -> list[slice]:
    edges = [0, *sorted(one % rows for one in cuts), rows]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False) if a < b]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 200),
    classes=st.sampled_from([2, 3, 7, MOST_CLASSES_IN_FULL + 1]),
    cuts=st.lists(st.integers(0, 10**6), max_size=6),
)
def test_what_members_count_adds_up_to_the_counts_over_their_rows_together(
    seed: int, rows: int, classes: int, cuts: list[int]
) -> None:
    outputs, targets = classified(seed, rows, classes)
    sums = ClassificationSums(names(classes))
    total = added([sums.of(outputs[part], targets[part]) for part in cut(rows, cuts)])
    pooled = sums.of(outputs, targets)
    assert total.keys() == pooled.keys() == {block.name for block in sums.blocks}
    for block in sums.blocks:
        assert pooled[block.name].shape == (block.size,)
        if block.name in (LOSS, CONFIDENCE):
            np.testing.assert_allclose(total[block.name], pooled[block.name], rtol=1e-12, atol=1e-12)
        else:
            np.testing.assert_array_equal(total[block.name], pooled[block.name])


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 200),
    classes=st.integers(2, 9),
    cuts=st.lists(st.integers(0, 10**6), max_size=6),
)
def test_the_metrics_are_those_that_a_coordinator_would_measure_on_all_rows(
    seed: int, rows: int, classes: int, cuts: list[int]
) -> None:
    outputs, targets = classified(seed, rows, classes)
    sums = ClassificationSums(names(classes))
    found = sums.metrics(added([sums.of(outputs[part], targets[part]) for part in cut(rows, cuts)]))
    central = ClassificationMetrics(classes)
    central.update(outputs, targets)
    expected = central.compute()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # A two-class area of one class alone is 0 / 0 here and there.
        assert found[name] == pytest.approx(value, abs=2e-6, nan_ok=True), name


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 400))
def test_the_area_from_histograms_is_within_half_of_the_pairs_that_share_a_bin(seed: int, rows: int) -> None:
    outputs, targets = classified(seed, rows, 2)
    scores, truth = torch.softmax(outputs, -1)[:, 1].numpy(), targets.numpy()
    sums = ClassificationSums(names(2))
    counted = sums.of(outputs, targets)
    found = sums.metrics(counted)["auroc"]
    totals, positives = counted[SCORES].reshape(2, SCORE_BINS)
    pairs = positives.sum() * (totals - positives).sum()
    if not pairs:
        assert math.isnan(found)
        return
    bound = float((positives * (totals - positives)).sum() / pairs) / 2
    assert abs(found - roc_auc_score(truth, scores)) <= bound + 1e-12


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 200), cuts=st.lists(st.integers(0, 10**6), max_size=6))
def test_a_regressions_metrics_are_those_of_the_rows_together(seed: int, rows: int, cuts: list[int]) -> None:
    outputs, targets = valued(seed, rows)
    sums = RegressionSums(40.0, 9.0)
    found = sums.metrics(added([sums.of(outputs[part], targets[part]) for part in cut(rows, cuts)]))
    central = RegressionMetrics(40.0, 9.0)
    central.update(outputs, targets)
    for name, value in central.compute().items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), name


def test_with_many_classes_each_is_counted_alone_and_no_area_is_claimed() -> None:
    classes = MOST_CLASSES_IN_FULL + 6
    outputs, targets = classified(3, 900, classes)
    sums = ClassificationSums(names(classes))
    counted = sums.of(outputs, targets)
    assert CLASSES in counted and CONFUSION not in counted and SCORES not in counted
    found, central = sums.metrics(counted), ClassificationMetrics(classes)
    central.update(outputs, targets)
    expected = central.compute()
    assert "auroc" not in found and "confusion" not in sums.tables(counted)
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=2e-6), name


def test_the_tables_say_how_many_rows_of_a_class_there_were_and_what_they_were_taken_for() -> None:
    # Three rows: 0 as 0, 0 as 1, 1 as 1.
    outputs = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    sums = ClassificationSums(("no", "yes"))
    tables = sums.tables(sums.of(outputs, torch.tensor([0, 0, 1])))
    assert tables["rows"] == 3 and tables["confusion"] == [[1, 1], [0, 1]]
    assert tables["classes"] == {
        "no": {"rows": 2, "predicted": 1, "right": 1},
        "yes": {"rows": 1, "predicted": 2, "right": 1},
    }


class Given(nn.Module):
    """A network that puts out what it is given."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def test_batches_are_counted_as_their_rows() -> None:
    outputs, targets = classified(5, 2500, 3)
    sums = ClassificationSums(names(3))
    found, pooled = count_rows(Given(), outputs, targets, sums), sums.of(outputs, targets)
    assert float(found[CONFUSION].sum()) == 2500
    for name, values in pooled.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)


@pytest.mark.parametrize(
    ("sums", "batch"),
    [(ClassificationSums(names(3)), classified(1, 50, 3)), (RegressionSums(40.0, 9.0), valued(1, 50))],
)
def test_sums_of_a_thousand_members_fit_the_masked_vector_and_come_back_exactly(
    sums: EvaluationSums, batch: tuple[Tensor, Tensor]
) -> None:
    layout, counted = Layout(sums.blocks), sums.of(*batch)
    members = 1000
    bits = bits_for(layout, members)
    integers = encode(layout, counted, bytes(32), Keystream(bytes(32))).astype(np.int64) * members
    assert np.abs(integers).max() < 1 << (bits - 1)
    total = decode(layout, integers.astype(np.int32), bytes(32)).blocks
    found, expected = sums.metrics(total), sums.metrics(counted)
    assert found == pytest.approx(expected, abs=1e-6)
    assert sums.tables(total)["rows"] == 50 * members


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_row_without_a_usable_output_is_counted_and_no_client_says_that_it_has_one(bad: float) -> None:
    """Who writes the vector can choose for which rows that is, and who fails is seen without a mask."""
    outputs, targets = classified(1, 10, 3)
    sums = ClassificationSums(names(3))
    spoilt = outputs.clone()
    spoilt[4] = torch.tensor([bad, -bad, bad])
    counted, sound = sums.of(spoilt, targets), sums.of(torch.cat([outputs[:4], outputs[5:]]), drop(targets, 4))
    assert counted[CONFUSION].sum() == 10 and (counted[CONFUSION] >= sound[CONFUSION]).all()
    sums.metrics(counted)
    wide = {block.name: block for block in sums.blocks}
    assert counted[LOSS][0] * 10**6 < 2.0 ** wide[LOSS].integer_bits  # of a million such batches too
    if not math.isfinite(bad):
        assert sums.metrics(counted)["accuracy"] == pytest.approx(sound[CONFUSION].reshape(3, 3).trace() / 10)

    regression = RegressionSums(0.0, 1e-30)
    errors = regression.of(torch.full((3, 1), bad), torch.tensor([0.0, 1e30, -1e30]))[ERRORS]
    assert np.isfinite(errors).all() and (np.abs(errors) * 10**9 < 2.0**MOMENT_INTEGER_BITS).all()


def drop(values: torch.Tensor, at: int) -> torch.Tensor:
    return torch.cat([values[:at], values[at + 1 :]])


def changed(sums: Mapping[str, np.ndarray], name: str, at: int, by: float) -> dict[str, np.ndarray]:
    values = sums[name].copy()
    values[at] += by
    return {**sums, name: values}


@pytest.mark.parametrize(
    ("name", "at", "by"),
    [
        (CONFUSION, 1, 1.0),  # a row that no histogram knows
        (CONFUSION, 0, -1e6),
        (SCORES, 7, 1.0),
        (SCORES, 3 * SCORE_BINS, 5.0),
        (CALIBRATION, 3, 2.0),
        (CALIBRATION, 16, 40.0),
        (CONFIDENCE, 0, 1e3),
        (LOSS, 0, -1e9),
    ],
)
def test_sums_that_no_rows_have_are_refused(name: str, at: int, by: float) -> None:
    sums = ClassificationSums(names(3))
    counted = sums.of(*classified(1, 50, 3))
    sums.metrics(counted)
    with pytest.raises(InputError, match="contradict each other"):
        sums.metrics(changed(counted, name, at, by))


@pytest.mark.parametrize(
    ("name", "at", "by"), [(ROWS, 0, -50.0), (ERRORS, 0, 1e4), (ERRORS, 1, -1e4), (ERRORS, 2, 1e4)]
)
def test_sums_of_errors_that_no_rows_have_are_refused(name: str, at: int, by: float) -> None:
    sums = RegressionSums(40.0, 9.0)
    counted = sums.of(*valued(1, 50))
    with pytest.raises(InputError, match="contradict each other"):
        sums.metrics(changed(counted, name, at, by))


def test_the_layout_is_that_of_the_task_and_one_cell_holds_any_number_of_rows() -> None:
    schema = Schema((Column("a", "numeric"),), "y", names(4))
    plan = Plan(parse_recipe(RECIPE), schema)
    assert evaluation_layout(plan) == Layout(ClassificationSums(names(4)).blocks)
    assert all(block.integer_bits == COUNT_BITS for block in evaluation_layout(plan).blocks if block.fraction_bits == 0)
    regression = replace(
        plan,
        recipe=parse_recipe(RECIPE, ["task.kind=tabular-regression"]),
        schema=replace(schema, classes=()),
        target_mean=40.0,
        target_scale=9.0,
    )
    assert evaluation_sums(regression) == RegressionSums(40.0, 9.0)


def test_a_task_of_somebody_elses_has_no_sums_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ranking:
        kind = "ranking"

    plan = Plan(parse_recipe(RECIPE), Schema((Column("a", "numeric"),), "y", names(2)))
    monkeypatch.setattr(Plan, "task", lambda self: Ranking())
    with pytest.raises(InputError, match="'ranking' has no metrics that add up over clients"):
        evaluation_sums(plan)
