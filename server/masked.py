"""What the messages of a masked round mean: five exchanges, one sum, and no single contribution anywhere in it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.models.contributions import METRICS, STATISTICS, UPDATE, WEIGHT, preparation_layout, training_layout
from tacit.models.data.rows import Schema
from tacit.models.messages import ELIDED_ACTIONS, MASKED_ACTIONS, RECEIPT_ACTION, Instruction, Reply
from tacit.models.noise import MECHANISM, NoisePlan
from tacit.models.preparation import preparation_size
from tacit.models.recipe import SecureAggregationSection
from tacit.privacy import identity as identities
from tacit.privacy.codec import NO_DIGEST, Verify, sha256
from tacit.privacy.errors import PrivacyError
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import Randomness
from tacit.privacy.secagg.aggregate import Aggregate
from tacit.privacy.secagg.elided import ElidedRound
from tacit.privacy.secagg.graph import COMPLETE, REGULAR
from tacit.privacy.secagg.layout import Layout
from tacit.privacy.secagg.offer import ELIDED, Offer
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.receipt import Receipt
from tacit.privacy.secagg.server import ServerRound
from tacit.server.exchanges import Occasion, TrainingResult
from tacit.server.rounds import RoundAborted

COMPLETE_GRAPH_MOST = 200  # members; above, a regular graph keeps the work of each member nearly flat
MASK_EXCHANGE = MASKED_ACTIONS.index("mask")


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
        owed: the receipts that were not delivered yet, by client.
        last_receipt: digest of the last receipt of the run.
        at_fault: who was convicted of breaking the protocol, and is not asked again.
    """

    identity: Identity
    authority_keys: frozenset[bytes]
    settings: SecureAggregationSection
    randomness: Randomness
    verify: Verify = identities.verify
    now: Callable[[], float] = time.time
    owed: MutableMapping[str, bytes] = field(default_factory=dict)
    last_receipt: bytes = NO_DIGEST
    at_fault: set[str] = field(default_factory=set)

    def offer(
        self,
        at: Occasion,
        vector: NDArray[np.float32] | None,
        layout: Layout,
        cohort: int,
        noise: NoisePlan | None = None,
    ) -> Offer:
        """Return the unsigned offer of an attempt.

        Raises:
            Infeasible: no threshold is both safe and reachable; the error says which number to change.
        """
        settings = self.settings
        return Offer.plan(
            run=at.run,
            round=at.round,
            attempt=at.attempt,
            model_digest=sha256(b"" if vector is None else vector.data.cast("B")),
            recipe_digest=sha256(at.plan),
            layout=layout,
            rotation_seed=self.randomness.key("rotation", at.run, at.round, at.attempt),
            cohort=cohort,
            min_cohort=settings.min_cohort,
            colluders=math.floor(settings.colluding * cohort),
            dropout=settings.dropout,
            mechanism=MECHANISM if noise else "none",
            mechanism_parameters=noise.parameters if noise else (),
            noise_variance=noise.share_variance if noise else 0.0,
            graph=COMPLETE if cohort <= COMPLETE_GRAPH_MOST else REGULAR,
            last_receipt=self.last_receipt,
            mode=settings.mode,
        )

    def settle(self, server: ServerRound) -> None:
        """Owe every survivor of a finished round its receipt."""
        receipts = server.receipts()
        self.owed.update(receipts)
        self.last_receipt = Receipt.decode(next(iter(receipts.values()))).digest


class SecureSum(Protocol):
    """The exchanges of one attempt, and the sum that they end with."""

    names: tuple[str, ...]
    closes_early: int | None

    @property
    def aggregate(self) -> Aggregate:
        """Return the sum."""
        ...

    @property
    def may_retry(self) -> frozenset[str] | None:
        """Return who may take part in another attempt; None for everybody, as no input has left."""
        ...

    def request(self, exchange: int, client: str) -> Instruction:
        """Return what to send."""
        ...

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Take an answer."""
        ...

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """End an exchange."""
        ...


class MaskedSum:
    """The protocol's five exchanges; the coordinator's machine does everything, this carries."""

    names: tuple[str, ...] = MASKED_ACTIONS
    closes_early: int | None = None

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
            receipt=self._masking.owed.get(client, b"") if first else b"",
        )

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Hand an answer to the machine; what it refuses drops the client."""
        if exchange == 0:
            self._masking.owed.pop(client, None)
        try:
            self._server.receive(client, reply.message, reply.arrays.get("masked"))
        except PrivacyError as error:
            raise ValueError(str(error)) from None

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """End the exchange; the machine says who is asked next, or that the attempt is over."""
        phase = self._server.close_phase()
        self._masking.at_fault |= self._server.at_fault
        if phase is Phase.ABORTED:
            raise RoundAborted(self._server.abort_reason)
        if phase is Phase.DONE:
            self._masking.settle(self._server)
            return ()
        return sorted(self._server.waiting)


