"""The receipt reaches every survivor, and a member notices when it is not what it should be."""

from dataclasses import replace

import pytest

from tacit.privacy.codec import sha256
from tacit.privacy.errors import LocalProtocolError, RemoteProtocolError
from tacit.privacy.identity import verify
from tacit.privacy.secagg.client import State
from tacit.privacy.secagg.encoding import pack, reduce
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.receipt import Receipt, check_receipt
from tacit.privacy.secagg.unmasking import Survivors


@pytest.fixture
def done(scene):
    here = scene(6, dropout=0.17)
    assert here.run(lambda phase, name: name == "m0005" and phase is Phase.MASK) is Phase.DONE
    return here


def test_every_survivor_gets_one_and_forgets_the_attempt(done):
    receipts = done.server.receipts()
    assert set(receipts) == set(done.names[:-1])
    for name, data in receipts.items():
        receipt = done.clients[name].accept_receipt(data)
        assert receipt.survivors == tuple(done.names[:-1])
        assert (receipt.ledger_head, receipt.ledger_counter) == (name.encode().ljust(32), 3)
        assert done.clients[name].state is State.CLOSED and not done.clients[name]._replies
        with pytest.raises(RemoteProtocolError):
            done.clients[name].receive(done.server.offer.encode())


def test_it_names_the_digest_of_the_sum_and_is_the_same_for_everybody_but_for_the_ledger(done):
    receipts = [Receipt.decode(data) for data in done.server.receipts().values()]
    result = done.server.result()
    packed = pack(reduce(result.integers, done.offer.bits), done.offer.bits)
    assert {receipt.sum_digest for receipt in receipts} == {result.digest} == {sha256(packed.data)}
    assert len({receipt.digest for receipt in receipts}) == 1
    following = done.plan(round=1, last_receipt=receipts[0].digest)
    assert following.last_receipt == receipts[0].digest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"survivors": ("m0000", "m0001", "m0002", "m0003")}, "bad-receipt"),
        ({"survivors": ("m0001", "m0002", "m0003", "m0004")}, "bad-receipt"),
        ({"survivors": ("m0000", "m0001", "m0002", "m0003", "x")}, "bad-receipt"),
        ({"ledger_head": bytes(32)}, "bad-receipt"),
        ({"ledger_counter": 2}, "bad-receipt"),
        ({"offer_digest": bytes(32)}, "bad-receipt"),
        ({"holders_transcript": bytes(32)}, "bad-receipt"),
        ({"client": "m0001"}, "bad-receipt"),
        ({"signatures": ()}, "bad-receipt"),
    ],
)
def test_a_receipt_that_says_something_else_is_refused(done, change, reason):
    client = done.clients["m0000"]
    true = Receipt.decode(done.server.receipts()["m0000"])
    false = replace(true, **change).signed(done.loopback.coordinator)
    with pytest.raises(RemoteProtocolError) as caught:
        client.accept_receipt(false.encode())
    assert caught.value.reason == reason
    assert client.state is State.UNMASKED
    with pytest.raises(RemoteProtocolError, match="bad-signature"):
        client.accept_receipt(replace(true, sum_digest=bytes(32)).encode())
    client.accept_receipt(true.encode())


def test_a_member_whose_input_was_lost_is_told_so_by_a_receipt_without_it(done):
    here = done
    late = here.clients["m0005"]
    assert late.state is State.SHARED  # it was never asked for its input
    with pytest.raises(RemoteProtocolError, match="no receipt is due"):
        late.accept_receipt(here.server.receipts()["m0000"])


def test_a_restarted_member_checks_what_it_still_can(done):
    receipt = Receipt.decode(done.server.receipts()["m0003"])
    key = done.loopback.coordinator.public_key
    head = b"m0003".ljust(32)
    check_receipt(receipt, key, "m0003", head, 3, verify)
    for client, ledger_head, counter in [("m0004", head, 3), ("m0003", bytes(32), 3), ("m0003", head, 4)]:
        with pytest.raises(RemoteProtocolError, match="bad-receipt"):
            check_receipt(receipt, key, client, ledger_head, counter, verify)
    with pytest.raises(RemoteProtocolError, match="bad-signature"):
        check_receipt(receipt, done.loopback.authority.public_key, "m0003", head, 3, verify)


def test_there_is_no_receipt_without_a_sum(scene):
    with pytest.raises(LocalProtocolError, match="no sum"):
        scene(5).until(Phase.SIGN).server.receipts()


def test_a_member_that_goes_on_to_another_round_keeps_nothing_but_the_way_to_check_its_receipt(done):
    for name in ("m0000", "m0001"):
        client = done.clients[name]
        client.conclude()
        assert client._vault is None and client._input is None and not client._replies
        with pytest.raises(RemoteProtocolError, match="nothing is answered any more"):
            client.receive(done.server.offer.encode())
        assert client.accept_receipt(done.server.receipts()[name]).client == name


def test_a_member_that_broke_off_after_its_input_had_left_still_takes_its_receipt(scene):
    here = scene(5).until(Phase.SIGN)
    client = here.clients["m0001"]
    others = replace(Survivors.decode(here.server.request("m0001")), members=(0, 2, 3, 4))
    with pytest.raises(RemoteProtocolError, match="survivors-without-us"):
        client.receive(others.encode())
    assert client.state is State.ABORTED
    assert here.run(lambda phase, name: name == "m0001") is Phase.DONE
    assert client.accept_receipt(here.server.receipts()["m0001"]).client == "m0001"
    assert client.state is State.CLOSED
