"""A cohort is drawn exactly as an accountant may assume."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.errors import InputError
from tacit.models.recipe import Recipe, parse_recipe
from tacit.models.sections import TrainingSection
from tacit.privacy.randomness import SeededRandomness, SystemRandomness
from tacit.server.sampling import DrawnCohorts, RecordedCohorts, fixed_cohort, poisson_cohort

SEED = bytes(range(32))
RANDOMNESS = SeededRandomness(SEED)
NAMES = tuple(f"c{index}" for index in range(30))


def chi_square_limit(degrees: int) -> float:
    """Return a value that chi-square exceeds once in 10^7 draws (Wilson and Hilferty 1931), z = 5.2."""
    return degrees * (1 - 2 / (9 * degrees) + 5.2 * math.sqrt(2 / (9 * degrees))) ** 3


def chi_square(counts: Counter, outcomes: int, draws: int) -> float:
    expected = draws / outcomes
    return sum((count - expected) ** 2 for count in counts.values()) / expected + (outcomes - len(counts)) * expected


# Fixed size


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.integers(0, 1000))
def test_a_fixed_cohort_has_its_size_in_the_order_of_the_clients(sizes: tuple[int, int], number: int) -> None:
    clients, size = NAMES[: sizes[0]], sizes[1]
    cohort = fixed_cohort(clients, size, RANDOMNESS, "run", number)
    assert len(cohort) == size
    assert list(cohort) == [client for client in clients if client in cohort]


@pytest.mark.parametrize(("clients", "size"), [(4, 1), (5, 2), (6, 3), (5, 4), (3, 3)])
def test_every_subset_is_equally_likely(clients: int, size: int) -> None:
    draws, subsets = 6000, math.comb(clients, size)
    counts = Counter(fixed_cohort(NAMES[:clients], size, RANDOMNESS, "run", number) for number in range(draws))
    assert set(counts) <= set(itertools.combinations(NAMES[:clients], size))
    if subsets == 1:
        assert counts == {NAMES[:clients]: draws}
    else:
        assert chi_square(counts, subsets, draws) < chi_square_limit(subsets - 1)


@pytest.mark.parametrize("size", [0, -1, 4])
def test_a_cohort_larger_than_the_clients_or_empty_cannot_be_drawn(size: int) -> None:
    with pytest.raises(ValueError, match="cannot be drawn from 3 clients"):
        fixed_cohort(NAMES[:3], size, RANDOMNESS, 1)


# Poisson


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.97])
def test_each_client_is_in_a_poisson_cohort_at_the_rate_and_independently_of_the_others(rate: float) -> None:
    draws = 8000
    drawn = np.array(
        [[name in cohort for name in NAMES[:6]] for cohort in (set(_poisson(rate, n)) for n in range(draws))], float
    )
    five_sigma = 5 * math.sqrt(rate * (1 - rate) / draws)
    assert np.abs(drawn.mean(axis=0) - rate).max() < five_sigma
    # 15 pairs; the correlation of independent draws has a standard deviation of 1 / sqrt(draws).
    correlation = np.corrcoef(drawn.T)[np.triu_indices(6, 1)]
    assert np.abs(correlation).max() < 5 / math.sqrt(draws)
    # The size of the cohort is binomial: its variance is the sum of the variances.
    sizes = drawn.sum(axis=1)
    expected = 6 * rate * (1 - rate)
    assert sizes.var() == pytest.approx(expected, rel=5 * math.sqrt(2 / draws) + 0.05)


def _poisson(rate: float, number: int) -> tuple[str, ...]:
    return poisson_cohort(NAMES[:6], rate, RANDOMNESS, "poisson", number)


def test_consecutive_rounds_draw_independently() -> None:
    draws = 8000
    drawn = np.array([NAMES[0] in _poisson(0.5, number) for number in range(draws)], float)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 5 / math.sqrt(draws)


def test_at_rate_one_everybody_takes_part() -> None:
    assert poisson_cohort(NAMES, 1.0, RANDOMNESS, 1) == NAMES


def test_a_rate_next_to_one_is_not_rounded_out_of_range() -> None:
    assert poisson_cohort(NAMES, math.nextafter(1.0, 0.0), RANDOMNESS, 1) == NAMES


def test_a_tiny_rate_draws_nobody() -> None:
    assert poisson_cohort(NAMES, 2.0**-64, RANDOMNESS, 1) == ()


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0000001, math.nan])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="is not in"):
        poisson_cohort(NAMES, rate, RANDOMNESS, 1)


# What a recipe asks for


@given(
    clients=st.integers(1, 30),
    cohort=st.none() | st.integers(1, 40),
    hundredths=st.integers(0, 100),
    number=st.integers(0, 99),
)
def test_over_selection_asks_the_share_more_rounded_up(
    clients: int, cohort: int | None, hundredths: int, number: int
) -> None:
    training = TrainingSection(cohort=cohort, over_selection=hundredths / 100)
    drawn, wanted = DrawnCohorts("run", training, RANDOMNESS).draw(NAMES[:clients], number, 0)
    assert wanted == min(cohort or clients, clients)
    assert len(drawn) == min(clients, wanted + -(-wanted * hundredths // 100))


def test_everybody_in_a_poisson_cohort_is_wanted() -> None:
    cohorts = DrawnCohorts("run", TrainingSection(cohort=10, sampling="poisson"), RANDOMNESS)
    sizes = []
    for number in range(2000):
        drawn, wanted = cohorts.draw(NAMES, number, 0)
        assert wanted == len(drawn) == len(set(drawn))
        sizes.append(wanted)
    assert np.mean(sizes) == pytest.approx(10, abs=5 * math.sqrt(30 * (1 / 3) * (2 / 3) / 2000))


def test_without_clients_nobody_is_asked() -> None:
    assert DrawnCohorts("run", TrainingSection(), RANDOMNESS).draw((), 1, 0) == ((), 0)


def draws_of(recipe: Recipe, run: str = "run", seed: bytes = SEED) -> list[tuple[str, ...]]:
    cohorts = DrawnCohorts(run, recipe.training, SeededRandomness(seed))
    return [cohorts.draw(NAMES, number, attempt)[0] for number in range(1, 20) for attempt in range(2)]


def recipe(seed: int, sampling: str = "fixed") -> Recipe:
    return parse_recipe(
        f'name = "r"\nseed = {seed}\n[task]\nkind = "t"\n[data]\nsource = "s:"\n[population]\nclients = 30\n'
        f'[training]\ncohort = 10\nsampling = "{sampling}"'
    )


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_the_recipes_seed_does_not_influence_who_is_asked(sampling: str) -> None:
    assert draws_of(recipe(1, sampling)) == draws_of(recipe(2, sampling))


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
def test_the_same_secret_seed_repeats_the_cohorts_and_another_run_or_seed_does_not(sampling: str) -> None:
    first = draws_of(recipe(1, sampling))
    assert first == draws_of(recipe(1, sampling))
    assert first != draws_of(recipe(1, sampling), run="another")
    assert first != draws_of(recipe(1, sampling), seed=bytes(32))


def test_every_round_and_every_attempt_draws_anew() -> None:
    drawn = draws_of(recipe(1))
    assert len(set(drawn)) == len(drawn)


def test_cohorts_from_the_operating_system_differ_from_run_to_run() -> None:
    cohorts = DrawnCohorts("run", recipe(1).training, SystemRandomness())
    # Of two runs of three rounds by chance alike once in 10^22.
    assert len({tuple(cohorts.draw(NAMES, number, 0)[0] for number in range(3)) for _ in range(20)}) == 20


def test_recorded_cohorts_are_repeated_and_all_of_them_are_wanted() -> None:
    recorded = RecordedCohorts(recipe(2).training, {(1, 0): ("b", "a"), (2, 1): ()})
    assert recorded.draw(NAMES, 1, 0) == (("b", "a"), 2)
    assert recorded.draw(NAMES, 2, 1) == ((), 0)


def test_a_round_that_was_never_recorded_is_not_repeated_as_an_empty_one() -> None:
    with pytest.raises(InputError, match="kept no cohort of round 2, attempt 0"):
        RecordedCohorts(recipe(1).training, {(1, 0): ("a",)}).draw(NAMES, 2, 0)


def test_a_poisson_cohort_draws_whoever_is_there_at_the_rate_of_the_whole_federation() -> None:
    training = TrainingSection(cohort=16, sampling="poisson")
    there, rounds = NAMES[:20], 400
    drawn = DrawnCohorts("run", training, RANDOMNESS, population=40)
    asked = sum(len(drawn.draw(there, number, 0)[0]) for number in range(rounds))
    # 0.4 of all, whoever is missing; five standard errors of the mean of 8000 draws.
    assert asked / (rounds * len(there)) == pytest.approx(0.4, abs=5 * math.sqrt(0.24 / 8000))
