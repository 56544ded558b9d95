"""Neighbours and thresholds: the inequalities that they are chosen by, checked from the definitions."""

from collections import Counter
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.secagg import graph
from tacit.privacy.secagg.graph import (
    COMPLETE,
    REGULAR,
    check_feasible,
    complete_threshold,
    least_survivors,
    regular_neighbours,
    regular_parameters,
    topology,
)
from tacit.privacy.secagg.layout import Infeasible


@given(st.integers(3, 300), st.integers(0, 100))
def test_the_complete_threshold_is_the_least_above_half_of_members_and_colluders(members, colluders):
    threshold = complete_threshold(members, colluders)
    assert 2 * threshold > members + colluders >= 2 * (threshold - 1)


def hypergeometric_above(members, marked, drawn, x):
    return sum(
        Fraction(comb(marked, i) * comb(members - marked, drawn - i), comb(members, drawn))
        for i in range(x + 1, drawn + 1)
        if drawn - i <= members - marked
    )


@pytest.mark.parametrize(("members", "colluders", "dropouts"), [(60, 3, 6), (100, 10, 5), (200, 20, 20)])
def test_degree_and_threshold_satisfy_every_inequality_and_a_smaller_degree_does_not(members, colluders, dropouts):
    survivors = members - dropouts
    degree, threshold = regular_parameters(members, colluders, dropouts, survivors)

    def satisfied(k):
        gone = colluders + dropouts
        connected = k > gone or (
            Fraction(members * (members - k - 1), 2) * Fraction(comb(members - k, gone - k), comb(members, gone))
            < Fraction(1, 2**41)
        )
        limit = Fraction(1, members * 2**41)
        t1 = next(x for x in range(k + 1) if hypergeometric_above(members, colluders, k, x) <= limit)
        t1 = -((-(Fraction(t1 + k) - Fraction(5, 4))) // 2)
        below = [1 - hypergeometric_above(members, survivors, k, x - 1) for x in range(k + 1)]
        t2 = max(x for x in range(k + 1) if below[x] < Fraction(1, members * 2**20))
        return connected and t2 > t1, int(t1) + 1

    assert satisfied(degree) == (True, threshold)
    assert not any(satisfied(smaller)[0] for smaller in range(2, degree, 2))


@given(st.integers(10, 80), st.integers(1, 4), st.binary(min_size=32, max_size=32))
@settings(max_examples=30)
def test_the_regular_graph_is_symmetric_connected_and_follows_from_the_transcript(members, half, transcript):
    degree = 2 * half
    neighbours = regular_neighbours(members, degree, transcript)
    for member, near in enumerate(neighbours):
        assert len(near) == degree and list(near) == sorted(set(near)) and member not in near
        assert all(member in neighbours[other] for other in near)
    reached, frontier = {0}, [0]
    while frontier:
        frontier = [other for member in frontier for other in neighbours[member] if other not in reached]
        reached.update(frontier)
        frontier = list(set(frontier))
    assert len(reached) == members
    assert neighbours == regular_neighbours(members, degree, transcript)
    assert neighbours != regular_neighbours(members, degree, transcript[::-1] + b"x")


def test_permutations_are_uniform():
    # 6000 permutations of 4: each of the 24 within five standard deviations of its share.
    counts = Counter(tuple(graph.permutation(4, at.to_bytes(32, "big"))) for at in range(6000))
    assert len(counts) == 24
    assert all(abs(count - 250) < 5 * (250 * 23 / 24) ** 0.5 for count in counts.values())


def test_least_survivors_and_its_rounding():
    assert least_survivors(10, 2, 200_000) == 8
    assert least_survivors(10, 9, 200_000) == 9
    assert least_survivors(7, 2, 290_000) == 5  # 7 * .29 = 2.03: two may go
    assert least_survivors(100, 2, 290_000) == 71  # 29.0 exactly, where a float would say 28.99...


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ((COMPLETE, 10, 3, 2, 700_000), "raise min_cohort to at least 4"),
        ((COMPLETE, 4, 5, 0, 0), "raise cohort to at least 5"),
        ((COMPLETE, 10, 6, 2, 400_000), "lower dropout to at most 0.2"),
        ((COMPLETE, 2, 2, 0, 0), "raise cohort"),
        ((COMPLETE, 600, 500, 2, 100_000), "use graph regular"),
        ((REGULAR, 50, 30, 20, 400_000), "use graph complete"),
    ],
)
def test_infeasible_numbers_are_refused_with_the_number_to_change(settings, change):
    with pytest.raises(Infeasible) as caught:
        check_feasible(*settings)
    assert change in caught.value.change
    assert str(caught.value) == f"{caught.value.what}; {caught.value.change}"


@given(st.integers(2, 200), st.integers(0, 60), st.integers(0, 900_000), st.integers(2, 50))
def test_what_is_feasible_can_lose_what_it_promises(cohort, colluders, dropout_ppm, min_cohort):
    survivors = least_survivors(cohort, min_cohort, dropout_ppm)
    try:
        check_feasible(COMPLETE, cohort, survivors, colluders, dropout_ppm)
    except Infeasible:
        return
    threshold = complete_threshold(cohort, colluders)
    assert survivors - 1 >= threshold  # everybody sees t signatures, every secret has t holders
    assert survivors >= colluders + 2
    assert topology(COMPLETE, cohort, colluders, dropout_ppm, bytes(32)).threshold == threshold


def test_too_few_members_for_any_threshold_are_refused_by_the_members_too():
    with pytest.raises(Infeasible, match="cannot hold out"):
        topology(COMPLETE, 4, 3, 0, bytes(32))
    with pytest.raises(Infeasible, match="regular"):
        topology(REGULAR, 20, 15, 400_000, bytes(32))
