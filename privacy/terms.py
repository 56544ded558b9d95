"""What a round asks of a client: the unit protected, where the noise is made and how much, who counts, how it samples.

Only these combinations are allowed: unit "client" with noise "distributed", "central" or "local"; unit "example" with
noise "local". Each observer of a round is answered with the event that the round is against that observer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dp_accounting import NeighboringRelation, dp_event

from tacit.privacy.errors import PrivacyError
from tacit.privacy.grid import IntegerBound
from tacit.privacy.mechanisms import honest_shares, skellam_event

Unit: TypeAlias = Literal["client", "example"]
Place: TypeAlias = Literal["distributed", "central", "local"]
Observer: TypeAlias = Literal["coordinator", "fellow_clients", "outsiders"]

OBSERVERS: tuple[Observer, ...] = ("coordinator", "fellow_clients", "outsiders")
"""Who could look: the coordinator with its colluders; other clients, who know who took part; readers of the models."""


@dataclass(frozen=True)
class Cohort:
    """Who must survive a round, and how many of those may collude with the observer.

    Attributes:
        min_survivors: U_min, the fewest survivors that are ever summed.
        colluders: c, an absolute number of members whose noise never counts.
    """

    min_survivors: int
    colluders: int = 0

    def __post_init__(self) -> None:
        """Refuse a cohort in which a sum could be one client's own."""
        if self.colluders < 0 or self.min_survivors < self.colluders + 2:
            raise PrivacyError(
                f"{self.min_survivors} survivors with {self.colluders} colluders can single a client out; "
                f"at least {max(0, self.colluders) + 2} must survive"
            )


@dataclass(frozen=True)
class Sampling:
    """How a cohort is drawn from the population, and what of it stays secret.

    Amplification counts for outsiders only, and only if every condition holds; the defaults claim none.

    Attributes:
        kind: "fixed" size, or "poisson": each client by itself with probability `rate`.
        rate: the probability that a given client is asked.
        secret_entropy: the draw comes from secret entropy, not from a seed that a recipe shows.
        fixed_denominator: sums are divided by a public number and never by the realised size.
        sizes_unpublished: neither realised sizes nor survivor sets are ever shown.
        everyone_waited_for: the first k answers are not taken in place of the sample.
        abort_probability: the chance that a round is aborted for want of survivors; counted in delta.
    """

    kind: Literal["fixed", "poisson"] = "fixed"
    rate: float = 1.0
    secret_entropy: bool = False
    fixed_denominator: bool = False
    sizes_unpublished: bool = False
    everyone_waited_for: bool = False
    abort_probability: float = 0.0

    def __post_init__(self) -> None:
        """Refuse probabilities outside of [0, 1]."""
        if not 0.0 < self.rate <= 1.0 or not 0.0 <= self.abort_probability <= 1.0:
            raise PrivacyError("a sampling rate is within (0, 1] and an abort probability within [0, 1]")

    def not_amplified_because(self) -> tuple[str, ...]:
        """Return every reason why sampling does not lower an outsider's epsilon; empty if it does."""
        if self.kind == "fixed":
            return ("cohorts of a fixed size are not amplified",)
        conditions = (
            (self.secret_entropy, "the cohort is not drawn from secret entropy"),
            (self.fixed_denominator, "sums are not divided by a fixed public number"),
            (self.sizes_unpublished, "realised sizes or survivors are published"),
            (self.everyone_waited_for, "the first answers are taken in place of the sample"),
        )
        return tuple(reason for holds, reason in conditions if not holds)


@dataclass(frozen=True)
class GridNoise:
    """Skellam noise on the integer grid: every client adds `Sk(share_variance)` to each coordinate within `bound`."""

    bound: IntegerBound
    share_variance: float


@dataclass(frozen=True)
class GaussianNoise:
    """Gaussian noise of standard deviation `noise_multiplier` times the L2 clip: on the sum, or on each update."""

    noise_multiplier: float


@dataclass(frozen=True)
class RecordNoise:
    """DP-SGD at the client: public and equal for all, so that epsilon is equal everywhere and shows no dataset size.

    Attributes:
        noise_multiplier: the noise of a step over its per-record clip.
        sample_rate: the probability that a record enters a batch.
        steps: local steps a round.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse a rate or a count that cannot be."""
        if not 0.0 < self.sample_rate <= 1.0 or self.steps < 1:
            raise PrivacyError("DP-SGD needs a sample rate within (0, 1] and at least one step")

    def event(self) -> dp_event.DpEvent:
        """Return the event of one round: the client's own record sampling is secret, so it is amplified."""
        step = dp_event.PoissonSampledDpEvent(self.sample_rate, dp_event.GaussianDpEvent(self.noise_multiplier))
        return dp_event.SelfComposedDpEvent(step, self.steps)


