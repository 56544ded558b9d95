"""Tacit's commands as processes, with draws that a test knows.

It reads lines of JSON, `{"seed": 11, "words": ["coordinator", "up", "--dir", "hub"], "log": "hub.log", "notes": "",
"odd": ""}`, starts a process for each and prints its number; everything is imported once. What the commands build gets
a `Randomness` by its constructor, for which the product has no switch. The draws are those of a simulation whose noise
can be repeated.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tacit.__main__ import run
from tacit.client import contribution, member
from tacit.client.cli import start  # noqa: F401 - imported before the processes part, as what follows
from tacit.client.connection import Connection
from tacit.client.fleet import Pace
from tacit.client.masked import MaskedMember
from tacit.models import wire
from tacit.models.messages import Instruction
from tacit.privacy.codec import sha256
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg.offer import Offer
from tacit.server import enrolment_routes, federation, superlink  # noqa: F401
from tacit.server.cli import up  # noqa: F401
from tacit.simulations.noise_source import public_seed


class SimulatedDraws:
    """The keys that a simulation with repeatable noise takes, whatever the run is called.

    There a label's run is always "run", and what values without noise are rounded from is public, from a seed of its
    own. Who the parties are, and their secrets of the masks, differ all the same: no sum depends on these.
    """

    def __init__(self, recipe_seed: int) -> None:
        self._secret = SeededRandomness(public_seed(recipe_seed))
        self._rounding = SeededRandomness(sha256(f"rounding/{recipe_seed}".encode()))

    def key(self, *label: str | int) -> bytes:
        if label[0] == "secagg" and label[-1] == "rounding":
            return self._rounding.key("rounding", *label[2:5])
        if label[0] in ("secagg", "rotation", "cohort", "central-noise"):
            return self._secret.key(label[0], "run", *label[2:])
        return os.urandom(32)


def write_down(notes: Path) -> None:
    """Keep what an agent computes and nobody may see: its update, and its input as integers before any mask."""
    train, integers = contribution.train, MaskedMember._integers

    def trained(*given: Any) -> Any:
        state, result = train(*given)
        np.save(notes / f"update-{state.client}-{given[1].round}.npy", result.delta.cpu().numpy())
        return state, result

    def encoded(self: MaskedMember, offered: Instruction, offer: Offer) -> Any:
        made = integers(self, offered, offer)
        name = self.membership.certificate.client
        np.savez(notes / f"input-{name}-{offer.round}.npz", integers=made, bits=offer.bits)
        return made

    contribution.train, MaskedMember._integers = trained, encoded  # type: ignore[method-assign]


def be_odd(how: str) -> None:
    """Be an agent of an older version of the protocol, or one whose clock is wrong."""
    if how == "older":
        wire.PROTOCOL = "0"
    elif how == "late":
        member.Connection = partial(Connection, clock=lambda: time.time() - 1000)  # type: ignore[misc, assignment]


def be(seed: int, words: list[str], log: str, notes: str, odd: str) -> int:
    """Run a command in this process with the draws of a seed."""
    be_odd(odd)
    if notes:
        write_down(Path(notes))
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    draws = SimulatedDraws(seed)
    federation.Coordinator = partial(federation.Coordinator, randomness=draws)  # type: ignore[misc, assignment]
    member.member = partial(member.member, randomness=draws)
    # A coordinator that starts again within a second is found within another one.
    member.Resident = partial(member.Resident, pace=Pace(longest_pause=0.5))  # type: ignore[misc, assignment]
    return run(words)


def main() -> None:
    """Read what to start, one a line, until there is no more; then end what still runs."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has ended is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children = []
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(0)
                code = be(**json.loads(line))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
        print(child, flush=True)
    for child in children:
        try:
            os.kill(child, signal.SIGTERM)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
