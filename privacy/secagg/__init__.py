"""Secure aggregation: a coordinator learns the sum of its members' vectors, and no member's own.

Two state machines, bytes in and bytes out, for one attempt of one round each. The coordinator:

    offer = Offer.plan(run=..., round=..., layout=..., cohort=..., ...)  # Infeasible: names the number to change
    server = ServerRound(offer, identity, clients, authority_keys=..., now=...)
    while server.phase in EXPECTED:                      # five exchanges
        store(server.snapshot())                         # before anything is announced
        send(server.requests())                          # {client: bytes}, to all that have not answered
        ... server.receive(client, message, vector)      # RemoteProtocolError: it is dropped; the reason is recorded
        server.close_phase()                             # once `server.waiting` is empty, or at the deadline
    server.result()                                      # Aggregate: sums by block, survivors, digest
    server.receipts()                                    # {client: bytes}, for each survivor's next contact

    server.phase is Phase.ABORTED: server.abort_reason; server.may_retry says who may be offered another attempt.
    In any case: server.dropped, server.at_fault, server.charges, server.contributed.

A member:

    client = ClientRound(identity, certificate, policy, journal, randomness, model_digest=..., now=...)
    reply = client.receive(request)                      # Reply: message, and beside a masked input the packed vector
    client.contribute(values, ledger_head=..., ledger_counter=...)   # after the first reply, before the third request
    client.accept_receipt(data)                          # raises if it is not what it should be
    client.abandon()                                     # at a deadline; secrets are wiped

`contribute_integers` takes a vector that a privacy mechanism made from `encoding.prepare`, already noised.
`client.offer` is the accepted offer; `client.survivors` and `client.survivors_that_count` say after the fourth reply
what is spent. An `ElidedRound` gives the same sum without masks to a simulation that says so; `loopback` runs all
parties in one process.
"""

from tacit.privacy.secagg.aggregate import Aggregate
from tacit.privacy.secagg.client import ClientRound, State
from tacit.privacy.secagg.elided import ElidedRound
from tacit.privacy.secagg.layout import Block, Infeasible, Layout, WideBlock, bits_for, largest_scale
from tacit.privacy.secagg.messages import Reply
from tacit.privacy.secagg.offer import ELIDED, REAL, Offer
from tacit.privacy.secagg.policy import Journal, MemoryJournal, Policy
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.receipt import Receipt, check_receipt
from tacit.privacy.secagg.server import EXPECTED, ServerRound

__all__ = [
    "ELIDED",
    "EXPECTED",
    "REAL",
    "Aggregate",
    "Block",
    "ClientRound",
    "ElidedRound",
    "Infeasible",
    "Journal",
    "Layout",
    "MemoryJournal",
    "Offer",
    "Phase",
    "Policy",
    "Receipt",
    "Reply",
    "ServerRound",
    "State",
    "WideBlock",
    "bits_for",
    "check_receipt",
    "largest_scale",
]
