"""The noise of a round as it follows from a recipe: how much, made where, and covered by what is accounted."""

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tacit.models.contributions import UPDATE
from tacit.models.errors import InputError
from tacit.models.noise import CLIP_BIT, NoisePlan, adapted_clip, noise_plan
from tacit.models.recipe import Recipe, parse_recipe
from tacit.privacy.accounting import cost, repeated
from tacit.privacy.errors import PrivacyError
from tacit.privacy.randomness import Keystream, SeededRandomness
from tacit.privacy.secagg.encoding import decode

RECIPE = """
name = "noise"
task.kind = "image-classification"
data.source = "sklearn:digits"
population.clients = 100
[training]
rounds = 10
[privacy]
unit = "client"
epsilon = 8.0
clip = 0.5
"""
CENTRAL = ["privacy.noise=central", "privacy.epsilon_against=outsiders"]
POISSON = ["training.sampling=poisson", "training.cohort=80", "population.clients=400"]
EXAMPLE = ["privacy.unit=example", "privacy.epsilon=3", "privacy.sample_rate=0.1", "training.local_steps=4"]
GIVEN = RECIPE.replace("epsilon = 8.0", "noise_multiplier = 0.5")
SOURCE = SeededRandomness(bytes(32))


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, overrides)


def words(*label: str | int) -> Keystream:
    return Keystream(SOURCE.key(*label))


def integers(plan: NoisePlan, update: np.ndarray, client: int = 0) -> np.ndarray:
    return plan.integers(update, bytes(32), words("rounding", client), words("noise", client))


# How much


@pytest.mark.parametrize(
    ("overrides", "observer"),
    [([], "coordinator"), (["privacy.noise=local"], "coordinator"), (CENTRAL, "outsiders"), (EXAMPLE, "coordinator")],
)
def test_a_target_is_met_at_the_fewest_survivors_for_all_rounds_and_a_tenth(
    overrides: list[str], observer: str
) -> None:
    plan = noise_plan(recipe(*overrides), 650, 100)
    assert plan.horizon == 11
    reached = cost(repeated(plan.event(observer), 11), 1e-5, plan.terms.adjacency).epsilon
    target = 3.0 if plan.terms.unit == "example" else 8.0
    assert 0.98 * target < reached <= target


def test_fewer_participations_need_less_noise() -> None:
    all_rounds, few = (noise_plan(recipe(*more), 650, 100) for more in ([], ["privacy.max_participations=2"]))
    assert few.horizon == 3 and few.noise_multiplier < all_rounds.noise_multiplier


def test_a_given_multiplier_is_the_noise_whatever_it_costs() -> None:
    given_ = RECIPE.replace("epsilon = 8.0", "noise_multiplier = 2.5")
    for more in ([], CENTRAL[:1], ["privacy.noise=local"]):
        plan = noise_plan(parse_recipe(given_, more), 650, 100)
        assert plan.noise_multiplier == 2.5


def test_the_shares_of_the_fewest_survivors_without_colluders_are_what_counts() -> None:
    plan = noise_plan(recipe(), 650, 100)
    counted = plan.share_variance * (plan.min_survivors - plan.colluders)
    assert plan.bound is not None
    assert math.sqrt(counted) == pytest.approx(plan.noise_multiplier * plan.bound.l2)
    # Whoever survives beyond the fewest makes it better, never worse.
    at = [cost(plan.event("coordinator", survivors), 1e-5).epsilon for survivors in (plan.min_survivors, 90, 100)]
    assert at[0] > at[1] > at[2]
    assert plan.event("coordinator") == plan.event("coordinator", plan.min_survivors)


def test_local_noise_relies_on_nobody() -> None:
    plan = noise_plan(recipe("privacy.noise=local"), 650, 100)
    assert plan.bound is not None
    assert math.sqrt(plan.share_variance) == pytest.approx(plan.noise_multiplier * plan.bound.l2)
    assert plan.event("coordinator", 100) == plan.event("fellow_clients", 80) == plan.event("outsiders")


def test_central_noise_is_nothing_to_the_coordinator() -> None:
    plan = noise_plan(recipe(*CENTRAL), 650, 100)
    assert isinstance(plan.event("coordinator"), dp_event.NonPrivateDpEvent)
    assert plan.event("fellow_clients") == dp_event.GaussianDpEvent(plan.noise_multiplier)
    assert plan.share_variance == 0.0


# Cohorts drawn by chance


