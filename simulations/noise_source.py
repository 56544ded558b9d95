"""Where a simulation's secret draws come from."""

from __future__ import annotations

from tacit.privacy.codec import sha256
from tacit.privacy.randomness import Randomness, SeededRandomness


class RepeatableRandomness:
    """Draws that follow from the recipe's seed alone, so that a noised run can be repeated: for study, never a promise.

    A run's name is part of every label and differs from run to run, so it is left out of them.
    """

    def __init__(self, recipe_seed: int, run: str) -> None:
        """Derive everything from a number that anybody may know."""
        self._source = SeededRandomness(public_seed(recipe_seed))
        self._run = run

    def key(self, *label: str | int) -> bytes:
        """Return the key of a label."""
        return self._source.key(*("run" if part == self._run else part for part in label))


def public_seed(recipe_seed: int) -> bytes:
    """Return what stands in the place of a run's secret seed where noise repeats; it tells such a run from others."""
    return sha256(f"reproducible-noise/{recipe_seed}".encode())


def randomness_of(secret: bytes, recipe_seed: int, run: str, *, reproducible: bool) -> Randomness:
    """Return the source of a run: its secret seed, or, for noise that repeats, the recipe's."""
    return RepeatableRandomness(recipe_seed, run) if reproducible else SeededRandomness(secret)
