"""Tacit's commands with draws that a test knows.

    seeded_commands.py RECIPE_SEED coordinator up --dir hub
    seeded_commands.py RECIPE_SEED agents DIRECTORY...

Both build what the commands build, and give it a `Randomness` by its constructor: the product has no switch for that.
The draws are those of a simulation whose noise can be repeated. `agents` imports once and parts: a process for each
directory, whose number it prints and whose words go to `log` in the directory.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

from tacit.privacy.codec import sha256
from tacit.privacy.randomness import SeededRandomness
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


def coordinate(draws: SimulatedDraws, words: list[str]) -> None:
    """Be `tacit coordinator ...`."""
    from tacit.__main__ import run
    from tacit.server import federation

    federation.Coordinator = partial(federation.Coordinator, randomness=draws)  # type: ignore[misc, assignment]
    sys.exit(run(["coordinator", *words]))


def take_part(draws: SimulatedDraws, directories: list[str]) -> None:
    """Be `tacit agent start`, for each directory in a process of its own; end all of them at SIGTERM."""
    import flwr.app  # noqa: F401 - imported before the processes part
    import torch

    from tacit.__main__ import run
    from tacit.client import member
    from tacit.client.cli import start  # noqa: F401

    torch.set_num_threads(1)
    member.member = partial(member.member, randomness=draws)  # type: ignore[assignment]
    children = []
    for directory in directories:
        child = os.fork()
        if not child:
            log = os.open(Path(directory) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = 1
            try:
                code = run(["agent", "start", "--dir", directory])
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
        print(child, flush=True)

    def end(number: int, frame: object) -> None:
        for child in children:
            try:
                os.kill(child, signal.SIGTERM)
            except ProcessLookupError:  # the test has killed it
                continue

    signal.signal(signal.SIGTERM, end)
    for child in children:
        os.waitpid(child, 0)


def main() -> None:
    """See the top of the file."""
    seed, what, *words = sys.argv[1:]
    {"coordinator": coordinate, "agents": take_part}[what](SimulatedDraws(int(seed)), words)


if __name__ == "__main__":
    main()
