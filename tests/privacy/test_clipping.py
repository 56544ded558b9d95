"""Clipping, and the clip that follows a quantile."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tacit.privacy.clipping import (
    AdaptiveClip,
    clip_bit,
    clip_bit_scale,
    clip_l2,
    unclipped_fraction,
    update_noise_multiplier,
)
from tacit.privacy.errors import LocalProtocolError, PrivacyError

vectors = arrays(np.float64, st.integers(0, 20), elements=st.floats(-1e300, 1e300))


@given(vectors, st.floats(1e-6, 1e6))
def test_no_clipped_vector_is_longer_than_the_clip_and_its_direction_stays(vector: np.ndarray, clip: float) -> None:
    clipped, unclipped = clip_l2(vector, clip)
    length = math.hypot(*clipped)
    assert length <= clip * (1 + 1e-12)
    if unclipped:
        assert np.array_equal(clipped, vector)
    else:
        assert length == pytest.approx(clip, rel=1e-12)
        largest = np.argmax(np.abs(vector))
        assert clipped / clipped[largest] == pytest.approx(vector / vector[largest], abs=1e-12)


def test_a_vector_of_exactly_the_clip_counts_as_unclipped_and_so_does_zero() -> None:
    assert clip_l2(np.array([3.0, 4.0]), 5.0)[1]
    assert not clip_l2(np.array([3.0, 4.0]), 4.999)[1]
    assert clip_l2(np.zeros(3), 1.0)[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_never_clipped_into_shape(bad: float) -> None:
    with pytest.raises(LocalProtocolError, match="not finite"):
        clip_l2(np.array([1.0, bad]), 1.0)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_that_bounds_nothing_is_refused(clip: float) -> None:
    with pytest.raises(PrivacyError, match="clip"):
        clip_l2(np.ones(2), clip)


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_the_fraction_is_what_the_bits_say_when_nothing_noises_them(unclipped: list[bool]) -> None:
    fraction = unclipped_fraction(sum(clip_bit(one) for one in unclipped), len(unclipped))
    assert fraction == pytest.approx(sum(unclipped) / len(unclipped))


def test_noise_beyond_every_possible_count_is_cut_to_a_fraction() -> None:
    assert unclipped_fraction(-100.0, 10) == 0.0
    assert unclipped_fraction(100.0, 10) == 1.0
    with pytest.raises(PrivacyError):
        unclipped_fraction(1.0, 0)


def test_the_clip_shrinks_when_more_clients_are_unclipped_than_asked_for() -> None:
    clip = AdaptiveClip(2.0, quantile=0.5, learning_rate=0.2)
    assert clip.step(0.75).l2_clip == pytest.approx(2.0 * math.exp(-0.2 * 0.25))
    assert clip.step(0.25).l2_clip == pytest.approx(2.0 * math.exp(0.2 * 0.25))
    assert clip.step(0.5).l2_clip == 2.0


@pytest.mark.parametrize("start", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
def test_the_clip_finds_the_quantile_of_the_norms_from_either_side(start: float, quantile: float) -> None:
    norms = np.random.default_rng(3).lognormal(1.0, 0.5, size=2001)
    clip = AdaptiveClip(start, quantile=quantile)
    for _ in range(200):
        clip = clip.step(float(np.mean(norms <= clip.l2_clip)))
    assert float(np.mean(norms <= clip.l2_clip)) == pytest.approx(quantile, abs=0.02)


def test_the_clip_stays_within_its_limits() -> None:
    clip = AdaptiveClip(1.0, learning_rate=5.0, smallest=0.5, largest=2.0)
    assert clip.step(1.0).l2_clip == 0.5
    assert clip.step(0.0).l2_clip == 2.0
    with pytest.raises(PrivacyError):
        clip.step(1.5)


@pytest.mark.parametrize("settings", [{"l2_clip": 0.0}, {"l2_clip": 1.0, "quantile": 1.0}, {"l2_clip": math.nan}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(PrivacyError):
        AdaptiveClip(**settings)


@given(st.floats(0.1, 20.0), st.floats(0.6, 50.0))
def test_update_and_bit_together_cost_what_one_release_at_the_noise_multiplier_does(z: float, over: float) -> None:
    bit_noise = z * over
    update = update_noise_multiplier(z, bit_noise)
    # sensitivity over noise, squared, adds up: 1/z^2 for the pair, and the bit's sensitivity is a half
    assert update**-2 + (0.5 / bit_noise) ** 2 == pytest.approx(z**-2)
    assert update >= z


@given(st.floats(0.5, 1e4), st.floats(0.1, 20.0), st.floats(0.6, 50.0))
def test_on_the_grid_the_scale_of_the_bit_leaves_the_noise_that_was_asked_for(
    length: float, z: float, over: float
) -> None:
    bit_noise = z * over
    scale = clip_bit_scale(length, z, bit_noise)
    noise = z * math.hypot(length, scale / 2)
    assert noise / scale == pytest.approx(bit_noise)
    # and the update's own noise multiplier is the one that theorem 1 of Andrew et al. leaves it
    assert noise / length == pytest.approx(update_noise_multiplier(z, bit_noise))


def test_a_bit_that_would_use_up_the_whole_budget_is_refused() -> None:
    for function in (lambda: clip_bit_scale(1.0, 4.0, 2.0), lambda: update_noise_multiplier(4.0, 2.0)):
        with pytest.raises(PrivacyError, match="above 2 clients"):
            function()


def test_the_length_of_a_long_vector_does_not_depend_on_the_number_of_cores() -> None:
    program = """
import hashlib
import numpy as np
from tacit.privacy.clipping import clip_l2
vectors = np.random.default_rng(5).normal(size=(20, 100_003)).astype(np.float32)
print(hashlib.sha256(b"".join(clip_l2(vector, 1.0)[0].tobytes() for vector in vectors)).hexdigest())
"""

    def clipped(threads: int) -> str:
        set_to = os.environ | dict.fromkeys(
            ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)
        )
        return subprocess.run(  # noqa: S603 - our own words
            [sys.executable, "-c", program], env=set_to, capture_output=True, text=True, check=True
        ).stdout

    assert clipped(1) == clipped(2) != ""
