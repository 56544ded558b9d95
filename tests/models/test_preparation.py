"""The preparation: sums of clients' rows in, one plan out, and the plan knows nothing but the sum."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.plan import Plan
from tacit.models.preparation import check_sums, preparation_size, preparation_sums, prepared_plan
from tacit.models.recipe import parse_recipe

AGE, JOB = Column("age", "numeric"), Column("job", "categorical")
CLASSIFIED = Schema((AGE, JOB), "y", ("no", "yes"))
REGRESSED = Schema((AGE, JOB), "y")
PICTURES = Schema((Column("image", "image", (1, 2, 2)),), "y", ("no", "yes"))
SCHEMAS = [CLASSIFIED, REGRESSED, PICTURES]
JOBS = np.array(["nurse", "clerk", "judge", ""], dtype=object)


def some_rows(schema: Schema, seed: int, count: int) -> Rows:
    """Return rows of whole numbers, whose sums are exact in any order."""
    rng = np.random.default_rng(seed)
    columns = {
        "age": np.where(rng.random(count) < 0.1, np.nan, rng.integers(-90, 90, count).astype(np.float64)),
        "job": JOBS[rng.integers(0, len(JOBS), count)],
        "image": rng.integers(0, 256, (count, 1, 2, 2)).astype(np.uint8),
    }
    labels = rng.integers(0, 2, count) if schema.classes else rng.integers(-99, 99, count).astype(np.float64)
    return Rows({column.name: columns[column.name] for column in schema.columns}, labels)


def plan_of(schema: Schema, *overrides: str) -> Plan:
    text = 'name = "r"\nseed = 3\n[task]\nkind = "t"\n[data]\nsource = "s:"\n[population]\nclients = 9\n'
    return Plan(parse_recipe(text, overrides), schema)


def prepared(schema: Schema, total: np.ndarray, *overrides: str, clients: int = 3, mu: float = 0.0) -> Plan:
    return prepared_plan(plan_of(schema, *overrides), total, clients, outputs=2, proximal_mu=mu)


@pytest.mark.parametrize("schema", SCHEMAS)
@given(seed=st.integers(0, 999), cuts=st.lists(st.integers(1, 39), unique=True, max_size=6).map(sorted))
def test_the_plan_depends_on_the_sum_alone_and_not_on_who_holds_what(
    schema: Schema, seed: int, cuts: Sequence[int]
) -> None:
    rows = some_rows(schema, seed, 40)
    parts = np.split(np.random.default_rng(seed).permutation(40), cuts)
    total = sum(preparation_sums(rows.take(part), schema) for part in parts)
    # Whole numbers add up exactly; the pixels' sums are divided once a client and may differ in the last bits.
    if schema is PICTURES:
        np.testing.assert_allclose(total, preparation_sums(rows, schema), rtol=1e-13)
    else:
        np.testing.assert_array_equal(total, preparation_sums(rows, schema))
        assert prepared(schema, total).encode() == prepared(schema, preparation_sums(rows, schema)).encode()


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_length_of_the_sums_is_public(schema: Schema) -> None:
    lengths = {len(preparation_sums(some_rows(schema, seed, count), schema)) for seed, count in [(1, 1), (2, 30)]}
    assert lengths == {preparation_size(schema)}


@pytest.mark.parametrize("schema", SCHEMAS)
@given(seed=st.integers(0, 999), count=st.integers(1, 20))
def test_the_sums_of_any_rows_pass_the_check(schema: Schema, seed: int, count: int) -> None:
    check_sums(preparation_sums(some_rows(schema, seed, count), schema), schema)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_targets_are_standardised_with_their_mean_and_deviation(targets: list[float]) -> None:
    schema = Schema((AGE,), "y")
    rows = Rows({"age": np.zeros(len(targets))}, np.array(targets))
    plan = prepared(schema, preparation_sums(rows, schema))
    spread = float(np.std(targets))
    assert plan.target_mean == pytest.approx(np.mean(targets), rel=1e-9, abs=1e-9)
    largest = max(map(abs, targets))
    if spread > 1e-3 * largest:
        assert plan.target_scale == pytest.approx(spread, rel=1e-6)
    assert plan.target_scale > 0 and math.isfinite(plan.target_scale)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1, -3.3e-7, 1e150])
def test_a_constant_target_has_scale_one_and_not_its_rounding_error(value: float) -> None:
    schema = Schema((AGE,), "y")
    sums = [preparation_sums(Rows({"age": np.zeros(n)}, np.full(n, value)), schema) for n in (3, 7, 49)]
    plan = prepared(schema, sum(sums))
    assert plan.target_scale == 1.0
    assert plan.target_mean == pytest.approx(value)


def test_a_classification_leaves_the_targets_as_they_are() -> None:
    plan = prepared(CLASSIFIED, preparation_sums(some_rows(CLASSIFIED, 1, 30), CLASSIFIED))
    assert (plan.target_mean, plan.target_scale) == (0.0, 1.0)


def test_the_plan_gains_features_architecture_and_the_proximal_term() -> None:
    plan = prepared(CLASSIFIED, preparation_sums(some_rows(CLASSIFIED, 1, 90), CLASSIFIED), "model.name=mlp", mu=0.3)
    assert plan.features is not None and plan.architecture is not None
    assert plan.proximal_mu == 0.3
    assert (plan.architecture.name, plan.architecture.factory, plan.architecture.outputs) == ("mlp", "", 2)
    assert plan.architecture.input_shape == plan.features.input_shape


def test_a_factory_takes_the_place_of_the_name() -> None:
    total = preparation_sums(some_rows(CLASSIFIED, 1, 30), CLASSIFIED)
    plan = prepared(CLASSIFIED, total, "model.factory=my.package:network", "model.width=3")
    assert plan.architecture is not None
    assert (plan.architecture.name, plan.architecture.factory) == ("", "my.package:network")
    assert plan.architecture.options == {"width": 3}


def test_a_rare_category_gets_no_slot_of_its_own() -> None:
    jobs = np.array(["nurse"] * 9 + ["clerk"] * 4, dtype=object)
    schema = Schema((JOB,), "y", ("no", "yes"))
    total = preparation_sums(Rows({"job": jobs}, np.zeros(13, np.int64)), schema)
    widths = [
        prepared(schema, total, f"data.minimum_count={count}").features.input_shape  # type: ignore[union-attr]
        for count in (4, 5, 10)
    ]
    assert widths == [(3,), (2,), (1,)]  # one more for everything else


# What is refused


def test_rows_without_targets_are_refused() -> None:
    with pytest.raises(InputError, match="3 rows have 0 targets; one target a row"):
        preparation_sums(Rows({"age": np.zeros(3), "job": JOBS[:3]}), REGRESSED)


@pytest.mark.parametrize("target", [np.nan, np.inf, 1e200])
def test_a_target_whose_sums_are_not_finite_is_refused_without_naming_it(target: float) -> None:
    rows = Rows({"age": np.zeros(2), "job": JOBS[:2]}, np.array([1.0, target]))
    with pytest.raises(InputError, match="label 'y': the targets' sums are not finite") as caught:
        preparation_sums(rows, REGRESSED)
    assert "1e" not in str(caught.value) and "nan" not in str(caught.value)


def spoiled(position: int, value: float, schema: Schema = REGRESSED) -> np.ndarray:
    sums = preparation_sums(some_rows(schema, 1, 20), schema)
    sums[position] = value
    return sums


IMPOSSIBLE = {
    "no rows": (CLASSIFIED, np.zeros(preparation_size(CLASSIFIED))),
    "too short": (CLASSIFIED, spoiled(0, 0, CLASSIFIED)[:-1]),
    "too long": (REGRESSED, np.append(spoiled(0, 0), 1.0)),
    "a feature that is not a number": (CLASSIFIED, spoiled(1, np.nan, CLASSIFIED)),
    "a target that is not a number": (REGRESSED, spoiled(-2, np.nan)),
    "fewer targets than rows": (REGRESSED, spoiled(-3, 19.0)),
    "more targets than rows": (REGRESSED, spoiled(-3, 1e9)),
    "a negative sum of squares": (REGRESSED, spoiled(-1, -1e6)),
    "a sum that its squares forbid": (REGRESSED, spoiled(-2, 1e9)),
}


@pytest.mark.parametrize(("schema", "sums"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_sums_that_no_rows_have_are_refused_alone_and_as_the_total(schema: Schema, sums: np.ndarray) -> None:
    with pytest.raises(InputError):
        check_sums(sums, schema)
    with pytest.raises(InputError):
        prepared(schema, sums)


@given(st.integers(0, 200), st.floats())
def test_one_spoiled_sum_is_refused_or_makes_a_plan_that_can_travel(position: int, value: float) -> None:
    sums = spoiled(-1 - position, value)
    try:
        plan = prepared(REGRESSED, sums)
    except InputError:
        return
    assert math.isfinite(plan.target_mean) and 0 < plan.target_scale < math.inf
    plan.encode()
