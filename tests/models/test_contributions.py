"""What goes into a masked sum: it never wraps, is unbiased, and loses nothing that training could tell."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.models.contributions import (
    COUNTS,
    METRICS,
    MOMENTS,
    UPDATE,
    UPDATE_CLIP,
    WEIGHT,
    WEIGHT_CLIP,
    asks_for_statistics,
    preparation_layout,
    preparation_total,
    preparation_values,
    training_layout,
    training_values,
)
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.plan import Plan
from tacit.models.preparation import count_places, preparation_size, preparation_sums, prepared_plan
from tacit.models.recipe import parse_recipe
from tacit.privacy.errors import LocalProtocolError
from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg.encoding import add_packed, centre, decode, encode, pack, reduce, zeros
from tacit.privacy.secagg.layout import Layout, WideBlock, bits_for, fits

SEED = bytes(32)
RECIPE = """
name = "r"
task.kind = "tabular-regression"
data.source = "s:"
population.clients = 3
"""
NUMBERS = Schema((Column("a", "numeric"), Column("b", "numeric")), "y")
MIXED = Schema((Column("a", "numeric"), Column("c", "categorical")), "y", ("no", "yes"))
IMAGES = Schema((Column("image", "image", (3, 2, 2)),), "y", ("cat", "dog", "cow"))


def summed(layout: Layout, contributions: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Send contributions the way that they travel, without masks, and read their sum."""
    bits = bits_for(layout, len(contributions))
    total = zeros(layout.dimension, bits)
    for at, values in enumerate(contributions):
        integers = encode(layout, values, SEED, Keystream(at.to_bytes(32, "big")))
        add_packed(total, pack(reduce(integers, bits), bits), bits)
    return dict(decode(layout, centre(total, bits), SEED).blocks)


# Training


@given(st.integers(2, 10_000), st.sampled_from([24, 32]))
@settings(max_examples=200)
def test_no_cohort_can_make_the_sum_wrap_and_no_finer_grid_would_do(cohort: int, bits: int) -> None:
    layout = training_layout(3, cohort, bits)
    assert fits(layout, cohort, 0.0, 32)
    update = layout.blocks[0]
    assert cohort * update.bound < 2 ** (bits - 1)
    finer = replace(update, scale=2 * update.scale)  # type: ignore[type-var]
    assert cohort * finer.bound >= 2 ** (bits - 1) or finer.scale * finer.clip >= 2**31


@pytest.mark.parametrize("cohort", [2, 3, 50, 127, 128, 1000, 10_000])
def test_the_extreme_sum_is_exact(cohort: int) -> None:
    """Everybody at the end of every range, on either side: the sum comes out as it went in."""
    layout = training_layout(2, cohort)
    bits = bits_for(layout, cohort)
    values = {
        UPDATE: np.array([UPDATE_CLIP, -UPDATE_CLIP]),
        WEIGHT: np.array([WEIGHT_CLIP]),
        METRICS: np.array([-(2.0**40)]),
    }
    integers = encode(layout, values, SEED, Keystream(SEED)).astype(np.int64)
    total = centre(reduce(cohort * integers, bits), bits)
    assert (total == cohort * integers).all()
    blocks = decode(layout, total, SEED).blocks
    np.testing.assert_array_equal(blocks[UPDATE], [cohort * UPDATE_CLIP, -cohort * UPDATE_CLIP])
    assert blocks[WEIGHT][0] == cohort * WEIGHT_CLIP and blocks[METRICS][0] == -cohort * 2.0**40


