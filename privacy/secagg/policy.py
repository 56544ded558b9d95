"""What a member insists on, whatever the coordinator asks, and what it must remember from one attempt to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from tacit.privacy.codec import Verify, check_lengths
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Certificate, Pins
from tacit.privacy.randomness import KEY_BYTES
from tacit.privacy.secagg.graph import REGULAR
from tacit.privacy.secagg.offer import REAL, Offer

ROUND_OVER = "round-over"
"""Why a member refuses another attempt at a round: an input of its own has left for it."""


def _approve(offer: Offer) -> None:
    """Raise nothing: without a ledger or a noise floor every offer can be paid."""


@dataclass(frozen=True)
class Policy:
    """A member's own conditions.

    Attributes:
        coordinator_key: the one key whose offers and receipts are believed.
        authority_keys: the enrolment authorities whose certificates are believed.
        pins: the organisations that are known out of band. With pins, only their members count towards `min_cohort`
            and U_min, and all others are taken for colluders: the protocol then holds against a coordinator that
            invents members. Without, every certified member counts, and the coordinator must be honest about them.
        min_cohort: the fewest members that count.
        max_colluders: how many members that count may collude with the coordinator; an offer must withstand as many.
        accept_regular_graph: whether a k-regular graph will do, which holds against a semi-malicious server.
        approve: called with every offer that is otherwise acceptable; raises a `PrivacyError` to refuse it, for
            instance because the ledger cannot pay or the noise is below the member's floor.
    """

    coordinator_key: bytes
    authority_keys: frozenset[bytes]
    pins: Pins | None = None
    min_cohort: int = 5
    max_colluders: int = 0
    accept_regular_graph: bool = False
    approve: Callable[[Offer], None] = _approve

    def __post_init__(self) -> None:
        """Refuse a policy under which a sum could be one member's own."""
        check_lengths(KEY_BYTES, coordinator_key=self.coordinator_key)
        if self.min_cohort < 2 or self.max_colluders < 0:
            raise ValueError("a policy asks for at least 2 members, and for 0 colluders or more")

    def count(self, certificates: Iterable[Certificate]) -> int:
        """Return how many of these members count."""
        if self.pins is not None:
            return self.pins.count(certificates)
        return sum(1 for _ in certificates)

    def check(self, offer: Offer, *, model_digest: bytes, verify: Verify) -> None:
        """Refuse an offer that is not the coordinator's, not about our model, or below a floor.

        Raises:
            RemoteProtocolError: with the reason.
            PrivacyError: `approve` refused.
        """
        offer.check_signature(self.coordinator_key, verify)
        if offer.mode != REAL:
            raise RemoteProtocolError("not-masked", "a round without masks is a simulation, never answered")
        if offer.model_digest != model_digest:
            raise RemoteProtocolError("other-model", "the offer is about another global vector than the one received")
        if offer.min_cohort < self.min_cohort:
            raise RemoteProtocolError("cohort-floor", f"min_cohort {offer.min_cohort} is below our {self.min_cohort}")
        if offer.colluders < self.max_colluders:
            raise RemoteProtocolError(
                "colluders-floor", f"it withstands {offer.colluders} colluders, we ask for {self.max_colluders}"
            )
        if offer.graph == REGULAR and not self.accept_regular_graph:
            raise RemoteProtocolError("graph", "a regular graph holds against a semi-malicious server only")
        self.approve(offer)

    def adversary(self, offer: Offer) -> str:
        """Return whom the round withstands, in the words of the privacy statement."""
        return adversary(offer.graph, pinned=self.pins is not None)


def adversary(graph: str, *, pinned: bool) -> str:
    """Return whom a round over a graph withstands, depending on whether its members pin organisations."""
    if not pinned:
        return "honest-but-curious coordinator"
    return "semi-malicious server" if graph == REGULAR else "malicious coordinator"


class Journal(Protocol):
    """A member's memory of what it answered; every `record` returns only once it would survive a crash."""

    def answered(self, run: str, round: int, attempt: int) -> bool:
        """Say whether this attempt's offer was ever answered."""
        ...

    def contributed(self, run: str, round: int) -> bool:
        """Say whether a masked input ever left for this round, in whatever attempt."""
        ...

    def record_answer(self, run: str, round: int, attempt: int) -> None:
        """Remember that this attempt's offer is about to be answered."""
        ...

    def record_contribution(self, run: str, round: int) -> None:
        """Remember that a masked input is about to leave for this round."""
        ...

    def record_survivors(self, run: str, round: int, attempt: int, digest: bytes, survivors: int) -> None:
        """Remember H(U3), and how many are in U3, that are about to be signed."""
        ...


@dataclass
class MemoryJournal:
    """A journal that ends with the process; for simulations, whose members end with it too.

    The rounds of a run follow each other, so the last one is all that is kept: whatever does not come after it counts
    as answered, and as contributed to.

    Attributes:
        answers: for each run the round and attempt that were answered last.
        contributions: for each run the round that a masked input left for last.
        survivors: for each run H(U3) and the size of U3, as they were signed last.
    """

    answers: dict[str, tuple[int, int]] = field(default_factory=dict)
    contributions: dict[str, int] = field(default_factory=dict)
    survivors: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    def answered(self, run: str, round: int, attempt: int) -> bool:
        """Say whether this attempt's offer was answered, or a later one's."""
        return (round, attempt) <= self.answers.get(run, (-1, -1))

    def contributed(self, run: str, round: int) -> bool:
        """Say whether a masked input left for this round, or for a later one."""
        return round <= self.contributions.get(run, -1)

    def record_answer(self, run: str, round: int, attempt: int) -> None:
        """Remember an answer."""
        self.answers[run] = (round, attempt)

    def record_contribution(self, run: str, round: int) -> None:
        """Remember a contribution."""
        self.contributions[run] = round

    def record_survivors(self, run: str, round: int, attempt: int, digest: bytes, survivors: int) -> None:
        """Remember what was signed."""
        self.survivors[run] = (digest, survivors)
