"""Secret sharing: every set of t shares recovers, false shares are corrected up to the bound and never beyond."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.secagg.shamir import PRIME, Holders, correct, inverses, split

ELEMENTS = st.integers(0, PRIME - 1)


def shares_of(secret, threshold, points, seed=1):
    coefficients = [pow(seed + 3, 7 * power + 5, PRIME) for power in range(1, threshold)]
    return split(secret, coefficients, points)


def test_any_t_shares_recover_the_secret():
    points = [1, 2, 4, 7, 9]
    shares = dict(zip(points, shares_of(1234, 3, points), strict=True))
    for size in (3, 4, 5):
        for chosen in combinations(points, size):
            weights = Holders(chosen).weights()
            assert weights.secret([shares[point] for point in chosen]) == 1234


def test_fewer_than_t_shares_fit_every_secret():
    # The t - 1 shares of one secret, with a share at 0 chosen at will, still lie on a polynomial of degree t - 1.
    points = [1, 2, 3]
    shares = shares_of(77, 4, points)
    for other in (0, 78, PRIME - 1):
        weights = Holders([*points, 10]).weights()
        # Solve for the share at 10 that would make the secret `other`.
        known = sum(w * s for w, s in zip(weights.at_zero, shares, strict=False))
        fourth = (other - known) * pow(weights.at_zero[3], -1, PRIME) % PRIME
        assert weights.secret([*shares, fourth]) == other


@given(st.lists(st.integers(1, PRIME - 1), min_size=1, max_size=20))
def test_inverting_many_at_once_is_inverting_each(values):
    assert inverses(values) == [pow(value, -1, PRIME) for value in values]


@given(ELEMENTS, st.integers(1, 8), st.integers(0, 6), st.data())
@settings(max_examples=60)
def test_leaving_a_holder_out_gives_the_weights_of_the_rest(secret, threshold, spare, data):
    points = data.draw(st.lists(st.integers(1, 500), min_size=threshold + spare + 1, max_size=40, unique=True))
    absent = data.draw(st.sampled_from(points))
    rest = [point for point in points if point != absent]
    quick = Holders(points).without(absent)
    assert quick.points == tuple(rest)
    assert quick.at_zero == Holders(rest).weights().at_zero
    shares = shares_of(secret, threshold, rest)
    assert quick.secret(shares) == secret
    assert Holders(rest).without(absent) == Holders(rest).weights()


@given(ELEMENTS, st.integers(1, 8), st.integers(0, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_false_shares_are_corrected_and_named_while_two_spare_shares_are_there_for_each(secret, threshold, wrong, data):
    count = threshold + 2 * wrong + data.draw(st.integers(0, 1))
    points = data.draw(st.lists(st.integers(1, 300), min_size=count, max_size=count, unique=True))
    shares = shares_of(secret, threshold, points)
    false = data.draw(st.sets(st.sampled_from(points), max_size=wrong)) if wrong else set()
    sent = [
        (share + data.draw(st.integers(1, PRIME - 1))) % PRIME if point in false else share
        for point, share in zip(points, shares, strict=True)
    ]
    assert correct(points, sent, threshold) == (secret, frozenset(false))
    if len(false) == 1:
        assert Holders(points).weights().secret(sent) != secret  # so a commitment shows that a share is false


@given(ELEMENTS, st.integers(2, 6), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_too_many_unrelated_false_shares_are_not_corrected_into_something_else(secret, threshold, extra):
    points = list(range(1, threshold + 2 * extra + 1))
    shares = shares_of(secret, threshold, points)
    for at in range(extra + 1):  # one more than can be corrected
        shares[at] = pow(secret + at + 2, 31, PRIME)
    found = correct(points, shares, threshold)
    assert found is None or len(found[1]) <= extra


def test_the_constant_polynomial_and_zero_are_shared_like_any_other():
    assert correct([1, 2, 3], [0, 0, 0], 1) == (0, frozenset())
    assert correct([1, 2, 3], [5, 9, 5], 1) == (5, frozenset({2}))
    assert correct([1, 2, 3, 4], shares_of(0, 2, [1, 2, 3, 4]), 2) == (0, frozenset())
