"""Agreed secrets, shared between parties of one process or not, and numbers drawn one by one or many at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.randomness import Keystream, SeededRandomness
from tacit.privacy.secagg.client import Reply
from tacit.privacy.secagg.keys import Agree, SharedAgreements, agreement, element, elements, public_of
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.shamir import PRIME

PRIVATE = [bytes([at]) * 32 for at in range(1, 6)]
PUBLIC = [public_of(key) for key in PRIVATE]


def test_shared_agreements_give_every_pair_its_own_secret_whoever_asks_first() -> None:
    shared = SharedAgreements()
    ends = [shared(key) for key in PRIVATE]
    for one in (*range(5), *reversed(range(5))):
        for other in range(5):
            if one != other:
                assert ends[one](PUBLIC[other]) == agreement(PRIVATE[one])(PUBLIC[other])


def test_a_secret_is_let_go_of_once_both_ends_have_it() -> None:
    shared = SharedAgreements()
    one, other = shared(PRIVATE[0]), shared(PRIVATE[1])
    one(PUBLIC[1])
    assert len(shared._waiting) == 1
    other(PUBLIC[0])
    assert not shared._waiting


def test_secrets_whose_other_end_never_asks_do_not_pile_up() -> None:
    shared = SharedAgreements(most=2)
    for key in PRIVATE[1:]:
        shared(PRIVATE[0])(public_of(key))
    assert len(shared._waiting) == 2
    assert shared(PRIVATE[1])(PUBLIC[0]) == agreement(PRIVATE[1])(PUBLIC[0])


def test_a_point_of_low_order_is_refused_and_nothing_of_it_is_kept() -> None:
    shared = SharedAgreements()
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="low-order-point"):
            shared(PRIVATE[0])(bytes(32))
    assert not shared._waiting


def test_shared_agreements_show_no_secret() -> None:
    shared = SharedAgreements()
    secret = shared(PRIVATE[0])(PUBLIC[1])
    assert repr(shared) == "SharedAgreements(1 hidden)" and secret.hex() not in repr(vars(shared).keys())


@given(st.lists(st.integers(0, 9), max_size=8))
def test_numbers_are_the_same_however_many_are_drawn_at_once(counts: list[int]) -> None:
    one, many = (Keystream(SeededRandomness(b"k" * 32).key("numbers")) for _ in range(2))
    drawn = [number for count in counts for number in elements(many, count)]
    assert drawn == [element(one) for _ in drawn]
    assert all(0 <= number < PRIME for number in drawn)


class Scripted:
    """A stream that begins with given blocks."""

    def __init__(self, *blocks: int) -> None:
        self.left = b"".join(block.to_bytes(32, "little") for block in blocks)

    def bytes(self, count: int) -> bytes:
        taken, self.left = self.left[:count], self.left[count:]
        return taken


def test_numbers_that_are_not_below_the_prime_are_drawn_again_in_order() -> None:
    top = 1 << 255  # is ignored
    stream = Scripted(PRIME, 5, PRIME + 18, top + 6, PRIME - 1, 7)
    assert elements(stream, 3) == [5, 6, PRIME - 1]  # type: ignore[arg-type]
    assert elements(stream, 1) == [7]  # type: ignore[arg-type]
    assert elements(stream, 0) == []  # type: ignore[arg-type]


def test_a_round_with_shared_agreements_has_the_same_bytes(scene) -> None:
    def replies(agree: Agree) -> list[bytes]:
        here = scene(4)
        for name, client in here.clients.items():
            client._agree = agree
            receive = client.receive
            client.receive = lambda request, name=name, receive=receive: keep(receive(request))  # type: ignore[misc]
        kept: list[bytes] = []

        def keep(reply: Reply) -> Reply:
            kept.append(reply.message + (b"" if reply.vector is None else reply.vector.tobytes()))
            return reply

        assert here.run() is Phase.DONE
        return kept

    alone, together = replies(agreement), replies(SharedAgreements())
    assert len(alone) == 5 * 4 and alone == together
