"""One sum over many clients: by five exchanges that show no single contribution, or by one, for simulations only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from tacit.models.broadcast import Arrays
from tacit.models.messages import ELIDED_ACTIONS, MASKED_ACTIONS, Instruction, Reply
from tacit.models.noise import NoisePlan
from tacit.privacy.errors import PrivacyError, RemoteProtocolError
from tacit.privacy.secagg.aggregate import Aggregate
from tacit.privacy.secagg.elided import ElidedRound
from tacit.privacy.secagg.encoding import packed_bytes
from tacit.privacy.secagg.layout import Layout
from tacit.privacy.secagg.offer import ELIDED, Offer
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.server import EXPECTED, ServerRound
from tacit.server.exchanges import Occasion
from tacit.server.masking import Masking
from tacit.server.rounds import RoundAborted

MASK_EXCHANGE = MASKED_ACTIONS.index("mask")
AFTER_MASK = MASKED_ACTIONS[MASK_EXCHANGE + 1 :]


class SecureSum(Protocol):
    """The exchanges of one attempt, and the sum that they end with."""

    names: tuple[str, ...]
    closes_early: int | None

    @property
    def offer_digest(self) -> bytes:
        """Return H(Offer)."""
        ...

    @property
    def aggregate(self) -> Aggregate:
        """Return the sum."""
        ...

    def snapshot(self) -> Iterable[bytes | memoryview]:
        """Return, in pieces, what must be kept before an exchange is asked for; none if it cannot be gone on with."""
        ...

    @property
    def may_retry(self) -> frozenset[str] | None:
        """Return who may take part in another attempt; None for everybody, as no input has left."""
        ...

    @property
    def blamed(self) -> Mapping[str, str]:
        """Return who was dropped for what it sent, and why, also if its input is in the sum."""
        ...

    def request(self, exchange: int, client: str) -> Instruction:
        """Return what to send."""
        ...

    def vector_bytes(self, exchange: int) -> int:
        """Return how many bytes the vectors of an answer have at most."""
        ...

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Take an answer."""
        ...

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """End an exchange."""
        ...

    def abandon(self, reason: str) -> None:
        """End the attempt without a sum, and forget what was added up."""
        ...


