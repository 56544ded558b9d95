"""Every message has one encoding, refuses what no honest sender writes, and survives whatever bytes come."""

import random
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.codec import Reader, SignedMessage, Writer
from tacit.privacy.errors import PrivacyError, RemoteProtocolError
from tacit.privacy.identity import Certificate
from tacit.privacy.secagg.layout import Block, Infeasible, Layout, WideBlock
from tacit.privacy.secagg.messages import (
    BAD_CIPHERTEXT,
    Accusation,
    Advertise,
    Delivery,
    MaskedInput,
    Parcel,
    Roster,
    Shares,
    holders_transcript,
)
from tacit.privacy.secagg.offer import Offer
from tacit.privacy.secagg.progress import Phase, Progress
from tacit.privacy.secagg.receipt import Receipt
from tacit.privacy.secagg.server import ServerRound
from tacit.privacy.secagg.unmasking import Survivors, SurvivorSignature, UnmaskRequest, UnmaskShares, survivors_digest

KINDS = (
    Offer,
    Advertise,
    Roster,
    Shares,
    Delivery,
    MaskedInput,
    Accusation,
    Survivors,
    SurvivorSignature,
    UnmaskRequest,
    UnmaskShares,
    Receipt,
    Certificate,
    Progress,
)


@pytest.fixture(scope="session")
def corpus(scene):
    """One real encoding of every kind of message."""
    here = scene(5, layout=Layout((Block("update", 5, 100.0, 1.0), WideBlock("sums", 2, 30, 10))))
    found = {Offer: here.server.offer.encode(), Certificate: here.loopback.certificates["m0000"].encode()}
    replies = {
        Phase.ADVERTISE: Advertise,
        Phase.SHARE: Shares,
        Phase.MASK: MaskedInput,
        Phase.SIGN: SurvivorSignature,
        Phase.UNMASK: UnmaskShares,
    }
    requests = {Phase.SHARE: Roster, Phase.MASK: Delivery, Phase.SIGN: Survivors, Phase.UNMASK: UnmaskRequest}
    for phase, kind in replies.items():
        if phase in requests:
            found[requests[phase]] = here.server.request("m0001")
        if phase is Phase.MASK:
            here.give_all()
            here.give = lambda name: None
            found[Progress] = here.server.snapshot()
        found[kind] = here.clients["m0001"].receive(here.server.request("m0001")).message
        here.exchange()
    found[Receipt] = here.server.receipts()["m0001"]
    found[Accusation] = (
        Accusation(bytes(32), 1, 2, BAD_CIPHERTEXT, bytes(96)).signed(here.loopback.members["m0001"]).encode()
    )
    assert set(found) == set(KINDS)
    return found


