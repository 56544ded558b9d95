"""How much noise a recipe asks for, where it is made and what it costs: the same for whoever computes it.

Coordinator and agent both derive the numbers from the recipe and the size of the cohort, and an agent answers no offer
whose numbers are other ones. So no coordinator can ask for less noise than the recipe that everybody agreed on says.
What neither can derive, the clip that adapts and the multiplier of noise that the coordinator makes, travels in the
offer; neither changes what the clients' own noise protects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from dp_accounting import NeighboringRelation, dp_event
from numpy.typing import NDArray

from tacit.models.contributions import UPDATE, update_layout
from tacit.models.evaluation_only import NOISED_SHARES
from tacit.models.recipe import Recipe
from tacit.models.sections import PrivacySection, SecureAggregationSection
from tacit.models.thresholds import abort_probability, cohort_terms
from tacit.privacy.accounting import cost, repeated
from tacit.privacy.calibration import skellam_variance, smallest_noise, with_spare
from tacit.privacy.clipping import CLIP_BIT_L2, AdaptiveClip, clip_bit, clip_bit_scale, clip_l2
from tacit.privacy.errors import PrivacyError
from tacit.privacy.grid import IntegerBound, integer_bound, round_within
from tacit.privacy.mechanisms import local_gaussian, local_variance, skellam_share, standard_normals
from tacit.privacy.randomness import Keystream
from tacit.privacy.rotation import coordinate_bound
from tacit.privacy.secagg.encoding import prepare
from tacit.privacy.secagg.layout import Block, Layout
from tacit.privacy.terms import Cohort, GaussianNoise, GridNoise, Noise, Observer, Place, RecordNoise, Sampling, Terms

SKELLAM, GAUSSIAN, DP_SGD = "skellam", "gaussian", "dp-sgd"
CLIP_BIT = "clip-bit"
DEFAULT_CLIP = 1.0
DEFAULT_DELTA = 1e-5
# Grid steps to a clip: enough that rounding adds little to the length that the noise must cover.
LEAST_STEPS = 4096.0
# Clients: how much noise the count of unclipped ones gets, as a share of the cohort (Andrew et al. 2021, section 3.1).
CLIP_BIT_NOISE = 1 / 20
# Of a record's gradient: rare sampling could do with less noise, which would protect nobody who was sampled.
LEAST_RECORD_NOISE = 0.25


@dataclass(frozen=True)
class NoisePlan:
    """The promise of one round with one cohort, and the noise that keeps it.

    Attributes:
        terms: who is protected, how, and what it costs against whom.
        horizon: how many participations of one client the noise was calibrated for.
        cohort: how many clients the round is offered to.
        layout: the blocks of the masked vector; None in rounds without masks.
        bound: the length that every client's integers keep to; None where clients make no integers.
        share_variance: variance of the Skellam noise that each client adds, in squared grid steps; 0 for none.
        noise_multiplier: standard deviation of the noise that counts, over the sensitivity.
        denominator: what sums are divided by, a public number; 0 for the number of survivors.
        noise_cohort: the size of the hypothetical cohort that the noise is for; 0 for the real one.
    """

    terms: Terms
    horizon: int
    cohort: int
    layout: Layout | None
    bound: IntegerBound | None
    share_variance: float
    noise_multiplier: float
    denominator: int = 0
    noise_cohort: int = 0

    @property
    def l2_clip(self) -> float:
        """Return what an update, or an example's gradient, is clipped to."""
        return self.terms.l2_clip

    @property
    def mechanism(self) -> str:
        """Return the mechanism's name in an offer."""
        if self.terms.unit == "example":
            return DP_SGD
        return GAUSSIAN if isinstance(self.terms.noise, GaussianNoise) else SKELLAM

    @property
    def parameters(self) -> tuple[tuple[str, float], ...]:
        """Return what an offer names beside the variance, in the order of the names."""
        return (
            ("horizon", float(self.horizon)),
            ("l2_clip", self.l2_clip),
            ("noise_multiplier", self.noise_multiplier),
        )

    @property
    def min_survivors(self) -> int:
        """Return U_min."""
        return self.terms.cohort.min_survivors

    @property
    def colluders(self) -> int:
        """Return c."""
        return self.terms.cohort.colluders

    @property
    def adapts(self) -> bool:
        """Say whether every client also tells, noised, whether its update was clipped."""
        return self.layout is not None and any(block.name == CLIP_BIT for block in self.layout.blocks)

    def event(self, observer: Observer, survivors: int | None = None) -> dp_event.DpEvent:
        """Return what one round costs one protected unit against an observer, by default at the fewest survivors."""
        if survivors is None or self.terms.place != "distributed":
            return self.terms.event_against(observer)
        if self.noise_cohort:
            survivors = max(self.min_survivors, survivors * self.noise_cohort // self.cohort)
        return self.terms.event_against(observer, survivors)

    def integers(
        self, update: NDArray[np.float32], rotation_seed: bytes, rounding: Keystream, noise: Keystream
    ) -> NDArray[np.int64]:
        """Clip, rotate, round and noise one client's update, shape `(dimension,)`.

        Raises:
            LocalProtocolError: the update has a value that is not finite.
        """
        if self.layout is None or self.bound is None:
            raise PrivacyError("a round without masks has no integers")
        clipped, unclipped = clip_l2(update, self.l2_clip)
        values: dict[str, NDArray[np.float64]] = {UPDATE: clipped}
        if self.adapts:
            values[CLIP_BIT] = np.array([clip_bit(unclipped)])
        rounded = round_within(prepare(self.layout, values, rotation_seed), self.bound, rounding)
        if not self.share_variance:
            return rounded
        shares = 1 if self.terms.place == "local" else self.min_survivors - self.colluders
        noised, _ = skellam_share(rounded, self.bound, self.share_variance, shares, noise)
        return noised

    def release(self, update: NDArray[np.float32], noise: Keystream) -> NDArray[np.float32]:
        """Return one client's update as it leaves a round without masks: clipped, and noised if its noise is local."""
        if self.terms.place == "local":
            return local_gaussian(update, self.l2_clip, self.noise_multiplier, noise)[0].astype(np.float32)
        return clip_l2(update, self.l2_clip)[0].astype(np.float32)

    def central(self, sums: Mapping[str, NDArray[np.float64]], words: Keystream) -> Mapping[str, NDArray[np.float64]]:
        """Return the sums by block with the coordinator's Gaussian noise, where that is who makes it.

        One standard deviation, `z D2` in grid steps, for all blocks.
        """
        if self.terms.place != "central":
            return sums
        shrunk = (self.denominator or self.cohort) / self.noise_cohort if self.noise_cohort else 1.0
        if self.layout is None or self.bound is None:
            deviation = self.noise_multiplier * self.l2_clip * shrunk
            return {name: values + deviation * standard_normals(words, values.size) for name, values in sums.items()}
        deviation = self.noise_multiplier * self.bound.l2 * shrunk
        scales = {block.name: block.scale for block in self.layout.blocks if isinstance(block, Block)}
        return {
            name: values + deviation / scales[name] * standard_normals(words, values.size)
            for name, values in sums.items()
        }


def noise_plan(
    recipe: Recipe,
    parameters: int,
    cohort: int,
    clients: int | None = None,
    *,
    l2_clip: float | None = None,
    noise_multiplier: float | None = None,
) -> NoisePlan:
    """Return the promise and the noise of a round of a recipe that makes one.

    Args:
        recipe: says the promise, the thresholds and the rounds.
        parameters: the size of the model's vector, which an evaluation does not ask for.
        cohort: how many clients the round has at most.
        clients: how many the federation has; what a poisson cohort is drawn from.
        l2_clip: the present clip of one that adapts.
        noise_multiplier: that of an offer whose noise the coordinator makes, for a client that cannot derive it; where
            the recipe says one, that is it.

    Raises:
        PrivacyError: no noise reaches the target, or too few clients would be left whose noise counts.
    """
    privacy, training = recipe.privacy, recipe.training
    if recipe.evaluation.only:
        parameters = NOISED_SHARES
    clip = l2_clip if privacy.clip == "adaptive" and l2_clip is not None else initial_clip(privacy)
    everybody = clients or recipe.population.clients or cohort
    poisson = training.sampling == "poisson"
    expected = min(training.cohort or everybody, everybody)
    shape = _Shape(
        privacy,
        recipe.secure_aggregation if recipe.secure_aggregation.enabled else None,
        with_spare(privacy.max_participations or training.rounds),
        with_spare(training.rounds),
        parameters,
        cohort,
        training.cohort or cohort if poisson else cohort,
        expected / everybody if poisson else 1.0,
        abort_probability(recipe.secure_aggregation, expected, everybody) if poisson else 0.0,
        float(training.batch_size),
        training.local_steps or 1,
    )
    plan = _planned(shape, clip, noise_multiplier)
    return replace(plan, denominator=expected) if poisson and plan.terms.place == "central" else plan


def initial_clip(privacy: PrivacySection) -> float:
    """Return what updates are clipped to in the first round."""
    return float(privacy.clip) if isinstance(privacy.clip, float | int) else DEFAULT_CLIP


def place_of(privacy: PrivacySection) -> Place:
    """Return where a recipe's noise is made."""
    return privacy.noise or ("local" if privacy.unit == "example" else "distributed")


@dataclass(frozen=True)
class _Shape:
    """All that a round's noise follows from, but the clip; hashable, so that plans are made once.

    `public_cohort` stands for `cohort` where noise must not show how many chance has drawn.
    """

    privacy: PrivacySection
    thresholds: SecureAggregationSection | None
    horizon: int
    rounds: int
    parameters: int
    cohort: int
    public_cohort: int
    sampling_rate: float
    abort_probability: float
    batch_size: float
    local_steps: int

    @property
    def delta(self) -> float:
        return self.privacy.delta or DEFAULT_DELTA

    @property
    def epsilon(self) -> float:
        return self.privacy.epsilon or math.inf


@lru_cache(maxsize=512)
def _planned(shape: _Shape, clip: float, noise_multiplier: float | None) -> NoisePlan:
    if shape.privacy.unit == "example":
        return _example_plan(shape, clip)
    if shape.thresholds is None:
        return _plain_plan(shape, clip, noise_multiplier)
    return _grid_plan(shape, shape.thresholds, clip, noise_multiplier)


def _example_plan(shape: _Shape, clip: float) -> NoisePlan:
    rate = shape.privacy.sample_rate or 1.0
    multiplier = shape.privacy.noise_multiplier or _example_noise(
        rate, shape.local_steps * shape.horizon, shape.epsilon, shape.delta
    )
    noise = RecordNoise(multiplier, rate, shape.local_steps)
    cohort = cohort_terms(shape.thresholds, shape.cohort) if shape.thresholds else Cohort(2)
    terms = Terms("example", "local", noise, shape.delta, clip, cohort)
    layout = update_layout(shape.parameters, shape.cohort) if shape.thresholds else None
    return NoisePlan(terms, shape.horizon, shape.cohort, layout, None, 0.0, multiplier)


def _plain_plan(shape: _Shape, clip: float, given: float | None) -> NoisePlan:
    place = place_of(shape.privacy)
    multiplier = shape.privacy.noise_multiplier or given or _gaussian_noise(_without_grid(shape))
    sampling = _sampling(shape) if place == "central" else Sampling()
    terms = Terms("client", place, GaussianNoise(multiplier), shape.delta, clip, Cohort(2), sampling)
    return NoisePlan(terms, shape.horizon, shape.cohort, None, None, 0.0, multiplier)


def _grid_plan(shape: _Shape, thresholds: SecureAggregationSection, clip: float, given: float | None) -> NoisePlan:
    place, privacy = place_of(shape.privacy), shape.privacy
    # The grid follows the clip, so that sensitivity and noise stay the same integers while the clip moves.
    length = max(LEAST_STEPS, 8.0 * math.sqrt(shape.parameters))
    scale = length / clip
    clips, scales = [clip], [scale]
    central = place == "central"
    # Flattening makes room for noise in few bits; without noise on the grid there is room enough.
    reach = clip if central else _reach(clip, shape.parameters)
    blocks = [Block(UPDATE, shape.parameters, reach, scale, rotated=not central)]
    chosen = privacy.noise_multiplier or (given if central else None)
    if privacy.clip == "adaptive":
        first = _multiplier(shape, integer_bound(clips, scales, shape.parameters), chosen)
        bit_scale = clip_bit_scale(length, first, max(CLIP_BIT_NOISE * shape.public_cohort, first))
        clips, scales = [clip, CLIP_BIT_L2], [scale, bit_scale]
        blocks.append(Block(CLIP_BIT, 1, CLIP_BIT_L2, bit_scale))
    layout = Layout(tuple(blocks))
    bound = integer_bound(clips, scales, layout.dimension)
    multiplier = _multiplier(shape, bound, chosen)
    counted = (multiplier * bound.l2) ** 2
    hypothetical = privacy.noise_cohort or 0
    cohort = cohort_terms(thresholds, hypothetical or shape.cohort)
    noise: Noise
    if central:
        noise, added = GaussianNoise(multiplier), 0.0
    else:
        share = counted if place == "local" else local_variance(counted, cohort.min_survivors, cohort.colluders)
        noise = GridNoise(bound, share)
        # The mean over the real cohort gets the noise that the mean over the hypothetical one would have.
        added = share * shape.cohort / hypothetical if hypothetical else share
    sampling = _sampling(shape) if central else Sampling()
    terms = Terms("client", place, noise, shape.delta, clip, cohort, sampling)
    return NoisePlan(terms, shape.horizon, shape.cohort, layout, bound, added, multiplier, noise_cohort=hypothetical)


def _multiplier(shape: _Shape, bound: IntegerBound, chosen: float | None) -> float:
    if chosen is not None:
        return chosen
    if place_of(shape.privacy) == "central":
        return _gaussian_noise(_without_grid(shape))
    return _skellam_noise(bound, shape.horizon, shape.epsilon, shape.delta)


def _without_grid(shape: _Shape) -> _Shape:
    """Return what Gaussian noise follows from, so that cohorts of other sizes find it made."""
    return replace(shape, parameters=0, cohort=0, public_cohort=0, batch_size=1.0, local_steps=1, thresholds=None)


@lru_cache(maxsize=64)
def _skellam_noise(bound: IntegerBound, horizon: int, epsilon: float, delta: float) -> float:
    return math.sqrt(skellam_variance(bound, horizon, epsilon, delta)) / bound.l2


@lru_cache(maxsize=64)
def _gaussian_noise(shape: _Shape) -> float:
    sampling = _sampling(shape)
    amplified = place_of(shape.privacy) == "central" and not sampling.not_amplified_because()

    def event(noise: float) -> dp_event.DpEvent:
        once: dp_event.DpEvent = dp_event.GaussianDpEvent(noise)
        if amplified:
            # Whoever is not told who took part: every round counts, at the rate at which one is drawn.
            return repeated(dp_event.PoissonSampledDpEvent(sampling.rate, once), shape.rounds)
        return repeated(once, shape.horizon)

    aborted = shape.rounds * sampling.abort_probability if amplified else 0.0
    if aborted >= shape.delta:
        chance = f"{sampling.abort_probability:.1g}"
        raise PrivacyError(f"with a probability of {chance} a cohort is too small for a round: more than delta has")
    return smallest_noise(event, shape.epsilon, shape.delta - aborted)


@lru_cache(maxsize=64)
def _example_noise(rate: float, steps: int, epsilon: float, delta: float) -> float:
    def event(noise: float) -> dp_event.DpEvent:
        return RecordNoise(noise, rate, steps).event()

    if cost(event(LEAST_RECORD_NOISE), delta, NeighboringRelation.ADD_OR_REMOVE_ONE).epsilon <= epsilon:
        return LEAST_RECORD_NOISE
    return smallest_noise(event, epsilon, delta, NeighboringRelation.ADD_OR_REMOVE_ONE)


def _sampling(shape: _Shape) -> Sampling:
    """Return how cohorts are drawn, as far as it may be counted: only the coordinator's own noise never shows how many.

    The variance of noise that clients make tells how many of them did, and so whether one more took part.
    """
    if shape.sampling_rate == 1.0:
        return Sampling()
    return Sampling(
        kind="poisson",
        rate=shape.sampling_rate,
        secret_entropy=True,
        fixed_denominator=True,
        sizes_unpublished=True,
        everyone_waited_for=True,
        abort_probability=shape.abort_probability,
    )


def _reach(l2_clip: float, parameters: int) -> float:
    return min(l2_clip, coordinate_bound(l2_clip, parameters))


def adapted_clip(l2_clip: float, fraction: float) -> float:
    """Return the clip of the next round, given the noised fraction of clients that were not clipped."""
    return AdaptiveClip(l2_clip).step(fraction).l2_clip
