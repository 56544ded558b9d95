"""What can happen to a federation, and when: drawn from a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

NAMES = tuple(f"clinic-{at}" for at in range(5))
ON_SMALL_DISK = NAMES[0]
KINDS = (
    "coordinator killed",
    "agent killed",
    "agent killed",
    "database killed",
    "lines cut",
    "lines slow",
    "agent's disk full",
    "coordinator's disk full",
    "everything killed",
)
LAST = ("coordinator's disk full", "coordinator killed", "database killed")


@dataclass(frozen=True)
class Mishap:
    """What happens, once a round is under way.

    Attributes:
        round: the round.
        after_seconds: since that round is known to be under way.
        kind: one of `KINDS`.
        agents: whom it is about, where it is about agents.
        seconds: how long it lasts.
    """

    round: int
    after_seconds: float
    kind: str
    agents: tuple[str, ...]
    seconds: float


def mishaps(rounds: int, seed: int, kinds: Sequence[str], each: int = 1) -> list[Mishap]:
    """Draw mishaps for each round, of every kind about equally many, and some for when the model is registered."""
    drawn = random.Random(seed)
    count = rounds * each
    many = list(kinds) * (count // len(kinds) + 1)
    found = []
    for number, kind in enumerate(drawn.sample(many[:count], count)):
        agents: tuple[str, ...] = ()
        if kind == "agent killed":
            agents = tuple(drawn.sample(NAMES, drawn.choice((1, 1, 2))))
        elif kind in ("lines cut", "lines slow"):
            agents = tuple(drawn.sample(NAMES, drawn.randint(1, len(NAMES))))
        found.append(Mishap(number // each + 1, drawn.uniform(0.0, 2.0), kind, agents, drawn.uniform(1.0, 4.0)))
    for kind in drawn.sample(LAST, len(LAST)):
        if kind in kinds:
            found.append(Mishap(rounds + 1, drawn.uniform(0.0, 0.2), kind, (), drawn.uniform(1.0, 4.0)))
    return found


def kills(struck: Sequence[Mishap], *, server: bool) -> dict[str, int]:
    """Return how many processes were killed, by what they are; `server` if the database is one."""
    found = Counter[str]()
    for one in struck:
        everything = one.kind == "everything killed"
        found["coordinator"] += everything or one.kind == "coordinator killed"
        found["agents"] += len(NAMES) if everything else len(one.agents) * (one.kind == "agent killed")
        found["database"] += server and (everything or one.kind == "database killed")
    return dict(found)