def test_rounding_is_unbiased_and_as_small_as_the_grid() -> None:
    cohort, draws = 1000, 4000
    layout = training_layout(draws, cohort)
    block = layout.blocks[0]
    step = 1 / block.scale  # type: ignore[union-attr]
    value = 0.3 * step  # at a third of a step, where rounding to the nearest would lose all of it
    values = {UPDATE: np.full(draws, value, np.float64), WEIGHT: np.ones(1), METRICS: np.zeros(1)}
    rounded = decode(layout, encode(layout, values, SEED, Keystream(SEED)), SEED).blocks[UPDATE]
    assert set(np.round(rounded / step)) == {0.0, 1.0}
    deviation = math.sqrt(0.3 * 0.7 / draws)
    assert abs(rounded.mean() / step - 0.3) < 5 * deviation


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(-5, 5), st.floats(0, 100)), min_size=2, max_size=12),
    st.booleans(),
)
def test_the_mean_that_comes_out_is_the_weighted_mean_that_went_in(
    clients: list[tuple[int, float, float]], by_examples: bool
) -> None:
    examples = np.array([count for count, _, _ in clients], np.float64)
    mean_examples = float(examples.mean())
    contributions = [
        dict(training_values(np.full(4, value, np.float32), loss, count, mean_examples, by_examples))
        for count, value, loss in clients
    ]
    layout = training_layout(4, len(clients))
    blocks = summed(layout, contributions)
    weights = np.minimum(examples / mean_examples, WEIGHT_CLIP) if by_examples else np.ones(len(clients))
    weight = blocks[WEIGHT][0]
    assert weight == pytest.approx(weights.sum(), abs=len(clients) * 2.0**-32)
    expected = np.average([value for _, value, _ in clients], weights=weights)
    step = 1 / layout.blocks[0].scale  # type: ignore[union-attr]
    slack = len(clients) * (step + 1e-6 * 5 * float(weights.max())) / float(weights.sum())
    assert np.abs(blocks[UPDATE] / weight - expected).max() <= slack
    assert blocks[METRICS][0] / weight == pytest.approx(
        np.average([loss for _, _, loss in clients], weights=weights), abs=1e-5
    )


def test_one_client_weighs_no_more_than_so_many_average_ones_and_its_update_neither() -> None:
    huge = training_values(np.ones(3, np.float32), 1.0, 10**9, 10.0, True)
    assert huge[WEIGHT][0] == huge[METRICS][0] == WEIGHT_CLIP
    np.testing.assert_array_equal(huge[UPDATE], np.full(3, WEIGHT_CLIP))


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_update_that_does_not_fit_is_refused_and_never_cut_off(position: int, sign: int) -> None:
    update = np.zeros(3, np.float32)
    update[position] = sign * UPDATE_CLIP
    assert training_values(update, 1.0, 5, 5.0, True)[UPDATE][position] == sign * UPDATE_CLIP
    update[position] *= np.float32(1.001)
    with pytest.raises(InputError, match="larger than a masked sum can carry; a smaller learning rate") as caught:
        training_values(update, 1.0, 5, 5.0, True)
    assert "256" not in str(caught.value)  # no value of an update is in the words
    update[position] = sign * np.inf
    with pytest.raises(InputError, match="larger than a masked sum"):
        training_values(update, 1.0, 5, 5.0, True)


def test_a_weight_can_make_an_update_too_large() -> None:
    with pytest.raises(InputError):
        training_values(np.full(3, 30.0, np.float32), 1.0, 100, 10.0, True)
    assert training_values(np.full(3, 30.0, np.float32), 1.0, 100, 10.0, False)[UPDATE][0] == 30.0


def test_what_is_not_finite_is_not_sent() -> None:
    layout = training_layout(3, 5)
    for values in (
        training_values(np.array([1, np.nan, 1], np.float32), 1.0, 5, 5.0, True),
        training_values(np.ones(3, np.float32), math.nan, 5, 5.0, True),
        training_values(np.ones(3, np.float32), math.inf, 5, 5.0, True),
    ):
        with pytest.raises(LocalProtocolError, match="not finite; nothing was sent"):
            encode(layout, values, SEED, Keystream(SEED))


def test_a_loss_beyond_all_measure_is_not_sent() -> None:
    values = training_values(np.ones(3, np.float32), 1e13, 5, 5.0, True)
    with pytest.raises(LocalProtocolError, match="block metrics has a value beyond"):
        encode(training_layout(3, 5), values, SEED, Keystream(SEED))


# Preparation


def plan_of(schema: Schema, kind: str = "tabular-classification") -> Plan:
    return Plan(parse_recipe(RECIPE, [f"task.kind={kind}"]), schema)


@pytest.mark.parametrize("schema", [NUMBERS, MIXED, IMAGES])
def test_counts_are_told_from_what_needs_a_large_range(schema: Schema) -> None:
    places = count_places(schema)
    assert places.shape == (preparation_size(schema),) and places.dtype == bool
    layout = preparation_layout(plan_of(schema))
    assert {block.name: block.size for block in layout.blocks} == {
        COUNTS: int(places.sum()), MOMENTS: int((~places).sum())
    }  # fmt: skip
    expected = {
        "NUMBERS": [True, False, False] * 2 + [True] + [True, False, False],
        "MIXED": [True, False, False] + [True] * 4096 + [True] * 3,
        "IMAGES": [True, False, False] * 3 + [True] * 4,
    }
    (found,) = [name for name, known in (("NUMBERS", NUMBERS), ("MIXED", MIXED), ("IMAGES", IMAGES)) if known is schema]
    assert places.tolist() == expected[found]


