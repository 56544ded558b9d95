"""Who was revoked is known with the next question, and a database that is away changes nobody's standing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tacit.server.roll import PATIENCE_SECONDS, REST_SECONDS, Roll
from tacit.server.store import ClientState, NewClient, NewInvitation, Store, StoreUnavailable, open_store

from ..settle import HANGS_SECONDS, settle  # noqa: TID252 - tests are no package that could be named

KEYS = {"north": b"n" * 32, "south": b"s" * 32}
REVOKED, LEFT = "this key was revoked", "this member has left the federation"


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "tacit.db")


@pytest.fixture
def store(file: str) -> Iterator[Store]:
    with open_store(file) as opened:
        for at, (name, key) in enumerate(KEYS.items()):
            number = str(at) * 32
            until = datetime.now(UTC) + timedelta(hours=1)
            opened.invite(NewInvitation(number, name, "", None, b"p" * 32, until))
            opened.enrol_client(number, NewClient(key, name, name, key, b"certificate"))
        yield opened


def test_what_another_process_has_revoked_is_known_at_once(store: Store, file: str) -> None:
    roll = Roll(store)
    assert [roll(key) for key in KEYS.values()] == [None, None] and roll(b"x" * 32) is None
    with open_store(file) as other:
        other.revoke_member("north")
        assert [roll(key) for key in KEYS.values()] == [REVOKED, None]
        other.leave_client(KEYS["south"], instead_of=b"certificate")
        assert [roll(key) for key in KEYS.values()] == [REVOKED, LEFT]
        until = datetime.now(UTC) + timedelta(hours=1)
        other.invite(NewInvitation("b" * 32, "south", "", None, b"p" * 32, until))
        other.enrol_client("b" * 32, NewClient(KEYS["south"], "south", "south", KEYS["south"], b"certificate 2"))
        assert [roll(key) for key in KEYS.values()] == [REVOKED, None]
    roll.close()


def test_while_nothing_changes_the_database_is_asked_for_nothing_but_whether_it_has(store: Store, file: str) -> None:
    roll, asked = Roll(store), []
    roll(KEYS["north"])
    roll._departures._kept.driver_connection.set_trace_callback(asked.append)  # type: ignore[union-attr]
    for _ in range(1000):
        roll(KEYS["north"])
    assert asked == ["PRAGMA data_version"] * 1000
    with open_store(file) as other:
        other.revoke_member("north")
    assert roll(KEYS["north"]) == REVOKED and len(asked) == 1002
    roll.close()


@dataclass
class Database:
    """A store that can be away, or slow."""

    gone: dict[bytes, ClientState] = field(default_factory=dict)
    away: bool = False
    looked: int = 0
    hold: threading.Event | None = None

    def departures(self) -> Any:
        return self

    def __call__(self) -> dict[bytes, ClientState]:
        if self.hold is not None:
            self.hold.wait(HANGS_SECONDS)
        if self.away:
            raise StoreUnavailable("the database is away")
        self.looked += 1
        return dict(self.gone)

    def close(self) -> None:
        return None


def test_a_database_that_is_away_revokes_nobody_and_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    database, now = Database({KEYS["north"]: "revoked"}), [0.0]
    roll = Roll(database, lambda: now[0])  # type: ignore[arg-type]
    assert [roll(key) for key in KEYS.values()] == [REVOKED, None]
    database.away, database.gone = True, {key: "revoked" for key in KEYS.values()}
    for _ in range(20):
        assert [roll(key) for key in KEYS.values()] == [REVOKED, None]
        now[0] += REST_SECONDS
    database.away = False
    assert [roll(key) for key in KEYS.values()] == [REVOKED, REVOKED]
    assert [record.getMessage() for record in caplog.records] == [
        "who was revoked is known from before: the database is away",
        "who was revoked is known again",
    ]


def test_a_database_that_does_not_answer_is_left_alone_for_a_while() -> None:
    database, now = Database(away=True), [0.0]
    roll = Roll(database, lambda: now[0])  # type: ignore[arg-type]
    roll(KEYS["north"])
    database.away, before = False, database.looked
    roll(KEYS["north"])
    assert database.looked == before
    now[0] += REST_SECONDS
    roll(KEYS["north"])
    assert database.looked == before + 1


class Counted:
    """A lock that counts who waited for it."""

    def __init__(self, lock: threading.Lock) -> None:
        self.waited = 0
        self.locked, self.release = lock.locked, lock.release
        self._lock = lock

    def acquire(self, timeout: float) -> bool:
        self.waited += 1
        return self._lock.acquire(timeout=timeout)


def test_one_who_waits_for_a_slow_database_holds_nobody_else_up() -> None:
    database, now = Database({KEYS["north"]: "revoked"}), [0.0]
    roll = Roll(database, lambda: now[0])  # type: ignore[arg-type]
    assert roll(KEYS["north"]) == REVOKED
    database.hold = threading.Event()
    slow = threading.Thread(target=roll, args=(KEYS["south"],), daemon=True)
    slow.start()
    settle(roll._asking.locked)
    roll._asking = asking = Counted(roll._asking)  # type: ignore[assignment]
    assert roll(KEYS["north"]) == REVOKED and asking.waited == 1  # it has not been slow for long
    now[0] += 2 * PATIENCE_SECONDS
    for _ in range(50):
        assert roll(KEYS["north"]) == REVOKED
    assert asking.waited == 1, "nobody waits any more"
    database.hold.set()
    slow.join(HANGS_SECONDS)
