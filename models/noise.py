"""How much noise a recipe asks of each client, so that the sum keeps the promise: the same for whoever computes it.

Coordinator and agent both derive the numbers from the recipe and the size of the cohort, and an agent answers no offer
whose numbers are other ones. So no coordinator can ask for less noise than the recipe that everybody agreed on says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from dp_accounting import dp_event
from numpy.typing import NDArray

from tacit.models.contributions import UPDATE
from tacit.models.recipe import PrivacySection, Recipe, SecureAggregationSection
from tacit.privacy.accounting import Cost, cost
from tacit.privacy.calibration import skellam_variance, with_spare
from tacit.privacy.clipping import clip_l2
from tacit.privacy.grid import IntegerBound, integer_bound, round_within
from tacit.privacy.mechanisms import local_variance, skellam_event, skellam_share
from tacit.privacy.randomness import Keystream
from tacit.privacy.rotation import coordinate_bound
from tacit.privacy.secagg.encoding import prepare
from tacit.privacy.secagg.graph import MILLION, least_survivors
from tacit.privacy.secagg.layout import Block, Layout

MECHANISM = "skellam"
DEFAULT_CLIP = 1.0
DEFAULT_DELTA = 1e-5
# Grid steps to a clip: enough that rounding adds little to the length that the noise must cover.
LEAST_STEPS = 4096.0


@dataclass(frozen=True)
class NoisePlan:
    """The noise of one round with one cohort.

    Attributes:
        l2_clip: what an update is clipped to.
        layout: the one block of the vector, rotated and on the grid.
        bound: the length that every client's integers keep to.
        share_variance: variance of each client's Skellam share, in squared grid steps.
        min_survivors: U_min.
        colluders: c.
        noise_multiplier: standard deviation of the noise that counts at U_min, over the sensitivity.
        horizon: how many participations it was calibrated for.
        delta: the delta of the promise.
    """

    l2_clip: float
    layout: Layout
    bound: IntegerBound
    share_variance: float
    min_survivors: int
    colluders: int
    noise_multiplier: float
    horizon: int
    delta: float

    @property
    def parameters(self) -> tuple[tuple[str, float], ...]:
        """Return what an offer names beside the variance."""
        return (("horizon", float(self.horizon)), ("l2_clip", self.l2_clip))

    def event(self, survivors: int, known_shares: int) -> dp_event.DpEvent:
        """Return what one round costs against somebody who knows `known_shares` of the survivors' shares of noise."""
        return skellam_event(self.bound, self.share_variance, survivors - known_shares)

    def integers(
        self, update: NDArray[np.float32], rotation_seed: bytes, rounding: Keystream, noise: Keystream
    ) -> NDArray[np.int64]:
        """Clip, rotate, round and noise one client's update, shape `(dimension,)`.

        Raises:
            LocalProtocolError: the update has a value that is not finite.
        """
        clipped, _ = clip_l2(update, self.l2_clip)
        scaled = prepare(self.layout, {UPDATE: clipped}, rotation_seed)
        rounded = round_within(scaled, self.bound, rounding)
        noised, _ = skellam_share(rounded, self.bound, self.share_variance, self.min_survivors - self.colluders, noise)
        return noised


def noise_plan(recipe: Recipe, parameters: int, cohort: int) -> NoisePlan:
    """Return the noise of a round of a recipe that protects clients by distributed noise.

    Args:
        recipe: says the promise, the thresholds and the rounds.
        parameters: the size of the model's vector.
        cohort: how many clients the round is offered to.

    Raises:
        PrivacyError: no noise reaches the target, or too few clients would be left whose noise counts.
    """
    return _noise_plan(recipe.privacy, recipe.secure_aggregation, recipe.training.rounds, parameters, cohort)


@lru_cache(maxsize=256)
def _noise_plan(
    privacy: PrivacySection, thresholds: SecureAggregationSection, rounds: int, parameters: int, cohort: int
) -> NoisePlan:
    l2_clip = DEFAULT_CLIP if privacy.clip is None else float(privacy.clip)
    delta = privacy.delta or DEFAULT_DELTA
    horizon = with_spare(privacy.max_participations or rounds)
    min_survivors = least_survivors(cohort, thresholds.min_cohort, int(thresholds.dropout * MILLION + 0.5))
    colluders = math.floor(thresholds.colluding * cohort)
    scale = max(LEAST_STEPS, 8.0 * math.sqrt(parameters)) / l2_clip
    bound = integer_bound([l2_clip], [scale], parameters)
    if privacy.noise_multiplier is not None:
        counted = (privacy.noise_multiplier * bound.l2) ** 2
    else:
        counted = skellam_variance(bound, horizon, privacy.epsilon or math.inf, delta)
    reach = min(l2_clip, coordinate_bound(l2_clip, parameters))
    return NoisePlan(
        l2_clip=l2_clip,
        layout=Layout((Block(UPDATE, parameters, reach, scale, rotated=True),)),
        bound=bound,
        share_variance=local_variance(counted, min_survivors, colluders),
        min_survivors=min_survivors,
        colluders=colluders,
        noise_multiplier=math.sqrt(counted) / bound.l2,
        horizon=horizon,
        delta=delta,
    )


@dataclass(frozen=True)
class Spent:
    """One round whose inputs left: how many it was offered to, and how many were summed (U_min if nobody was)."""

    cohort: int
    survivors: int


def spent_cost(recipe: Recipe, parameters: int, rounds: Sequence[Spent], *, fellow_client: bool = False) -> Cost:
    """Return what rounds cost against the coordinator with its colluders, or against one of the clients.

    A fellow client knows its own share of the noise, so at least one share never counts against it. Outsiders see no
    more than the coordinator does; nothing is amplified, so its number holds for them too.
    """
    events = []
    for one in rounds:
        plan = noise_plan(recipe, parameters, one.cohort)
        known = max(plan.colluders, 1) if fellow_client else plan.colluders
        events.append(plan.event(one.survivors, known))
    return cost(dp_event.ComposedDpEvent(events), recipe.privacy.delta or DEFAULT_DELTA)