class ElidedSum:
    """The same integers, added up without masks in one exchange: for simulations only, and called what it is."""

    names: tuple[str, ...] = ELIDED_ACTIONS
    closes_early: int | None = None

    def __init__(self, at: Occasion, offer: Offer, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Start with the sum of nothing."""
        self._at = at
        self._arrays = arrays
        self._message = offer.encode()
        self._round = ElidedRound(offer)
        self._contributed: set[str] = set()

    @property
    def aggregate(self) -> Aggregate:
        """Return the sum over those that answered."""
        return self._round.result()

    @property
    def may_retry(self) -> frozenset[str] | None:
        """Return None: without masks there is no difference of two sums to protect."""
        return None

    def request(self, exchange: int, client: str) -> Instruction:
        """Return the offer, with model and plan."""
        at = self._at
        return Instruction(
            self.names[0], at.run, at.round, at.attempt, at.plan, arrays=self._arrays, message=self._message
        )

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Add one client's integers."""
        integers = reply.arrays.get("integers")
        if integers is None:
            raise ValueError("the integers are missing")
        try:
            self._round.contribute_integers(client, integers)
        except PrivacyError as error:
            raise ValueError(str(error)) from None

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """Decode the sum, if enough are in it."""
        try:
            self._round.result()
        except PrivacyError as error:
            raise RoundAborted(str(error)) from None
        return ()


def masked_sum(
    at: Occasion,
    vector: NDArray[np.float32] | None,
    layout: Layout,
    clients: Sequence[str],
    masking: Masking,
    noise: NoisePlan | None = None,
) -> SecureSum:
    """Return the exchanges of an attempt, masked or elided as the recipe says.

    Raises:
        Infeasible: no threshold is both safe and reachable; nothing was offered.
    """
    offer = masking.offer(at, vector, layout, len(clients), noise)
    arrays: dict[str, NDArray[Any]] = {} if vector is None else {"vector": vector}
    if offer.mode == ELIDED:
        return ElidedSum(at, offer.signed(masking.identity), arrays)
    return MaskedSum(at, masking, offer, clients, arrays)


class _Carried:
    """Exchanges that a secure sum does."""

    def __init__(self, inner: SecureSum) -> None:
        self.sum = inner
        self.names = inner.names
        self.closes_early = inner.closes_early
        self.request = inner.request
        self.accept = inner.accept
        self.close = inner.close

    @property
    def may_retry(self) -> frozenset[str] | None:
        """Return who may take part in another attempt; None for everybody."""
        return self.sum.may_retry

    @property
    def survivors(self) -> frozenset[str]:
        """Return who is in the sum."""
        return frozenset(self.sum.aggregate.survivors)


class MaskedTraining(_Carried):
    """A training round whose updates are only ever seen added up."""

    def __init__(self, at: Occasion, vector: NDArray[np.float32], clients: Sequence[str], masking: Masking) -> None:
        """Offer the round to `clients`; see `masked_sum`."""
        super().__init__(masked_sum(at, vector, training_layout(vector.size, len(clients)), clients, masking))

    def result(self) -> TrainingResult:
        """Return the weighted means of updates and losses, from the sums."""
        blocks = self.sum.aggregate.blocks
        weight = float(blocks[WEIGHT][0])
        if weight <= 0:
            raise ZeroDivisionError("the mean of contributions without weight does not exist")
        return TrainingResult((blocks[UPDATE] / weight).astype(np.float32), float(blocks[METRICS][0]) / weight)


class NoisedTraining(_Carried):
    """A training round whose sum comes noised: the clients' shares of noise are in it before anybody sees it.

    The mean is over the public number of survivors; no weight, loss or dataset size is part of the vector.
    """

    def __init__(
        self, at: Occasion, vector: NDArray[np.float32], clients: Sequence[str], masking: Masking, noise: NoisePlan
    ) -> None:
        """Offer the round to `clients`; see `masked_sum`."""
        super().__init__(masked_sum(at, vector, noise.layout, clients, masking, noise))

    def result(self) -> TrainingResult:
        """Return the mean update; there is no loss."""
        total = self.sum.aggregate
        return TrainingResult((total.blocks[UPDATE] / len(total.survivors)).astype(np.float32), math.nan)


class MaskedPreparation(_Carried):
    """A preparation round whose statistics are only ever seen added up, exactly."""

    def __init__(self, at: Occasion, schema: Schema, clients: Sequence[str], masking: Masking) -> None:
        """Offer the round to `clients`; see `masked_sum`."""
        super().__init__(masked_sum(at, None, preparation_layout(preparation_size(schema)), clients, masking))

    def total(self) -> NDArray[np.float64]:
        """Return the sum over the survivors."""
        return self.sum.aggregate.blocks[STATISTICS]


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
        return Instruction(
            RECEIPT_ACTION, at.run, at.round, at.attempt, b"", receipt=self.masking.owed.get(client, b"")
        )

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        """Note that it was taken."""
        self.masking.owed.pop(client, None)

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        """Have nothing more to ask."""
        return ()
