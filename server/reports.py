"""What one attempt of a round did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tacit.server.rounds import Participant


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
    def mostly(self) -> str:
        """Say why most of those who did not report did not, as that is what somebody can do something about."""
        given = [member for member in self.participants if member.reason]
        # Whoever is late because others broke the round off has nothing to say about why.
        causes = [member for member in given if member.outcome != "late"] or given
        reasons = Counter(member.reason for member in causes)
        return f"; most often: {reasons.most_common(1)[0][0]}" if reasons else ""
