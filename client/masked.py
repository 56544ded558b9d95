"""A member's part in masked rounds: the protocol's machine, fed with what the agent's own step computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.models.messages import RECEIPT_ACTION, Instruction, Reply
from tacit.privacy import identity as identities
from tacit.privacy.codec import NO_DIGEST, Verify, sha256
from tacit.privacy.errors import PrivacyError, RemoteProtocolError
from tacit.privacy.identity import Certificate, Identity
from tacit.privacy.randomness import Keystream, Randomness
from tacit.privacy.secagg.client import ClientRound, State
from tacit.privacy.secagg.elided import input_rounding
from tacit.privacy.secagg.encoding import encode
from tacit.privacy.secagg.offer import ELIDED, Offer
from tacit.privacy.secagg.policy import Journal, Policy

Values = Mapping[str, NDArray[np.floating]]
Integers = NDArray[np.int64]
Draws = Callable[[str], Keystream]
"""A member's own secret words in one attempt, for a purpose; each purpose is asked for once."""
Contribute = Callable[[Instruction, Offer, Draws], Values | Integers]
"""What the agent computes for a round: values by block, or integers that a privacy mechanism has rounded and noised."""


@dataclass(frozen=True, repr=False)
class Membership:
    """Who an agent is in a federation that masks.

    Attributes:
        identity: its long-lived key.
        certificate: what says whose key it is.
        policy: what it insists on.
        journal: what it remembers from one attempt to the next.
        randomness: where its secret draws come from.
        verify: how signatures are verified.
        now: seconds since 1970, for certificates.
        accept_elided: answer offers without masks, as a simulation's members do and no others.
    """

    identity: Identity
    certificate: Certificate
    policy: Policy
    journal: Journal
    randomness: Randomness
    verify: Verify = identities.verify
    now: Callable[[], float] = time.time
    accept_elided: bool = False


@dataclass
class _Attempt:
    """One attempt that the member takes part in: the machine, and the instruction that offered it."""

    machine: ClientRound
    offered: Instruction
    key: tuple[str, int, int]


@dataclass
class MaskedMember:
    """Takes the five steps of masked rounds, and checks the receipts.

    One attempt is under way at a time; an offer for another one ends it. Attempts whose receipt is due are kept until
    it comes, without their vector and without any secret but what a repeated request needs.
    """

    membership: Membership
    contribute: Contribute
    _current: _Attempt | None = None
    _owed: dict[tuple[str, int, int], ClientRound] = field(default_factory=dict)
    receipts_checked: int = 0

    def take(self, instruction: Instruction) -> Reply:
        """Take one step.

        Raises:
            PrivacyError: the step is refused, or ends the attempt for this member; the text says why.
        """
        if instruction.receipt:
            self._check_receipt(instruction.receipt)
        if instruction.action == RECEIPT_ACTION:
            return Reply()
        key = (instruction.run, instruction.round, instruction.attempt)
        if instruction.action == "advertise":
            return self._advertise(instruction, key)
        if instruction.action == "contribute":
            return self._contribute_unmasked(instruction, key)
        attempt = self._current
        if attempt is None or attempt.key != key:
            raise RemoteProtocolError("unknown-attempt", "no offer of this attempt was accepted here")
        if instruction.action == "mask" and attempt.machine.state is State.SHARED:
            given = self.contribute(attempt.offered, attempt.machine.offer, self._draws(attempt.machine.offer))
            if isinstance(given, np.ndarray):
                attempt.machine.contribute_integers(given, ledger_head=NO_DIGEST, ledger_counter=0)
            else:
                attempt.machine.contribute(given, ledger_head=NO_DIGEST, ledger_counter=0)
        reply = attempt.machine.receive(instruction.message)
        if instruction.action == "mask":
            self._owed[key] = attempt.machine
        vectors = {} if reply.vector is None else {"masked": reply.vector}
        return Reply(message=reply.message, arrays=vectors)

    def _advertise(self, instruction: Instruction, key: tuple[str, int, int]) -> Reply:
        attempt = self._current
        if attempt is not None and attempt.key == key:
            return Reply(message=attempt.machine.receive(instruction.message).message)
        _read_offer(instruction, key)
        if attempt is not None and attempt.key not in self._owed:
            attempt.machine.abandon()
        member = self.membership
        machine = ClientRound(
            member.identity,
            member.certificate,
            member.policy,
            member.journal,
            member.randomness,
            model_digest=vector_digest(instruction.arrays.get("vector")),
            now=int(member.now()),
            verify=member.verify,
        )
        reply = machine.receive(instruction.message)
        self._current = _Attempt(machine, instruction, key)
        return Reply(message=reply.message)

    def _contribute_unmasked(self, instruction: Instruction, key: tuple[str, int, int]) -> Reply:
        """Answer an elided offer in one exchange, with the integers that masks would have hidden."""
        offer = _read_offer(instruction, key)
        if not self.membership.accept_elided or offer.mode != ELIDED:
            raise RemoteProtocolError("not-masked", "a round without masks is a simulation, never answered")
        if offer.model_digest != vector_digest(instruction.arrays.get("vector")):
            raise RemoteProtocolError("other-model", "the offer is about another global vector than the one received")
        given = self.contribute(instruction, offer, self._draws(offer))
        if isinstance(given, np.ndarray):
            return Reply(arrays={"integers": given.astype(np.int32)})
        rounding = input_rounding(self.membership.randomness, offer, self.membership.certificate.client)
        return Reply(arrays={"integers": encode(offer.layout, given, offer.rotation_seed, rounding)})

    def _draws(self, offer: Offer) -> Draws:
        member = self.membership
        return lambda purpose: Keystream(
            member.randomness.key("secagg", *offer.attempt_key, member.certificate.client, purpose)
        )

    def _check_receipt(self, data: bytes) -> None:
        """Find the attempt that a receipt is about, and let its machine check it; a bad one raises."""
        for key, machine in self._owed.items():
            try:
                machine.accept_receipt(data)
            except RemoteProtocolError as error:
                if error.detail != "it is about another attempt":
                    raise
                continue
            del self._owed[key]
            self.receipts_checked += 1
            return
        raise PrivacyError("a receipt came for a round that this member did not take part in")


def _read_offer(instruction: Instruction, key: tuple[str, int, int]) -> Offer:
    offer = Offer.decode(instruction.message)
    if offer.attempt_key != key:
        raise RemoteProtocolError("other-attempt", "the offer is about another attempt than its envelope")
    if offer.recipe_digest != sha256(instruction.plan):
        raise RemoteProtocolError("other-plan", "the offer is about another plan than the one that came with it")
    return offer


def vector_digest(vector: NDArray[np.float32] | None) -> bytes:
    """Return H(global vector); of nothing, for a preparation round."""
    return sha256(b"" if vector is None else np.ascontiguousarray(vector).data.cast("B"))
