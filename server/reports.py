"""What one attempt of a round did, and where that is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tacit.privacy.secagg.policy import ROUND_OVER
from tacit.server.checkpoints import RunState
from tacit.server.rounds import Participant
from tacit.server.store.records import LedgerLine


@dataclass(frozen=True)
class RoundReport:
    """What one attempt of a round did; round 0 is the preparation."""

    number: int
    attempt: int
    committed: bool
    reason: str
    seconds: float
    participants: tuple[Participant, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def reported(self) -> int:
        """Return how many clients are in the result."""
        return sum(participant.outcome == "reported" for participant in self.participants)

    @property
    def refusers(self) -> frozenset[str]:
        """Return who was asked and said no."""
        return refusers_of(self.participants)

    @property
    def mostly(self) -> str:
        """Say why most of those who did not report did not, as that is what somebody can do something about."""
        given = [member for member in self.participants if member.reason]
        # Whoever is late because others broke the round off has nothing to say about why, and whoever has answered for
        # this round in an earlier attempt has nothing new to say.
        causes = [member for member in given if member.outcome != "late"] or given
        causes = [member for member in causes if not member.reason.startswith(f"{ROUND_OVER}:")] or causes
        reasons = Counter(member.reason for member in causes)
        return f"; most often: {reasons.most_common(1)[0][0]}" if reasons else ""


def refusers_of(participants: Iterable[Participant]) -> frozenset[str]:
    """Return who was asked and said no."""
    return frozenset(participant.client for participant in participants if participant.outcome == "refused")


class Recorder(Protocol):
    """Where a run leaves what must survive it."""

    def resume_point(self) -> RunState | None:
        """Return the state after the last committed round, or None for a run that has not begun."""
        ...

    def commit(self, report: RoundReport, state: RunState | None, ledger: Sequence[LedgerLine] = ()) -> None:
        """Keep a round, what it spent and, if it was committed, its state: all of it or nothing."""
        ...

    def state_of(self, round_number: int) -> RunState:
        """Return the kept state of an earlier round."""
        ...

    def attempts(self, round_number: int) -> int:
        """Return how many attempts at a round were kept."""
        ...

    def asked(self, round_number: int) -> Sequence[Participant]:
        """Return what became of everybody that the kept attempts at a round asked."""
        ...
