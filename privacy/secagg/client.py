"""A member's side of one attempt of one round, as a state machine.

Theory of operation. Bytes go in through `receive`, one request of the coordinator at a time, and the reply comes out;
the member's own input goes in once, through `contribute`, before the third request. Nothing else happens: no clock, no
file, no network, no randomness but the source passed in. What must survive a crash goes to the `Journal`, always before
the bytes it is about come out.

Two rules. First, every request is answered once: the byte-identical request gets the byte-identical reply, at any later
time until the receipt, and any other one is refused. Second, whatever cannot be right ends the attempt: a request that
is well formed but fails a check wipes all secrets, and the member is a drop-out. What is malformed or out of turn is
refused and changes nothing.

    NEW --Offer--> ADVERTISED --Roster--> SHARED --Delivery--> MASKED --Survivors--> SIGNED --UnmaskRequest--> UNMASKED
                                                     |
                                                     +--> ACCUSED (a parcel does not open)

After Bonawitz et al. 2017 (ePrint 2017/281), figure 4 with the parts for active adversaries, and Bell et al. 2020
(ePrint 2020/704), algorithm 3; each method names the paper's round.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from tacit.privacy import identity as identities
from tacit.privacy.codec import DIGEST_BYTES, Message, Verify, check_lengths, sha256
from tacit.privacy.errors import LocalProtocolError, RemoteProtocolError
from tacit.privacy.identity import Certificate, Identity
from tacit.privacy.randomness import Keystream, Randomness
from tacit.privacy.secagg import keys, masks
from tacit.privacy.secagg.elided import input_rounding
from tacit.privacy.secagg.encoding import Residues, Values, encode, pack, reduce
from tacit.privacy.secagg.messages import Delivery, MaskedInput, Reply, Roster, Shares, holders_transcript
from tacit.privacy.secagg.offer import Offer
from tacit.privacy.secagg.policy import ROUND_OVER, Journal, Policy
from tacit.privacy.secagg.receipt import Receipt, check_receipt
from tacit.privacy.secagg.roster import Membership, checked_roster
from tacit.privacy.secagg.unmasking import (
    SURVIVORS_LABEL,
    Signatures,
    Survivors,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
    count_signatures,
    survivors_body,
    survivors_digest,
)
from tacit.privacy.secagg.vault import Vault


class State(Enum):
    """Where a member is in the attempt."""

    NEW = auto()
    ADVERTISED = auto()
    SHARED = auto()
    MASKED = auto()
    SIGNED = auto()
    UNMASKED = auto()
    ACCUSED = auto()
    ABORTED = auto()
    CLOSED = auto()


# In each state the one request that is due, and the state after it was answered; in all others none is.
TRANSITIONS: Mapping[State, tuple[type[Message], State]] = {
    State.NEW: (Offer, State.ADVERTISED),
    State.ADVERTISED: (Roster, State.SHARED),
    State.SHARED: (Delivery, State.MASKED),
    State.MASKED: (Survivors, State.SIGNED),
    State.SIGNED: (UnmaskRequest, State.UNMASKED),
}


class ClientRound:
    """One member in one attempt.

    Args:
        identity: the member's long-lived key.
        certificate: what says whose key it is.
        policy: what the member insists on.
        journal: what it remembers from one attempt to the next.
        randomness: where the keys of its random draws come from; labels hold run, round, attempt and name.
        model_digest: SHA-256 of the global vector that the member received.
        now: seconds since 1970, for certificates.
        threads: how many threads mask.
        verify: how signatures are verified; a `VerifiedSignatures` remembers those of certificates.
        agree: how secrets are agreed on; see `keys.SharedAgreements`.
    """

    def __init__(
        self,
        identity: Identity,
        certificate: Certificate,
        policy: Policy,
        journal: Journal,
        randomness: Randomness,
        *,
        model_digest: bytes,
        now: int,
        threads: int = 1,
        verify: Verify = identities.verify,
        agree: keys.Agree = keys.agreement,
    ) -> None:
        """Wait for an offer."""
        if certificate.subject_key != identity.public_key:
            raise LocalProtocolError("the certificate is of another key")
        self.state = State.NEW
        self._identity = identity
        self._certificate = certificate
        self._policy = policy
        self._journal = journal
        self._randomness = randomness
        self._model_digest = model_digest
        self._now = now
        self._threads = threads
        self._verify = verify
        self._offer: Offer | None = None
        self._membership: Membership | None = None
        self._agree = agree
        self._me = -1
        self._vault: Vault | None = None
        self._holders: tuple[int, ...] = ()
        self._advert = self._transcript = b""
        self._survivors: tuple[int, ...] = ()
        self._input: Residues | None = None
        self._input_left = False
        self._ledger = (b"", 0)
        self._replies: dict[bytes, Reply] = {}

    def receive(self, request: bytes) -> Reply:
        """Answer a request.

        Raises:
            RemoteProtocolError: the request is out of turn or malformed, and nothing has changed; or it fails a check,
                and the attempt is over for this member (`state` says which).
            PrivacyError: the policy refused the offer.
            LocalProtocolError: the input is not there yet; nothing has changed.
        """
        known = sha256(request)
        if known in self._replies:
            return self._replies[known]
        if self.state not in TRANSITIONS:
            raise RemoteProtocolError("unexpected-message", f"nothing is answered any more ({self.state.name.lower()})")
        kind, after = TRANSITIONS[self.state]
        if request[:1] != bytes([kind.TAG]):
            raise RemoteProtocolError("unexpected-message", f"{kind.__name__} is due, and is answered once")
        if kind is Delivery and self._input is None:
            raise LocalProtocolError("contribute before the delivery of shares is answered")
        message = kind.decode(request)
        try:
            reply = self._answer(message)
        except BaseException:  # whatever it was, a half-answered request must not be answered again
            self.abandon()
            raise
        if self.state is not State.ACCUSED:
            self.state = after
        self._replies[known] = reply
        return reply

    @property
    def offer(self) -> Offer:
        """The accepted offer; a `LocalProtocolError` before there is one."""
        if self._offer is None:
            raise LocalProtocolError("no offer was accepted yet")
        return self._offer

    @property
    def survivors(self) -> tuple[str, ...]:
        """The names of U3 as this member signed it; empty before."""
        return self._members().names(self._survivors) if self._survivors else ()

    @property
    def survivors_that_count(self) -> int:
        """How many survivors the policy counts: the noise of all others is promised only."""
        return self._policy.count(self._members().certificates(self._survivors)) if self._survivors else 0

    def contribute(self, values: Values, *, ledger_head: bytes, ledger_counter: int) -> None:
        """Give the member's values; they are rounded here and leave masked, with the answer to the delivery.

        Args:
            values: for each block of the offer's layout its values.
            ledger_head: digest of the newest record of the member's own privacy ledger, reserved for this round.
            ledger_counter: its number of records.

        Raises:
            LocalProtocolError: out of turn, given before, not what the layout asks for, or not finite.
        """
        self._check_input_due()
        rounding = input_rounding(self._randomness, self.offer, self._certificate.client)
        integers = encode(self.offer.layout, values, self.offer.rotation_seed, rounding)
        self.contribute_integers(integers, ledger_head=ledger_head, ledger_counter=ledger_counter)

    def contribute_integers(
        self, integers: NDArray[np.signedinteger], *, ledger_head: bytes, ledger_counter: int
    ) -> None:
        """Give the member's input as integers that a privacy mechanism has already rounded and noised.

        Args:
            integers: shape `(dimension,)`; `encoding.prepare` gives the scaled values that they are made from.
            ledger_head: see `contribute`.
            ledger_counter: see `contribute`.

        Raises:
            LocalProtocolError: out of turn, given before, or of another shape.
        """
        self._check_input_due()
        if integers.shape != (self.offer.dimension,) or not np.issubdtype(integers.dtype, np.signedinteger):
            raise LocalProtocolError(f"the input has {self.offer.dimension} signed integers")
        check_lengths(DIGEST_BYTES, ledger_head=ledger_head)
        self._ledger = (ledger_head, ledger_counter)
        self._input = reduce(integers, self.offer.bits)

    def accept_receipt(self, data: bytes) -> Receipt:
        """Check what the coordinator says became of an input that has left, and forget the attempt.

        Raises:
            RemoteProtocolError: not signed by the coordinator, about another attempt or ledger, without this member, or
                about another set of survivors than the one that was signed. This is worth raising an alarm.
        """
        if not self._input_left or self.state is State.CLOSED or self._membership is None:
            raise RemoteProtocolError("unexpected-message", "no receipt is due")
        receipt = Receipt.decode(data)
        head, counter = self._ledger
        check_receipt(receipt, self._policy.coordinator_key, self._certificate.client, head, counter, self._verify)
        if (receipt.offer_digest, receipt.holders_transcript) != (self.offer.digest, self._transcript):
            raise RemoteProtocolError("bad-receipt", "it is about another attempt")
        try:
            survivors = tuple(self._membership.positions[name] for name in receipt.survivors)
        except KeyError:
            raise RemoteProtocolError("bad-receipt", "it names a survivor that was no member") from None
        if self._survivors and survivors != self._survivors:
            raise RemoteProtocolError("bad-receipt", "it names other survivors than those that were signed")
        self._check_signatures(survivors, receipt.signatures, "bad-receipt")
        self.conclude()
        self.state = State.CLOSED
        return receipt

    def conclude(self) -> None:
        """Wipe every secret and answer nothing at all; if an input has left, its receipt is all that may still come."""
        self.abandon()
        self._replies.clear()

    def abandon(self) -> None:
        """Wipe every secret and answer nothing new; for a deadline, or a member that leaves."""
        if self._vault is not None:
            self._vault.wipe()
        self._vault = None
        self._input = None
        if self.state is not State.CLOSED:
            self.state = State.ABORTED

    def __repr__(self) -> str:
        """Show no secret."""
        return f"ClientRound({self._certificate.client}, {self.state.name})"

    def _answer(self, message: Message) -> Reply:
        match message:
            case Offer():
                return self._advertise(message)
            case Roster():
                return self._share(message)
            case Delivery():
                return self._mask(message)
            case Survivors():
                return self._sign(message)
            case UnmaskRequest():
                return self._unmask(message)
        raise LocalProtocolError(f"{type(message).__name__} is no request")

    def _advertise(self, offer: Offer) -> Reply:
        """Round 0: fresh keys, and a commitment to the seed of the self-mask."""
        self._policy.check(offer, model_digest=self._model_digest, verify=self._verify)
        if self._journal.answered(*offer.attempt_key):
            raise RemoteProtocolError("replay", "this attempt was answered before")
        if self._journal.contributed(offer.run, offer.round):
            raise RemoteProtocolError(ROUND_OVER, "an input for this round has left; the next one is a new round")
        self._offer = offer
        self._vault = Vault(self._key("encryption"), Keystream(self._key("seeds")), offer.digest, self._agree)
        self._advert = self._vault.advert(self._certificate, offer.digest).signed(self._identity).encode()
        self._journal.record_answer(*offer.attempt_key)
        return Reply(self._advert)

    def _share(self, roster: Roster) -> Reply:
        """Round 1: check who takes part, compute the neighbours and t, share b and s among the neighbours."""
        if self._advert not in roster.adverts:
            raise RemoteProtocolError("roster-without-us", "our own message is missing or was changed")
        membership = checked_roster(self.offer, roster, self._policy.authority_keys, self._now, self._verify)
        everybody = tuple(range(len(membership)))
        counted = self._check_counts(membership, everybody, max(self._policy.min_cohort, self.offer.min_cohort))
        strangers = len(membership) - counted
        if strangers + self._policy.max_colluders > self.offer.colluders:
            raise RemoteProtocolError(
                "too-many-strangers",
                f"{strangers} members do not count and {self._policy.max_colluders} may collude, "
                f"but the offer withstands {self.offer.colluders} colluders",
            )
        self._membership = membership
        self._me = membership.positions[self._certificate.client]
        parcels = self._open_vault().deal(membership, self._me, self._identity, Keystream(self._key("sharing")))
        return Reply(Shares(membership.transcript, self._me, parcels).signed(self._identity).encode())

    def _mask(self, delivery: Delivery) -> Reply:
        """Round 2: check the set of share holders, open every share, and send the input under all masks."""
        membership, vault = self._members(), self._open_vault()
        if delivery.roster_transcript != membership.transcript:
            raise RemoteProtocolError("other-roster", "the shares are about another roster")
        self._check_members(delivery.members, tuple(range(len(membership))), "holders")
        neighbours = membership.neighbours(self._me, delivery.members)
        if tuple(parcel.member for parcel in delivery.parcels) != neighbours:
            raise RemoteProtocolError("missing-shares", "there is not one parcel of each neighbour that shared")
        dispute = Keystream(self._key("dispute"))
        for parcel in delivery.parcels:
            if accusation := vault.keep(membership, self._me, parcel, dispute, self._verify):
                self.abandon()
                self.state = State.ACCUSED
                return Reply(accusation.signed(self._identity).encode())
        self._holders = delivery.members
        self._transcript = holders_transcript(membership.transcript, delivery.members)
        self._journal.record_contribution(self.offer.run, self.offer.round)
        vector, self._input = self._input, None
        if vector is None:
            raise LocalProtocolError("the input is gone")
        masks.apply(vault.masks(self._me, neighbours, self._transcript), vector, self._threads)
        packed = pack(vector, self.offer.bits)
        head, counter = self._ledger
        header = MaskedInput(self._transcript, self._me, sha256(packed.data), head, counter).signed(self._identity)
        self._input_left = True
        return Reply(header.encode(), packed)

    def _sign(self, survivors: Survivors) -> Reply:
        """Round 3: sign the set of survivors, once."""
        if survivors.holders_transcript != self._transcript:
            raise RemoteProtocolError("other-holders", "the survivors are of another set of share holders")
        self._check_members(survivors.members, self._holders, "survivors")
        digest = survivors_digest(survivors.members)
        self._journal.record_survivors(*self.offer.attempt_key, digest, len(survivors.members))
        self._survivors = survivors.members
        signature = self._identity.sign(SURVIVORS_LABEL, survivors_body(self._transcript, survivors.members))
        return Reply(SurvivorSignature(self._me, signature).encode())

    def _unmask(self, request: UnmaskRequest) -> Reply:
        """Round 4: seeing that enough neighbours signed the same set, release one share of each dealer for that set."""
        if request.holders_transcript != self._transcript:
            raise RemoteProtocolError("other-holders", "the signatures are about another set of share holders")
        self._check_signatures(self._survivors, request.signatures, "too-few-signatures")
        released = self._open_vault().release(self._survivors)
        self._vault = None
        return Reply(UnmaskShares(self._transcript, self._me, released).signed(self._identity).encode())

    def _check_signatures(self, survivors: tuple[int, ...], signatures: Signatures, reason: str) -> None:
        """Refuse fewer than t good signatures of this set by distinct neighbours in it."""
        members = self._members()
        good = count_signatures(members, self._me, self._transcript, survivors, signatures, self._verify)
        if good < members.threshold:
            raise RemoteProtocolError(reason, f"{good} neighbours signed this set, {members.threshold} must")

    def _check_members(self, members: tuple[int, ...], within: tuple[int, ...], what: str) -> None:
        """Refuse a set that is not within the one before, misses us, counts too few, or leaves too few neighbours."""
        membership = self._members()
        if not set(members) <= set(within):
            raise RemoteProtocolError(f"bad-{what}", "a member is in the set that was not in the one before")
        if self._me not in members:
            raise RemoteProtocolError(f"{what}-without-us", "we answered and are not in the set")
        self._check_counts(membership, members, self.offer.min_survivors)
        if len(membership.neighbours(self._me, members)) < membership.threshold:
            raise RemoteProtocolError("too-few-neighbours", f"fewer than {membership.threshold} neighbours are left")

    def _check_counts(self, membership: Membership, members: tuple[int, ...], least: int) -> int:
        counted = self._policy.count(membership.certificates(members))
        if counted < least:
            raise RemoteProtocolError("too-few-members", f"{counted} members count, at least {least} must")
        return counted

    def _key(self, purpose: str) -> bytes:
        """Return the key of the random draws for one purpose; each purpose is asked for once in an attempt."""
        return self._randomness.key("secagg", *self.offer.attempt_key, self._certificate.client, purpose)

    def _check_input_due(self) -> None:
        if self.state not in (State.ADVERTISED, State.SHARED):
            raise LocalProtocolError(f"no input is due ({self.state.name.lower()})")
        if self._input is not None:
            raise LocalProtocolError("the input was given; no random draw serves two inputs")

    def _open_vault(self) -> Vault:
        if self._vault is None:
            raise LocalProtocolError("the secrets of this attempt are gone")
        return self._vault

    def _members(self) -> Membership:
        if self._membership is None:
            raise LocalProtocolError("no roster was accepted")
        return self._membership
