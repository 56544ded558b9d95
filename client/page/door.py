"""Who may see the page: whoever can read the agent's directory makes a link from it, which opens the page once.

Another user of the machine can open a connection to a loopback port, and any site can make a browser send a request to
it. So nothing is shown or done without a session, which a link begins and a cookie carries, and nothing is done without
a word that only the page itself has. All three are sealed with a key that the page draws when it starts: none of them
outlives it. A link is in the browser's history, so it ends with its first use, or after a few minutes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

Purpose: TypeAlias = Literal["link", "session", "form"]

LINK_SECONDS = 600
SESSION_SECONDS = 12 * 3600
KEY_BYTES = 32
_NONCE_BYTES, _TIME_BYTES, _SEAL_BYTES = 16, 8, 32
_LABEL = b"tacit/page/1/"


class Door:
    """Links, sessions and words of one page.

    Args:
        key: the page's secret.
        now: seconds since 1970.
    """

    def __init__(self, key: bytes, now: Callable[[], float] = time.time) -> None:
        """Let nobody in yet."""
        self._key, self._now = key, now
        self._used: dict[bytes, int] = {}

    @property
    def path(self) -> str:
        """Return the first part of every address of the page.

        Browsers send a cookie to every port of a host, but only below its path: a server of another user on this
        machine, to whom a browser could be led, does not know it.
        """
        return hashlib.sha256(_LABEL + b"path\0" + self._key).hexdigest()[:32]

    def enter(self, link: str) -> str | None:
        """Return a new session for a link that was not used before; None for anything else."""
        body, now = self._opened("link", link), int(self._now())
        self._used = {used: until for used, until in self._used.items() if until >= now}
        # By what it holds: there is more than one way to spell the same bytes.
        if body is None or body in self._used:
            return None
        self._used[body] = _until(body)
        return sealed(self._key, "session", now + SESSION_SECONDS)

    def is_session(self, session: str) -> bool:
        """Say whether a session is one of this page's that has not ended."""
        return self._opened("session", session) is not None

    def word(self, session: str) -> str:
        """Return the word that a form of this session carries."""
        return hmac.new(self._key, _LABEL + b"form\0" + session.encode(), "sha256").hexdigest()

    def is_word(self, word: str, session: str) -> bool:
        """Say whether a form's word is that of the session."""
        return hmac.compare_digest(word.encode(), self.word(session).encode())

    def _opened(self, purpose: Purpose, token: str) -> bytes | None:
        """Return what a token holds without its seal; None if it is none, or its time is over."""
        try:
            content = base64.b64decode(token.encode("ascii"), b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        if len(content) != _NONCE_BYTES + _TIME_BYTES + _SEAL_BYTES:
            return None
        body, seal = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
        if not hmac.compare_digest(seal, _seal(self._key, purpose, body)):
            return None
        return body if _until(body) >= self._now() else None


def link_token(key: bytes, now: float) -> str:
    """Return what opens the page with this key once, within the next minutes."""
    return sealed(key, "link", int(now) + LINK_SECONDS)


def sealed(key: bytes, purpose: Purpose, until: int) -> str:
    """Return a new token for one purpose that holds until a time, in seconds since 1970."""
    body = secrets.token_bytes(_NONCE_BYTES) + until.to_bytes(_TIME_BYTES)
    return base64.urlsafe_b64encode(body + _seal(key, purpose, body)).decode()


def _until(body: bytes) -> int:
    return int.from_bytes(body[_NONCE_BYTES:])


def _seal(key: bytes, purpose: Purpose, body: bytes) -> bytes:
    return hmac.new(key, _LABEL + purpose.encode() + b"\0" + body, "sha256").digest()