def test_readers_alone_count_that_a_cohort_was_drawn_and_only_of_central_noise() -> None:
    central = noise_plan(recipe(*CENTRAL, *POISSON), 650, 80)
    assert central.event("outsiders") == dp_event.PoissonSampledDpEvent(
        0.2, dp_event.GaussianDpEvent(central.noise_multiplier)
    )
    assert isinstance(central.event("fellow_clients"), dp_event.GaussianDpEvent)
    # The sum of noise that clients make shows by its variance how many they were.
    distributed = noise_plan(recipe(*POISSON), 650, 80)
    assert not isinstance(distributed.event("outsiders"), dp_event.PoissonSampledDpEvent)


def test_a_sum_whose_size_is_secret_is_divided_by_a_public_number() -> None:
    for cohort in (70, 80, 91):
        assert noise_plan(recipe(*CENTRAL, *POISSON), 650, cohort).denominator == 80
        assert noise_plan(recipe(*POISSON), 650, cohort).denominator == 0


def test_a_cohort_that_chance_makes_too_small_is_counted_in_delta() -> None:
    settings = ["secure_aggregation.min_cohort=44", "secure_aggregation.dropout=0"]
    sampling = noise_plan(recipe(*CENTRAL, *POISSON, *settings), 650, 80).terms.sampling
    assert sampling.abort_probability == pytest.approx(stats.binom.cdf(43, 400, 0.2))


def test_a_cohort_of_a_size_that_no_threshold_fits_is_counted_in_delta() -> None:
    # Above min_cohort too: of 8, 10, 11, 13, 15 or 20 clients four in ten may not vanish.
    settings = [*POISSON, "training.cohort=40", "secure_aggregation.dropout=0.4"]
    sampling = noise_plan(parse_recipe(GIVEN, [CENTRAL[0], *settings]), 650, 40).terms.sampling
    impossible = [*range(7), 8, 10, 11, 13, 15, 20]
    assert sampling.abort_probability == pytest.approx(stats.binom.pmf(impossible, 400, 0.1).sum())
    with pytest.raises(PrivacyError, match="more than delta has"):
        noise_plan(recipe(*CENTRAL, *settings), 650, 40)


def test_noise_is_the_same_however_many_chance_has_drawn() -> None:
    adaptive = parse_recipe(GIVEN, [CENTRAL[0], *POISSON, "privacy.clip=adaptive"])
    drawn = [noise_plan(adaptive, 650, cohort, 400) for cohort in (70, 80, 91)]
    assert len({(plan.noise_multiplier, plan.bound) for plan in drawn}) == 1


@pytest.mark.parametrize("masked", ["true", "false"])
def test_what_a_coordinator_says_of_its_noise_does_not_count_where_the_recipe_says_it(masked: str) -> None:
    given_ = parse_recipe(GIVEN, [CENTRAL[0], f"secure_aggregation.enabled={masked}"])
    plan = noise_plan(given_, 650, 100, noise_multiplier=1e6)
    assert plan.noise_multiplier == 0.5
    assert plan.event("fellow_clients") == dp_event.GaussianDpEvent(0.5)


def test_a_cohort_that_is_often_too_small_is_no_promise() -> None:
    with pytest.raises(PrivacyError, match="more than delta has"):
        noise_plan(recipe(*CENTRAL, *POISSON, "training.cohort=10"), 650, 10)


def test_examples_that_are_hardly_ever_drawn_get_noise_all_the_same() -> None:
    plan = noise_plan(recipe(*EXAMPLE, "privacy.sample_rate=1e-9"), 650, 100)
    assert plan.noise_multiplier == 0.25


@pytest.mark.parametrize(
    "override",
    [
        "training.rounds=" + 400 * "9",
        "privacy.max_participations=10000000000",
        "privacy.clip=1e-320",
        "privacy.clip=1e308",
        "privacy.noise_cohort=" + 30 * "9",
    ],
)
def test_numbers_that_would_overflow_are_refused_when_the_recipe_is_read(override: str) -> None:
    with pytest.raises(InputError, match="is not usable"):
        recipe(override)


# The clip that adapts


@given(st.floats(1e-3, 1e3))
def test_sensitivity_and_noise_are_the_same_integers_wherever_an_adaptive_clip_is(clip: float) -> None:
    adaptive = recipe("privacy.clip=adaptive")
    first, later = noise_plan(adaptive, 650, 100), noise_plan(adaptive, 650, 100, l2_clip=clip)
    assert (later.bound, later.share_variance) == (first.bound, first.share_variance)
    assert later.event("coordinator", 90) == first.event("coordinator", 90)


