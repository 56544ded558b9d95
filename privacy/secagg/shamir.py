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

    Every share of the set is used, also those above t, so that one false share alone makes the secret another one, and
    whoever knows a commitment to it notices.

    Attributes:
        points: the holders whose shares are used.
        at_zero: their Lagrange weights.
    """

    points: tuple[int, ...]
    at_zero: tuple[int, ...]

    def secret(self, shares: Sequence[int]) -> int:
        """Return the value at 0 of the polynomial through the shares, given in the order of `points`."""
        return sum(weight * share for weight, share in zip(self.at_zero, shares, strict=True)) % PRIME


class Holders:
    """A set of holders of shares; its weights are computed once for all the secrets that it holds shares of.

    The weight of holder h at zero is `prod_{m != h} m / (m - h)` over the set.

    Args:
        points: the holders' points, distinct and positive.
    """

    def __init__(self, points: Sequence[int]) -> None:
        """Compute the weights of the whole set."""
        self._points = tuple(points)
        all_points = prod(points) % PRIME
        denominators = [point * prod(other - point for other in points if other != point) % PRIME for point in points]
        self._at_zero = [all_points * inverse % PRIME for inverse in inverses(denominators)]

    def weights(self) -> Weights:
        """Return the weights of the whole set."""
        return Weights(self._points, tuple(self._at_zero))

    def without(self, absent: int) -> Weights:
        """Return the weights of the set less one holder, if it is in it, for one multiplication each.

        A member holds no share of its own secret, so on the complete graph every secret has another set. Without
        `absent`, the weight of h loses the factor `absent / (absent - h)`.
        """
        if absent not in self._points:
            return self.weights()
        kept = [at for at, point in enumerate(self._points) if point != absent]
        scale = pow(absent, -1, PRIME)
        return Weights(
            tuple(self._points[at] for at in kept),
            tuple(self._at_zero[at] * ((absent - self._points[at]) * scale % PRIME) % PRIME for at in kept),
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
