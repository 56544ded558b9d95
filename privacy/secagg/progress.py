"""How far the coordinator's side of an attempt has come: everything it must not forget, and no secret of any member."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from tacit.privacy.codec import Message, Reader, Writer
from tacit.privacy.secagg.blame import Charges
from tacit.privacy.secagg.encoding import Residues, pack, packed_bytes, packed_pieces, unpack, zeros
from tacit.privacy.secagg.messages import Advertise, MaskedInput, Shares
from tacit.privacy.secagg.offer import MAX_MEMBERS, Offer
from tacit.privacy.secagg.unmasking import UnmaskShares

_REASON_LIMIT = 1024


class Phase(Enum):
    """Which exchange is going on; the numbers are the paper's rounds."""

    ADVERTISE = 0
    SHARE = 1
    MASK = 2
    SIGN = 3
    UNMASK = 4
    DONE = 5
    ABORTED = 6


@dataclass
class Progress(Message):
    """The state of a `ServerRound`; it is a message to nobody but the coordinator itself after a restart.

    Attributes:
        offer: what was offered, signed.
        clients: whom it was offered to.
        phase: the exchange that goes on.
        abort_reason: why it was aborted, else empty.
        dropped: who was dropped, and why.
        at_fault: who was convicted by evidence.
        charges: who was charged with false shares.
        accepted: the digests of the messages that were accepted of each client.
        adverts: by name.
        taken: their public keys and commitments.
        shares: by position in the roster, as are all below.
        holders: U2.
        inputs: the headers of the masked inputs that are in the total.
        total: the running sum of masked inputs modulo 2^B; after the end, the sum itself.
        survivors: U3.
        signatures: the survivors' signatures of U3.
        released: the shares that were released.
    """

    TAG = 0x30
    LIMIT = 1 << 36

    offer: Offer
    clients: tuple[str, ...]
    total: Residues
    phase: Phase = Phase.ADVERTISE
    abort_reason: str = ""
    dropped: dict[str, str] = field(default_factory=dict)
    at_fault: set[str] = field(default_factory=set)
    charges: Charges = frozenset()
    accepted: dict[str, set[bytes]] = field(default_factory=dict)
    adverts: dict[str, Advertise] = field(default_factory=dict)
    taken: set[bytes] = field(default_factory=set)
    shares: dict[int, Shares] = field(default_factory=dict)
    holders: tuple[int, ...] = ()
    inputs: dict[int, MaskedInput] = field(default_factory=dict)
    survivors: tuple[int, ...] = ()
    signatures: dict[int, bytes] = field(default_factory=dict)
    released: dict[int, UnmaskShares] = field(default_factory=dict)

    @classmethod
    def start(cls, offer: Offer, clients: tuple[str, ...]) -> Progress:
        """Return the state before anybody has answered."""
        return cls(offer, clients, zeros(offer.dimension, offer.bits))

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the encoding a piece at a time; all but the vector at the end of it is one piece."""
        out = Writer().u8(self.TAG)
        self._write_all_but_the_total(out)
        yield out.getvalue()
        # Before the first input there is nothing in it: a phase costs the disk no vector then.
        if self.inputs:
            yield from packed_pieces(self.total, self.offer.bits)

    def write(self, out: Writer) -> None:
        """Append every field."""
        self._write_all_but_the_total(out)
        if self.inputs:
            out.fixed(pack(self.total, self.offer.bits).tobytes())

    def _write_all_but_the_total(self, out: Writer) -> None:
        out.blob(self.offer.encode()).list(self.clients, out.text)
        out.u8(self.phase.value).text(self.abort_reason[:_REASON_LIMIT])
        out.list(sorted(self.dropped.items()), lambda item: out.text(item[0]).text(item[1][: _REASON_LIMIT // 4]))
        out.list(sorted(self.at_fault), out.text)
        out.list(sorted(self.charges), lambda pair: out.text(pair[0]).text(pair[1]))
        out.list(
            sorted(self.accepted.items()), lambda item: out.text(item[0]).list(sorted(item[1]), lambda d: out.fixed(d))
        )
        for messages in (self.adverts, self.shares, self.inputs, self.released):
            out.list(tuple(messages.values()), lambda message: out.blob(message.encode()))
        out.indices(self.holders).indices(self.survivors)
        out.list(sorted(self.signatures.items()), lambda item: out.u16(item[0]).fixed(item[1]))

    @classmethod
    def read(cls, source: Reader) -> Progress:
        """Take every field."""
        most = MAX_MEMBERS
        offer = Offer.decode(source.blob(Offer.LIMIT))
        clients = source.list(lambda: source.text(64), most=most, item_bytes=4)
        phase, reason = Phase(source.u8()), source.text(_REASON_LIMIT)
        dropped = source.list(lambda: (source.text(64), source.text(_REASON_LIMIT)), most=most, item_bytes=8)
        at_fault = source.list(lambda: source.text(64), most=most, item_bytes=4)
        charges = source.list(lambda: (source.text(64), source.text(64)), most=most * most, item_bytes=8)
        accepted = source.list(
            lambda: (source.text(64), set(source.list(source.digest, most=16, item_bytes=32))), most=most, item_bytes=8
        )
        adverts = source.list(lambda: Advertise.decode(source.blob(Advertise.LIMIT)), most=most, item_bytes=4)
        shares = source.list(lambda: Shares.decode(source.blob(Shares.LIMIT)), most=most, item_bytes=4)
        inputs = source.list(lambda: MaskedInput.decode(source.blob(MaskedInput.LIMIT)), most=most, item_bytes=4)
        released = source.list(lambda: UnmaskShares.decode(source.blob(UnmaskShares.LIMIT)), most=most, item_bytes=4)
        holders, survivors = source.indices(most), source.indices(most)
        signatures = source.list(lambda: (source.u16(), source.signature()), most=most, item_bytes=66)
        total = zeros(offer.dimension, offer.bits)
        if inputs:
            packed = np.frombuffer(source.fixed(packed_bytes(offer.dimension, offer.bits)), dtype=np.uint8)
            total = unpack(packed, offer.dimension, offer.bits)
        return cls(
            offer=offer,
            clients=clients,
            total=total,
            phase=phase,
            abort_reason=reason,
            dropped=dict(dropped),
            at_fault=set(at_fault),
            charges=frozenset(charges),
            accepted=dict(accepted),
            adverts={advert.certificate.client: advert for advert in adverts},
            taken={value for advert in adverts for value in advert.public_values},
            shares={message.member: message for message in shares},
            holders=holders,
            inputs={message.member: message for message in inputs},
            survivors=survivors,
            signatures=dict(signatures),
            released={message.member: message for message in released},
        )
