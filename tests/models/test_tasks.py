"""Tasks: which data they take, what they cost, how they read."""

import math
from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch

from tacit.models import tasks
from tacit.models.data.rows import Column, Schema
from tacit.models.errors import InputError
from tacit.models.tasks import ClassPrediction, TabularRegression, ValuePrediction, task_named

IMAGES = Schema((Column("image", "image", (1, 8, 8)),), "label", ("cat", "dog", "owl"))
TABLE = Schema((Column("age", "numeric"), Column("job", "categorical")), "label", ("no", "yes"))
VALUES = Schema((Column("age", "numeric"),), "price")


def test_each_task_takes_its_own_data() -> None:
    for kind, schema, outputs in [
        ("audio-classification", IMAGES, 3),
        ("image-classification", IMAGES, 3),
        ("tabular-classification", TABLE, 2),
        ("tabular-regression", VALUES, 1),
    ]:
        task = task_named(kind)
        task.check(schema)
        assert task.kind == kind and task.outputs(schema) == outputs


@pytest.mark.parametrize(
    ("kind", "schema", "said"),
    [
        ("audio-classification", TABLE, "expected exactly one, an image"),
        ("image-classification", TABLE, "expected exactly one, an image"),
        ("tabular-classification", IMAGES, "has an image column"),
        ("tabular-regression", IMAGES, "has an image column"),
        ("tabular-classification", VALUES, "'price' has no classes; use tabular-regression"),
        ("tabular-regression", TABLE, "'label' has classes; use tabular-classification"),
        ("tabular-classification", Schema(TABLE.columns, "label", ("one",)), "has one class; expected two or more"),
        ("tabular-classification", Schema(TABLE.columns, "label", ("a", "a")), "names a class twice"),
        ("tabular-classification", Schema((), "label", ("a", "b")), "has no columns"),
    ],
)
def test_data_that_does_not_fit_is_refused(kind: str, schema: Schema, said: str) -> None:
    with pytest.raises(InputError, match=said):
        task_named(kind).check(schema)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(InputError, match="task.kind: unknown task 'tabular-clasification'; .*'tabular-classification'"):
        task_named("tabular-clasification")


def test_an_installed_package_can_offer_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = EntryPoints(
        [
            EntryPoint("median-regression", f"{__name__}:median_regression", "tacit.tasks"),
            EntryPoint("broken", "no_such_package_at_all:task", "tacit.tasks"),
        ]
    )
    monkeypatch.setattr(tasks, "entry_points", lambda group: offered.select(group=group))
    monkeypatch.setattr(EntryPoint, "load", lambda self: median_regression if self.name[0] == "m" else 1 / 0)
    assert task_named("median-regression").kind == "median-regression"
    with pytest.raises(InputError, match="task 'broken' cannot be loaded: ZeroDivisionError"):
        task_named("broken")
    with pytest.raises(InputError, match="the nearest is 'median-regression'"):
        task_named("median-regresion")


def median_regression() -> TabularRegression:
    return TabularRegression("median-regression")


def test_the_loss_of_a_classification_is_the_mean_negative_log_probability() -> None:
    outputs = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    loss = task_named("image-classification").loss(outputs, torch.tensor([0, 2]))
    assert float(loss) == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2, rel=1e-6)


def test_a_classification_says_the_likeliest_class_and_all_scores() -> None:
    outputs = torch.log(torch.tensor([[0.5, 0.2, 0.3]]))
    (prediction,) = task_named("image-classification").describe(outputs, IMAGES)
    assert isinstance(prediction, ClassPrediction)
    assert prediction.label == "cat" and prediction.score == pytest.approx(0.5)
    assert prediction.scores == pytest.approx({"cat": 0.5, "dog": 0.2, "owl": 0.3})


def test_a_regression_on_standardised_targets_speaks_the_targets_own_unit() -> None:
    task = task_named("tabular-regression").with_target_statistics(100.0, 20.0)
    outputs = torch.tensor([[0.5], [-1.0]])  # 110 and 80
    assert task.describe(outputs, VALUES) == [ValuePrediction(110.0), ValuePrediction(80.0)]
    assert task.scores(outputs).tolist() == [110.0, 80.0]
    targets = torch.tensor([112.0, 70.0])
    # Errors of 2 and 10 are 0.1 and 0.5 of the scale.
    assert float(task.loss(outputs, targets)) == pytest.approx((0.1**2 + 0.5**2) / 2)
    metrics = task.metrics(VALUES)
    metrics.update(outputs, targets)
    found = metrics.compute()
    assert found["mae"] == pytest.approx(6.0) and found["rmse"] == pytest.approx(math.sqrt((4 + 100) / 2))
    assert found["loss"] == pytest.approx((0.1**2 + 0.5**2) / 2)


def test_equal_targets_have_a_scale_of_one_and_statistics_must_be_finite() -> None:
    task = task_named("tabular-regression").with_target_statistics(3.0, 0.0)
    assert isinstance(task, TabularRegression) and task.target_scale == 1.0
    for mean, scale in [(math.nan, 1.0), (0.0, math.inf), (0.0, -1.0)]:
        with pytest.raises(InputError, match="target mean"):
            task_named("tabular-regression").with_target_statistics(mean, scale)


def test_classes_have_no_statistics() -> None:
    task = task_named("tabular-classification")
    assert task.with_target_statistics(3.0, 2.0) is task
