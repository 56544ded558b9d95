"""Which clients a round asks; does exactly what an accountant may assume, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.models.errors import InputError
from tacit.models.sections import TrainingSection
from tacit.privacy.randomness import Keystream, Randomness


class Cohorts(Protocol):
    """Whom a round asks."""

    def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
        """Return the clients to ask, and how many reports are enough."""
        ...


@dataclass(frozen=True)
class DrawnCohorts:
    """Cohorts as a recipe asks for them, drawn anew for every attempt of every round.

    With `fixed` sampling, `over_selection` asks that share more clients than are wanted. With `poisson` sampling the
    recipe's cohort is the expected number, and everybody asked is wanted.

    Attributes:
        run: the run's name.
        training: the recipe's section.
        randomness: where draws come from.
        population: how many clients the federation has. A poisson cohort draws each of those that can be asked with
            the probability that it would have among all: what is accounted does not know who is missing.
    """

    run: str
    training: TrainingSection
    randomness: Randomness
    population: int | None = None

    def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
        """Return the clients to ask, and how many reports are enough."""
        if not clients:
            return (), 0
        label = (self.run, number, attempt)
        wanted = min(self.training.cohort or len(clients), len(clients))
        if self.training.sampling == "poisson":
            everybody = max(self.population or len(clients), len(clients))
            rate = min(self.training.cohort or everybody, everybody) / everybody
            cohort = poisson_cohort(clients, rate, self.randomness, *label)
            return cohort, len(cohort)
        # 10 and 0.1 more are 11, though 10 * 1.1 is a little above 11 in floating point.
        asked = min(len(clients), wanted + math.ceil(wanted * self.training.over_selection - 1e-9))
        return fixed_cohort(clients, asked, self.randomness, *label), wanted


@dataclass(frozen=True)
class RecordedCohorts:
    """The cohorts of an earlier run, to repeat it: `(round, attempt)` to the clients that were asked."""

    training: TrainingSection
    cohorts: Mapping[tuple[int, int], tuple[str, ...]]

    def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
        """Return the recorded clients, of whom as many are wanted as were then.

        Raises:
            InputError: the earlier run has no such attempt.
        """
        try:
            cohort = self.cohorts[number, attempt]
        except KeyError:
            what = f"kept no cohort of round {number}, attempt {attempt}"
            raise InputError(what, where="the run to repeat") from None
        if self.training.sampling == "poisson":
            return cohort, len(cohort)
        return cohort, min(self.training.cohort or len(cohort), len(cohort))


def fixed_cohort(clients: Sequence[str], size: int, randomness: Randomness, *label: str | int) -> tuple[str, ...]:
    """Return `size` distinct clients, every subset equally likely, in the order of `clients`.

    Each client draws a 64-bit number and the smallest ones are taken; ties, of probability below
    `len(clients)^2 / 2^65`, go to the earlier client.
    """
    if not 0 < size <= len(clients):
        raise ValueError(f"a cohort of {size} cannot be drawn from {len(clients)} clients")
    draws = _draws(len(clients), randomness, label)
    chosen = np.sort(np.argsort(draws, kind="stable")[:size])
    return tuple(clients[index] for index in chosen)


def poisson_cohort(clients: Sequence[str], rate: float, randomness: Randomness, *label: str | int) -> tuple[str, ...]:
    """Return each client independently with probability `rate`; the cohort may be empty.

    The probability is exact to 2^-64: a client is in when its 64-bit draw is below `rate * 2^64`.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"a sampling rate of {rate} is not in (0, 1]")
    if rate == 1:
        return tuple(clients)
    threshold = np.uint64(min(math.floor(rate * 2.0**64), 2**64 - 1))
    draws = _draws(len(clients), randomness, label)
    return tuple(clients[int(index)] for index in np.flatnonzero(draws < threshold))


def _draws(count: int, randomness: Randomness, label: tuple[str | int, ...]) -> NDArray[np.uint64]:
    return Keystream(randomness.key("cohort", *label)).words64(count)
