"""Real agents, each in a process of its own with a folder of its own: `fleet_agents.py CA_FILE PORT FOLDER...`.

There is a port and a folder for each. A folder has `member.json` (keys, certificate and policy) and `rows.csv`. The
process prints one process id a folder, and the hosts that any of them looks up or connects to go to `connections.txt`
in each folder.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tacit.client.agent import Agent
from tacit.client.connection import Address, Connection, pinned
from tacit.client.fleet import Pace, Resident
from tacit.client.holdings import SourceHoldings
from tacit.client.masked import Membership
from tacit.client.training import Workbench
from tacit.privacy.codec import sha256
from tacit.privacy.identity import Certificate, Identity
from tacit.privacy.randomness import SeededRandomness, SystemRandomness
from tacit.privacy.secagg.policy import MemoryJournal, Policy


def agent_of(folder: Path) -> tuple[Agent, Identity]:
    """Return the agent that a folder describes, and its key."""
    member: Mapping[str, Any] = json.loads((folder / "member.json").read_text())
    identity = Identity(bytes.fromhex(member["secret"]))
    agent = Agent(member["name"], SourceHoldings(f"csv:{folder}/rows.csv", {}), Workbench())
    agent.join(
        Membership(
            identity,
            Certificate.decode(bytes.fromhex(member["certificate"])),
            Policy(
                coordinator_key=bytes.fromhex(member["coordinator"]),
                authority_keys=frozenset({bytes.fromhex(member["authority"])}),
                min_cohort=member["min_cohort"],
                accept_regular_graph=True,
            ),
            MemoryJournal(),
            SystemRandomness(),
            # What values without noise are rounded from hides nothing, and makes two runs comparable.
            public_rounding=SeededRandomness(sha256(b"rounding")),
        )
    )
    return agent, identity


def be(folder: Path, port: int, authority: str) -> None:
    """Be one agent until somebody ends the process."""
    watched = os.open(folder / "connections.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        host = None
        if event == "socket.getaddrinfo":
            host = arguments[0]
        elif event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
            host = arguments[1][0]
        if host is not None:
            os.write(watched, (host if isinstance(host, str) else host.decode()).encode() + b"\n")

    sys.addaudithook(watch)
    agent, identity = agent_of(folder)
    address = Address("127.0.0.1", port, pinned(authority))
    resident = Resident(lambda: Connection(address, identity), agent, pace=Pace(longest_pause=0.5))
    signal.signal(signal.SIGTERM, lambda number, frame: resident.stop())
    resident.run()


def main() -> None:
    """Import once, part, and wait for all."""
    authority, ports, folders = Path(sys.argv[1]).read_text(), sys.argv[2::2], sys.argv[3::2]
    torch.set_num_threads(1)
    children = []
    for port, folder in zip(map(int, ports), map(Path, folders), strict=True):
        child = os.fork()
        if child == 0:
            be(folder, port, authority)
            os._exit(0)
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


if __name__ == "__main__":
    main()
