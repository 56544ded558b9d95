"""Who is at fault when shares do not open: decided by evidence that anybody can check, never on one party's word.

A dealer signs each of its parcels. A holder that cannot open one reveals the X25519 secret of that one pair, with a
proof that it is the pair's: then everybody can try the signed ciphertext. If it opens, the holder lied; if not, the
dealer cheated. Revealing the holder's whole round key would convict as well, and would open what all the other dealers
sent it: a single false dealer could make every holder reveal its key and so unmask a member whose input was on its way.
The pair's secret opens nothing but what that dealer and that holder sent each other.

The proof is that of Chaum and Pedersen (1992), made non-interactive by a hash, on the Edwards form of the curve
(RFC 8032, section 5.1). With c the holder's clamped private key, C its public key, D the dealer's, B the base point and
Z = c D: `log(C) to base 8B = log(Z) to base 8D = c / 8`. Clamped keys are multiples of 8 (RFC 7748, section 5), so no
component of low order survives, and Z is checked to have none. It runs on Python's integers, not in constant time; it
runs at most once in an attempt, over a key that dies with it.
"""

from __future__ import annotations

from typing import NamedTuple

from tacit.privacy.codec import Writer, sha256
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.randomness import KEY_BYTES, Keystream
from tacit.privacy.secagg.keys import element_bytes, element_of, label_bytes, public_of
from tacit.privacy.secagg.shamir import PRIME

