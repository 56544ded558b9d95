"""The mechanisms: each returns the private value and the event that says what it cost.

Adjacency, unless said otherwise, is zero-out: the contribution of one client becomes zero, its noise stays and the
number of survivors is public (dp-accounting's REPLACE_SPECIAL).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from dp_accounting import dp_event
from numpy.typing import NDArray
from scipy import special

from tacit.privacy.clipping import clip_l2
from tacit.privacy.errors import LocalProtocolError, PrivacyError
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.grid import IntegerBound
from tacit.privacy.skellam import Words, draw_error, skellam_sampler

_CHUNK: Final = 1 << 16


def honest_shares(survivors: int, colluders: int) -> int:
    """Return how many shares of noise count among `survivors`: those that no colluder made and can subtract.

    Raises:
        PrivacyError: none would be left.
    """
    if colluders < 0 or survivors <= colluders:
        raise PrivacyError(f"{survivors} survivors with {colluders} colluders leave no noise that counts")
    return survivors - colluders


def local_variance(target: float, min_survivors: int, colluders: int) -> float:
    """Return the variance of each client's share so that `min_survivors` of them leave `target` after the colluders.

    `mu_local = mu_target / (U_min - c)`: whoever drops out above `min_survivors` only removes noise that was spare.
    """
    return target / honest_shares(min_survivors, colluders)


def skellam_event(bound: IntegerBound, share_variance: float, shares: int) -> SkellamDpEvent:
    """Return the event of a sum in which `shares` shares of noise count, each `Sk(share_variance)` a coordinate.

    Nothing is rescaled by a number that anybody else claims: fewer shares mean less noise, accounted as such.
    """
    if shares < 1:
        raise PrivacyError(f"at least one share of noise must count, not {shares}")
    error = min(1.0, shares * bound.dimension * draw_error(share_variance))
    return SkellamDpEvent(bound.l2, bound.l1, shares * share_variance, error)


def skellam_share(
    values: NDArray[np.int64], bound: IntegerBound, share_variance: float, shares: int, words: Words
) -> tuple[NDArray[np.int64], SkellamDpEvent]:
    """Add one client's share of distributed Skellam noise to its integer contribution, shape `(dimension,)`.

    Guarantee: the sum of such contributions satisfies Renyi differential privacy as `accounting.skellam_rdp` gives it
    for the event, against anybody who sees the sum and knows all but `shares` shares of the noise. Reduction modulo
    2^B and everything after is post-processing.

    Assumptions: at least `shares` of the contributors added their share and reveal it to nobody; the observer sees the
    sum alone, so this goes under secure aggregation. With `shares = 1` a client relies on nobody: its contribution is
    private by itself, masked or not (`local`).

    Edge cases: an integer contribution longer than `bound` is refused before any noise is drawn; a vector of zeros
    gets the same noise as any other.

    Raises:
        LocalProtocolError: the contribution is longer than the bound that the event states.
        PrivacyError: no share would count, or the variance is out of the sampler's range.
    """
    event = skellam_event(bound, share_variance, shares)
    if not bound.holds_for(values):
        raise LocalProtocolError("an integer contribution is longer than its bound")
    return values + skellam_sampler(share_variance).draw(words, values.size), event


def central_gaussian(
    total: NDArray[np.floating], l2_clip: float, noise_multiplier: float, words: Words
) -> tuple[NDArray[np.float64], dp_event.GaussianDpEvent]:
    """Add Gaussian noise of standard deviation `noise_multiplier l2_clip` to a sum, shape unchanged.

    Guarantee: that of the Gaussian mechanism, against whoever sees the result. Against whoever adds the noise, the
    coordinator, it is worth nothing. Assumptions: every summand had an L2 norm of at most `l2_clip`, which under masks
    rests on the clients' honesty; the sum is over a fixed or public number of clients.

    Floating point: a float sum is no real number and its low bits can betray the noise (Mironov 2012). Each draw is
    half the sum of four, which leaves nobody able to search for the words behind it (Holohan and Braghin 2021); noise
    on the integer grid, `skellam_share`, has no such gap.

    Raises:
        PrivacyError: the clip or the noise multiplier is not positive and finite.
        LocalProtocolError: a value is not finite.
    """
    if not (0.0 < l2_clip < math.inf and 0.0 < noise_multiplier < math.inf):
        raise PrivacyError(f"clip and noise multiplier are positive and finite, not {l2_clip!r}, {noise_multiplier!r}")
    if not np.isfinite(total).all():
        raise LocalProtocolError("a sum has a value that is not finite")
    noise = standard_normals(words, total.size).reshape(total.shape)
    return total + noise * (noise_multiplier * l2_clip), dp_event.GaussianDpEvent(noise_multiplier)


def local_gaussian(
    update: NDArray[np.floating], l2_clip: float, noise_multiplier: float, words: Words
) -> tuple[NDArray[np.float64], dp_event.GaussianDpEvent]:
    """Clip one client's update to `l2_clip` and add Gaussian noise that makes it private by itself, shape unchanged.

    Guarantee: that of the Gaussian mechanism, against everybody, the coordinator included, whatever others do. For the
    floating-point caveat see `central_gaussian`.

    Raises:
        PrivacyError: the clip or the noise multiplier is not positive and finite.
        LocalProtocolError: a value is not finite.
    """
    clipped, _ = clip_l2(update, l2_clip)
    return central_gaussian(clipped, l2_clip, noise_multiplier, words)


def standard_normals(words: Words, count: int) -> NDArray[np.float64]:
    """Draw `count` standard normal values, shape `(count,)`: each half the sum of four inverted 52-bit uniforms."""
    normals = np.empty(count)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        uniform = ((words.words64(4 * size) >> np.uint64(12)) + 0.5) * 2.0**-52  # exact: neither 0 nor 1
        normals[start : start + size] = special.ndtri(uniform).reshape(4, size).sum(axis=0) / 2.0
    return normals
