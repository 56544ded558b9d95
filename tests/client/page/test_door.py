"""Who gets in: a link once and not for long, a session that is this page's, a form that the page itself made."""

from __future__ import annotations

import base64

import pytest

from tacit.client.page.door import LINK_SECONDS, SESSION_SECONDS, Door, link_token, sealed

KEY = bytes(range(32))


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


def door(key: bytes = KEY) -> tuple[Door, Clock]:
    clock = Clock()
    return Door(key, clock), clock


def test_a_link_opens_once() -> None:
    ours, clock = door()
    link = link_token(KEY, clock())
    session = ours.enter(link)
    assert session is not None and ours.is_session(session)
    assert ours.enter(link) is None


def test_another_spelling_of_a_used_link_opens_nothing() -> None:
    ours, clock = door()
    link = link_token(KEY, clock())
    assert ours.enter(link) is not None
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spellings = [f"{link[:-2]}{letter}=" for letter in alphabet]
    same = [one for one in spellings if base64.urlsafe_b64decode(one) == base64.urlsafe_b64decode(link)]
    assert len(same) == 4  # base64 leaves two bits of the last letter open
    assert [ours.enter(one) for one in spellings] == [None] * len(alphabet)


def test_a_link_that_is_too_old_opens_nothing() -> None:
    ours, clock = door()
    early, late = link_token(KEY, clock()), link_token(KEY, clock())
    clock.seconds += LINK_SECONDS
    assert ours.enter(early) is not None
    clock.seconds += 1
    assert ours.enter(late) is None


def test_a_used_link_is_forgotten_only_when_it_is_too_old_anyway() -> None:
    ours, clock = door()
    first = link_token(KEY, clock())
    assert ours.enter(first) is not None
    clock.seconds += LINK_SECONDS
    assert ours.enter(link_token(KEY, clock())) is not None
    assert ours.enter(first) is None


def test_a_session_ends() -> None:
    ours, clock = door()
    session = ours.enter(link_token(KEY, clock()))
    assert session is not None
    clock.seconds += SESSION_SECONDS
    assert ours.is_session(session)
    clock.seconds += 1
    assert not ours.is_session(session)


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 76, "====", "a" * 10_000])
def test_what_is_no_token_opens_nothing(token: str) -> None:
    ours, _ = door()
    assert ours.enter(token) is None and not ours.is_session(token)


def test_a_token_for_one_purpose_serves_no_other() -> None:
    ours, clock = door()
    until = int(clock()) + 60
    assert ours.enter(sealed(KEY, "session", until)) is None
    assert not ours.is_session(link_token(KEY, clock()))
    assert not ours.is_session(sealed(KEY, "form", until))


def test_no_bit_of_a_link_can_be_changed() -> None:
    ours, clock = door()
    content = bytearray(base64.urlsafe_b64decode(link_token(KEY, clock())))
    for at in range(len(content)):
        content[at] ^= 1
        assert ours.enter(base64.urlsafe_b64encode(content).decode()) is None
        content[at] ^= 1
    assert ours.enter(base64.urlsafe_b64encode(content).decode()) is not None


def test_another_start_of_the_page_knows_neither_its_links_nor_its_sessions() -> None:
    ours, clock = door()
    other, _ = door(bytes(32))
    session = ours.enter(link_token(KEY, clock()))
    assert session is not None and not other.is_session(session)
    assert other.enter(link_token(KEY, clock())) is None
    assert other.path != ours.path


def test_a_word_is_its_sessions_alone() -> None:
    ours, clock = door()
    one, other = (ours.enter(link_token(KEY, clock())) for _ in range(2))
    assert one and other and ours.is_word(ours.word(one), one)
    assert not ours.is_word(ours.word(one), other)
    assert not ours.is_word("", one) and not ours.is_word("é", one)
