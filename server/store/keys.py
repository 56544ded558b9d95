"""API keys: 256 random bits that only their holder has; the store keeps the SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from tacit.models.errors import InputError
from tacit.server.store.records import SCOPES, KeyRecord, NewKey, Scope
from tacit.server.store.tables import KeyRow

_PREFIX = "tacit"
_KEY_ID = re.compile(r"[0-9a-f]{12}")
_NO_DIGEST = "0" * 64


def create(session: Session, name: str, scopes: Iterable[Scope], now: datetime) -> NewKey:
    """Make a key; the secret is `tacit_ID_RANDOM`, so that a leaked one can be found and named."""
    wanted = frozenset(scopes)
    if not name.strip() or not name.isprintable():
        raise InputError("a key needs a printable name")
    if not wanted or not wanted <= frozenset(SCOPES):
        raise InputError("a key needs known scopes", where=f"key {name}", right=f"some of {', '.join(SCOPES)}")
    key_id = secrets.token_hex(6)
    secret = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    session.add(
        KeyRow(
            key_id=key_id,
            name=name,
            scopes=" ".join(scope for scope in SCOPES if scope in wanted),
            secret_sha256=_digest(secret),
            created_at=now,
        )
    )
    session.flush()
    return NewKey(key_id, secret)


def check(session: Session, secret: str) -> KeyRecord | None:
    """Return the key that `secret` is, None for an unknown or revoked one.

    The row is found by the public part; what is secret is compared as a digest and in constant time, also when there
    is no such row. A fast hash is enough for 256 random bits: there is nothing to guess.
    """
    digest = _digest(secret)
    _, _, rest = secret.partition("_")
    key_id = rest.partition("_")[0]
    row = session.get(KeyRow, key_id) if _KEY_ID.fullmatch(key_id) else None
    matches = hmac.compare_digest(digest, row.secret_sha256 if row else _NO_DIGEST)
    return _record(row) if row and matches and row.revoked_at is None else None


def list_all(session: Session) -> list[KeyRecord]:
    """Return every key, also the revoked ones, oldest first."""
    return [_record(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at, KeyRow.key_id))]


def revoke(session: Session, key_id: str, now: datetime) -> KeyRecord:
    """Make a key useless from now on; a revoked key keeps its first time."""
    row = session.get(KeyRow, key_id, with_for_update=True) if _KEY_ID.fullmatch(key_id) else None
    if row is None:
        raise InputError("there is no such key", where=f"key {key_id!r}", right="`tacit serve keys list` names them")
    row.revoked_at = row.revoked_at or now
    return _record(row)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _record(row: KeyRow) -> KeyRecord:
    scopes = frozenset(cast(Scope, scope) for scope in row.scopes.split())
    return KeyRecord(row.key_id, row.name, scopes, row.created_at, row.revoked_at)
