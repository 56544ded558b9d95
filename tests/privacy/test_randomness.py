"""Keys from labels, and keystreams checked against the published vectors of counter mode."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.randomness import (
    CHUNK_BYTES,
    Keystream,
    Randomness,
    SeededRandomness,
    SystemRandomness,
    encode_label,
)

LABELS = st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=4).map(tuple)


@given(LABELS, LABELS)
def test_different_labels_never_share_an_encoding(one, other):
    same = [(type(part), part) for part in one] == [(type(part), part) for part in other]
    assert (encode_label(*one) == encode_label(*other)) is same


def test_a_label_and_its_pieces_or_its_text_form_are_told_apart():
    source = SeededRandomness(bytes(32))
    keys = {source.key("a", "b"), source.key("ab"), source.key("1"), source.key(1), source.key()}
    assert len(keys) == 5


def test_the_same_seed_and_label_give_the_same_key_and_another_seed_another():
    assert SeededRandomness(b"s" * 32).key("noise", 3) == SeededRandomness(b"s" * 32).key("noise", 3)
    assert SeededRandomness(b"s" * 32).key("noise", 3) != SeededRandomness(b"t" * 32).key("noise", 3)


def test_a_label_takes_no_truth_value_or_bytes():
    for part in (True, b"x", 1.5, None):
        with pytest.raises(TypeError, match="text and integers"):
            encode_label(part)


def test_system_keys_never_repeat_even_for_one_label():
    source: Randomness = SystemRandomness()
    keys = {source.key("same") for _ in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {32}


def test_no_representation_shows_a_seed_or_key():
    secret = bytes(range(32))
    for shown in (repr(SeededRandomness(secret)), repr(Keystream(secret))):
        assert "hidden" in shown
        assert secret.hex() not in shown and repr(secret) not in shown


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_seeds_and_keys_of_another_length_are_refused(length):
    with pytest.raises(ValueError, match="32 bytes"):
        SeededRandomness(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        Keystream(bytes(length))


def test_the_stream_is_aes_256_of_the_counter():
    # The first blocks are AES-256 of 0, 1, 2, ... under the key: checked against single-block ECB.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes(range(32))
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    expected = b"".join(block.update(counter.to_bytes(16, "big")) for counter in range(5))
    assert Keystream(key).bytes(80) == expected


@given(st.lists(st.integers(0, 300), max_size=8))
def test_reading_in_pieces_gives_the_same_stream(pieces):
    stream = Keystream(b"k" * 32)
    assert b"".join(stream.bytes(piece) for piece in pieces) == Keystream(b"k" * 32).bytes(sum(pieces))


def test_words_are_little_endian_and_cross_chunks():
    count = CHUNK_BYTES // 4 + 5
    raw = Keystream(b"k" * 32).bytes(8 * count)
    np.testing.assert_array_equal(Keystream(b"k" * 32).words32(2 * count), np.frombuffer(raw, "<u4"))
    np.testing.assert_array_equal(Keystream(b"k" * 32).words64(count), np.frombuffer(raw, "<u8"))


def test_a_buffer_is_filled_in_place():
    buffer = np.ones(1000, dtype=np.uint16)
    Keystream(b"k" * 32).update_into(buffer)
    assert buffer.tobytes() == Keystream(b"k" * 32).bytes(2000)


def test_a_stream_can_be_entered_at_any_block():
    assert Keystream(b"k" * 32, first_block=3).bytes(40) == Keystream(b"k" * 32).bytes(88)[48:]


def test_reading_nothing_is_allowed():
    stream = Keystream(b"k" * 32)
    assert stream.words32(0).shape == stream.words64(0).shape == (0,)
    assert stream.bytes(0) == b""
