"""A SuperLink on the loopback, and agents as threads that speak real HTTP to it."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tacit.client.connection import Address, Connection
from tacit.client.fleet import Pace, Resident
from tacit.models.messages import Instruction, Reply
from tacit.privacy.identity import Identity
from tacit.server.fleet_grid import FleetGrid
from tacit.server.flower import GridTransport
from tacit.server.gate import Limits
from tacit.server.rounds import Request
from tacit.server.superlink import SuperLink
from tacit.server.transport import Arrival

from ...settle import HANGS_SECONDS, settle  # noqa: TID252 - tests are no package that could be named

QUICK = Limits(silence_seconds=0.5, header_seconds=0.5, patience_seconds=0.5, largest_body=1 << 20)
HASTE = Pace(wait=120.0, first_pause=0.01, longest_pause=0.1, turned_away_pause=0.05, pulse=0.1)


@dataclass
class Echo:
    """Answers every instruction with what it says, unless told to do something else."""

    seen: list[Instruction] = field(default_factory=list)
    act: Callable[[Instruction], Reply] | None = None

    def handle(self, instruction: Instruction) -> Reply:
        self.seen.append(instruction)
        if self.act is not None:
            return self.act(instruction)
        return Reply(body={"round": instruction.round}, arrays=instruction.arrays, message=instruction.message[::-1])


@dataclass
class Member:
    """An agent in a thread."""

    name: str
    identity: Identity
    handler: Echo
    resident: Resident
    thread: threading.Thread

    def stop(self) -> None:
        self.resident.stop()
        self.thread.join(HANGS_SECONDS)
        assert not self.thread.is_alive()


@dataclass
class Fleet:
    """A SuperLink, its agents and one run over it."""

    link: SuperLink
    grid: FleetGrid
    transport: GridTransport
    members: dict[str, Member] = field(default_factory=dict)
    identities: dict[str, Identity] = field(default_factory=dict)
    connections: list[Connection] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.link.address[1]

    def connection(self, name: str, port: int | None = None) -> Connection:
        made = Connection(Address("127.0.0.1", port or self.port), self.identities[name], seconds=HANGS_SECONDS)
        self.connections.append(made)
        return made

    def enrol(self, name: str) -> int:
        identity = self.identities.setdefault(name, Identity(os.urandom(32)))
        return self.link.admit(identity.public_key, name)

    def join(self, name: str, handler: Echo | None = None, port: int | None = None) -> Member:
        """Enrol an agent and start its loop."""
        self.enrol(name)
        echo = handler or Echo()
        resident = Resident(lambda: self.connection(name, port), echo, pace=HASTE)
        thread = threading.Thread(target=resident.run, daemon=True)
        self.members[name] = Member(name, self.identities[name], echo, resident, thread)
        thread.start()
        return self.members[name]

    def wait_for(self, *names: str) -> None:
        settle(lambda: set(names) <= set(self.transport.clients()))

    @contextmanager
    def asked(self, name: str, instruction: Instruction) -> Iterator[Connection]:
        """Enrol an agent that has no loop, send it an instruction, and hand out its connection to pull that with."""
        self.enrol(name)
        with self.connection(name) as connection:
            connection.alive()
            self.wait_for(name)
            self.transport.send([Request(name, instruction)])
            yield connection

    def ask(self, instruction: Instruction, *names: str, seconds: float = HANGS_SECONDS) -> dict[str, Arrival]:
        """Send one instruction to agents and return what comes back in time."""
        self.transport.send([Request(name, instruction) for name in names])
        return self.collect(len(names), seconds)

    def collect(self, count: int, seconds: float = HANGS_SECONDS) -> dict[str, Arrival]:
        until = self.transport.now() + seconds
        arrivals: dict[str, Arrival] = {}
        while len(arrivals) < count and self.transport.now() < until:
            for arrival in self.transport.arrivals(until):
                arrivals[arrival.client] = arrival
        return arrivals

    def close(self) -> None:
        for member in self.members.values():
            member.resident.stop()
        self.grid.close()
        self.link.stop()
        for member in self.members.values():
            member.stop()
        for connection in self.connections:
            connection.close()


def new_fleet(limits: Limits | None = None, port: int = 0, **settings: object) -> Fleet:
    link = SuperLink(port=port, limits=limits, **settings)  # type: ignore[arg-type]
    link.start()
    grid = link.grid()
    return Fleet(link, grid, link.transport(grid))


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = new_fleet()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def hasty() -> Iterator[Fleet]:
    """A fleet port with limits that a test can wait for; its agents have no more time than strangers."""
    made = new_fleet(QUICK)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = logging.getLogger("uvicorn").level
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("uvicorn").setLevel(before)


@pytest.fixture
def refleet() -> Callable[..., Fleet]:
    return new_fleet


@pytest.fixture
def echo() -> Callable[..., Echo]:
    return Echo


def raw(port: int, *pieces: bytes, pause: float = 0.0) -> tuple[bytes, float]:
    """Send bytes as they are and return the whole answer and how long it took, until the other side closes."""
    began, answer = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=HANGS_SECONDS) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)

            while received := connection.recv(65536):
                answer += received
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer, time.monotonic() - began


@pytest.fixture
def say() -> Callable[..., tuple[bytes, float]]:
    return raw
