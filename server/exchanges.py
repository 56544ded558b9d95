"""What the messages of a plain round mean: one exchange, one sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.broadcast import Arrays, size_of
from tacit.models.contributions import UPDATE
from tacit.models.data.rows import Schema
from tacit.models.messages import Instruction, Reply, float32_vector
from tacit.models.noise import CLIP_BIT, NoisePlan
from tacit.models.preparation import check_sums, preparation_size
from tacit.privacy.clipping import unclipped_fraction
from tacit.privacy.codec import sha256
from tacit.privacy.randomness import Keystream
from tacit.server.aggregation import WeightedSum

MOST_EXAMPLES = 2**40  # of one client; a weight beyond it is a mistake or an attack


@dataclass(frozen=True)
class Occasion:
    """What an exchange is part of: the run, the round, the attempt, and the plan's bytes."""

    run: str
    round: int
    attempt: int
    plan: bytes


@dataclass(frozen=True)
class TrainingResult:
    """What a round gives: the weighted means over its clients.

    Attributes:
        mean_update: shape `(parameters,)`; may be overwritten.
        mean_loss: of the clients' training losses; NaN where they do not tell.
        unclipped: the noised fraction of clients whose updates were not clipped; None where they do not tell.
    """

    mean_update: NDArray[np.float32]
    mean_loss: float
    unclipped: float | None = None


@dataclass
class Training:
    """Train from the global vector and fold the updates into their weighted mean.

    Args:
        occasion: what it is part of.
        arrays: the global vector, as it travels to everybody; never copied.
        by_examples: weigh an update by its client's number of examples; otherwise all weigh the same.
    """

    occasion: Occasion
    arrays: Arrays
    by_examples: bool
    names: tuple[str, ...] = ("train",)
    closes_early: int | None = 0

    def __post_init__(self) -> None:
        """Start the sums at zero."""
        self._size = size_of(self.arrays) or 0
        self._sum = WeightedSum(self._size, np.float32)
        self._loss = 0.0

    @property
    def may_retry(self) -> None:
        """Return None: everybody may take part in another attempt."""

    def request(self, exchange: int, client: str) -> Instruction:
        """Ask for one local training pass."""
        at = self.occasion
        return Instruction("train", at.run, at.round, at.attempt, at.plan, arrays=self.arrays)

    def vector_bytes(self, exchange: int) -> int:
        """Return the size of an update in float32."""
        return 4 * self._size

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Fold one update."""
        update = float32_vector(reply.arrays, "update", self._size)
        examples = _count(reply.body, "examples")
        loss = _number(reply.body, "loss")
        weight = float(examples) if self.by_examples else 1.0
        self._sum.add(update, weight)
        self._loss += weight * loss

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """Have nothing more to ask."""
        return ()

    def result(self) -> TrainingResult:
        """Return the weighted means; call it once, as the sum is divided in place."""
        loss = self._loss / self._sum.weight if self._sum.weight else math.nan
        return TrainingResult(self._sum.mean(), loss)


@dataclass
class ProtectedTraining:
    """Train under a promise without masks: every update leaves as the promise has it, and nothing beside it.

    Args:
        occasion: what it is part of.
        arrays: the global vector, as it travels to everybody; never copied.
        noise: the promise.
        words: secret words for noise that the coordinator makes.
    """

    occasion: Occasion
    arrays: Arrays
    noise: NoisePlan
    words: Keystream
    names: tuple[str, ...] = ("train",)
    closes_early: int | None = 0

    def __post_init__(self) -> None:
        """Start the sum at zero."""
        self._size = size_of(self.arrays) or 0
        self._sum = WeightedSum(self._size, np.float32)

    @property
    def may_retry(self) -> None:
        """Return None: everybody may take part in another attempt, with noise of its own."""

    @property
    def offer_digest(self) -> bytes:
        """Return what tells this attempt from any other."""
        at = self.occasion
        return sha256(f"{at.run}/{at.round}/{at.attempt}/".encode(), at.plan)

    def request(self, exchange: int, client: str) -> Instruction:
        """Ask for one local training pass."""
        at = self.occasion
        return Instruction("train", at.run, at.round, at.attempt, at.plan, arrays=self.arrays)

    def vector_bytes(self, exchange: int) -> int:
        """Return the size of an update in float32."""
        return 4 * self._size

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Fold one update."""
        self._sum.add(float32_vector(reply.arrays, UPDATE, self._size))

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """Have nothing more to ask."""
        return ()

    def result(self) -> TrainingResult:
        """Return the mean update; call it once."""
        sums = self.noise.central({UPDATE: self._sum.total().astype(np.float64)}, self.words)
        return protected_result(self.noise, sums, self._sum.contributions)


def protected_result(noise: NoisePlan, sums: Mapping[str, NDArray[np.floating]], survivors: int) -> TrainingResult:
    """Return what a noised sum gives: over the survivors, or a fixed public number where their number stays secret."""
    over = noise.denominator or survivors
    unclipped = unclipped_fraction(float(sums[CLIP_BIT][0]), over) if noise.adapts else None
    return TrainingResult(mean_of(sums[UPDATE], over), math.nan, unclipped)


def mean_of(total: NDArray[np.floating], weight: float) -> NDArray[np.float32]:
    """Return a sum divided by a weight, where it lies if it is of float32; no second vector of float64 is made."""
    mean = total if total.dtype == np.float32 else np.empty(total.size, np.float32)
    np.divide(total, weight, out=mean, dtype=np.float64, casting="same_kind")
    return mean


@dataclass
class Preparation:
    """Ask every client for its summable statistics and add them up."""

    occasion: Occasion
    schema: Schema
    names: tuple[str, ...] = ("prepare",)
    closes_early: int | None = None

    def __post_init__(self) -> None:
        """Start the sum at zero."""
        self._sum = WeightedSum(preparation_size(self.schema), np.float64)

    @property
    def may_retry(self) -> None:
        """Return None: everybody may take part in another attempt."""

    def request(self, exchange: int, client: str) -> Instruction:
        """Ask for the statistics."""
        return Instruction("prepare", self.occasion.run, 0, self.occasion.attempt, self.occasion.plan)

    def vector_bytes(self, exchange: int) -> int:
        """Return the size of the statistics in float64."""
        return 8 * preparation_size(self.schema)

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Add one client's statistics, if some rows could have them: a total that no rows have would end the run."""
        statistics, size = reply.arrays.get("statistics"), preparation_size(self.schema)
        if statistics is None or statistics.dtype != np.float64 or statistics.shape != (size,):
            raise ValueError(f"the statistics are not {size} numbers of float64")
        check_sums(statistics, self.schema)
        self._sum.add(statistics)

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """Have nothing more to ask."""
        return ()

    def total(self) -> NDArray[np.float64]:
        """Return the sum over the clients that reported."""
        return self._sum.total()


def _count(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if type(value) is not int or not 1 <= value <= MOST_EXAMPLES:
        raise ValueError(f"{name} is not a number of rows")
    return value


def _number(body: Mapping[str, Any], name: str) -> float:
    value = body.get(name)
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"{name} is not a finite number")
    return value
