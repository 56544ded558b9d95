"""A coordinator's part in the masked rounds of a run: its offers, its receipts, and whom it no longer asks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tacit.models import broadcast
from tacit.models.contributions import training_layout
from tacit.models.messages import RECEIPT_ACTION, Instruction, Reply
from tacit.models.noise import NoisePlan
from tacit.models.recipe import Recipe
from tacit.models.sections import SecureAggregationSection
from tacit.models.thresholds import colluders_in, dropout_ppm, survivors_of
from tacit.privacy import identity as identities
from tacit.privacy.codec import NO_DIGEST, Verify, sha256
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import Randomness
from tacit.privacy.secagg.blame import convicted
from tacit.privacy.secagg.graph import graph_of, topology
from tacit.privacy.secagg.layout import Infeasible, Layout
from tacit.privacy.secagg.offer import ELIDED, MAX_MEMBERS, Offer
from tacit.privacy.secagg.policy import adversary
from tacit.privacy.secagg.receipt import Receipt
from tacit.privacy.secagg.server import ServerRound
from tacit.server.exchanges import Occasion

MOST_DELIVERIES = 3  # of a receipt that its member never acknowledges


@dataclass(frozen=True)
class Debt:
    """A receipt that was not delivered yet, and the public key of the member that it is for."""

    key: bytes
    receipt: bytes


@dataclass(repr=False)
class Masking:
    """A coordinator's part in all masked rounds of a run; it holds no secret of any member.

    Attributes:
        identity: the coordinator's signing key.
        authority_keys: the enrolment authorities whose certificates are accepted.
        settings: the recipe's section.
        randomness: where public rotation seeds come from.
        verify: how signatures are verified.
        now: seconds since 1970, for certificates.
        holder: whose key a client's name stands for now, None if for nobody's: a name may change hands in the middle of
            a run, and a receipt never goes to the next one who has it. None where names do not change hands.
        owed: the receipts that were not delivered yet, by client.
        last_receipt: digest of the last receipt of the run.
        charges: pairs of members one of whom sent a false share, over all rounds.
        at_fault: who was convicted of breaking the protocol, and is not asked again.
        acknowledged: how many receipts were taken.
        given_up: how many were not, however often they were delivered.
    """

    identity: Identity
    authority_keys: frozenset[bytes]
    settings: SecureAggregationSection
    randomness: Randomness
    verify: Verify = identities.verify
    now: Callable[[], float] = time.time
    holder: Callable[[str], bytes | None] | None = None
    owed: MutableMapping[str, Debt] = field(default_factory=dict)
    last_receipt: bytes = NO_DIGEST
    charges: set[tuple[str, str]] = field(default_factory=set)
    at_fault: set[str] = field(default_factory=set)
    acknowledged: int = 0
    given_up: int = 0
    _deliveries: Counter[str] = field(default_factory=Counter)
    _largest_cohort: int = 0

    def offer(
        self,
        at: Occasion,
        arrays: broadcast.Arrays,
        layout: Layout,
        cohort: int,
        noise: NoisePlan | None = None,
    ) -> Offer:
        """Return the unsigned offer of an attempt; `arrays` is the global vector as it travels, empty for none.

        Raises:
            Infeasible: no threshold is both safe and reachable; the error says which number to change.
        """
        settings = self.settings
        if cohort > MAX_MEMBERS:
            raise Infeasible(f"{cohort} clients are more than a masked round can have", f"ask at most {MAX_MEMBERS}")
        self._largest_cohort = max(self._largest_cohort, cohort)
        return Offer.plan(
            run=at.run,
            round=at.round,
            attempt=at.attempt,
            model_digest=broadcast.digest(arrays),
            recipe_digest=sha256(at.plan),
            layout=layout,
            rotation_seed=self.randomness.key("rotation", at.run, at.round, at.attempt),
            cohort=cohort,
            min_cohort=settings.min_cohort,
            colluders=colluders_in(settings, cohort),
            dropout=settings.dropout,
            mechanism=noise.mechanism if noise else "none",
            mechanism_parameters=noise.parameters if noise else (),
            noise_variance=noise.share_variance if noise else 0.0,
            graph=graph_of(cohort),
            last_receipt=self.last_receipt,
            mode=settings.mode,
        )

    def could_sum(self, clients: int) -> bool:
        """Return whether thresholds let a sum be offered to so many."""
        try:
            self.offer(Occasion("any", 0, 0, b""), {}, training_layout(1, max(clients, 1)), clients)
        except Infeasible:
            return False
        return True

    def settle(self, server: ServerRound) -> None:
        """Owe every survivor of a finished round its receipt."""
        receipts = server.receipts()
        self.owed.update({name: Debt(server.identity_key(name), receipt) for name, receipt in receipts.items()})
        for client in receipts:
            self._deliveries.pop(client, None)
        self.last_receipt = Receipt.decode(next(iter(receipts.values()))).digest

    def judge(self, server: ServerRound) -> None:
        """Note who was convicted; charges add up over rounds, against as many colluders as the largest cohort has."""
        self.charges |= server.charges
        self.at_fault |= server.at_fault | convicted(self.charges, colluders_in(self.settings, self._largest_cohort))

    def memory(self) -> dict[str, Any]:
        """Return what a new process must know to go on: debts and verdicts, as plain values; no secret is among it."""
        return {
            "owed": {name: {"key": d.key.hex(), "receipt": d.receipt.hex()} for name, d in sorted(self.owed.items())},
            "deliveries": dict(sorted(self._deliveries.items())),
            "last_receipt": self.last_receipt.hex(),
            "charges": sorted(map(list, self.charges)),
            "at_fault": sorted(self.at_fault),
            "largest_cohort": self._largest_cohort,
            "acknowledged": self.acknowledged,
            "given_up": self.given_up,
        }

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on from what `memory` returned; an empty mapping changes nothing.

        Earlier versions kept no keys. What they owed to a name is owed to whoever has it now, and to nobody who gets it
        later; if nobody has it, it is owed no longer.
        """
        if not memory:
            return
        for client, kept in memory["owed"].items():
            if isinstance(kept, str):
                key = b"" if self.holder is None else self.holder(client)
                if key is not None:
                    self.owed[client] = Debt(key, bytes.fromhex(kept))
            else:
                self.owed[client] = Debt(bytes.fromhex(kept["key"]), bytes.fromhex(kept["receipt"]))
        self._deliveries.update(memory["deliveries"])
        self.last_receipt = bytes.fromhex(memory["last_receipt"])
        self.charges |= {(dealer, holder) for dealer, holder in memory["charges"]}
        self.at_fault |= set(memory["at_fault"])
        self._largest_cohort = max(self._largest_cohort, memory["largest_cohort"])
        self.acknowledged, self.given_up = memory["acknowledged"], memory["given_up"]

    def owes(self, client: str) -> bool:
        """Return whether whoever has a name now is owed a receipt."""
        debt = self.owed.get(client)
        return debt is not None and (self.holder is None or self.holder(client) == debt.key)

    def receipt_for(self, client: str) -> bytes:
        """Return the receipt to deliver to a client with whatever it is sent; empty if none is owed.

        One that is never acknowledged, as by a member that restarted and cannot check it, is given up in the end: a
        member must not be kept from all later rounds by one that it refuses.
        """
        if not self.owes(client):
            return b""
        if self._deliveries[client] >= MOST_DELIVERIES:
            del self.owed[client], self._deliveries[client]
            self.given_up += 1
            return b""
        self._deliveries[client] += 1
        return self.owed[client].receipt

    def acknowledge(self, client: str) -> None:
        """Note that a client has taken what it was sent, its receipt included."""
        if self._deliveries[client] and self.owes(client):
            del self.owed[client], self._deliveries[client]
            self.acknowledged += 1


