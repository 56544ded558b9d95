"""Once, and not again: retries, replays and changed requests, against a member that remembers."""

import numpy as np
import pytest

from tacit.privacy.codec import NO_DIGEST
from tacit.privacy.errors import LocalProtocolError, PrivacyError
from tacit.privacy.secagg.client import State
from tacit.privacy.secagg.policy import MemoryJournal
from tacit.privacy.secagg.progress import Phase


def test_retrying_a_round_after_inputs_left_and_subtracting(scene):
    here = scene(6, dropout=0.17)
    assert here.run() is Phase.DONE

    # The coordinator says that the attempt failed, and offers another one in which the victim "drops out".
    def without_victim(phase, name):
        return name == "m0005" and phase is Phase.MASK

    again = here.next_attempt()
    for name in again.names:
        here.refuses(again.clients[name], again.signed(again.offer), "round-over")
    # Members without memory give the victim away: the difference of the two sums is its input.
    forgetful = here.next_attempt(journals={})
    assert forgetful.run(without_victim) is Phase.DONE
    difference = here.server.result().integers - forgetful.server.result().integers
    np.testing.assert_array_equal(difference, here.plain("m0005"))


def test_a_retry_before_any_input_left_is_welcome_and_has_fresh_keys(scene):
    here = scene(6, dropout=0.17)
    here.until(Phase.MASK, lambda phase, name: phase is Phase.SHARE and name == "m0001")
    first = {name: here.clients[name]._advert for name in here.names}
    here.server.abort("the coordinator changed its mind")
    assert here.server.may_retry == set(here.names)
    again = here.next_attempt()
    assert again.run() is Phase.DONE
    again.assert_sum_over(again.names)
    assert all(again.clients[name]._advert != first[name] for name in here.names)


def test_members_whose_input_left_are_not_offered_the_round_again(scene):
    here = scene(6, dropout=0.17)
    here.until(Phase.SIGN, lambda phase, name: phase is Phase.MASK and name == "m0001")
    here.server.abort("crash")
    assert here.server.may_retry == {"m0001"}
    assert here.server.contributed == set(here.names) - {"m0001"}


def test_replaying_a_round(scene):
    here = scene(5)
    here.exchange()
    restarted = here.client("m0001")  # same journal, no secrets
    here.refuses(restarted, here.signed(here.offer), "replay")
    # The very same process still answers the very same bytes.
    assert here.clients["m0001"].receive(here.signed(here.offer)).message == here.clients["m0001"]._advert


def test_an_aborted_member_answers_nothing_new(scene):
    here = scene(5).until(Phase.MASK)
    client = here.clients["m0001"]
    client.abandon()
    here.refuses(client, here.server.request("m0001"), "unexpected-message")
    with pytest.raises(LocalProtocolError, match="no input is due"):
        here.give("m0001")


@pytest.mark.parametrize("attempted", ["unmask", "survivors", "delivery"])
def test_a_request_with_one_bit_changed_is_refused_after_the_first_was_answered(scene, attempted):
    phase = {"delivery": Phase.MASK, "survivors": Phase.SIGN, "unmask": Phase.UNMASK}[attempted]
    here = scene(5).until(phase)
    if phase is Phase.MASK:
        here.give_all()
    client, request = here.clients["m0002"], here.server.request("m0002")
    reply = client.receive(request)
    state = client.state
    for bit in range(0, 8 * len(request), 53):
        changed = bytearray(request)
        changed[bit // 8] ^= 1 << bit % 8
        here.refuses(client, bytes(changed), "unexpected-message")
        assert client.state is state
    assert client.receive(request) is reply


def test_the_journal_is_written_before_anything_leaves_and_a_failing_disk_stops_it(scene):
    class Full(MemoryJournal):
        def record_contribution(self, run, round):
            raise OSError("no space left")

    here = scene(5).until(Phase.SHARE)
    here.clients["m0000"] = client = here.client("m0000", journal=Full())
    client.receive(here.signed(here.offer))
    here.until(Phase.MASK)
    here.give("m0000")
    with pytest.raises(OSError, match="space"):
        client.receive(here.server.request("m0000"))
    assert client.state is State.ABORTED and client._vault is None
    with pytest.raises(PrivacyError):
        client.receive(here.server.request("m0000"))


def test_the_journal_knows_of_every_step_that_counts(scene):
    here = scene(5)
    journal = here.journals["m0000"]
    here.exchange()
    assert journal.answered("run", 0, 0) and not journal.contributed("run", 0)
    here.until(Phase.SIGN)
    assert journal.contributed("run", 0) and not journal.survivors
    here.exchange()
    ((digest, count),) = journal.survivors.values()
    assert count == 5 and digest != NO_DIGEST
    assert here.clients["m0000"].survivors == tuple(here.names)