Noise: TypeAlias = GridNoise | GaussianNoise | RecordNoise


@dataclass(frozen=True)
class Terms:
    """The privacy of a round, as offered, accepted and accounted.

    Attributes:
        unit: who is protected: a whole "client", or one "example" of one client.
        place: where the noise is made.
        noise: how much, in the form that its place asks for.
        delta: the delta that epsilons are stated at.
        l2_clip: what an update, or an example's gradient, is clipped to.
        cohort: the survivors and colluders.
        sampling: how the cohort is drawn.
    """

    unit: Unit
    place: Place
    noise: Noise
    delta: float
    l2_clip: float
    cohort: Cohort
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        """Refuse every combination that protects nobody, and say why."""
        if not 0.0 < self.delta < 1.0:
            raise PrivacyError(f"delta is within (0, 1), not {self.delta!r}")
        if not 0.0 < self.l2_clip < math.inf:
            raise PrivacyError(f"an L2 clip is positive and finite, not {self.l2_clip!r}")
        check_combination(self.unit, self.place)
        if self.unit == "example":
            fitting: tuple[type[Noise], ...] = (RecordNoise,)
        else:
            fitting = {
                "distributed": (GridNoise,),
                "central": (GaussianNoise,),
                "local": (GridNoise, GaussianNoise),
            }[self.place]
        if not isinstance(self.noise, fitting):
            raise PrivacyError(f"unit {self.unit} with {self.place} noise is not made by {type(self.noise).__name__}")

    @property
    def adjacency(self) -> NeighboringRelation:
        """Return zero-out for unit "client", add or remove one record for unit "example"."""
        if self.unit == "client":
            return NeighboringRelation.REPLACE_SPECIAL
        return NeighboringRelation.ADD_OR_REMOVE_ONE

    def event_against(self, observer: Observer, survivors: int | None = None) -> dp_event.DpEvent:
        """Return what one round costs one protected unit against this observer.

        The coordinator and fellow clients know who took part: nothing is amplified against them. A fellow client knows
        its own share of the noise, so at least one share never counts against it. Outsiders are taken to have the same
        colluders, who may not have made their noise.

        Amplified distributed noise assumes that its variance does not tell an outsider whether one client more took
        part. A released vector of very many coordinates does show the variance of its noise: with secret cohorts, keep
        the noise of all accounted members independent of the realised size, or state the unamplified number.

        Args:
            observer: who looks.
            survivors: how many members were summed; without it the fewest that may be, U_min.

        Raises:
            PrivacyError: fewer survived than must.
        """
        survived = self.cohort.min_survivors if survivors is None else survivors
        if survived < self.cohort.min_survivors:
            raise PrivacyError(f"{survived} survivors are fewer than the {self.cohort.min_survivors} that must be")
        event = self._unamplified(observer, survived)
        if self.unit == "client" and observer == "outsiders" and not self.sampling.not_amplified_because():
            return dp_event.PoissonSampledDpEvent(self.sampling.rate, event)
        return event

    def _unamplified(self, observer: Observer, survived: int) -> dp_event.DpEvent:
        match self.noise:
            case RecordNoise():
                return self.noise.event()
            case GaussianNoise():
                if self.place == "central" and observer == "coordinator":
                    return dp_event.NonPrivateDpEvent()
                return dp_event.GaussianDpEvent(self.noise.noise_multiplier)
            case GridNoise():
                if self.place == "local":
                    return skellam_event(self.noise.bound, self.noise.share_variance, 1)
                known = max(self.cohort.colluders, 1 if observer == "fellow_clients" else 0)
                shares = honest_shares(survived, known)
                return skellam_event(self.noise.bound, self.noise.share_variance, shares)


def check_combination(unit: Unit, place: Place) -> None:
    """Check that noise made at `place` can protect `unit`.

    Raises:
        PrivacyError: it cannot; the text says why and what to choose.
    """
    if unit not in ("client", "example"):
        raise PrivacyError(f"unit {unit!r} is neither client nor example")
    if place not in ("distributed", "central", "local"):
        raise PrivacyError(f"noise {place!r} is not distributed, central or local")
    if unit == "example" and place != "local":
        raise PrivacyError(
            f"unit example with {place} noise: one record's influence is bounded step by step at its client, before "
            f"anything is summed, so its noise must be made there; choose noise local, or unit client"
        )