def test_an_adaptive_clip_costs_noise_that_a_fixed_one_does_not() -> None:
    fixed, adaptive = noise_plan(recipe(), 650, 100), noise_plan(recipe("privacy.clip=adaptive"), 650, 100)
    assert fixed.bound is not None and adaptive.bound is not None
    assert not fixed.adapts and adaptive.adapts
    # At one epsilon the multiplier is the same; the integers that it multiplies are longer by those of the bit.
    assert adaptive.noise_multiplier == pytest.approx(fixed.noise_multiplier, rel=1e-4)
    assert adaptive.bound.l2 > fixed.bound.l2


def test_the_clip_falls_while_most_are_unclipped_and_rises_while_most_are_clipped() -> None:
    assert adapted_clip(1.0, 0.9) < 1.0 < adapted_clip(1.0, 0.1)
    assert adapted_clip(1.0, 0.5) == 1.0


def test_the_bit_of_every_client_is_in_its_integers() -> None:
    plan = noise_plan(recipe("privacy.clip=adaptive", "privacy.noise=central", *CENTRAL[1:]), 650, 100, l2_clip=1.0)
    assert plan.layout is not None
    bits = []
    for length in (0.5, 2.0):
        update = np.zeros(650, np.float32)
        update[3] = length
        summed = decode(plan.layout, integers(plan, update).astype(np.int32), bytes(32))
        bits.append(float(summed.blocks[CLIP_BIT][0]))
    assert bits == pytest.approx([0.5, -0.5], abs=1e-2)


# A hypothetical cohort


@pytest.mark.parametrize("place", [[], CENTRAL])
def test_a_hypothetical_cohort_shrinks_the_noise_of_the_mean_and_not_its_event(place: list[str]) -> None:
    real, larger = (
        noise_plan(recipe(*place), 650, 100),
        noise_plan(recipe(*place, "privacy.noise_cohort=1000"), 650, 100),
    )
    assert larger.noise_cohort == 1000 and real.noise_cohort == 0
    assert larger.noise_multiplier == pytest.approx(real.noise_multiplier)
    if place:
        words_ = [words("central") for _ in range(2)]
        deviations = [
            float(plan.central({UPDATE: np.zeros(650)}, w)[UPDATE].std())
            for plan, w in zip((real, larger), words_, strict=True)
        ]
        assert deviations[1] == pytest.approx(deviations[0] / 10)
    else:
        # One share of 1000, as 100 shares of it over 100 must give the mean's noise of 1000 over 1000.
        share = (larger.noise_multiplier * larger.bound.l2) ** 2 / (larger.min_survivors - larger.colluders)  # type: ignore[union-attr]
        assert larger.share_variance == pytest.approx(share / 10)


# What leaves


def test_an_update_leaves_no_longer_than_its_clip_and_no_shorter_than_it_came() -> None:
    plan = noise_plan(recipe("privacy.noise=central", *CENTRAL[1:], "secure_aggregation.enabled=false"), 650, 2)
    long, short = np.full(650, 1.0, np.float32), np.full(650, 1e-3, np.float32)
    assert np.linalg.norm(plan.release(long, words("x"))) == pytest.approx(0.5)
    np.testing.assert_array_equal(plan.release(short, words("x")), short)


def test_local_noise_without_masks_has_the_deviation_that_is_accounted() -> None:
    plan = noise_plan(recipe("privacy.noise=local", "secure_aggregation.enabled=false"), 40_000, 2)
    noise = plan.release(np.zeros(40_000, np.float32), words("local"))
    assert noise.std() == pytest.approx(plan.noise_multiplier * 0.5, rel=5 / math.sqrt(80_000))


def test_central_noise_on_a_masked_sum_covers_the_bound_of_the_integers() -> None:
    plan = noise_plan(recipe(*CENTRAL), 40_000, 100)
    assert plan.layout is not None and plan.bound is not None
    noised = plan.central({UPDATE: np.zeros(40_000)}, words("central"))[UPDATE]
    (block,) = plan.layout.blocks
    expected = plan.noise_multiplier * plan.bound.l2 / block.scale  # type: ignore[union-attr]
    assert noised.std() == pytest.approx(expected, rel=5 / math.sqrt(80_000))
    assert expected >= plan.noise_multiplier * 0.5


def test_integers_are_for_masked_rounds_alone() -> None:
    plan = noise_plan(recipe("privacy.noise=local", "secure_aggregation.enabled=false"), 650, 2)
    with pytest.raises(PrivacyError, match="without masks"):
        integers(plan, np.zeros(650, np.float32))


def test_too_few_survivors_for_noise_to_count_are_refused() -> None:
    with pytest.raises(PrivacyError, match="single a client out"):
        noise_plan(recipe("secure_aggregation.colluding=0.9"), 650, 20)