ORDER = 2**252 + 27742317777372353535851937790883648493
EDWARDS_D = -121665 * pow(121666, -1, PRIME) % PRIME
ROOT_OF_MINUS_ONE = pow(2, (PRIME - 1) // 4, PRIME)


class Point(NamedTuple):
    """A point of edwards25519 in extended coordinates: `x = X / Z`, `y = Y / Z`, `x y = T / Z`."""

    x: int
    y: int
    z: int
    t: int


NEUTRAL = Point(0, 1, 1, 0)


def add(one: Point, other: Point) -> Point:
    """Return the sum of two points (RFC 8032, section 5.1.4)."""
    a = (one.y - one.x) * (other.y - other.x) % PRIME
    b = (one.y + one.x) * (other.y + other.x) % PRIME
    c = 2 * one.t * other.t * EDWARDS_D % PRIME
    d = 2 * one.z * other.z % PRIME
    e, f, g, h = b - a, d - c, d + c, b + a
    return Point(e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME)


def multiply(scalar: int, point: Point) -> Point:
    """Return a multiple of a point, by doubling and adding."""
    total = NEUTRAL
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point = add(point, point)
        scalar >>= 1
    return total


def same(one: Point, other: Point) -> bool:
    """Say whether two points are equal."""
    return (one.x * other.z - other.x * one.z) % PRIME == 0 and (one.y * other.z - other.y * one.z) % PRIME == 0


def negative(point: Point) -> Point:
    """Return the point's inverse."""
    return Point(-point.x % PRIME, point.y, point.z, -point.t % PRIME)


def montgomery(point: Point) -> bytes:
    """Return the u-coordinate on curve25519, `u = (1 + y) / (1 - y)`, as X25519 writes it."""
    return element_bytes((point.z + point.y) * pow(point.z - point.y, -1, PRIME) % PRIME)


def lift(public_key: bytes) -> Point | None:
    """Return the point with even x whose u-coordinate this is, or None if it is on the twist: no honest key is."""
    u = int.from_bytes(public_key, "little") % PRIME
    if u == PRIME - 1:
        return None
    return _with_y((u - 1) * pow(u + 1, -1, PRIME) % PRIME, odd=False)


def _with_y(y: int, *, odd: bool) -> Point | None:
    square = (y * y - 1) * pow(EDWARDS_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * ROOT_OF_MINUS_ONE % PRIME
    if x * x % PRIME != square or (x == 0 and odd):
        return None
    if x & 1 != odd:
        x = PRIME - x
    return Point(x % PRIME, y, 1, x * y % PRIME)


BASE = _with_y(4 * pow(5, -1, PRIME) % PRIME, odd=False) or NEUTRAL
BASE_8 = multiply(8, BASE)


def compress(point: Point) -> bytes:
    """Return 32 bytes: y, and the lowest bit of x above it (RFC 8032, section 5.1.2)."""
    inverse = pow(point.z, -1, PRIME)
    x, y = point.x * inverse % PRIME, point.y * inverse % PRIME
    return (y | (x & 1) << 255).to_bytes(KEY_BYTES, "little")


def decompress(encoded: bytes) -> Point | None:
    """Return the point of 32 bytes, or None if they encode none."""
    number = int.from_bytes(encoded, "little")
    y, odd = number & ((1 << 255) - 1), bool(number >> 255)
    return _with_y(y, odd=odd) if y < PRIME else None


def clamped(private_key: bytes) -> int:
    """Return the integer that X25519 multiplies by (RFC 7748, section 5)."""
    number = int.from_bytes(private_key, "little")
    return number & ~7 & ((1 << 255) - 1) | 1 << 254


def _challenge(context: bytes, *points: Point) -> int:
    writer = Writer().fixed(label_bytes("dispute")).blob(context)
    for point in points:
        writer.fixed(compress(point))
    body = writer.getvalue()
    return int.from_bytes(sha256(b"\0", body) + sha256(b"\1", body), "little") % ORDER


def reveal(private_key: bytes, dealer_key: bytes, context: bytes, stream: Keystream) -> bytes:
    """Return a holder's evidence about one dealer: the pair's secret as a point, and the proof, 96 bytes.

    Args:
        private_key: the holder's private key of this attempt.
        dealer_key: the dealer's public key.
        context: what the proof is about; it convinces nobody of anything else.
        stream: secret numbers that are used for nothing else.

    Raises:
        RemoteProtocolError: `bad-point`: the dealer's key is no point of the curve, which by itself convicts it.
    """
    holder, dealer = lift(public_of(private_key)), lift(dealer_key)
    if holder is None or dealer is None:
        raise RemoteProtocolError("bad-point", "a public key is no point of the curve")
    secret = clamped(private_key) // 8 % ORDER
    if not same(multiply(secret, BASE_8), holder):
        secret = ORDER - secret  # the lift chose the other of the two points that share their u-coordinate
    dealer_8 = multiply(8, dealer)
    shared = multiply(secret, dealer_8)
    nonce = int.from_bytes(stream.bytes(64), "little") % ORDER
    challenge = _challenge(context, holder, dealer, shared, multiply(nonce, BASE_8), multiply(nonce, dealer_8))
    response = (nonce + challenge * secret) % ORDER
    return compress(shared) + element_bytes(challenge) + element_bytes(response)


def revealed_secret(evidence: bytes, holder_key: bytes, dealer_key: bytes, context: bytes) -> bytes | None:
    """Return the pair's X25519 secret, or None if the evidence does not prove one.

    Args:
        evidence: what `reveal` returned.
        holder_key: the holder's public key.
        dealer_key: the dealer's public key, a point of the curve.
        context: what the proof is about.
    """
    holder, dealer, shared = lift(holder_key), lift(dealer_key), decompress(evidence[:KEY_BYTES])
    if holder is None or dealer is None or shared is None or not same(multiply(ORDER, shared), NEUTRAL):
        return None
    try:
        challenge = element_of(evidence[KEY_BYTES : 2 * KEY_BYTES])
        response = element_of(evidence[2 * KEY_BYTES :])
    except ValueError:
        return None
    if same(shared, NEUTRAL) or challenge >= ORDER or response >= ORDER:
        return None
    dealer_8 = multiply(8, dealer)
    first = add(multiply(response, BASE_8), negative(multiply(challenge, holder)))
    second = add(multiply(response, dealer_8), negative(multiply(challenge, shared)))
    if _challenge(context, holder, dealer, shared, first, second) != challenge:
        return None
    return montgomery(shared)
