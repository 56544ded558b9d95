"""Masks cancel in sums and hide everything else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg.encoding import CHUNK, pack, reduce
from tacit.privacy.secagg.layout import Block, Layout
from tacit.privacy.secagg.masks import Mask, apply
from tacit.privacy.secagg.progress import Phase


@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.sampled_from([1, -1])), max_size=5))
@settings(max_examples=25)
def test_a_mask_and_its_opposite_leave_nothing(masks):
    for dtype in (np.uint16, np.uint32):
        vector = np.arange(500, dtype=dtype)
        apply([Mask(key, sign) for key, sign in masks], vector)
        apply([Mask(key, -sign) for key, sign in masks], vector)
        np.testing.assert_array_equal(vector, np.arange(500))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_a_mask_is_the_keystream_from_counter_zero_whatever_the_chunks_and_threads(dtype, threads):
    size = 3 * CHUNK + 1001
    vector = np.zeros(size, dtype=dtype)
    apply([Mask(b"k" * 32, 1), Mask(b"l" * 32, -1)], vector, threads)
    first, second = (
        np.frombuffer(Keystream(key * 32).bytes(size * vector.itemsize), f"<u{vector.itemsize}") for key in (b"k", b"l")
    )
    np.testing.assert_array_equal(vector, first - second)


def test_no_masks_change_nothing_and_a_representation_hides_the_key():
    vector = np.arange(10, dtype=np.uint32)
    apply([], vector)
    np.testing.assert_array_equal(vector, np.arange(10))
    assert repr(Mask(b"k" * 32, -1)) == "Mask(sign=-1, key hidden)"


def chi_square_of_bytes(packed):
    """255 degrees of freedom: mean 255, standard deviation 22.6; five of those are 113."""
    counts = np.bincount(packed, minlength=256)
    expected = packed.size / 256
    return float((np.square(counts - expected) / expected).sum())


INPUTS = {
    "zeros": lambda size: np.zeros(size),
    "ones": lambda size: np.ones(size),
    "the largest": lambda size: np.full(size, 100.0),
    "one spike": lambda size: np.eye(1, size, 5)[0] * 100,
    "a ramp": lambda size: np.linspace(-100, 100, size),
    "bytes of 0xff": lambda size: np.full(size, -1.0),
}


@pytest.mark.parametrize("scale", [1.0, 300.0, 2_000_000.0])
@pytest.mark.parametrize("name", INPUTS)
def test_a_masked_vector_is_uniform_whatever_the_input(scene, name, scale):
    size = 200_000
    here = scene(3, layout=Layout((Block("update", size, clip=100.0, scale=scale),))).until(Phase.MASK)
    assert here.offer.bits == {1.0: 16, 300.0: 24, 2_000_000.0: 32}[scale]
    values = {"update": INPUTS[name](size)}
    client = here.clients["m0001"]
    client.contribute(values, ledger_head=bytes(32), ledger_counter=0)
    # The plain vector is nowhere near uniform, so the test can fail.
    assert chi_square_of_bytes(pack(client._input, here.offer.bits)) > 10_000
    reply = client.receive(here.server.request("m0001"))
    assert abs(chi_square_of_bytes(reply.vector) - 255) < 113
    if here.offer.bits == 24:  # each plane by itself as well
        assert abs(chi_square_of_bytes(reply.vector[: 2 * size]) - 255) < 113
        assert abs(chi_square_of_bytes(reply.vector[2 * size :]) - 255) < 113
    # And not correlated with the input.
    words = reply.vector.view("<u2")[:size].astype(float) if here.offer.bits != 32 else reply.vector.view("<u4") * 1.0
    if np.std(values["update"]) > 0:
        assert abs(np.corrcoef(words, values["update"])[0, 1]) < 5 / size**0.5


def test_two_masked_vectors_of_one_input_have_nothing_in_common(scene):
    size = 50_000
    seen = []
    for attempt in range(2):
        here = scene(3, layout=Layout((Block("update", size, 100.0, 1.0),)), attempt=attempt).until(Phase.MASK)
        here.clients["m0000"].contribute({"update": np.ones(size)}, ledger_head=bytes(32), ledger_counter=0)
        seen.append(here.clients["m0000"].receive(here.server.request("m0000")).vector.view("<u2"))
    difference = seen[0] - seen[1]
    assert abs(chi_square_of_bytes(difference.view(np.uint8)) - 255) < 113
    assert reduce(np.ones(3, int), 16).dtype == np.uint16
