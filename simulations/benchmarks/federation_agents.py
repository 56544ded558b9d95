"""Agents that do nothing, each in a process of its own.

`python -m tacit.simulations.benchmarks.federation_agents PORT` runs them against a coordinator on the loopback.
Standard input has one secret key a line, in hexadecimal. What all agents import is imported once, before they part.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tacit.client.connection import Address, Connection
from tacit.client.fleet import Resident
from tacit.models.messages import Instruction, Reply
from tacit.privacy.identity import Identity

REPLY = Reply(message=bytes(500))


class Idle:
    """An agent that answers at once."""

    def handle(self, instruction: Instruction) -> Reply:
        """Return the same answer to everything."""
        return REPLY


@contextmanager
def agents(port: int, identities: Sequence[Identity]) -> Iterator[None]:
    """Run agents with these identities until the context is left."""
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", __name__, str(port)],
        stdin=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        if process.stdin is not None:
            process.stdin.write("".join(f"{one.secret_bytes().hex()}\n" for one in identities).encode())
            process.stdin.close()
        yield
    finally:
        process.terminate()
        process.wait(10)


def answer(port: int, identity: Identity) -> None:
    """Be one agent for as long as the process lives."""
    Resident(lambda: Connection(Address("127.0.0.1", port), identity), Idle()).run()


def main(port: int, secrets: Sequence[str]) -> None:
    """Part into one process for each secret, and wait."""
    children = []
    for secret in secrets:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            answer(port, Identity(bytes.fromhex(secret)))
            os._exit(0)
        children.append(child)

    def end(number: int, frame: object) -> None:
        for child in children:
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.stdin.read().split())
