"""What the messages of a masked round mean: five exchanges, one sum, and no single contribution anywhere in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tacit.models.broadcast import Arrays, size_of
from tacit.models.contributions import (
    COUNTS,
    METRICS,
    UPDATE,
    WEIGHT,
    preparation_layout,
    preparation_total,
    training_layout,
)
from tacit.models.messages import ELIDED_ACTIONS
from tacit.models.noise import NoisePlan
from tacit.models.plan import Plan
from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg.policy import ROUND_OVER
from tacit.server.exchanges import Occasion, TrainingResult, mean_of, protected_result
from tacit.server.masking import Masking
from tacit.server.rounds import Participant
from tacit.server.secure_sum import AFTER_MASK, SecureSum, masked_sum


class MaskedRound:
    """Exchanges that a secure sum does."""

    def __init__(self, inner: SecureSum) -> None:
        """Carry what `inner` does."""
        self.sum = inner
        self.names = inner.names
        self.closes_early = inner.closes_early
        self.request = inner.request
        self.vector_bytes = inner.vector_bytes
        self.accept = inner.accept
        self.close = inner.close
        self.abandon = inner.abandon
        self.snapshot = inner.snapshot

    def verdicts(self, participants: Sequence[Participant], done: bool) -> tuple[Participant, ...]:
        """Return what became of everybody who was asked, given what the round saw of it.

        Whoever is in the sum has reported, also if it fell silent or misbehaved afterwards; the reason says so.
        """
        blamed, survivors = self.sum.blamed, self.survivors if done else frozenset[str]()
        return tuple(
            replace(
                member,
                outcome="reported" if member.client in survivors else member.outcome,
                reason=member.reason or blamed.get(member.client, ""),
            )
            for member in participants
        )

    @property
    def may_retry(self) -> frozenset[str] | None:
        """Return who may take part in another attempt; None for everybody."""
        return self.sum.may_retry

    @property
    def survivors(self) -> frozenset[str]:
        """Return who is in the sum."""
        return frozenset(self.sum.aggregate.survivors)


class MaskedTraining(MaskedRound):
    """A training round whose updates are only ever seen added up."""

    def __init__(
        self,
        at: Occasion,
        arrays: Arrays,
        clients: Sequence[str],
        masking: Masking,
        snapshot: bytes = b"",
        wanted: int | None = None,
    ) -> None:
        """Offer the round to `clients`, or go on with it; see `masked_sum`."""
        layout = training_layout(size_of(arrays) or 0, wanted or len(clients))
        super().__init__(masked_sum(at, arrays, layout, clients, masking, snapshot=snapshot, wanted=wanted))

    def result(self) -> TrainingResult:
        """Return the weighted means of updates and losses; call it once, as the sum is divided where it lies."""
        blocks = self.sum.aggregate.give_away()
        weight = float(blocks[WEIGHT][0])
        if weight <= 0:
            raise ZeroDivisionError("the mean of contributions without weight does not exist")
        return TrainingResult(mean_of(blocks[UPDATE], weight), float(blocks[METRICS][0]) / weight)


class NoisedTraining(MaskedRound):
    """A training round under a promise: of a distributed one the sum comes noised before anybody sees it.

    No weight, loss or dataset size is part of the vector.
    """

    def __init__(
        self,
        at: Occasion,
        arrays: Arrays,
        clients: Sequence[str],
        masking: Masking,
        noise: NoisePlan,
        words: Keystream,
        snapshot: bytes = b"",
        wanted: int | None = None,
    ) -> None:
        """Offer the round to `clients`, or go on with it; see `masked_sum`.

        `words` are for noise that the coordinator makes.
        """
        if noise.layout is None:
            raise ValueError("a masked round has a layout")
        super().__init__(masked_sum(at, arrays, noise.layout, clients, masking, noise, snapshot, wanted))
        self.noise = noise
        self._words = words

    @property
    def offer_digest(self) -> bytes:
        """Return H(Offer)."""
        return self.sum.offer_digest

    def result(self) -> TrainingResult:
        """Return the mean update; there is no loss. Call it once: its noise is drawn here."""
        total = self.sum.aggregate
        if self.noise.terms.place == "central":
            sums: Mapping[str, NDArray[np.floating]] = self.noise.central(total.blocks, self._words)
        else:  # the noise is in it already: whatever is done with it now costs no privacy
            sums = total.give_away()
        return protected_result(self.noise, sums, len(total.survivors))


class MaskedPreparation(MaskedRound):
    """A preparation round whose statistics are only ever seen added up, exactly."""

    def __init__(
        self, at: Occasion, plan: Plan, clients: Sequence[str], masking: Masking, snapshot: bytes = b""
    ) -> None:
        """Offer the round to `clients`, or go on with it; see `masked_sum`."""
        super().__init__(masked_sum(at, {}, preparation_layout(plan), clients, masking, snapshot=snapshot))
        self._schema = plan.schema

    def total(self) -> NDArray[np.float64]:
        """Return the sum over the survivors."""
        return preparation_total(self.sum.aggregate.blocks, self._schema)

    def rows(self) -> float:
        """Return how many rows the survivors have, where nothing else was asked for."""
        return float(self.sum.aggregate.blocks[COUNTS][0])


def inputs_left(participants: Iterable[Participant]) -> frozenset[str]:
    """Return whose input left for a round, as far as an attempt shows.

    Who answered the exchange that carries it, whatever came afterwards; and who refuses an attempt because its input
    left in an earlier one, whose answer was lost on its way or with a coordinator that was killed.
    """
    carrying = ("mask", *ELIDED_ACTIONS)
    return frozenset(
        member.client
        for member in participants
        if member.exchange in AFTER_MASK
        or (member.outcome == "reported" and member.exchange in carrying)
        or (member.outcome == "refused" and member.reason.startswith(f"{ROUND_OVER}:"))
    )
