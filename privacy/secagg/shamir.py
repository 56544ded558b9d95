"""Shamir's secret sharing over Z_p, p = 2^255 - 19, with correction of false shares.

A secret is the value at 0 of a random polynomial of degree below t; the share of holder h is its value at h >= 1.
Any t shares give the secret, fewer say nothing (Shamir 1979). The shares of one secret are a Reed-Solomon codeword, so
as long as t + 2e of them are there, up to e false ones are found and corrected (Gao 2003).

Python's integers are fast enough here: splitting for 100 holders at t = 67 takes about 2 ms, and recovering a secret,
once its holders' weights are known, one multiplication a share. They do not run in constant time; what is computed from
a secret is computed by its owner, or by the coordinator after it was released.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import prod

PRIME = 2**255 - 19


def split(secret: int, coefficients: Sequence[int], holders: Iterable[int]) -> list[int]:
    """Return the share of every holder, in order.

    Args:
        secret: the secret, in `[0, p)`.
        coefficients: t - 1 secret numbers, each uniform on `[0, p)` and used for nothing else.
        holders: the points of the holders, distinct and in `[1, p)`.
    """
    polynomial = [secret, *coefficients]
    return [_value(polynomial, holder) for holder in holders]


def _value(polynomial: Sequence[int], point: int) -> int:
    """Return the polynomial's value (lowest coefficient first) by Horner's rule."""
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value


def _inner(weights: Sequence[int], shares: Sequence[int]) -> int:
    return sum(weight * share for weight, share in zip(weights, shares, strict=True)) % PRIME


def inverses(values: Sequence[int]) -> list[int]:
    """Return the inverses of numbers that are not zero, for the price of one inversion (Montgomery)."""
    products = [1]
    for value in values:
        products.append(products[-1] * value % PRIME)
    inverse = pow(products[-1], -1, PRIME)
    found = [0] * len(values)
    for at in range(len(values) - 1, -1, -1):
        found[at] = inverse * products[at] % PRIME
        inverse = inverse * values[at] % PRIME
    return found


@dataclass(frozen=True)
class Weights:
    """What the shares of one secret are multiplied by.

    Attributes:
        points: the holders whose shares are used.
        at_zero: the Lagrange weights whose sum of products with the shares is the secret.
        parity: weights whose sum of products is 0 if the shares agree; zeros if there are no two shares to spare.
    """

    points: tuple[int, ...]
    at_zero: tuple[int, ...]
    parity: tuple[int, ...]

    def secret(self, shares: Sequence[int]) -> int:
        """Return the value at 0 of the polynomial through the shares, given in the order of `points`."""
        return _inner(self.at_zero, shares)

    def agree(self, shares: Sequence[int]) -> bool:
        """Say whether the shares, in the order of `points`, lie on one polynomial of degree below t."""
        return _inner(self.parity, shares) == 0


class Holders:
    """A set of holders of shares; its weights are computed once for all the secrets that it holds shares of.

    With `u_h = prod_{m != h} 1 / (h - m)` over the set, the secret is `sum_h share_h u_h prod_{m != h} (-m)`, also
    where the set is larger than t. And `sum_h share_h u_h q(h) = 0` for every polynomial q of degree below `|set| - t`:
    with a q that was fixed after the shares, a false share escapes with a probability of about `|set| / p`.

    Args:
        points: the holders' points, distinct and positive.
        threshold: t.
        challenge: a number that depends on all shares; its powers are the coefficients of q.

    Raises:
        ValueError: fewer holders than the threshold.
    """

    def __init__(self, points: Sequence[int], threshold: int, challenge: int) -> None:
        """Compute the weights of the whole set."""
        if len(points) < threshold:
            raise ValueError(f"{len(points)} holders are fewer than {threshold}")
        self._points = tuple(points)
        self._threshold = threshold
        differences = [prod(holder - other for other in points if other != holder) % PRIME for holder in points]
        dual = inverses(differences)
        all_points = prod(-point for point in points) % PRIME
        self._at_zero = [
            all_points * weight * inverse % PRIME
            for weight, inverse in zip(dual, inverses([-point % PRIME for point in points]), strict=True)
        ]
        # One degree less than the set allows, so that `without` can multiply by (x - absent).
        q = [pow(challenge, power, PRIME) for power in range(len(points) - threshold - 1)]
        self._parity = [_value(q, point) * weight % PRIME for point, weight in zip(points, dual, strict=True)]

    def weights(self) -> Weights:
        """Return the weights of the whole set."""
        return Weights(self._points, tuple(self._at_zero), tuple(self._parity))

    def without(self, absent: int) -> Weights:
        """Return the weights of the set less one holder, for one multiplication each.

        A member holds no share of its own secret, so on the complete graph every secret has another set. Without
        `absent`, `u_h` is multiplied by `h - absent`, and the weight at zero by `(absent - h) / absent`.

        Raises:
            ValueError: the rest would be fewer than the threshold.
        """
        kept = [at for at, point in enumerate(self._points) if point != absent]
        if len(kept) < self._threshold:
            raise ValueError(f"{len(kept)} holders are fewer than {self._threshold}")
        if len(kept) == len(self._points):
            return self.weights()
        scale = pow(absent, -1, PRIME)
        points = tuple(self._points[at] for at in kept)
        return Weights(
            points,
            tuple(self._at_zero[at] * ((absent - self._points[at]) * scale % PRIME) % PRIME for at in kept),
            tuple(self._parity[at] * (self._points[at] - absent) % PRIME for at in kept),
        )


def correct(points: Sequence[int], shares: Sequence[int], threshold: int) -> tuple[int, frozenset[int]] | None:
    """Return the secret and the points whose shares are false, or None if too many are.

    Finds the one polynomial of degree below t that all but at most `(shares - t) / 2` shares lie on, by Gao's decoder
    for Reed-Solomon codes: interpolate, run the extended Euclidean algorithm up to the middle, divide.

    Args:
        points: the holders' points.
        shares: their shares, in the same order.
        threshold: t.
    """
    whole = [1]
    for point in points:
        whole = _multiply(whole, [-point % PRIME, 1])
    before, now = whole, _interpolate(points, shares, whole)
    factor_before, factor = [0], [1]
    while len(now) - 1 >= (len(points) + threshold) / 2:
        quotient, rest = _divide(before, now)
        before, now = now, rest
        factor_before, factor = factor, _subtract(factor_before, _multiply(quotient, factor))
    polynomial, rest = _divide(now, factor)
    if rest or len(polynomial) > threshold:
        return None
    false = frozenset(
        point for point, share in zip(points, shares, strict=True) if _value(polynomial, point) != share % PRIME
    )
    if 2 * len(false) > len(points) - threshold:
        return None
    return _value(polynomial, 0), false


Polynomial = list[int]  # lowest coefficient first, no leading zeros; the empty list is zero


def _interpolate(points: Sequence[int], shares: Sequence[int], whole: Polynomial) -> Polynomial:
    """Return the polynomial of degree below the number of points that goes through all shares."""
    total = [0] * len(points)
    slopes = inverses([prod(point - other for other in points if other != point) % PRIME for point in points])
    for point, share, slope in zip(points, shares, slopes, strict=True):
        factor = share * slope % PRIME
        carry = 0
        for at in range(len(points), 0, -1):  # synthetic division of the whole product by (x - point)
            carry = (whole[at] + carry * point) % PRIME
            total[at - 1] += factor * carry
    return _trimmed([value % PRIME for value in total])


def _trimmed(polynomial: Polynomial) -> Polynomial:
    while polynomial and not polynomial[-1]:
        polynomial.pop()
    return polynomial


def _multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    product = [0] * max(len(left) + len(right) - 1, 0)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            product[i + j] += a * b
    return _trimmed([value % PRIME for value in product])


def _subtract(left: Polynomial, right: Polynomial) -> Polynomial:
    padded = zip_longest(left, right, fillvalue=0)
    return _trimmed([(a - b) % PRIME for a, b in padded])


def _divide(dividend: Polynomial, divisor: Polynomial) -> tuple[Polynomial, Polynomial]:
    rest = list(dividend)
    quotient = [0] * max(len(dividend) - len(divisor) + 1, 0)
    inverse = pow(divisor[-1], -1, PRIME)
    for at in range(len(quotient) - 1, -1, -1):
        factor = rest[at + len(divisor) - 1] * inverse % PRIME
        quotient[at] = factor
        for offset, coefficient in enumerate(divisor):
            rest[at + offset] = (rest[at + offset] - factor * coefficient) % PRIME
    return _trimmed(quotient), _trimmed(rest)
