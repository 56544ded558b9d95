"""How much of a private round is signal: what the noise of a recipe leaves of the clients' updates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tacit.models.contributions import UPDATE
from tacit.models.noise import NoisePlan
from tacit.privacy.calibration import signal_to_noise
from tacit.privacy.secagg.layout import Block
from tacit.privacy.terms import RecordNoise

HOPELESS = 0.1
"""The ratio below which a round moves the model by noise, even if all updates point the same way."""


@dataclass(frozen=True)
class Signal:
    """The length of a round's sum over that of its noise, with updates (or gradients) as long as their clip allows.

    Attributes:
        aligned: if all of them point the same way; no round does better.
        orthogonal: if no two of them have anything in common, as single gradients of a trained model nearly do.
    """

    aligned: float
    orthogonal: float

    @property
    def hopeless(self) -> bool:
        """Say whether the noise drowns the signal."""
        return self.aligned < HOPELESS


def expected_signal(plan: NoisePlan, parameters: int, batch_size: float = 1.0) -> Signal:
    """Return what one round leaves of the updates of a full cohort; shorter updates have proportionally less.

    The clip cancels: it scales signal and noise alike.

    Args:
        plan: the round's noise.
        parameters: of the model: the coordinates whose noise moves it.
        batch_size: unit "example": how many examples a client's step is expected to have.

    Raises:
        PrivacyError: a number that must be positive is not.
    """
    clients, noise = plan.cohort, plan.terms.noise
    if isinstance(noise, RecordNoise):
        length, summands = plan.l2_clip * noise.steps * batch_size, clients * noise.steps * batch_size
        variance = clients * noise.steps * (noise.noise_multiplier * plan.l2_clip) ** 2
    else:
        length, summands, variance = _scale(plan) * plan.l2_clip, float(clients), summed_variance(plan)
    aligned, orthogonal = (
        signal_to_noise(
            update_l2=length, survivors=clients, dimension=parameters, noise_variance=variance, alignment=alignment
        )
        for alignment in (1.0, 1.0 / math.sqrt(max(1.0, summands)))
    )
    return Signal(aligned, orthogonal)


def summed_variance(plan: NoisePlan) -> float:
    """Return the variance of each coordinate's noise in a full cohort's sum, unit "client".

    In squared grid steps if the round is masked, in the updates' own squared unit otherwise.
    """
    if plan.share_variance:
        return plan.cohort * plan.share_variance
    if plan.terms.place == "local":
        return plan.cohort * (plan.noise_multiplier * plan.l2_clip) ** 2
    shrunk = (plan.denominator or plan.cohort) / plan.noise_cohort if plan.noise_cohort else 1.0
    length = plan.bound.l2 if plan.bound is not None else plan.l2_clip
    return (plan.noise_multiplier * length * shrunk) ** 2


def _scale(plan: NoisePlan) -> float:
    """Return the grid steps to a unit of the update; 1 in a round without a grid."""
    if plan.layout is None:
        return 1.0
    return next(block.scale for block in plan.layout.blocks if isinstance(block, Block) and block.name == UPDATE)