def test_every_kind_has_a_tag_and_a_label_of_its_own():
    assert len({kind.TAG for kind in KINDS}) == len(KINDS)
    labels = [kind.LABEL for kind in KINDS if issubclass(kind, SignedMessage)]
    assert len(set(labels)) == len(labels)
    assert all(label.startswith("tacit/secagg/1/") for label in labels)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_and_encoding_again_gives_the_same_bytes(corpus, kind):
    assert kind.decode(corpus[kind]).encode() == corpus[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_and_every_extension_is_refused(corpus, kind):
    data = corpus[kind]
    for length in range(0, len(data), max(1, len(data) // 400)):
        with pytest.raises(RemoteProtocolError):
            kind.decode(data[:length])
    for extra in (b"\0", b"\xff" * 40):
        with pytest.raises(RemoteProtocolError):
            kind.decode(data + extra)


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_kind_reads_it(corpus, kind):
    for other in KINDS:
        if other is not kind:
            with pytest.raises(RemoteProtocolError):
                other.decode(corpus[kind])


@contextmanager
def peak_below(limit):
    """Fail if more than so many bytes are allocated at any time within."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Progress])
def test_what_is_longer_than_a_kind_can_be_is_refused_unread(kind):
    data = bytes([kind.TAG]) + bytes(kind.LIMIT)
    with peak_below(100_000), pytest.raises(RemoteProtocolError, match="oversized"):
        kind.decode(data)


@pytest.mark.parametrize("kind", [Roster, Shares, Delivery, Survivors, UnmaskRequest, UnmaskShares])
def test_a_count_of_what_is_not_there_allocates_nothing(kind):
    prefix = {
        Roster: b"",
        Shares: bytes(34),
        Delivery: bytes(32),
        Survivors: bytes(32),
        UnmaskRequest: bytes(32),
        UnmaskShares: bytes(34),
    }[kind]
    for count in (10_000, 0xFFFFFFFF):
        data = bytes([kind.TAG]) + prefix + count.to_bytes(4, "big") + bytes(60)
        with peak_below(50_000), pytest.raises(RemoteProtocolError, match=r"truncated|oversized"):
            kind.decode(data)


class Mutator:
    """Random bytes, and real messages with bits flipped, pieces cut, repeated, exchanged or replaced by extremes."""

    def __init__(self, corpus, seed):
        self.random = random.Random(seed)
        self.corpus = list(corpus.values())

    def __call__(self):
        draw = self.random
        if draw.random() < 0.1:
            return bytes([draw.choice(KINDS).TAG]) + draw.randbytes(draw.randrange(2000))
        data = bytearray(draw.choice(self.corpus))
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data) + 1)
            length = draw.choice((1, 1, 2, 4, 8, 32, 64, 300))
            match draw.randrange(6):
                case 0 if data:
                    data[at % len(data)] ^= 1 << draw.randrange(8)
                case 1:
                    del data[at : at + length]
                case 2:
                    data[at:at] = data[at : at + length]
                case 3:
                    data[at : at + length] = draw.randbytes(length)
                case 4:
                    data[at : at + 4] = draw.choice(
                        (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\xff\xff", b"\x7f\xf0\0\0")
                    )
                case _:
                    other = draw.choice(self.corpus)
                    data[at : at + length] = other[at : at + length]
        return bytes(data)


def fuzz_decoders(corpus, seed, volume):
    """Feed bytes to every decoder; whatever is accepted must be the encoding of what was read."""
    mutate, read, accepted = Mutator(corpus, seed), 0, 0
    while read < volume:
        data = mutate()
        read += len(data)
        own = [kind for kind in KINDS if data[:1] == bytes([kind.TAG])] or [mutate.random.choice(KINDS)]
        for kind in own:
            try:
                message = kind.decode(data)
            except RemoteProtocolError:
                continue
            accepted += 1
            if kind is not Progress:  # whose sets are written in order, whatever order they came in
                assert message.encode() == data
    return accepted


def test_the_decoders_survive_twelve_megabytes_of_hostile_bytes(corpus):
    assert fuzz_decoders(corpus, seed=1, volume=12_000_000) > 100  # flipped bits in keys and digests are well formed


def test_the_decoders_need_little_memory_for_it(corpus):
    with peak_below(20_000_000):
        fuzz_decoders(corpus, seed=2, volume=1_000_000)


@pytest.mark.slow
def test_the_decoders_survive_half_a_gigabyte_of_hostile_bytes(corpus):
    fuzz_decoders(corpus, seed=3, volume=500_000_000)


def fuzz_parties(scene, seed, volume):
    """Feed changed requests to members and changed replies to coordinators, in every state.

    Nothing but the protocol's own errors comes out. Returns how often a changed message was taken for a good one, not
    counting accusations of a dealer whose parcel was changed, requests to unmask that hold t good signatures, and
    signatures of parcels, which say nothing of a parcel that opens.
    """

    def unsigned(delivery):
        decoded = Delivery.decode(delivery)
        return replace(decoded, parcels=tuple(parcel._replace(signature=b"") for parcel in decoded.parcels))

    draw, read, answered = random.Random(seed), 0, 0
    layout = Layout((Block("update", 5, 100.0, 1.0), WideBlock("sums", 2, 30, 10)))
    while read < volume:
        here = scene(5, layout=layout).until(Phase(draw.randrange(5)))
        snapshot, requests = here.server.snapshot(), here.server.requests()
        for name, request in requests.items():
            if here.server.phase is Phase.MASK:
                here.give(name)
            mutate = Mutator({type(here): request}, draw.random())
            for _ in range(10):
                data = mutate()
                read += len(data)
                try:
                    reply = here.clients[name].receive(data)
                except PrivacyError:
                    continue
                if here.server.phase is Phase.MASK:
                    accused = reply.vector is None
                    answered += not accused and unsigned(data) != unsigned(request)
                elif here.server.phase is not Phase.UNMASK:  # where one signature more or less than t does not matter
                    answered += data != request
        replies = {}
        for name, request in requests.items():
            try:
                replies[name] = here.clients[name].receive(request)
            except PrivacyError:  # one of the changed requests ended its attempt, or was harmless enough to be answered
                pass
        server = ServerRound.restore(
            snapshot, here.loopback.coordinator, authority_keys=here.server._authority_keys, now=0
        )
        for name, reply in replies.items():
            mutate = Mutator({type(here): reply.message}, draw.random())
            for _ in range(10):
                data = mutate()
                read += len(data)
                try:
                    server.receive(name, data, reply.vector)
                    answered += data != reply.message
                except RemoteProtocolError:
                    pass
        server.close_phase()
    return answered


def test_the_parties_survive_hostile_bytes_in_every_state(scene):
    # Not one changed byte is let through: whatever is read is signed, or bound to a transcript that is.
    assert fuzz_parties(scene, seed=3, volume=2_000_000) == 0


@pytest.mark.slow
def test_the_parties_survive_many_hostile_bytes_in_every_state(scene):
    assert fuzz_parties(scene, seed=4, volume=40_000_000) == 0


@given(st.binary(max_size=300), st.sampled_from(KINDS))
@settings(max_examples=300)
def test_arbitrary_bytes_after_a_tag_are_refused_or_read_exactly(data, kind):
    data = bytes([kind.TAG]) + data
    try:
        assert kind.decode(data).encode() == data
    except RemoteProtocolError as error:
        assert error.reason in {"truncated", "malformed", "oversized", "unexpected-message"}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("u8"), st.integers(0, 255)),
            st.tuples(st.just("u16"), st.integers(0, 2**16 - 1)),
            st.tuples(st.just("u32"), st.integers(0, 2**32 - 1)),
            st.tuples(st.just("u64"), st.integers(0, 2**64 - 1)),
            st.tuples(st.just("f64"), st.floats(allow_nan=False, allow_infinity=False)),
            st.tuples(st.just("blob"), st.binary(max_size=40)),
            st.tuples(st.just("text"), st.text(max_size=20)),
        ),
        max_size=8,
    )
)
def test_fields_come_back_in_order(fields):
    writer = Writer()
    for kind, value in fields:
        getattr(writer, kind)(value)
    reader = Reader(writer.getvalue())
    for kind, value in fields:
        read = getattr(reader, kind)
        assert (read(100) if kind in ("blob", "text") else read()) == value
    reader.finish()


def test_the_reader_refuses_what_has_two_forms():
    with pytest.raises(RemoteProtocolError, match="neither 0 nor 1"):
        Reader(b"\x02").flag()
    for value in (float("nan"), float("inf")):
        with pytest.raises(RemoteProtocolError, match="finite"):
            Reader(Writer().f64(value).getvalue()).f64()
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        Reader(Writer().blob(b"\xff\xfe").getvalue()).text(10)


@pytest.mark.parametrize("members", [(1, 1), (2, 1), (0, 3, 2)])
def test_members_are_named_once_each_in_order(members):
    for make in (
        lambda: Survivors(bytes(32), members),
        lambda: Delivery(bytes(32), members, ()),
        lambda: UnmaskShares(bytes(32), 0, tuple((member, 1) for member in members)),
    ):
        with pytest.raises(ValueError, match="once each"):
            make()
    parcels = tuple(Parcel(member, bytes(80), bytes(64)) for member in members)
    with pytest.raises(RemoteProtocolError, match="once each"):
        Shares.decode(Shares(bytes(32), 0, parcels).encode())


def test_digests_of_sets_tell_all_sets_apart():
    sets = [(), (0,), (1,), (0, 1), (256,), (0, 256), (1, 0 + 255)]
    assert len({survivors_digest(members) for members in sets}) == len(sets)
    assert len({holders_transcript(bytes(32), members) for members in sets}) == len(sets)
    assert holders_transcript(bytes(32), (1,)) != holders_transcript(b"x" * 32, (1,))


OFFER_CHANGES = [
    {"run": "no spaces"},
    {"run": ""},
    {"round": -1},
    {"attempt": 1 << 32},
    {"model_digest": bytes(31)},
    {"dimension": 7},
    {"bits": 20},
    {"bits": 8},
    {"rotation_seed": bytes(16)},
    {"mechanism": "a b"},
    {"mechanism_parameters": (("b", 1.0), ("a", 1.0))},
    {"mechanism_parameters": (("a", float("nan")),)},
    {"noise_variance": -1.0},
    {"noise_variance": float("nan")},
    {"noise_variance": 1e20},
    {"cohort": 1},
    {"cohort": 20_000},
    {"min_cohort": 1},
    {"min_cohort": 11},
    {"min_survivors": 3},
    {"min_survivors": 11},
    {"colluders": -1},
    {"colluders": 9},
    {"dropout_ppm": 1_000_000},
    {"dropout_ppm": 900_000, "min_survivors": 2},
    {"graph": "star"},
    {"mode": "plain"},
    {"last_receipt": b""},
]


@pytest.mark.parametrize("change", OFFER_CHANGES)
def test_an_offer_that_no_honest_coordinator_makes_cannot_be_made(scene, change):
    with pytest.raises(ValueError, match="."):
        replace(scene(10, dropout=0.1).offer, **change)


def test_an_offer_in_which_a_sum_could_wrap_cannot_be_made(scene):
    here = scene(10, layout=Layout((Block("update", 5, 3275.0, 1.0),)))
    assert here.offer.bits == 16  # 10 * 3276 < 2^15
    with pytest.raises(ValueError, match="wrap"):
        replace(here.offer, layout=Layout((Block("update", 5, 3276.0, 1.0),)))
    with pytest.raises(ValueError, match="wrap"):
        replace(here.offer, noise_variance=1.0)
    with pytest.raises(ValueError, match="wide blocks carry no noise"):
        replace(here.offer, layout=Layout((WideBlock("s", 5, 4, 4, 8),)), dimension=10, noise_variance=1.0)


def test_a_plan_says_which_number_to_change(scene):
    here = scene(10)
    with pytest.raises(Infeasible, match="raise cohort or lower min_cohort"):
        here.plan(min_cohort=11)
    with pytest.raises(Infeasible, match="lower dropout to at most"):
        here.plan(dropout=0.5)
    with pytest.raises(Infeasible, match="raise min_cohort to at least 11"):
        here.plan(colluders=9)
    with pytest.raises(ValueError, match="fraction"):
        here.plan(dropout=1.0)


def test_signatures_cover_every_field_of_an_offer(scene):
    here = scene(10, dropout=0.1)
    changes = [
        {"run": "other"},
        {"round": 1},
        {"attempt": 1},
        {"model_digest": b"x" * 32},
        {"recipe_digest": b"x" * 32},
        {"layout": Layout((Block("update", 5, 999.0, 1.0), Block("weight", 1, 1000.0, 1.0)))},
        {"layout": Layout((Block("update", 5, 1000.0, 1.0, True), Block("weight", 1, 1000.0, 1.0)))},
        {"bits": 32},
        {"rotation_seed": b"x" * 32},
        {"mechanism": "skellam"},
        {"mechanism_parameters": (("a", 1.0),)},
        {"noise_variance": 0.5},
        {"cohort": 9},
        {"min_cohort": 3},
        {"min_survivors": 10},
        {"colluders": 1},
        {"dropout_ppm": 0, "min_survivors": 10},
        {"last_receipt": b"x" * 32},
        {"mode": "elided"},
    ]
    digests = {here.offer.digest} | {replace(here.offer, **change).digest for change in changes}
    assert len(digests) == len(changes) + 1
    assert replace(here.offer, signature=b"x" * 64).digest == here.offer.digest
