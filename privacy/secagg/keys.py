"""The keys of one attempt of a round, and what they are derived from.

Everything is bound to what both ends agreed on by then: the masking key to the offer, the keys of shares to the roster
(T1), the keys of masks to the roster and the set of share holders (T2). Whoever is shown another offer, roster or set
derives other keys, and gets noise where an attack would need a difference.

X25519 (RFC 7748) agrees on secrets, HKDF-SHA256 (RFC 5869) derives keys from them. Numbers modulo p = 2^255 - 19 travel
as 32 bytes, little-endian, and only their canonical form is accepted.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.privacy.codec import Writer, sha256
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.randomness import KEY_BYTES, Keystream
from tacit.privacy.secagg.shamir import PRIME

LABEL = "tacit/secagg/1/"
ZERO_NONCE = bytes(12)
SHARES_BYTES = 2 * KEY_BYTES  # a share of b and a share of s
CIPHERTEXT_BYTES = SHARES_BYTES + 16
_BELOW_2_255 = (1 << 255) - 1
_PAIR = struct.Struct(">HH")
_BINDING = struct.Struct(">HHHH")


def label_bytes(name: str) -> bytes:
    """Return the label of a purpose, with the byte that ends it."""
    return (LABEL + name).encode() + b"\0"


# Made once: what follows is derived for every pair of members.
_PAIR_MASK, _SHARE_KEY, _SHARES = map(label_bytes, ("pair-mask", "share-key", "shares"))


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, info).derive(secret)


def element(stream: Keystream) -> int:
    """Return a number that is uniform modulo p, by rejection."""
    return elements(stream, 1)[0]


def elements(stream: Keystream, count: int) -> list[int]:
    """Return independent numbers that are uniform modulo p: those of the stream's numbers of 255 bits that are below p.

    However many are asked for at once, the same stream gives the same ones.
    """
    found: list[int] = []
    while missing := count - len(found):
        drawn = stream.bytes(missing * KEY_BYTES)
        numbers = (
            int.from_bytes(drawn[at : at + KEY_BYTES], "little") & _BELOW_2_255
            for at in range(0, len(drawn), KEY_BYTES)
        )
        found += [number for number in numbers if number < PRIME]
    return found


def element_bytes(number: int) -> bytes:
    """Return the 32 bytes of a number modulo p."""
    return number.to_bytes(KEY_BYTES, "little")


def element_of(encoded: bytes) -> int:
    """Read a number modulo p.

    Raises:
        ValueError: not 32 bytes, or not below p.
    """
    number = int.from_bytes(encoded, "little")
    if len(encoded) != KEY_BYTES or number >= PRIME:
        raise ValueError("a share or key is no number modulo 2^255 - 19 in 32 bytes")
    return number


def public_of(private_key: bytes) -> bytes:
    """Return the X25519 public key."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def agreement(private_key: bytes) -> Callable[[bytes], bytes]:
    """Return the function from another member's public key to the X25519 secret shared with it.

    The function raises `RemoteProtocolError`, `low-order-point`, where the secret would be known to everybody.
    """
    private = X25519PrivateKey.from_private_bytes(private_key)

    def secret(public_key: bytes) -> bytes:
        try:
            return private.exchange(X25519PublicKey.from_public_bytes(public_key))
        except ValueError:
            raise RemoteProtocolError("low-order-point", "a public key gives the same secret to everybody") from None

    return secret


Agree = Callable[[bytes], Callable[[bytes], bytes]]
"""From a private key to the function from public keys to shared secrets, as `agreement` is."""


