"""Clipping: no contribution is longer than the noise was made for, and the length adapts to what clients send."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.errors import LocalProtocolError, PrivacyError

CLIP_BIT_L2: Final = 0.5
"""What the clip bit's block is clipped to: the bit travels as +1/2 or -1/2, so its L2 sensitivity is a half."""


def clip_l2(vector: NDArray[np.floating], l2_clip: float) -> tuple[NDArray[np.float64], bool]:
    """Return `vector` scaled to a norm of at most `l2_clip`, shape unchanged, and whether it was short enough already.

    `v min(1, C / |v|_2)` in float64, so up to rounding (about 1e-16 relative): distributed noise rests on the integer
    check of `grid.round_within`, not on this length. Edge cases: the zero vector stays zero and counts as unclipped; a
    vector of exactly `l2_clip` is unclipped; values so large that the norm overflows are scaled first.

    Raises:
        PrivacyError: the clip is not positive and finite.
        LocalProtocolError: a value is NaN or infinite; such an update is never sent.
    """
    if not 0.0 < l2_clip < math.inf:
        raise PrivacyError(f"an L2 clip is positive and finite, not {l2_clip!r}")
    values = vector.astype(np.float64)
    if not np.isfinite(values).all():
        raise LocalProtocolError("an update has a value that is not finite")
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0.0:
        return values, True
    # Not by `linalg.norm`: the linear algebra library behind it shares a long vector out to as many threads as there
    # are cores. The last bits then differ from machine to machine, and the threads spin on for a while.
    shares = values / largest
    relative = math.sqrt(float(np.square(shares, out=shares).sum()))
    if largest * relative <= l2_clip:
        return values, True
    return values * (l2_clip / relative / largest), False


def clip_bit(unclipped: bool) -> float:
    """Return what a client contributes to the count of unclipped clients: +1/2 if it was not clipped, else -1/2.

    Centred, because a contribution of norm 1/2 costs half of what one of norm 1 does (Andrew et al. 2021, section 2.2).
    """
    return CLIP_BIT_L2 if unclipped else -CLIP_BIT_L2


def unclipped_fraction(bit_sum: float, clients: float) -> float:
    """Return the noised fraction of unclipped clients from the noised sum of bits, limited to `[0, 1]`.

    Args:
        bit_sum: the sum of `clip_bit` over the contributors, noise included.
        clients: the public number that it is over: the survivors, or the fixed denominator of Poisson sampling.
    """
    if not clients > 0:
        raise PrivacyError(f"a fraction is of a positive number of clients, not {clients!r}")
    return min(1.0, max(0.0, bit_sum / clients + 0.5))


@dataclass(frozen=True)
class AdaptiveClip:
    """A clip that follows a quantile of the clients' norms: `C <- C exp(-eta (b - gamma))` (Andrew et al. 2021).

    `b` is the noised fraction of UNCLIPPED clients: when more are unclipped than `quantile` asks for, the clip shrinks.
    The step is post-processing; the bit that it needs is a block of the masked vector, and its cost is in the event.

    Attributes:
        l2_clip: the current clip, in the update's units.
        quantile: gamma, the fraction of clients that should be unclipped.
        learning_rate: eta of the step.
        smallest: the clip never falls below this.
        largest: the clip never rises above this.
    """

    l2_clip: float
    quantile: float = 0.5
    learning_rate: float = 0.2
    smallest: float = 1e-6
    largest: float = 1e6

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not 0.0 < self.smallest <= self.l2_clip <= self.largest < math.inf:
            raise PrivacyError(f"an adaptive clip lies in [{self.smallest}, {self.largest}], not at {self.l2_clip}")
        if not 0.0 < self.quantile < 1.0 or not 0.0 < self.learning_rate < math.inf:
            raise PrivacyError("an adaptive clip has a quantile within (0, 1) and a positive learning rate")

    def step(self, fraction: float) -> AdaptiveClip:
        """Return the clip of the next round, given the noised fraction of unclipped clients."""
        if not 0.0 <= fraction <= 1.0:
            raise PrivacyError(f"a fraction of clients is within [0, 1], not {fraction!r}")
        moved = self.l2_clip * math.exp(-self.learning_rate * (fraction - self.quantile))
        return replace(self, l2_clip=min(self.largest, max(self.smallest, moved)))


def clip_bit_scale(update_length: float, noise_multiplier: float, bit_noise: float) -> float:
    """Return the scale of the clip bit's block that leaves noise of standard deviation `bit_noise` on the count.

    The blocks share one noise of standard deviation `z S` with `S^2 = L^2 + (s_bit / 2)^2`, so
    `S^2 = L^2 / (1 - (z / (2 sigma_b))^2)` and `s_bit = z S / sigma_b`; in integer units what
    Andrew et al. 2021 prove in theorem 1.

    Args:
        update_length: L, the scaled length of the other blocks, in integer units.
        noise_multiplier: z, noise over sensitivity of the whole contribution.
        bit_noise: sigma_b, in clients; a twentieth of the cohort is a good choice.

    Raises:
        PrivacyError: `bit_noise` is at most `z / 2`: the bit alone would use the whole budget.
    """
    if not bit_noise > noise_multiplier / 2:
        raise PrivacyError(f"the clip bit needs noise above {noise_multiplier / 2:g} clients, not {bit_noise:g}")
    total = update_length / math.sqrt(1.0 - (noise_multiplier / (2.0 * bit_noise)) ** 2)
    return noise_multiplier * total / bit_noise


def update_noise_multiplier(noise_multiplier: float, bit_noise: float) -> float:
    """Return the noise multiplier left for the update when the clip bit is released with noise `bit_noise`.

    `(z^-2 - (2 sigma_b)^-2)^(-1/2)`, larger than z: together the two releases cost what one at z does (Andrew et al.
    2021, theorem 1). For central Gaussian noise; on the grid the blocks' common length says the same.

    Raises:
        PrivacyError: `bit_noise` is at most `z / 2`.
    """
    if not bit_noise > noise_multiplier / 2:
        raise PrivacyError(f"the clip bit needs noise above {noise_multiplier / 2:g} clients, not {bit_noise:g}")
    return 1.0 / math.sqrt(noise_multiplier**-2 - (2.0 * bit_noise) ** -2)
