"""The coordinator's side of one attempt of one round, as a state machine.

Theory of operation. A phase is one exchange: `requests` says what to send to whom, `receive` takes the replies in any
order, `close_phase` ends the exchange, whoever answered, and moves on or aborts. Time is the caller's: it closes a
phase when nobody is waited for or when the deadline has passed. What was announced must not be forgotten, so the caller
stores `snapshot` after `close_phase` and before it sends; a coordinator that was killed goes on from there with
`restore`, and members answer the repeated requests with the same bytes.

Two rules. First, a member that sends anything wrong is dropped, with the reason, and never ends the round for the
others. Second, nothing is unmasked unless at least U_min members are in the sum.

Masked inputs are added up as they come, so the memory is that of one vector, however many members there are.

    ADVERTISE --U1--> SHARE --U2--> MASK --U3--> SIGN --> UNMASK --> DONE
         |              |            |            |          |
         +--------------+------------+------------+----------+---> ABORTED

After Bonawitz et al. 2017 (ePrint 2017/281), figure 4; the phases are the paper's rounds 0 to 4.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tacit.privacy import identity as identities
from tacit.privacy.codec import Message, Verify, sha256
from tacit.privacy.errors import LocalProtocolError, RemoteProtocolError
from tacit.privacy.identity import Identity
from tacit.privacy.secagg import phases
from tacit.privacy.secagg.aggregate import Aggregate
from tacit.privacy.secagg.blame import Charges, convicted
from tacit.privacy.secagg.messages import (
    Accusation,
    Advertise,
    MaskedInput,
    Shares,
    holders_transcript,
)
from tacit.privacy.secagg.offer import REAL, Offer
from tacit.privacy.secagg.progress import Phase, Progress
from tacit.privacy.secagg.roster import Membership
from tacit.privacy.secagg.unmasking import Survivors, SurvivorSignature, UnmaskRequest, UnmaskShares

# In each phase the replies that are expected; the phase after it is the next in order, or ABORTED.
EXPECTED: Mapping[Phase, tuple[type[Message], ...]] = {
    Phase.ADVERTISE: (Advertise,),
    Phase.SHARE: (Shares,),
    Phase.MASK: (MaskedInput, Accusation),
    Phase.SIGN: (SurvivorSignature,),
    Phase.UNMASK: (UnmaskShares,),
}
INNOCENT = ("accuser", "late")  # reasons to be dropped that are no fault of the member's
REPLIES: Mapping[int, type[Message]] = {kind.TAG: kind for kinds in EXPECTED.values() for kind in kinds}


class ServerRound:
    """The coordinator in one attempt.

    Args:
        offer: what is offered, as `Offer.plan` made it; it is signed here.
        identity: the coordinator's key.
        clients: the names of those it is offered to: as many as the offer's cohort, or more (over-selection). Once as
            many as the cohort have advertised, the exchange is to be closed: a roster that is larger aborts.
        authority_keys: the enrolment authorities whose certificates are accepted.
        now: seconds since 1970, for certificates.
        threads: how many threads unmask.
        verify: how signatures are verified; a `VerifiedSignatures` remembers those of certificates.

    Raises:
        LocalProtocolError: the offer is elided, or to fewer distinct clients than its cohort.
    """

    def __init__(
        self,
        offer: Offer,
        identity: Identity,
        clients: Collection[str],
        *,
        authority_keys: frozenset[bytes],
        now: int,
        threads: int = 1,
        verify: Verify = identities.verify,
    ) -> None:
        """Prepare the first exchange."""
        if offer.mode != REAL:
            raise LocalProtocolError("an elided round has no masks; see `elided`")
        if len(set(clients)) != len(clients) or len(clients) < offer.cohort:
            raise LocalProtocolError(f"the offer is to {offer.cohort} distinct clients at least, not to {len(clients)}")
        self._state = Progress.start(offer.signed(identity), tuple(clients))
        self._identity = identity
        self._authority_keys = authority_keys
        self._now = now
        self._threads = threads
        self._verify = verify
        self._membership: Membership | None = None
        self._roster = b""
        self._clients = frozenset(clients)
        self._audience = phases.audience(self._state, self._membership)
        self._aggregate: Aggregate | None = None

    @classmethod
    def restore(
        cls,
        snapshot: bytes,
        identity: Identity,
        *,
        authority_keys: frozenset[bytes],
        now: int,
        threads: int = 1,
        verify: Verify = identities.verify,
    ) -> Self:
        """Go on from a snapshot, which is believed.

        Raises:
            RemoteProtocolError: it is no snapshot.
        """
        state = Progress.decode(snapshot)
        server = cls(
            state.offer, identity, state.clients, authority_keys=authority_keys, now=now, threads=threads, verify=verify
        )
        server._state = state
        if state.phase.value > Phase.ADVERTISE.value and state.adverts:
            try:
                server._fix_roster()
            except phases.Abort:  # it was aborted for want of members
                pass
        server._audience = phases.audience(state, server._membership)
        if state.phase is Phase.DONE:
            server._aggregate = Aggregate(state.offer, state.total, server.survivors)
        return server

    def snapshot(self) -> bytes:
        """Return everything that must survive a crash; it holds no secret of any member.

        Raises:
            LocalProtocolError: the sum was given away.
        """
        return b"".join(self.snapshot_pieces())

    def snapshot_pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the snapshot a piece at a time: the vector in it is as large as the model.

        Raises:
            LocalProtocolError: the sum was given away.
        """
        if self._aggregate is not None and self._aggregate.given_away:
            raise LocalProtocolError("the sum was given away")
        return self._state.pieces()

    @property
    def phase(self) -> Phase:
        """The exchange that is going on, or how it ended."""
        return self._state.phase

    @property
    def offer(self) -> Offer:
        """The signed offer."""
        return self._state.offer

    @property
    def abort_reason(self) -> str:
        """Why the attempt was aborted; empty if it was not."""
        return self._state.abort_reason

    @property
    def dropped(self) -> Mapping[str, str]:
        """Who was dropped for what was sent, and why; silence is no reason and not listed."""
        return dict(self._state.dropped)

    @property
    def at_fault(self) -> frozenset[str]:
        """Who was convicted, by evidence or by more charges than colluders can make; not to be asked again."""
        return frozenset(self._state.at_fault) | convicted(self._state.charges, self.offer.colluders)

    @property
    def charges(self) -> Charges:
        """Pairs (dealer, holder) of which one sent a false share; to be kept, as charges of several rounds add up."""
        return self._state.charges

    @property
    def survivors(self) -> tuple[str, ...]:
        """The names of U3; empty before it is known."""
        return self._members().names(self._state.survivors) if self._state.survivors else ()

    @property
    def contributed(self) -> frozenset[str]:
        """Whose masked input was accepted; others that were sent shares may have sent theirs in vain."""
        return frozenset(self._members().names(self._state.inputs)) if self._state.inputs else frozenset()

    @property
    def may_retry(self) -> frozenset[str]:
        """Who may be offered another attempt at this round: nobody whose input left, nor who misbehaved.

        A member whose input was lost on the way refuses by itself.
        """
        misbehaved = {name for name, reason in self._state.dropped.items() if not reason.startswith(INNOCENT)}
        return frozenset(self._state.clients) - self.contributed - misbehaved - self.at_fault

    @property
    def waiting(self) -> frozenset[str]:
        """Who was asked in this phase and has not answered."""
        return frozenset(
            name for name in self._audience if name not in self._state.dropped and not self._has_answered(name)
        )

    def requests(self) -> dict[str, bytes]:
        """Return what to send to whom in this phase, to everybody who has not answered."""
        return {name: self.request(name) for name in sorted(self.waiting)}

    def request(self, client: str) -> bytes:
        """Return what to send to one client in this phase; the same bytes whenever it is asked.

        Raises:
            LocalProtocolError: the client is not asked in this phase.
        """
        if client not in self._audience:
            raise LocalProtocolError(f"{client} is not asked in phase {self.phase.name.lower()}")
        if self.phase is Phase.ADVERTISE:
            return self.offer.encode()
        members, member = self._members(), self._members().positions[client]
        match self.phase:
            case Phase.SHARE:
                return self._roster
            case Phase.MASK:
                return phases.delivery(self._state, members, member).encode()
            case Phase.SIGN:
                return Survivors(self._transcript(), self._state.survivors).encode()
            case _:
                signers = members.neighbours(member, sorted(self._state.signatures))
                signatures = tuple((signer, self._state.signatures[signer]) for signer in signers)
                return UnmaskRequest(self._transcript(), signatures).encode()

    def receive(self, client: str, message: bytes, vector: NDArray[np.uint8] | None = None) -> None:
        """Take a client's reply; the transport vouches for who the client is.

        A reply that was accepted before, byte for byte, changes nothing.

        Args:
            client: the client's name.
            message: the reply.
            vector: beside a `MaskedInput`, the packed vector; it is added up and not kept.

        Raises:
            RemoteProtocolError: the reply is late, repeated with another content, malformed, or fails a check; the
                client is dropped, and the reason is in `dropped`.
        """
        state = self._state
        if client not in self._clients:
            raise RemoteProtocolError("unknown-client", "the round was not offered to it")
        known = sha256(message)
        if known in state.accepted.get(client, ()):
            return
        if self.phase not in EXPECTED:
            raise RemoteProtocolError("late", f"the attempt is {self.phase.name.lower()}")
        if client in state.dropped:
            raise RemoteProtocolError("dropped", state.dropped[client])
        try:
            self._accept(client, message, vector)
        except RemoteProtocolError as error:
            self._drop(client, str(error))
            raise
        state.accepted.setdefault(client, set()).add(known)

    def close_phase(self) -> Phase:
        """End the exchange with whoever answered, and return the next phase, which may be `DONE` or `ABORTED`.

        Raises:
            LocalProtocolError: the attempt is over.
        """
        state = self._state
        try:
            match self.phase:
                case Phase.ADVERTISE:
                    self._fix_roster()
                case Phase.SHARE:
                    phases.close_share(state, self._members())
                case Phase.MASK:
                    phases.close_mask(state, self._members())
                case Phase.SIGN:
                    phases.close_sign(state, self._members())
                case Phase.UNMASK:
                    phases.close_unmask(state, self._members(), self._threads)
                    self._aggregate = Aggregate(self.offer, state.total, self.survivors)
                case _:
                    raise LocalProtocolError(f"the attempt is {self.phase.name.lower()}")
        except phases.Abort as reason:
            self.abort(str(reason))
        else:
            state.phase = Phase(self.phase.value + 1)
        self._audience = phases.audience(self._state, self._membership)
        return self.phase

    def abort(self, reason: str) -> None:
        """End the attempt; budgets of members whose inputs left stay spent.

        Raises:
            LocalProtocolError: the attempt is over.
        """
        if self.phase not in EXPECTED:
            raise LocalProtocolError(f"the attempt is {self.phase.name.lower()}")
        self._audience = frozenset()
        self._state.phase = Phase.ABORTED
        self._state.abort_reason = reason
        self._state.total[:] = 0

    def result(self) -> Aggregate:
        """Return the sum.

        Raises:
            LocalProtocolError: the attempt has not come to its end.
        """
        if self._aggregate is None:
            raise LocalProtocolError(f"there is no sum ({self.phase.name.lower()})")
        return self._aggregate

    def identity_key(self, client: str) -> bytes:
        """Return the key that a member signs with, which its certificate binds to its name."""
        members = self._members()
        return members.identity_key(members.positions[client])

    def receipts(self) -> dict[str, bytes]:
        """Return the receipt of every survivor, to be sent at its next contact of any kind.

        Raises:
            LocalProtocolError: there is no sum.
        """
        return phases.receipts(self._state, self._members(), self.result().digest, self._identity)

    def __repr__(self) -> str:
        """Show where it is."""
        return f"ServerRound({self.offer.run}, round {self.offer.round}, {self.phase.name})"

    def _accept(self, client: str, data: bytes, vector: NDArray[np.uint8] | None) -> None:
        """Read a reply and hand it to its phase."""
        kind = REPLIES.get(data[0]) if data else None
        if kind is None or kind not in EXPECTED[self.phase]:
            early = [k for phase, kinds in EXPECTED.items() if phase.value < self.phase.value for k in kinds]
            raise RemoteProtocolError("late" if kind in early else "unexpected-message", f"in phase {self.phase.name}")
        if client not in self._audience or self._has_answered(client):
            raise RemoteProtocolError("duplicate", "it was not asked, or answers again with something else")
        message = kind.decode(data)
        state, verify = self._state, self._verify
        if isinstance(message, Advertise):
            phases.accept_advert(state, client, message, self._authority_keys, self._now, verify)
            return
        members = self._members()
        me = members.positions[client]
        match message:
            case Shares():
                phases.accept_shares(state, members, me, message, verify)
            case MaskedInput():
                phases.accept_input(state, members, me, message, vector, verify)
            case Accusation():
                phases.accept_accusation(state, members, me, message, verify)
            case SurvivorSignature():
                phases.accept_signature(state, members, me, message, self._transcript(), verify)
            case UnmaskShares():
                phases.accept_released(state, members, me, message, self._transcript(), verify)

    def _drop(self, client: str, reason: str) -> None:
        """Count a member as dropped: what it said in this phase is forgotten, but for an input that was added."""
        state = self._state
        state.dropped.setdefault(client, reason)
        if self.phase is Phase.ADVERTISE:
            state.adverts.pop(client, None)
        elif self._membership is not None and client in self._membership.positions:
            member = self._membership.positions[client]
            if self.phase is Phase.SHARE:
                state.shares.pop(member, None)
            elif self.phase is Phase.SIGN:
                state.signatures.pop(member, None)
            elif self.phase is Phase.UNMASK:
                state.released.pop(member, None)

    def _has_answered(self, client: str) -> bool:
        state = self._state
        match self.phase:
            case Phase.ADVERTISE:
                return client in state.adverts
            case Phase.SHARE:
                return self._members().positions[client] in state.shares
            case Phase.MASK:
                return self._members().positions[client] in state.inputs
            case Phase.SIGN:
                return self._members().positions[client] in state.signatures
            case _:
                return self._members().positions[client] in state.released

    def _fix_roster(self) -> None:
        self._membership, roster = phases.close_advertise(self._state)
        self._roster = roster.encode()

    def _members(self) -> Membership:
        if self._membership is None:
            raise LocalProtocolError("the roster is not fixed yet")
        return self._membership

    def _transcript(self) -> bytes:
        return holders_transcript(self._members().transcript, self._state.holders)  # T2
