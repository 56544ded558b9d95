"""A small federation in memory: members with integer inputs, so that every sum is exact and easy to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import VerifiedSignatures
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg import keys, loopback, phases
from tacit.privacy.secagg.client import ClientRound
from tacit.privacy.secagg.encoding import centre, unpack
from tacit.privacy.secagg.layout import Block, Layout
from tacit.privacy.secagg.loopback import Loopback
from tacit.privacy.secagg.masks import Mask, apply
from tacit.privacy.secagg.messages import holders_transcript
from tacit.privacy.secagg.offer import Offer
from tacit.privacy.secagg.policy import MemoryJournal, Policy
from tacit.privacy.secagg.progress import Phase

LAYOUT = Layout((Block("update", 5, clip=1000.0, scale=1.0), Block("weight", 1, clip=1000.0, scale=1.0)))
ORDER = (Phase.ADVERTISE, Phase.SHARE, Phase.MASK, Phase.SIGN, Phase.UNMASK)
SHARED_VERIFIER = VerifiedSignatures()


def nobody(phase: Phase, name: str) -> bool:
    return False


@dataclass
class Scene:
    """One attempt of one round over `size` members, both ends in memory."""

    size: int
    colluders: int = 0
    dropout: float = 0.0
    min_cohort: int = 2
    layout: Layout = LAYOUT
    graph: str = "complete"
    organisations: int = 1
    round: int = 0
    attempt: int = 0
    seed: bytes = b"s" * 32
    policy: Callable[[Policy], Policy] = staticmethod(lambda policy: policy)
    journals: dict[str, MemoryJournal] = field(default_factory=dict)

    def __post_init__(self):
        self.names = [f"m{at:04d}" for at in range(self.size)]
        self.loopback = Loopback.generate(
            self.names, SeededRandomness(self.seed), organisations=self.organisations, verify=SHARED_VERIFIER
        )
        self.offer = self.plan()
        self.server = self.loopback.server(self.offer)
        for name in self.names:
            self.journals.setdefault(name, MemoryJournal())
        self.clients: dict[str, ClientRound] = {name: self.client(name) for name in self.names}

    def plan(self, **changes) -> Offer:
        settings = dict(
            run="run",
            round=self.round,
            attempt=self.attempt,
            model_digest=bytes(32),
            recipe_digest=bytes(32),
            layout=self.layout,
            rotation_seed=bytes(32),
            cohort=self.size,
            min_cohort=self.min_cohort,
            colluders=self.colluders,
            dropout=self.dropout,
            graph=self.graph,
        )
        return Offer.plan(**settings | changes)

    def signed(self, offer: Offer) -> bytes:
        return offer.signed(self.loopback.coordinator).encode()

    def client(self, name: str, **changes) -> ClientRound:
        settings = dict(policy=self.policy(self.loopback.policy()), journal=self.journals[name])
        return self.loopback.client(name, **settings | changes)

    def values(self, name: str) -> dict[str, np.ndarray]:
        at = self.names.index(name) + 1
        return {
            block.name: np.array([(at * (7 + place) + 13 * self.round) % 97 - 30 for place in range(block.size)], float)
            for block in self.layout.blocks
        }

    def give(self, name: str) -> None:
        self.clients[name].contribute(self.values(name), ledger_head=name.encode().ljust(32), ledger_counter=3)

    def give_all(self) -> None:
        for name in self.names:
            self.give(name)

    def total(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        return {
            block.name: sum((self.values(name)[block.name] for name in names), np.zeros(block.size))
            for block in self.layout.blocks
        }

    def exchange(self, lost=nobody):
        """Carry one exchange and close it; returns who refused what."""
        if self.server.phase is Phase.MASK:
            for name in sorted(self.server.waiting):
                if not lost(Phase.MASK, name):
                    self.give(name)
        refused = loopback.exchange(self.server, self.clients, lost)
        self.server.close_phase()
        return refused

    def until(self, phase: Phase, lost=nobody) -> Scene:
        while self.server.phase.value < phase.value:
            assert not self.exchange(lost)
        return self

    def run(self, lost=nobody) -> Phase:
        return loopback.run(self.server, self.clients, self.give, lost)

    def assert_sum_over(self, names: Iterable[str]) -> None:
        result = self.server.result()
        assert result.survivors == tuple(sorted(names))
        for block, total in self.total(names).items():
            np.testing.assert_array_equal(result.blocks[block], total)

    def steal(self, victim: str, packed: np.ndarray, self_seed: int | None, masking_seed: int | None) -> np.ndarray:
        """Take off a member's input whatever masks these secrets give; with both, the bare input is left."""
        state, members = self.server._state, self.server._members()
        transcript = holders_transcript(members.transcript, state.holders)
        me = members.positions[victim]
        left = unpack(packed, self.offer.dimension, self.offer.bits)
        known = []
        if self_seed is not None:
            known.append(Mask(keys.self_mask_key(self_seed, transcript, me), -1))
        if masking_seed is not None:
            secret = keys.agreement(keys.masking_key(masking_seed, self.offer.digest))
            for other in members.neighbours(me, state.holders):
                key = keys.pair_mask_key(secret(members.adverts[other].masking_key), transcript, me, other)
                known.append(Mask(key, -1 if other > me else 1))
        apply(known, left)
        return centre(left, self.offer.bits)

    def plain(self, name: str) -> np.ndarray:
        return np.concatenate([self.values(name)[block.name] for block in self.layout.blocks])

    @staticmethod
    def refuses(client: ClientRound, request: bytes, reason: str) -> RemoteProtocolError:
        """Check that a member refuses a request for this reason."""
        with pytest.raises(RemoteProtocolError) as caught:
            client.receive(request)
        assert caught.value.reason == reason
        return caught.value

    def copy_at_mask(self, at: int) -> ClientRound:
        """Bring another member with the same draws to the state in which survivors are due."""
        name = self.names[at]
        client = self.client(name, journal=MemoryJournal())
        client.receive(self.server.offer.encode())
        client.receive(self.server._roster)
        client.contribute(self.values(name), ledger_head=name.encode().ljust(32), ledger_counter=3)
        client.receive(phases.delivery(self.server._state, self.server._members(), at).encode())
        return client

    def next_attempt(self, **changes) -> Scene:
        """The same members, who remember what they did, in another attempt or round."""
        return replace(self, **{"attempt": self.attempt + 1, "journals": self.journals} | changes)


@pytest.fixture(scope="session")
def scene():
    return Scene