class SharedAgreements:
    """`agreement` for parties of one process: what one end of a pair computed, the other end takes.

    The secret is the same for both, so only the time differs. Whoever has this object has the secrets of all parties
    that use it and are not yet at their second use, so it is for simulations, where one process has them anyway.

    Args:
        most: how many secrets wait for their other end; the oldest is forgotten first.
    """

    def __init__(self, most: int = 65_536) -> None:
        """Start without a secret."""
        self._most = most
        self._waiting: OrderedDict[bytes, bytes] = OrderedDict()

    def __call__(self, private_key: bytes) -> Callable[[bytes], bytes]:
        """Return the function from another member's public key to the secret shared with it, as `agreement` does."""
        own, compute = public_of(private_key), agreement(private_key)

        def secret(public_key: bytes) -> bytes:
            pair = min(own, public_key) + max(own, public_key)
            shared = self._waiting.pop(pair, None)
            if shared is None:
                shared = self._waiting[pair] = compute(public_key)
                if len(self._waiting) > self._most:
                    self._waiting.popitem(last=False)
            return shared

        return secret

    def __repr__(self) -> str:
        """Show no secret."""
        return f"SharedAgreements({len(self._waiting)} hidden)"


def check_point(public_key: bytes) -> None:
    """Refuse public keys of low order, and those not in canonical form, which would be equal to others unseen.

    Raises:
        RemoteProtocolError: `low-order-point`, or `malformed`.
    """
    try:
        element_of(public_key)
    except ValueError:
        raise RemoteProtocolError("malformed", "a public key is not in canonical form") from None
    _probe()(public_key)  # whatever the private key, a point of low order ends in zero


@lru_cache(maxsize=1)
def _probe() -> Callable[[bytes], bytes]:
    return agreement(bytes(KEY_BYTES))


def masking_key(seed: int, offer_digest: bytes) -> bytes:
    """Return the X25519 private key of the shared number s: `HKDF(s, salt=H(Offer))`."""
    return hkdf(element_bytes(seed), offer_digest, label_bytes("masking-key"))


def commitment(seed: int, offer_digest: bytes, client: str) -> bytes:
    """Return `H(label, H(Offer), id, b)`."""
    body = Writer().fixed(offer_digest).text(client).fixed(element_bytes(seed)).getvalue()
    return sha256(label_bytes("seed-commitment"), body)


def self_mask_key(seed: int, survivors_transcript: bytes, member: int) -> bytes:
    """Return the key of PRG(b), `HKDF(b, salt=T2)`."""
    return hkdf(element_bytes(seed), survivors_transcript, label_bytes("self-mask") + member.to_bytes(2, "big"))


def pair_mask_key(secret: bytes, survivors_transcript: bytes, one: int, other: int) -> bytes:
    """Return the key of PRG_ij, `HKDF(DH(s_i, S_j), salt=T2)`, the same for both members."""
    return hkdf(secret, survivors_transcript, _PAIR_MASK + _PAIR.pack(min(one, other), max(one, other)))


def share_key(secret: bytes, roster_transcript: bytes, dealer: int, holder: int) -> bytes:
    """Return the key of the one ciphertext from dealer to holder: `HKDF(DH(c_i, C_j), salt=T1, info=i, j)`.

    It is used for one message, so that a fixed nonce is sound.
    """
    return hkdf(secret, roster_transcript, _SHARE_KEY + _PAIR.pack(dealer, holder))


def share_binding(roster_transcript: bytes, dealer: int, holder: int, threshold: int) -> bytes:
    """Return the associated data of a ciphertext: T1, dealer, holder, the holder's point, and t."""
    return _SHARES + roster_transcript + _BINDING.pack(dealer, holder, point_of(holder), threshold)


def seal_shares(key: bytes, binding: bytes, seed_share: int, key_share: int) -> bytes:
    """Return the ciphertext of a share of b and a share of s (AES-256-GCM)."""
    return AESGCM(key).encrypt(ZERO_NONCE, element_bytes(seed_share) + element_bytes(key_share), binding)


def open_shares(key: bytes, binding: bytes, ciphertext: bytes) -> tuple[int, int]:
    """Return the share of b and the share of s.

    Raises:
        RemoteProtocolError: `bad-ciphertext`: the dealer did not encrypt two numbers modulo p to this holder.
    """
    try:
        plain = AESGCM(key).decrypt(ZERO_NONCE, ciphertext, binding)
        return element_of(plain[:KEY_BYTES]), element_of(plain[KEY_BYTES:])
    except (InvalidTag, ValueError):
        raise RemoteProtocolError("bad-ciphertext", "a share does not open") from None


def point_of(member: int) -> int:
    """Return the point at which a member, by its position in the roster, holds shares."""
    return member + 1