def aggregation_facts(recipe: Recipe, clients: int) -> dict[str, Any]:
    """Return how the rounds of a recipe hide single updates, for a full cohort, as plain values; None where not at all.

    Args:
        recipe: says the thresholds.
        clients: how many clients the federation has.
    """
    settings, cohort = recipe.secure_aggregation, min(recipe.training.cohort or clients, clients)
    facts: dict[str, Any] = dict.fromkeys(
        ("threshold", "min_cohort", "mode", "min_survivors", "colluders", "dropout", "graph", "adversary")
    )
    if not settings.enabled:
        return {"enabled": False} | facts
    graph, colluders = graph_of(cohort), colluders_in(settings, cohort)
    return (
        {"enabled": True}
        | facts
        | {
            "threshold": topology(graph, cohort, colluders, dropout_ppm(settings), NO_DIGEST).threshold,
            "min_cohort": settings.min_cohort,
            "mode": settings.mode,
            "min_survivors": survivors_of(settings, cohort),
            "colluders": colluders,
            "dropout": settings.dropout,
            "graph": graph,
            # Members that pin no organisations must believe the coordinator that the others exist.
            "adversary": "nobody: a simulation without masks"
            if settings.mode == ELIDED
            else adversary(graph, pinned=False),
        }
    )


@dataclass
class Receipts:
    """One exchange that delivers what is still owed, at the end of a run."""

    at: Occasion
    masking: Masking
    names: tuple[str, ...] = (RECEIPT_ACTION,)
    closes_early: int | None = None

    def request(self, exchange: int, client: str) -> Instruction:
        """Return the receipt of a client."""
        at = self.at
        return Instruction(RECEIPT_ACTION, at.run, at.round, at.attempt, b"", receipt=self.masking.receipt_for(client))

    def vector_bytes(self, exchange: int) -> int:
        """Return 0: nobody answers a receipt with a vector."""
        return 0

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Note that it was taken."""
        self.masking.acknowledge(client)

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """Have nothing more to ask."""
        return ()