class MaskedSum:
    """The protocol's five exchanges; the coordinator's machine does everything, this carries."""

    names: tuple[str, ...] = MASKED_ACTIONS
    closes_early: int | None = 0  # whoever has advertised by then is a member

    def __init__(
        self, at: Occasion, masking: Masking, offer: Offer, clients: Sequence[str], arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        """Sign the offer; nothing is sent yet."""
        self._at = at
        self._masking = masking
        self._arrays = arrays
        self._server = ServerRound(
            offer,
            masking.identity,
            clients,
            authority_keys=masking.authority_keys,
            now=int(masking.now()),
            verify=masking.verify,
        )
        self._inputs_may_have_left = False

    @classmethod
    def restored(
        cls, at: Occasion, masking: Masking, offer: Offer, snapshot: bytes, arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """Go on from a snapshot that another process has kept.

        Args:
            at: what it is part of.
            masking: the coordinator's part.
            offer: what would be offered today; but for the seed of the rotation it is what was offered.
            snapshot: what was kept.
            arrays: what goes with the offer.

        Raises:
            RemoteProtocolError: it is no snapshot, or that of another attempt, model or plan.
        """
        found = cls.__new__(cls)
        found._at, found._masking, found._arrays = at, masking, arrays
        found._server = ServerRound.restore(
            snapshot,
            masking.identity,
            authority_keys=masking.authority_keys,
            now=int(masking.now()),
            verify=masking.verify,
        )
        kept = found._server.offer
        today = replace(
            offer, rotation_seed=kept.rotation_seed, last_receipt=kept.last_receipt, signature=kept.signature
        )
        if today != kept:
            raise RemoteProtocolError("other-attempt", "what was kept is about another model, plan or cohort")
        found._inputs_may_have_left = found._server.phase.value >= Phase.MASK.value
        return found

    def snapshot(self) -> Iterable[bytes | memoryview]:
        """Return, in pieces, what must be kept before the requests of an exchange are sent."""
        return self._server.snapshot_pieces()

    @property
    def offer_digest(self) -> bytes:
        """Return H(Offer)."""
        return self._server.offer.digest

    @property
    def aggregate(self) -> Aggregate:
        """Return the sum over the survivors."""
        return self._server.result()

    @property
    def may_retry(self) -> frozenset[str] | None:
        """Return who may be offered another attempt at this round: nobody whose masked input left."""
        return self._server.may_retry if self._inputs_may_have_left else None

    def request(self, exchange: int, client: str) -> Instruction:
        """Return what to send; model and plan go with the offer alone, an overdue receipt with it too."""
        at, first = self._at, exchange == 0
        self._inputs_may_have_left |= exchange == MASK_EXCHANGE
        return Instruction(
            action=self.names[exchange],
            run=at.run,
            round=at.round,
            attempt=at.attempt,
            plan=at.plan if first else b"",
            arrays=self._arrays if first else {},
            message=self._server.request(client),
            receipt=self._masking.receipt_for(client) if first else b"",
        )

    def vector_bytes(self, exchange: int) -> int:
        """Return the size of the packed masked vector, for the exchange that carries it."""
        offer = self._server.offer
        return packed_bytes(offer.dimension, offer.bits) if exchange == MASK_EXCHANGE else 0

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Hand an answer to the machine; what it refuses drops the client."""
        if exchange == 0:
            self._masking.acknowledge(client)
        try:
            self._server.receive(client, reply.message, reply.arrays.get("masked"))
        except PrivacyError as error:
            raise ValueError(str(error)) from None

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """End the exchange; the machine says who is asked next, or that the attempt is over."""
        phase = self._server.close_phase()
        self._masking.judge(self._server)
        if phase is Phase.ABORTED:
            raise RoundAborted(self._server.abort_reason)
        if phase is Phase.DONE:
            self._masking.settle(self._server)
            return ()
        asked = self._server.waiting
        return tuple(client for client in reported if client in asked)

    @property
    def blamed(self) -> Mapping[str, str]:
        """Return who was dropped for what it sent, and why, also if its input is in the sum."""
        return self._server.dropped

    def abandon(self, reason: str) -> None:
        """End the attempt without a sum; who broke it is remembered."""
        self._masking.judge(self._server)
        if self._server.phase in EXPECTED:
            self._server.abort(reason)


class ElidedSum:
    """The same integers, added up without masks in one exchange: for simulations only, and called what it is."""

    names: tuple[str, ...] = ELIDED_ACTIONS
    closes_early: int | None = 0

    def __init__(self, at: Occasion, offer: Offer, clients: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Start with the sum of nothing."""
        self._at = at
        self._arrays = arrays
        self._message = offer.encode()
        self._round = ElidedRound(offer)
        self._dimension = offer.dimension
        self._clients = frozenset(clients)
        self._contributed: set[str] = set()
        self.offer_digest = offer.digest

    @property
    def aggregate(self) -> Aggregate:
        """Return the sum over those that answered."""
        return self._round.result()

    def snapshot(self) -> Iterable[bytes | memoryview]:
        """Return nothing: a simulation repeats the attempt."""
        return ()

    @property
    def may_retry(self) -> frozenset[str] | None:
        """Return whom a masked round would ask again: nobody whose input was added."""
        return self._clients - self._contributed

    def request(self, exchange: int, client: str) -> Instruction:
        """Return the offer, with model and plan."""
        at = self._at
        return Instruction(
            self.names[0], at.run, at.round, at.attempt, at.plan, arrays=self._arrays, message=self._message
        )

    def vector_bytes(self, exchange: int) -> int:
        """Return the size of the integers, of 32 bits each."""
        return 4 * self._dimension

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Add one client's integers."""
        integers = reply.arrays.get("integers")
        if integers is None:
            raise ValueError("the integers are missing")
        try:
            self._round.contribute_integers(client, integers)
        except PrivacyError as error:
            raise ValueError(str(error)) from None
        self._contributed.add(client)

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """Decode the sum, if enough are in it."""
        try:
            self._round.result()
        except PrivacyError as error:
            raise RoundAborted(str(error)) from None
        return ()

    @property
    def blamed(self) -> Mapping[str, str]:
        """Return nobody: without a protocol there is none to break."""
        return {}

    def abandon(self, reason: str) -> None:
        """Have nothing to forget that anything could be learned from."""


def masked_sum(
    at: Occasion,
    arrays: Arrays,
    layout: Layout,
    clients: Sequence[str],
    masking: Masking,
    noise: NoisePlan | None = None,
    snapshot: bytes = b"",
    wanted: int | None = None,
) -> SecureSum:
    """Return the exchanges of an attempt, masked or elided as the recipe says; those of a snapshot, if there is one.

    Of more clients than are wanted the first take part, and everything that is promised is about so many.
    `arrays` is the global vector as it travels, empty for none.

    Raises:
        Infeasible: no threshold is both safe and reachable; nothing was offered.
        RemoteProtocolError: the snapshot is another attempt's.
    """
    offer = masking.offer(at, arrays, layout, wanted or len(clients), noise)
    if offer.mode == ELIDED:
        return ElidedSum(at, offer.signed(masking.identity), clients, arrays)
    if snapshot:
        return MaskedSum.restored(at, masking, offer, snapshot, arrays)
    return MaskedSum(at, masking, offer, clients, arrays)
