"""Privacy statements that say who made them: signed as a whole, and checked without asking anybody."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tacit.privacy.identity import Identity, verify

LABEL = "tacit/statement/1"
SELF_SIGNED = "simulated, self-signed"


class SignatureMismatch(Exception):
    """A statement is not what was signed; the text is one line, fit to print."""


@dataclass(frozen=True)
class Signer:
    """Who signed a statement.

    Attributes:
        public_key: the Ed25519 public key that the signature fits. Whose key that is, no signature can say: compare it
            with one that was learned in another way.
        kind: in what quality it signed, in its own words.
    """

    public_key: bytes
    kind: str


def sign_statement(statement: Mapping[str, Any], identity: Identity, kind: str) -> dict[str, Any]:
    """Return the statement with `signed_by` and `signature`.

    The signature is over the canonical JSON (sorted keys, no spaces, ASCII) of everything but itself. Values become
    what JSON makes of them, so that a copy read from a file or a database is the same; what is not finite becomes null.

    Args:
        statement: plain values by name; not signed yet.
        identity: signs.
        kind: in what quality, such as `SELF_SIGNED`.

    Raises:
        ValueError: the statement is signed already.
        TypeError: a value is not plain.
    """
    if is_signed(statement):
        raise ValueError("the statement is signed already")
    signed: dict[str, Any] = _plain(statement)
    signed["signed_by"] = {"public_key": identity.public_key.hex(), "kind": kind}
    return signed | {"signature": identity.sign(LABEL, _canonical(signed)).hex()}


def is_signed(statement: Mapping[str, Any]) -> bool:
    """Say whether a statement claims to be signed; whether it is, `check_statement` says."""
    return "signature" in statement or "signed_by" in statement


def check_statement(signed: Mapping[str, Any]) -> Signer:
    """Return who signed a statement.

    Raises:
        SignatureMismatch: it is not signed, or anything in it is not what was signed.
    """
    signer, signature = signed.get("signed_by"), signed.get("signature")
    if signer is None and signature is None:
        raise SignatureMismatch("the statement is not signed")
    try:
        public_key = bytes.fromhex(signer["public_key"])  # type: ignore[index]
        kind = signer["kind"]  # type: ignore[index]
        raw = bytes.fromhex(signature)  # type: ignore[arg-type]
        message = _canonical({name: value for name, value in signed.items() if name != "signature"})
    except (KeyError, TypeError, ValueError, RecursionError):
        raise SignatureMismatch("the signature of the statement cannot be read") from None
    if not isinstance(kind, str) or not verify(public_key, LABEL, message, raw):
        raise SignatureMismatch("the statement is not what was signed")
    return Signer(public_key, kind)


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return float(value) if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
    raise TypeError(f"a {type(value).__name__} cannot be part of a statement")