def test_a_table_of_categories_alone_has_counts_alone() -> None:
    schema = Schema((Column("c", "categorical"),), "y", ("no", "yes"))
    assert [block.name for block in preparation_layout(plan_of(schema)).blocks] == [COUNTS]
    sums = np.arange(preparation_size(schema), dtype=np.float64)
    np.testing.assert_array_equal(preparation_total(preparation_values(sums, schema), schema), sums)


@given(st.integers(2, 10_000))
@settings(max_examples=50)
def test_no_number_of_clients_can_make_the_statistics_wrap(clients: int) -> None:
    assert fits(preparation_layout(plan_of(MIXED)), clients, 0.0, 32)


FINITE = st.floats(-(2.0**60), 2.0**60).filter(lambda value: value == 0 or abs(value) > 2.0**-60)


@given(st.lists(st.tuples(FINITE, st.integers(0, 2**40)), min_size=2, max_size=8))
def test_the_total_of_the_statistics_is_the_exact_sum_rounded_once(parts: list[tuple[float, int]]) -> None:
    places = count_places(NUMBERS)
    contributions = []
    for value, count in parts:
        sums = np.where(places, float(count), value)
        contributions.append(dict(preparation_values(sums, NUMBERS)))
    total = preparation_total(summed(preparation_layout(plan_of(NUMBERS)), contributions), NUMBERS)
    exact = float(sum(Fraction(value) for value, _ in parts))
    np.testing.assert_array_equal(total[~places], exact)
    np.testing.assert_array_equal(total[places], float(sum(count for _, count in parts)))


def census(count: int, unit: float = 1.0) -> Rows:
    """Rows with the size and range of the census data's: weights up to 1.5 million, gains that are mostly zero."""
    rng = np.random.default_rng(4)
    gain = np.where(rng.random(count) < 0.08, rng.integers(114, 99_999, count), 0).astype(np.float64)
    weight = rng.integers(12_285, 1_484_705, count).astype(np.float64)
    return Rows({"a": unit * weight, "b": unit * gain}, unit * rng.normal(1e5, 5e4, count))


@pytest.mark.parametrize("unit", [1.0, 1e9, 1e-9])
def test_statistics_of_the_census_data_s_size_are_exact_in_any_unit(unit: float) -> None:
    rows = census(32_561, unit)
    parts = [rows.take(part) for part in np.array_split(np.arange(len(rows)), 9)]
    sums = [preparation_sums(part, NUMBERS) for part in parts]
    layout = preparation_layout(plan_of(NUMBERS))
    masked = preparation_total(summed(layout, [dict(preparation_values(one, NUMBERS)) for one in sums]), NUMBERS)
    exact = np.array([math.fsum(column) for column in np.array(sums).T])
    np.testing.assert_allclose(masked, exact, rtol=1e-12 if unit < 1 else 0)
    plan = plan_of(NUMBERS, "tabular-regression")
    one, other = (prepared_plan(plan, total, 9, outputs=1, proximal_mu=0.0) for total in (masked, exact))
    assert one.features is not None and other.features is not None
    for found, expected in zip(one.features.encoders, other.features.encoders, strict=True):
        np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-9)  # type: ignore[union-attr]
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-9)  # type: ignore[union-attr]
    assert (one.target_mean, one.target_scale) == pytest.approx((other.target_mean, other.target_scale), rel=1e-9)
    assert one.mean_examples == other.mean_examples == 32_561 / 9


def test_what_a_warm_start_asks_for_is_the_number_of_rows_alone() -> None:
    plan = plan_of(NUMBERS, "tabular-regression")
    assert asks_for_statistics(plan)
    prepared = prepared_plan(plan, preparation_sums(census(50), NUMBERS), 2, outputs=1, proximal_mu=0.0)
    assert not asks_for_statistics(prepared)
    warm = replace(prepared, mean_examples=0.0)
    assert asks_for_statistics(warm)
    assert preparation_layout(warm).blocks == (WideBlock(COUNTS, 1, 48, 0),)
