"""Bodies come apart as they were put together, however they are cut on the way, and headers say who asks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.wire import (
    ALIVE,
    LABEL,
    LENGTH_BYTES,
    PIECE,
    PULL,
    Frames,
    framed,
    framed_size,
    read_envelope,
    sealed_headers,
)
from tacit.privacy.identity import Identity, verify

KEY = Identity(bytes(range(32)))


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 50))
def test_payloads_survive_any_cut(payloads: list[bytes], step: int) -> None:
    body = b"".join(framed(payloads))
    assert len(body) == framed_size(payloads)
    frames = Frames()
    got = [payload for at in range(0, len(body), step) for payload in frames.feed(body[at : at + step])]
    frames.finish()
    assert got == payloads


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 50), st.integers(1, 120))
def test_long_payloads_come_in_parts_and_short_ones_whole(payloads: list[bytes], step: int, longest: int) -> None:
    body = b"".join(framed(payloads))
    frames, found, begun = Frames(), list[bytes](), list[bytes]()
    for at in range(0, len(body), step):
        for one in frames.feed_in_parts(body[at : at + step], longest):
            assert len(frames._held) <= max(longest, step) + step + 300
            if isinstance(one, bytes):
                assert len(one) <= longest and not begun
                found.append(one)
                continue
            assert len(one.content) == longest or one.last
            begun.append(one.content)
            if one.last:
                assert sum(map(len, begun)) > longest
                found.append(b"".join(begun))
                begun.clear()
    frames.finish()
    assert found == payloads


def test_a_body_that_ends_within_a_part_is_an_error() -> None:
    frames = Frames()
    assert len(list(frames.feed_in_parts(b"".join(framed([bytes(10)]))[:-3], 4))) == 1
    with pytest.raises(ValueError, match="ends within a frame"):
        frames.finish()
    with pytest.raises(ValueError, match="too large"):
        list(Frames(largest=10).feed_in_parts((11).to_bytes(LENGTH_BYTES, "big"), 4))
    with pytest.raises(ValueError, match="too many"):
        list(Frames(most=3).feed_in_parts(b"".join(framed([bytes(9)] * 4)), 4))


@given(st.lists(st.sampled_from((0, 1, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE)), max_size=6))
def test_pieces_are_small_and_large_payloads_are_not_copied(sizes: list[int]) -> None:
    payloads = [bytes(size) for size in sizes]
    pieces = list(framed(payloads))
    assert all(0 < len(piece) <= 2 * PIECE + LENGTH_BYTES for piece in pieces)
    views = [piece for piece in pieces if isinstance(piece, memoryview)]
    assert sum(map(len, views)) == sum(size for size in sizes if size > PIECE)
    assert {id(view.obj) for view in views} == {id(payload) for payload in payloads if len(payload) > PIECE}
    assert list(Frames().feed(b"".join(pieces))) == payloads


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_body_that_ends_early_is_an_error(payload: bytes, data: st.DataObject) -> None:
    body = b"".join(framed([payload]))
    cut = data.draw(st.integers(1, len(body) - 1))
    frames = Frames()
    assert list(frames.feed(body[:cut])) == []
    with pytest.raises(ValueError, match="ends within a frame"):
        frames.finish()


def test_a_payload_that_is_too_large_is_refused_by_its_length_alone() -> None:
    assert list(Frames(largest=10).feed(b"".join(framed([bytes(10)])))) == [bytes(10)]
    with pytest.raises(ValueError, match="too large"):
        list(Frames(largest=10).feed((11).to_bytes(LENGTH_BYTES, "big")))


def test_there_are_only_so_many_payloads() -> None:
    assert len(list(Frames(most=3).feed(b"".join(framed([b""] * 3))))) == 3
    with pytest.raises(ValueError, match="too many"):
        list(Frames(most=3).feed(b"".join(framed([b""] * 4))))


@given(st.floats(0, 4e9), st.floats(0, 1000))
def test_headers_say_who_asks_when_and_for_how_long(now: float, wait: float) -> None:
    envelope = read_envelope(sealed_headers(KEY, PULL, now, wait))
    assert envelope.public_key == KEY.public_key
    assert 0 <= now - envelope.time < 1
    assert abs(envelope.wait / 1000 - wait) < 0.001
    assert verify(envelope.public_key, LABEL, envelope.statement(PULL), envelope.signature)
    assert not verify(envelope.public_key, LABEL, envelope.statement(ALIVE), envelope.signature)


@given(
    st.dictionaries(
        st.sampled_from(("tacit-key", "tacit-time", "tacit-wait", "tacit-signature")),
        st.text(max_size=140) | st.text("0123456789abcdef", min_size=64, max_size=64),
    )
)
def test_any_headers_are_read_or_refused(headers: dict[str, str]) -> None:
    try:
        read_envelope(sealed_headers(KEY, PULL, 1.0) | headers)
    except ValueError:
        return


@pytest.mark.parametrize("time", ["", "-1", "1e9", "٣", "²", "1 ", "9" * 13])
def test_a_time_is_a_plain_number(time: str) -> None:
    with pytest.raises(ValueError, match="not those of an agent"):
        read_envelope(sealed_headers(KEY, PULL, 1.0) | {"tacit-time": time})
