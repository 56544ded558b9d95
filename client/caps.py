"""What an agent may use of its owner's machine: memory, time in a round, and how politely it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tacit.client.training import Refused
from tacit.models.errors import InputError

STATM = Path("/proc/self/statm")
BYTES_PER_PARAMETER = 128
"""What a masked round with noise takes at its peak beside the data. Training, noise and masks of 2.3 million parameters
were measured at 86 bytes a parameter, of which a rotation pads the number to a power of two; the vector as it came and
the answer come on top."""


@dataclass(frozen=True)
class Caps:
    """The owner's limits on one agent; nothing is allocated for a round that they leave no room for.

    Attributes:
        memory_bytes: what the whole process may have in memory; 0 for any amount.
        round_seconds: how long the work of a round may take; 0 for any time.
        resident: how many bytes the process has in memory now.
        clock: seconds.
    """

    memory_bytes: int = 0
    round_seconds: float = 0.0
    resident: Callable[[], int] = lambda: resident_bytes()
    clock: Callable[[], float] = time.monotonic

    def has_room(self, parameters: int) -> bool:
        """Say whether a round over a vector of this size fits into what is left."""
        return not self.memory_bytes or self.resident() + BYTES_PER_PARAMETER * parameters <= self.memory_bytes

    def begin(self) -> Callable[[], None]:
        """Begin the work of a round, and return what is called at each of its steps.

        What is returned raises `Refused` once a limit is passed: the work is abandoned, and nothing of it leaves.
        """
        until = self.clock() + self.round_seconds

        def step() -> None:
            if self.round_seconds and self.clock() > until:
                raise Refused("the work took longer than its owner lends to a round")
            if self.memory_bytes and self.resident() > self.memory_bytes:
                raise Refused("the work took more memory than its owner lends")

        return step


def resident_bytes() -> int:
    """Return how many bytes this process has in memory now; 0 where the system does not tell."""
    try:
        pages = int(STATM.read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def caps(memory_mb: int, round_seconds: int) -> Caps:
    """Return the limits that an owner's settings name.

    Raises:
        InputError: memory is limited, and this system does not tell how much is used.
    """
    if memory_mb and not resident_bytes():
        raise InputError("this system does not tell how much memory is used", where="memory_mb", right="0")
    return Caps(memory_mb << 20, round_seconds)


def be_nice(niceness: int) -> None:
    """Run behind whatever else the machine does; its disk follows. For the calling thread and those it starts."""
    os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
