"""The protocol's own members with journals and ledgers on disk: a restart repeats nothing and forgets nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import dp_event

from tacit.client.journal import AgentJournal
from tacit.client.ledger import Budgets, DatasetLedger
from tacit.privacy.codec import NO_DIGEST
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.filters import renyi_filter
from tacit.privacy.identity import VerifiedSignatures
from tacit.privacy.ledger import Anchor, LedgerBroken
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.records import Entry
from tacit.privacy.secagg import loopback
from tacit.privacy.secagg.client import ClientRound
from tacit.privacy.secagg.layout import Block, Layout
from tacit.privacy.secagg.loopback import Loopback
from tacit.privacy.secagg.offer import Offer
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.receipt import Receipt

NAMES = tuple(f"ward-{at}" for at in range(4))
LAYOUT = Layout((Block("update", 3, clip=100.0, scale=1.0),))
BUDGETS: Budgets = {"assured": renyi_filter(8.0, 1e-5)}


@dataclass
class Wards:
    """Members whose journals are directories, and a coordinator in the same process."""

    directory: Path
    federation: Loopback = field(
        default_factory=lambda: Loopback.generate(NAMES, SeededRandomness(bytes(32)), verify=VerifiedSignatures())
    )
    journals: dict[str, AgentJournal] = field(default_factory=dict)

    def start(self) -> None:
        """Start every member, or restart it: its process forgets all, its directory nothing."""
        for name in NAMES:
            if name in self.journals:
                self.journals[name].close()
            self.journals[name] = AgentJournal.open(self.directory / name, self.federation.members[name])

    def ledger(self, name: str) -> DatasetLedger:
        return self.journals[name].ledger("patients", "client", BUDGETS)

    def offer(self, round_number: int, attempt: int = 0) -> Offer:
        return Offer.plan(
            run="run-1",
            round=round_number,
            attempt=attempt,
            model_digest=NO_DIGEST,
            recipe_digest=bytes(32),
            layout=LAYOUT,
            rotation_seed=bytes(32),
            cohort=len(NAMES),
            min_cohort=2,
            colluders=0,
            dropout=0.0,
        )

    def members(self) -> dict[str, ClientRound]:
        return {name: self.federation.client(name, journal=self.journals[name]) for name in NAMES}

    def entry(self, offer: Offer) -> Entry:
        event = dp_event.GaussianDpEvent(20.0)
        return Entry(*offer.attempt_key, offer.digest, "Gaussian", event, 1e-5, "own")

    def take_part(self, offer: Offer) -> tuple[dict[str, ClientRound], dict[str, bytes]]:
        """Carry a whole round as an agent does, and return its members and their receipts."""
        members, server = self.members(), self.federation.server(offer)

        def give(name: str) -> None:
            head = self.ledger(name).reserve([self.entry(offer)])
            members[name].contribute({"update": np.ones(3)}, ledger_head=head.head, ledger_counter=head.counter)

        assert loopback.run(server, members, give, lambda phase, name: False) is Phase.DONE
        for name in NAMES:
            signed = self.journals[name].signed("run-1")
            assert signed is not None and signed.survivors == len(NAMES)
            self.ledger(name).spend(self.entry(offer).key)
        return members, server.receipts()

    def advertise(self, name: str, offer: Offer) -> bytes:
        return self.members()[name].receive(offer.signed(self.federation.coordinator).encode()).message


@pytest.fixture
def wards(tmp_path: Path) -> Iterator[Wards]:
    wards = Wards(tmp_path)
    wards.start()
    yield wards
    for journal in wards.journals.values():
        journal.close()


def keep(wards: Wards, receipt: Receipt) -> None:
    wards.ledger(receipt.client).countersigned(Anchor(receipt.ledger_counter, receipt.ledger_head))


def test_heads_go_out_with_the_input_and_come_back_countersigned(wards: Wards) -> None:
    members, receipts = wards.take_part(wards.offer(1))
    for name in NAMES:
        assert wards.ledger(name).unanchored == 3
        keep(wards, members[name].accept_receipt(receipts[name]))
        assert wards.ledger(name).unanchored == 1  # that it was spent is newer than the head that went out
    members, receipts = wards.take_part(wards.offer(2))
    keep(wards, members["ward-0"].accept_receipt(receipts["ward-0"]))
    assert (wards.ledger("ward-0").unanchored, wards.ledger("ward-1").unanchored) == (1, 3)


def test_a_restarted_member_answers_no_offer_again_and_no_attempt_of_a_round_it_gave_to(wards: Wards) -> None:
    wards.take_part(wards.offer(1))
    wards.start()
    for offer, reason in ((wards.offer(1), "replay"), (wards.offer(1, attempt=1), "round-over")):
        with pytest.raises(RemoteProtocolError, match=reason):
            wards.advertise("ward-0", offer)
    assert wards.advertise("ward-0", wards.offer(2))


def test_a_member_that_restarts_before_it_gave_joins_the_next_attempt_and_not_the_same(wards: Wards) -> None:
    wards.advertise("ward-0", wards.offer(1))
    wards.ledger("ward-0").reserve([wards.entry(wards.offer(1))])
    wards.start()
    with pytest.raises(RemoteProtocolError, match="replay"):
        wards.advertise("ward-0", wards.offer(1))
    wards.take_part(wards.offer(1, attempt=1))
    ledger = wards.ledger("ward-0")
    assert len(ledger.state.waiting) == 1  # what the crash left open counts as spent
    one = BUDGETS["assured"].spent([dp_event.GaussianDpEvent(20.0)]).divergence
    assert ledger.state.committed("assured").divergence == pytest.approx(2 * one)


def test_a_receipt_that_arrives_after_a_restart_is_still_kept(wards: Wards) -> None:
    _, receipts = wards.take_part(wards.offer(1))
    wards.start()
    keep(wards, Receipt.decode(receipts["ward-0"]))
    assert wards.ledger("ward-0").unanchored == 1


def test_a_member_whose_disk_was_rolled_back_learns_so_from_the_next_receipt(wards: Wards) -> None:
    wards.ledger("ward-0")
    path = wards.directory / "ward-0" / "ledgers" / "patients.client.ledger"
    before = path.read_bytes()
    _, receipts = wards.take_part(wards.offer(1))
    for journal in wards.journals.values():
        journal.close()
    path.write_bytes(before)  # a backup from before the round, and no anchor yet that could show it
    wards.start()
    with pytest.raises(LedgerBroken, match="not the record that was countersigned"):
        keep(wards, Receipt.decode(receipts["ward-0"]))
