"""Values to integers and back: unbiased, exact where promised, never wrapped; and packing without loss."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tacit.privacy.errors import LocalProtocolError, RemoteProtocolError
from tacit.privacy.randomness import Keystream
from tacit.privacy.rotation import rotate
from tacit.privacy.secagg.encoding import (
    CHUNK,
    add_packed,
    centre,
    decode,
    decode_over,
    encode,
    join_limbs,
    pack,
    packed_bytes,
    prepare,
    reduce,
    split_limbs,
    unpack,
    zeros,
)
from tacit.privacy.secagg.layout import (
    Block,
    Infeasible,
    Layout,
    WideBlock,
    bits_for,
    check_fits,
    fits,
    largest_scale,
    noise_reach,
)

SEED = bytes(32)
BITS = (16, 24, 32)


def stream(byte=b"r"):
    return Keystream(byte * 32)


def encoded(values, clip, scale, byte=b"r"):
    layout = Layout((Block("x", len(values), clip, scale),))
    return encode(layout, {"x": np.asarray(values, float)}, SEED, stream(byte))


@given(arrays(np.float64, st.integers(1, 50), elements=st.floats(-100, 100)), st.floats(0.01, 1000))
def test_a_rounded_value_is_one_of_the_two_integers_around_it(values, scale):
    scaled = np.clip(values, -50, 50) * scale
    rounded = encoded(values, 50.0, scale)
    assert np.all((rounded == np.floor(scaled)) | (rounded == np.floor(scaled) + 1))
    on_the_grid = scaled == np.floor(scaled)
    assert np.all(rounded[on_the_grid] == scaled[on_the_grid])
    assert np.abs(rounded).max() <= Block("x", 1, 50.0, scale).bound


@pytest.mark.parametrize("fraction", [0.0, 1e-6, 0.1, 0.5, 0.75, 0.999])
@pytest.mark.parametrize("whole", [-3, 0, 40_000])
def test_rounding_is_unbiased(fraction, whole):
    # floor(x + u) is whole + Bernoulli(fraction): the mean of n draws is within five standard errors.
    count = 400_000
    rounded = encoded(np.full(count, whole + fraction), 50_000.0, 1.0) - whole
    assert set(np.unique(rounded)) <= {0, 1}
    exact = Fraction(whole + fraction) - whole
    error = 5 * (float(exact * (1 - exact)) / count) ** 0.5
    assert abs(rounded.mean() - float(exact)) <= error + 1e-12


def test_rounding_is_independent_of_where_the_chunks_end():
    values = np.random.default_rng(0).normal(size=2 * CHUNK + 77)
    rounded = encoded(values, 3.0, 100.3)
    word = stream().words32(values.size)
    scaled = np.clip(values, -3, 3) * 100.3
    below = np.floor(scaled)
    np.testing.assert_array_equal(rounded, below + (word < (scaled - below) * 2.0**32))


def test_other_draws_round_otherwise_and_float32_is_widened_exactly():
    values = np.random.default_rng(0).normal(size=1000)
    assert not np.array_equal(encoded(values, 3.0, 100.0), encoded(values, 3.0, 100.0, b"q"))
    single = values.astype(np.float32)
    layout = Layout((Block("x", 1000, 3.0, 100.0),))
    np.testing.assert_array_equal(
        encode(layout, {"x": single}, SEED, stream()), encode(layout, {"x": single.astype(float)}, SEED, stream())
    )


@given(st.data())
@settings(max_examples=60)
def test_the_largest_scale_never_wraps_and_a_sum_at_every_bound_comes_back(data):
    bits = data.draw(st.sampled_from(BITS))
    clients = data.draw(st.integers(2, 500))
    clip = data.draw(st.floats(1e-3, 1e3))
    reach = data.draw(st.integers(0, 1000))
    try:
        scale = largest_scale(clip, clients, bits, reach)
    except Infeasible:
        assume(False)
    block = Block("x", 2, clip, scale)
    assert clients * block.bound + reach < 2 ** (bits - 1) + clients  # one grid step of rounding in the product
    block = Block("x", 2, clip, scale * (1 - 1e-9))
    layout = Layout((block,))
    assert clients * block.bound + reach < 2 ** (bits - 1)
    assert fits(layout, clients, 0.0, bits)
    extremes = np.array([block.bound, -block.bound])
    total = zeros(2, bits)
    for _ in range(clients):
        np.add(total, reduce(extremes, bits), out=total)
    np.testing.assert_array_equal(centre(total, bits), clients * extremes)


def test_one_client_or_one_step_more_than_fits_would_wrap():
    # 127 clients of bound 258 stay below 2^15; 128 reach 33,024.
    layout = Layout((Block("x", 1, 257.0, 1.0),))
    assert layout.blocks[0].bound == 258 and 127 * 258 == 32_766
    assert fits(layout, 127, 0.0, 16) and not fits(layout, 128, 0.0, 16)
    assert bits_for(layout, 127) == 16 and bits_for(layout, 128) == 24
    total = zeros(1, 16)
    for _ in range(128):
        np.add(total, reduce(np.array([258]), 16), out=total)
    assert centre(total, 16)[0] == 128 * 258 - 2**16
    check_fits(layout, 127, 0.0, 16)
    with pytest.raises(RemoteProtocolError, match="overflow"):
        check_fits(layout, 128, 0.0, 16)


def test_noise_needs_room_and_gets_it():
    layout = Layout((Block("x", 1000, 10.0, 20.0),))
    reach = noise_reach(layout, 50, 100.0)
    # The summed noise has standard deviation sqrt(5000) = 70.7; 2^-40 over 1000 coordinates is 8 to 9 of those.
    assert 8 * 70.7 < reach < 9.5 * 70.7
    assert noise_reach(layout, 50, 0.0) == 0
    assert fits(layout, 100, 0.0, 16) and fits(layout, 100, 4000.0, 16)
    assert not fits(layout, 160, 4000.0, 16) and fits(layout, 160, 0.0, 16)


@pytest.mark.parametrize(
    ("block", "noise", "advice"),
    [
        (Block("update", 10, 1.0, 1e8), 0.0, "lower its scale from 1e+08 to at most"),
        (WideBlock("sums", 10, 20, 20, 24), 0.0, "limb bits"),
        (Block("update", 10, 1.0, 1.0), 1e16, "lower the noise or the number of clients"),
    ],
)
def test_what_does_not_fit_into_32_bits_is_refused_with_the_number_to_change(block, noise, advice):
    with pytest.raises(Infeasible) as caught:
        bits_for(Layout((block,)), 1000, noise)
    assert block.name in caught.value.what and advice in caught.value.change
    if "scale" in advice:
        scale = float(caught.value.change.rsplit(" ", 1)[1])
        assert bits_for(Layout((Block("update", 10, 1.0, scale),)), 1000) == 32


def test_no_grid_at_all_is_refused():
    with pytest.raises(Infeasible, match="more bits or fewer clients"):
        largest_scale(1.0, 20_000, 16)


FINITE = st.floats(-(2.0**60), 2.0**60, allow_subnormal=True)


@given(st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=1, max_size=6), st.integers(1, 16))
@settings(max_examples=80)
def test_the_sum_of_wide_values_is_exact_whatever_their_range(members, limb_bits):
    block = WideBlock("s", 3, 60, 40, limb_bits)
    total = sum(split_limbs(block, np.array(values)).astype(np.int64) for values in members)
    assert np.abs(total).max() <= len(members) * block.bound
    expected = [sum(round(Fraction(values[at]) * 2**40) for values in members) for at in range(3)]
    assert list(join_limbs(block, total.astype(np.int32))) == expected


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_wide_value_fits_and_a_larger_one_is_refused_rather_than_clamped(sign):
    block = WideBlock("s", 1, 20, 11, 8)
    assert block.limbs == 4
    assert join_limbs(block, split_limbs(block, np.array([sign * 2.0**20]))) == (int(sign) << 31,)
    with pytest.raises(LocalProtocolError, match="beyond 2\\^20; nothing was sent"):
        split_limbs(block, np.array([sign * np.nextafter(2.0**20, np.inf)]))


def test_wide_and_plain_blocks_side_by_side_come_back():
    layout = Layout((WideBlock("squares", 2, 70, 10), Block("x", 3, 5.0, 10.0), WideBlock("count", 1, 20, 0)))
    assert layout.dimension == 2 * 6 + 3 + 2
    values = {"squares": np.array([2.0**69, -3.5]), "x": np.array([0.1, -0.2, 5.0]), "count": np.array([1e6])}
    found = decode(layout, encode(layout, values, SEED, stream()) * 1, SEED)
    np.testing.assert_array_equal(found.blocks["squares"], values["squares"])
    np.testing.assert_array_equal(found.blocks["count"], values["count"])
    np.testing.assert_allclose(found.blocks["x"], values["x"])
    assert found.exact == {"squares": (2**79, -3584), "count": (1_000_000,)}


def test_a_rotated_block_is_flattened_before_and_restored_after():
    layout = Layout((Block("x", 1000, 1.0, 1e6, rotated=True),))
    spike = np.zeros(1000)
    spike[3] = 5.0  # five times the clip: unrotated, four fifths would be cut off
    seed = b"p" * 32
    integers = encode(layout, {"x": spike}, seed, stream())
    assert np.abs(integers).max() < 1e6
    np.testing.assert_allclose(decode(layout, integers, seed).blocks["x"], spike, atol=1e-4)
    prepared = prepare(layout, {"x": spike}, seed)
    np.testing.assert_array_equal(prepared, np.clip(rotate(spike, seed), -1, 1) * 1e6)
    assert np.all(np.abs(integers - prepared) < 1)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_a_sum_that_is_decoded_where_it_lies_is_the_same_but_for_float32_of_what_was_rotated(bits):
    layout = Layout(
        (Block("update", 1000, 8.0, 1.0, rotated=True), Block("loss", 2, 8.0, 1.0), WideBlock("rows", 2, 4, 2))
    )
    integers = np.random.default_rng(bits).integers(-(2 ** (bits - 2)), 2 ** (bits - 2), layout.dimension)
    integers = integers.astype(np.int32)
    expected = decode(layout, integers, SEED).blocks
    found = decode_over(layout, reduce(integers, bits), bits, SEED)
    assert {name: values.dtype for name, values in found.items()} == {
        "update": np.float32,
        "loss": np.float64,
        "rows": np.float64,
    }
    for name in ("loss", "rows"):
        np.testing.assert_array_equal(found[name], expected[name])
    off = np.linalg.norm(found["update"] - expected["update"])
    assert off <= 5.1 * 2.0**-24 * np.linalg.norm(expected["update"])


def test_a_sum_of_32_bit_words_is_decoded_in_its_own_memory():
    layout = Layout((Block("update", 1000, 8.0, 1.0, rotated=True),))
    total = zeros(1000, 24)
    assert np.shares_memory(decode_over(layout, total, 24, SEED)["update"], total)


def test_wide_blocks_have_no_form_for_noise():
    with pytest.raises(LocalProtocolError, match="never with noise"):
        prepare(Layout((WideBlock("s", 1, 5, 5),)), {"s": np.zeros(1)}, SEED)


@pytest.mark.parametrize("bits", BITS)
@given(data=st.data())
@settings(max_examples=40)
def test_packing_is_lossless_and_as_long_as_it_says(bits, data):
    values = data.draw(
        arrays(np.int64, st.integers(1, 60), elements=st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    )
    total = reduce(values, bits)
    packed = pack(total, bits)
    assert packed.dtype == np.uint8 and packed.shape == (values.size * bits // 8,)
    assert packed_bytes(values.size, bits) == packed.size
    np.testing.assert_array_equal(centre(unpack(packed, values.size, bits), bits), values)
    doubled = total.copy()
    add_packed(doubled, packed, bits)
    np.testing.assert_array_equal(centre(doubled, bits), ((2 * values + 2 ** (bits - 1)) % 2**bits) - 2 ** (bits - 1))


@pytest.mark.parametrize("bits", BITS)
def test_packing_crosses_chunks_and_reads_arrays_that_are_not_aligned(bits):
    size = 2 * CHUNK + 3
    values = np.arange(size) % 20_000 - 10_000
    packed = pack(reduce(values, bits), bits)
    shifted = np.frombuffer(b"x" + packed.tobytes(), np.uint8)[1:]
    np.testing.assert_array_equal(centre(unpack(shifted, size, bits), bits), values)


@pytest.mark.parametrize("bits", BITS)
def test_a_packed_vector_of_another_length_or_kind_is_refused(bits):
    total = zeros(10, bits)
    good = pack(total, bits)
    for packed in (good[:-1], np.append(good, np.uint8(0)), good.view(np.int8), good.reshape(2, -1)):
        with pytest.raises(ValueError, match="no vector of 10 coordinates"):
            add_packed(total, packed, bits)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Block("x", 0, 1.0, 1.0),
        lambda: Block("x", 1, 0.0, 1.0),
        lambda: Block("x", 1, 1.0, float("inf")),
        lambda: Block("x", 1, float("nan"), 1.0),
        lambda: Block("x", 1, 65536.0, 32768.0),
        lambda: Block("no spaces", 1, 1.0, 1.0),
        lambda: WideBlock("x", 0, 1, 1),
        lambda: WideBlock("x", 1, 513, 1),
        lambda: WideBlock("x", 1, 1, 1, 25),
        lambda: Layout(()),
        lambda: Layout((Block("x", 1, 1.0, 1.0), Block("x", 1, 1.0, 1.0))),
        lambda: Layout((Block("x", 1 << 30, 1.0, 1.0), Block("y", 1, 1.0, 1.0))),
    ],
)
def test_blocks_and_layouts_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match="."):
        make()
