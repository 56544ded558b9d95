"""What crosses the wire in a round: the model once to each agent, and one packed vector back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from tacit.client.connection import Address, Connection
from tacit.client.fleet import Resident
from tacit.models.broadcast import BLOCK
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import Plan
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg.offer import Offer
from tacit.server.reports import RoundReport
from tacit.server.run import Run
from tacit.server.sampling import DrawnCohorts
from tacit.server.superlink import SuperLink
from tacit.server.transport import Transport

from .masked import SCHEMA, Masked

# 120 000 parameters of which a plan, an offer, certificates and shares of six are a small part.
MODEL = ("model.name=mlp", "model.hidden=[340, 340]")
REST = 12_000
PRIVATE = ("privacy.unit=client", "privacy.noise_multiplier=1.0", "privacy.clip=1.0")
CLIENTS = 6


class InTurn:
    """An agent that takes turns with the others, whose network it shares; keeps the offers that came."""

    turn = threading.Lock()

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.offers: dict[int, Offer] = {}

    def handle(self, instruction: Instruction) -> Reply:
        if instruction.action == "advertise":
            self.offers[instruction.round] = Offer.decode(instruction.message)
        with self.turn:
            reply: Reply = self.agent.handle(instruction)
            return reply


@contextmanager
def over_the_wire(agents: Sequence[InTurn], names: Sequence[str]) -> Iterator[tuple[SuperLink, Transport]]:
    with SuperLink() as link, link.grid() as grid:
        identities = {name: Identity(bytes([at + 1]) * 32) for at, name in enumerate(names)}
        for name, identity in identities.items():
            link.admit(identity.public_key, name)
        address = Address("127.0.0.1", link.address[1])
        residents = [
            Resident(lambda me=identity: Connection(address, me), agent)  # type: ignore[misc]
            for agent, identity in zip(agents, identities.values(), strict=True)
        ]
        threads = [threading.Thread(target=resident.run, daemon=True) for resident in residents]
        try:
            for thread in threads:
                thread.start()
            transport, until = link.transport(grid), time.monotonic() + 120
            while len(transport.clients()) < len(names):
                assert time.monotonic() < until
                time.sleep(0.01)
            yield link, transport
        finally:
            for resident in residents:
                resident.stop()
            for thread in threads:
                thread.join(60)


def traffic_of_rounds(*overrides: str) -> tuple[list[tuple[int, int]], Offer, int]:
    """Return the bytes to and from all agents after the preparation and each round, the last offer, the model size."""
    federation = Masked([*MODEL, *overrides], clients=CLIENTS)
    agents = [InTurn(agent) for agent in federation.agents.values()]
    seen: list[tuple[int, int]] = []

    def after(report: RoundReport) -> None:
        assert report.committed and report.reported == CLIENTS
        seen.append((link.traffic.sent, link.traffic.received))

    with over_the_wire(agents, tuple(federation.names.values())) as (link, transport):
        state = Run(
            federation.name,
            Plan(federation.recipe, SCHEMA),
            transport,
            federation.recorder,
            DrawnCohorts(federation.name, federation.recipe.training, SeededRandomness(bytes(32))),
            masking=federation.masking,
            budget=federation.budget(),
            on_round=after,
        ).execute()
    assert state.round == 2 and len(seen) == 3
    return seen, agents[0].offers[2], state.vector.size


@pytest.mark.parametrize("promise", [(), PRIVATE])
@pytest.mark.parametrize(("form", "bytes_each"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_in_a_round_the_model_goes_to_each_agent_once_and_one_packed_vector_comes_back(
    form: str, bytes_each: int, promise: tuple[str, ...]
) -> None:
    seen, offer, parameters = traffic_of_rounds(f"training.broadcast={form}", *promise)
    assert parameters > 100_000
    scales = 0 if form == "float32" else 4 * -(-parameters // BLOCK)
    model = bytes_each * parameters + scales
    packed = -(-offer.dimension * offer.bits // 8)
    assert offer.dimension - parameters <= 8 and offer.bits in (16, 24, 32)
    assert CLIENTS * REST < model  # so that not even one agent got it twice
    for (sent_before, received_before), (sent, received) in pairwise(seen):
        assert CLIENTS * model <= sent - sent_before < CLIENTS * (model + REST)
        assert CLIENTS * packed <= received - received_before < CLIENTS * (packed + REST)
