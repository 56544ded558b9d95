"""A member's part in masked rounds: the protocol's machine, fed with what the agent's own step computed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tacit.client.training import Draws
from tacit.models import broadcast
from tacit.models.messages import RECEIPT_ACTION, Instruction, Reply
from tacit.privacy import identity as identities
from tacit.privacy.codec import NO_DIGEST, Verify, sha256
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Certificate, Identity
from tacit.privacy.ledger import Anchor
from tacit.privacy.randomness import Keystream, Randomness
from tacit.privacy.secagg.client import ClientRound, State
from tacit.privacy.secagg.elided import input_rounding
from tacit.privacy.secagg.encoding import encode
from tacit.privacy.secagg.keys import Agree, agreement
from tacit.privacy.secagg.messages import Reply as Answer
from tacit.privacy.secagg.offer import ELIDED, Offer
from tacit.privacy.secagg.policy import Journal, Policy
from tacit.privacy.secagg.receipt import Receipt, check_receipt, offer_digest_of

MOST_OWED = 8  # rounds whose receipts are waited for, and receipts that may come again
Key = TypeVar("Key")
Value = TypeVar("Value")
Values = Mapping[str, NDArray[np.floating]]
Integers = NDArray[np.int64]
Contribute = Callable[[Instruction, Offer, Draws], Values | Integers]
"""What the agent computes for a round: values by block, or integers that a privacy mechanism has rounded and noised."""


class Consent(Protocol):
    """What decides on offers for the owner of the data, and pays for inputs before they leave."""

    def judge(self, instruction: Instruction, offer: Offer | None) -> None:
        """Let an offer pass; raises a `PrivacyError` that says why not."""
        ...

    def check_running(self) -> None:
        """Raise a `PrivacyError` while the owner has paused the agent."""
        ...

    def reserve(self, instruction: Instruction, offer: Offer | None) -> Anchor | None:
        """Reserve what an input costs, and return the ledger's head that goes with it; None if nothing is counted."""
        ...

    def void(self, key: tuple[str, int, int]) -> None:
        """Give back what was reserved for an attempt: nothing left."""
        ...

    def spend(self, key: tuple[str, int, int], survivors: int | None = None) -> None:
        """Settle what was reserved for an attempt at a number of survivors that is proven."""
        ...

    def left(self, instruction: Instruction, message: bytes, vector: NDArray[Any] | None = None) -> None:
        """Put a message that is about to leave, and the masked vector that goes with it, into the owner's account."""
        ...

    def owed(self, offer_digest: bytes) -> Anchor | None:
        """Return the ledger's head that went out for an offer, also in an earlier process; None if there is none."""
        ...

    def failed(self, instruction: Instruction, what: str, error: Exception) -> None:
        """Put into the owner's account that a step was not taken, or a receipt, and why."""
        ...

    def countersigned(self, receipt: Receipt) -> None:
        """Keep the head that came back."""
        ...

    def unknown_receipt(self, digest: bytes, receipt: Receipt | None) -> None:
        """Put a receipt that nobody here waits for into the owner's account; None if it is not even one for us."""
        ...


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
        agree: how secrets are agreed on.
        accept_elided: answer offers without masks, as a simulation's members do and no others.
        consent: decides on offers and keeps the ledger; None where there is neither a policy nor a ledger.
        public_rounding: where values without noise are rounded from, if not from `randomness`. What rounding adds hides
            nothing, so a simulation takes it from the recipe's seed and can be repeated when its own is gone.
    """

    identity: Identity
    certificate: Certificate
    policy: Policy
    journal: Journal
    randomness: Randomness
    verify: Verify = identities.verify
    now: Callable[[], float] = time.time
    agree: Agree = agreement
    accept_elided: bool = False
    public_rounding: Randomness | None = None
    consent: Consent | None = None


@dataclass
class _Attempt:
    """One attempt that the member takes part in: the machine, what offered it, and which answers are in the account."""

    machine: ClientRound
    offered: Instruction
    key: tuple[str, int, int]
    given: bool = False
    accounted: set[str] = field(default_factory=set)


@dataclass
class MaskedMember:
    """Takes the five steps of masked rounds, and checks the receipts.

    One attempt is under way at a time, until the offer of another one is accepted. From then on it is kept for its
    receipt alone, without a secret, a vector or an answer to anything else. Of those whose receipt never comes, as of
    rounds that were aborted, the newest are kept.
    """

    membership: Membership
    contribute: Contribute
    receipts_checked: int = 0
    _current: _Attempt | None = None
    _owed: OrderedDict[bytes, ClientRound] = field(default_factory=OrderedDict)
    _accepted: OrderedDict[bytes, bytes] = field(default_factory=OrderedDict)

    def take(self, instruction: Instruction) -> Reply:
        """Take one step; one that is not taken is in the owner's account with the reason.

        Raises:
            PrivacyError: the step is refused, or ends the attempt for this member; the text says why.
        """
        what = RECEIPT_ACTION
        try:
            if instruction.receipt:
                self._check_receipt(instruction.receipt)
            what = instruction.action
            return Reply() if what == RECEIPT_ACTION else self._step(instruction)
        except Exception as error:
            if self.membership.consent is not None:
                self.membership.consent.failed(instruction, what, error)
            raise

    def _step(self, instruction: Instruction) -> Reply:
        key = (instruction.run, instruction.round, instruction.attempt)
        if instruction.action == "advertise":
            return self._advertise(instruction, key)
        if instruction.action == "contribute":
            return self._contribute_unmasked(instruction, key)
        attempt = self._current
        if attempt is None or attempt.key != key:
            raise RemoteProtocolError("unknown-attempt", "no offer of this attempt was accepted here")
        if instruction.action == "mask":
            self._give(attempt)
        try:
            reply = attempt.machine.receive(instruction.message)
        except BaseException:
            # A machine that goes on may still give its input; only one that is over never will.
            if attempt.machine.state is State.ABORTED:
                self._give_back(key)
            raise
        if reply.vector is not None:
            remember(self._owed, attempt.machine.offer.digest, attempt.machine, MOST_OWED)
        self._account(attempt, instruction, reply)
        vectors = {} if reply.vector is None else {"masked": reply.vector}
        return Reply(message=reply.message, arrays=vectors)

    def _advertise(self, instruction: Instruction, key: tuple[str, int, int]) -> Reply:
        attempt = self._current
        if attempt is not None and attempt.key == key:
            return Reply(message=attempt.machine.receive(instruction.message).message)
        _read_offer(instruction, key)
        member = self.membership
        machine = ClientRound(
            member.identity,
            member.certificate,
            self._policy(instruction),
            member.journal,
            member.randomness,
            model_digest=_model_digest(instruction),
            now=int(member.now()),
            verify=member.verify,
            agree=member.agree,
        )
        reply = machine.receive(instruction.message)
        if attempt is not None:
            attempt.machine.conclude()
        self._current = _Attempt(machine, instruction, key)
        self._account(self._current, instruction, reply)
        return Reply(message=reply.message)

    def _give(self, attempt: _Attempt) -> None:
        """Compute the member's input, once; where that fails, the attempt is over for this member."""
        machine = attempt.machine
        if attempt.given or machine.state is not State.SHARED:
            return
        try:
            anchor = self._reserve(attempt.offered, machine.offer)
            integers = self._integers(attempt.offered, machine.offer)
            head, counter = (anchor.head, anchor.counter) if anchor is not None else (NO_DIGEST, 0)
            machine.contribute_integers(integers, ledger_head=head, ledger_counter=counter)
        except BaseException:
            machine.abandon()
            self._give_back(attempt.key)
            raise
        attempt.given = True

    def _policy(self, instruction: Instruction) -> Policy:
        """Return what the machine insists on, the owner's consent to this very offer included."""
        consent = self.membership.consent
        if consent is None:
            return self.membership.policy
        return replace(self.membership.policy, approve=lambda offer: consent.judge(instruction, offer))

    def _account(self, attempt: _Attempt, instruction: Instruction, reply: Answer) -> None:
        """Put an answer into the owner's account, once: asked again, the same bytes leave again.

        An answer to the last exchange settles the cost: whoever has seen that t others signed the same survivors knows
        that no smaller set can be unmasked, which its own signature of a set that it was shown does not prove.
        """
        consent = self.membership.consent
        if consent is None or instruction.action in attempt.accounted:
            return
        if instruction.action == "unmask":
            consent.spend(attempt.key, len(attempt.machine.survivors))
        consent.left(instruction, reply.message, reply.vector)
        attempt.accounted.add(instruction.action)

    def _reserve(self, offered: Instruction, offer: Offer) -> Anchor | None:
        consent = self.membership.consent
        return consent.reserve(offered, offer) if consent is not None else None

    def _give_back(self, key: tuple[str, int, int]) -> None:
        """Give back what was reserved for an input that never left; one that may have left stays paid for."""
        run, number, _ = key
        if self.membership.consent is not None and not self.membership.journal.contributed(run, number):
            self.membership.consent.void(key)

    def _contribute_unmasked(self, instruction: Instruction, key: tuple[str, int, int]) -> Reply:
        """Answer an elided offer in one exchange, with the integers that masks would have hidden."""
        offer = _read_offer(instruction, key)
        if not self.membership.accept_elided or offer.mode != ELIDED:
            raise RemoteProtocolError("not-masked", "a round without masks is a simulation, never answered")
        if offer.model_digest != _model_digest(instruction):
            raise RemoteProtocolError("other-model", "the offer is about another global vector than the one received")
        if self.membership.consent is not None:
            self.membership.consent.judge(instruction, offer)
        self._reserve(instruction, offer)
        try:
            integers = self._integers(instruction, offer).astype(np.int32, copy=False)
        except BaseException:
            self._give_back(key)
            raise
        self.membership.journal.record_contribution(offer.run, offer.round)
        return Reply(arrays={"integers": integers})

    def _integers(self, offered: Instruction, offer: Offer) -> NDArray[np.signedinteger]:
        """Compute the member's input on the grid: the same whether masks will hide it or not."""
        given = self.contribute(offered, offer, self._draws(offer))
        if self.membership.consent is not None:  # who may have paused it in the minutes that this took
            self.membership.consent.check_running()
        if isinstance(given, np.ndarray):
            return given
        member, client = self.membership, self.membership.certificate.client
        if member.public_rounding is None:
            rounding = input_rounding(member.randomness, offer, client)
        else:
            rounding = Keystream(member.public_rounding.key("rounding", offer.round, offer.attempt, client))
        return encode(offer.layout, given, offer.rotation_seed, rounding)

    def _draws(self, offer: Offer) -> Draws:
        member = self.membership
        return lambda purpose: Keystream(
            member.randomness.key("secagg", *offer.attempt_key, member.certificate.client, purpose)
        )

    def _check_receipt(self, data: bytes) -> None:
        """Check a receipt: against its attempt, or against what an earlier process has left in the ledger.

        A wrong one raises. One that nobody here waits for proves nothing and harms nothing: it is noted and passed
        over, so that whoever has lost its memory in a restart takes part in the next round all the same.

        The same receipt may come again, if the answer to it was lost; another one for the same attempt may not.
        """
        known, offer_digest = sha256(data), offer_digest_of(data)
        accepted = self._accepted.get(offer_digest)
        if accepted is not None:
            if accepted != known:
                raise RemoteProtocolError("other-receipt", "another one came for the same attempt before")
            return
        consent, machine = self.membership.consent, self._owed.get(offer_digest)
        if machine is not None:
            receipt = machine.accept_receipt(data)
            # What follows may fail, as on a full disk; when the receipt comes again, the ledger says what it is about.
            del self._owed[offer_digest]
            if consent is not None:  # it proves the survivors to whom the last exchange did not reach
                consent.spend(machine.offer.attempt_key, len(receipt.survivors))
        elif consent is None:
            return
        elif (anchor := consent.owed(offer_digest)) is not None:
            receipt = self._read_receipt(data, anchor)
        else:
            consent.unknown_receipt(known, self._for_us(data))
            return
        if consent is not None:
            consent.countersigned(receipt)
        remember(self._accepted, offer_digest, known, MOST_OWED)
        self.receipts_checked += 1

    def _read_receipt(self, data: bytes, anchor: Anchor | None = None) -> Receipt:
        """Check all of a receipt that can be checked once the attempt is gone: who signed it, for whom, about what."""
        member, receipt = self.membership, Receipt.decode(data)
        head, counter = (
            (receipt.ledger_head, receipt.ledger_counter) if anchor is None else (anchor.head, anchor.counter)
        )
        check_receipt(receipt, member.policy.coordinator_key, member.certificate.client, head, counter, member.verify)
        return receipt

    def _for_us(self, data: bytes) -> Receipt | None:
        """Return a receipt that the coordinator has signed for this member; None if it is none."""
        try:
            return self._read_receipt(data)
        except RemoteProtocolError:
            return None


def remember(kept: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Keep a value, and forget the oldest if there are too many."""
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)


def _read_offer(instruction: Instruction, key: tuple[str, int, int]) -> Offer:
    offer = Offer.decode(instruction.message)
    if offer.attempt_key != key:
        raise RemoteProtocolError("other-attempt", "the offer is about another attempt than its envelope")
    if offer.recipe_digest != sha256(instruction.plan):
        raise RemoteProtocolError("other-plan", "the offer is about another plan than the one that came with it")
    return offer


def _model_digest(instruction: Instruction) -> bytes:
    """Return H(the vector that would be trained from), however it travels; of nothing, for a preparation round."""
    try:
        return broadcast.digest(instruction.arrays)
    except ValueError as error:
        raise RemoteProtocolError("other-model", str(error)) from None
