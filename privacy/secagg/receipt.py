"""The receipt: what every survivor learns at its next contact about the sum that it was part of."""

from __future__ import annotations

from dataclasses import dataclass

from tacit.privacy.codec import (
    DIGEST_BYTES,
    SIGNATURE_BYTES,
    Reader,
    SignedMessage,
    Verify,
    Writer,
    check_lengths,
    sha256,
)
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import check_name
from tacit.privacy.secagg.keys import LABEL, label_bytes
from tacit.privacy.secagg.offer import MAX_MEMBERS
from tacit.privacy.secagg.unmasking import Signatures, read_signatures, write_signatures


@dataclass(frozen=True)
class Receipt(SignedMessage):
    """What the coordinator tells every member of U3 afterwards, signed.

    It proves that the member was summed, not what the sum was used for.

    Attributes:
        offer_digest: H(Offer).
        holders_transcript: T2.
        survivors: the names of U3, in the order of the roster.
        signatures: the survivors' signatures of U3.
        sum_digest: SHA-256 of the packed integer sum.
        client: whom this copy is for.
        ledger_head: that member's ledger head as it came with its masked input, hereby countersigned.
        ledger_counter: its counter.
    """

    TAG = 0x0C
    LIMIT = MAX_MEMBERS * (2 + SIGNATURE_BYTES + 68 + 2) + 1024
    LABEL = LABEL + "receipt"

    offer_digest: bytes
    holders_transcript: bytes
    survivors: tuple[str, ...]
    signatures: Signatures
    sum_digest: bytes
    client: str
    ledger_head: bytes
    ledger_counter: int

    def __post_init__(self) -> None:
        """Refuse names that are none, or not in order."""
        check_lengths(DIGEST_BYTES, ledger_head=self.ledger_head)
        for name in (self.client, *self.survivors):
            check_name(name)
        if list(self.survivors) != sorted(set(self.survivors)):
            raise ValueError("survivors are named once each, in order")

    @property
    def digest(self) -> bytes:
        """The digest of the part that is the same for everybody, which the next offer carries."""
        out = Writer()
        self._write_common(out)
        return sha256(label_bytes("receipt"), out.getvalue())

    def _write_common(self, out: Writer) -> None:
        out.fixed(self.offer_digest).fixed(self.holders_transcript)
        out.list(self.survivors, out.text)
        write_signatures(out, self.signatures)
        out.fixed(self.sum_digest)

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        self._write_common(out)
        out.text(self.client).fixed(self.ledger_head).u64(self.ledger_counter)

    @classmethod
    def read(cls, source: Reader) -> Receipt:
        """Take every field."""
        return cls(
            offer_digest=source.digest(),
            holders_transcript=source.digest(),
            survivors=source.list(lambda: source.text(64), most=MAX_MEMBERS, item_bytes=4),
            signatures=read_signatures(source),
            sum_digest=source.digest(),
            client=source.text(64),
            ledger_head=source.digest(),
            ledger_counter=source.u64(),
            signature=source.signature(),
        )


def offer_digest_of(data: bytes) -> bytes:
    """Return H(Offer) of an encoded receipt, its first field, by which a member finds what it is about."""
    return data[1 : 1 + DIGEST_BYTES]


def check_receipt(
    receipt: Receipt, coordinator_key: bytes, client: str, ledger_head: bytes, ledger_counter: int, verify: Verify
) -> None:
    """Check what a member can check of a receipt even after it lost the rest of the attempt in a restart.

    Raises:
        RemoteProtocolError: `bad-signature`, or `bad-receipt`: for somebody else, without this member among the
            survivors, or not about the ledger that went with its input.
    """
    receipt.check_signature(coordinator_key, verify)
    if receipt.client != client:
        raise RemoteProtocolError("bad-receipt", "it is for another member")
    if client not in receipt.survivors:
        raise RemoteProtocolError("bad-receipt", "our input left, and we are not among the survivors")
    if (receipt.ledger_head, receipt.ledger_counter) != (ledger_head, ledger_counter):
        raise RemoteProtocolError("bad-receipt", "it countersigns another ledger head than ours")
