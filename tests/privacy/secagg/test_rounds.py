"""Whole rounds in memory: whoever drops out, the sum over the survivors is exact, or nothing is revealed."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.privacy.errors import LocalProtocolError
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg.client import State
from tacit.privacy.secagg.elided import ElidedRound
from tacit.privacy.secagg.graph import regular_parameters
from tacit.privacy.secagg.layout import Block, Layout, WideBlock
from tacit.privacy.secagg.loopback import exchange
from tacit.privacy.secagg.progress import Phase, Progress
from tacit.privacy.secagg.server import ServerRound

ORDER = (Phase.ADVERTISE, Phase.SHARE, Phase.MASK, Phase.SIGN, Phase.UNMASK)


def subsets(names):
    return chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))


def expected_end(size, colluders, min_survivors, answered):
    """Say how a round on the complete graph must end, from the paper's rules alone.

    `answered` holds for each exchange so far the set of members that answered; the result is the phase after it.
    """
    joined = answered[0]
    threshold = (len(joined) + colluders) // 2 + 1
    enough = [len(answered[0]) >= min_survivors and threshold <= len(joined) - 1]
    if len(answered) > 1:
        enough.append(len(answered[1]) >= max(min_survivors, threshold + 1))
    if len(answered) > 2:
        gone = answered[1] - answered[2]
        enough.append(len(answered[2]) >= max(min_survivors, threshold + 1, threshold if gone else 0))
    for later in answered[3:]:
        # Every share holder's secret needs t holders other than itself.
        owners = answered[1]
        enough.append(all(len(later - {owner}) >= threshold for owner in owners))
        if later is answered[3]:  # a signer releases only if it sees t others' signatures
            enough.append(len(later) - 1 >= threshold)
    if not all(enough):
        return Phase.ABORTED
    return Phase(len(answered))


def explore(scene, answered, **settings):
    """Try every subset of answers in the next exchange, and go on from each that does not end the round."""
    here = scene(**settings)
    for phase, members in zip(ORDER, answered, strict=False):
        here.exchange(lambda _, name, members=members: name not in members)
        assert here.server.phase.value == phase.value + 1
    phase = here.server.phase
    replies = {}
    for name in sorted(here.server.waiting):
        if phase is Phase.MASK:
            here.give(name)
        replies[name] = here.clients[name].receive(here.server.request(name))
    snapshot = here.server.snapshot()
    tried = 0
    for members in subsets(sorted(replies)):
        server = ServerRound.restore(
            snapshot, here.loopback.coordinator, authority_keys=here.server._authority_keys, now=0
        )
        for name in members:
            server.receive(name, replies[name].message, replies[name].vector)
        after = [*answered, frozenset(members)]
        end = server.close_phase()
        tried += 1
        assert end is expected_end(here.size, here.colluders, here.offer.min_survivors, after), after
        if end is Phase.DONE:
            assert server.result().survivors == tuple(sorted(after[2]))
            for block, total in here.total(after[2]).items():
                np.testing.assert_array_equal(server.result().blocks[block], total)
        elif end is Phase.ABORTED:
            with pytest.raises(LocalProtocolError):
                server.result()
            assert not Progress.decode(server.snapshot()).total.any()
        else:
            tried += explore(scene, after, **settings)
    return tried


@pytest.mark.parametrize(("size", "colluders", "dropout"), [(3, 0, 0.0), (4, 0, 0.0), (5, 0, 0.2), (5, 1, 0.0)])
def test_every_pattern_of_dropouts_gives_the_exact_sum_or_nothing(scene, size, colluders, dropout):
    tried = explore(scene, [], size=size, colluders=colluders, dropout=dropout)
    assert tried >= 5 * 2**size - 5  # every subset in each exchange at the least


@pytest.mark.slow
@pytest.mark.parametrize(("size", "colluders", "dropout"), [(6, 0, 0.17), (6, 1, 0.17), (6, 2, 0.0)])
def test_every_pattern_of_dropouts_among_six_gives_the_exact_sum_or_nothing(scene, size, colluders, dropout):
    explore(scene, [], size=size, colluders=colluders, dropout=dropout)


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_random_dropouts_in_every_phase_leave_the_sum_over_the_survivors_exact(scene, data):
    size = data.draw(st.integers(5, 24))
    check_random_dropouts(scene, data, size)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_random_dropouts_among_up_to_sixty_members(scene, data):
    check_random_dropouts(scene, data, data.draw(st.integers(5, 60)))


def check_random_dropouts(scene, data, size):
    colluders = data.draw(st.integers(0, max(0, size // 4 - 1)))
    most = max(0, size - 1 - ((size + colluders) // 2 + 1))
    may_drop = data.draw(st.integers(0, most))
    here = scene(size, colluders=colluders, dropout=(may_drop + 0.5) / size)
    when = data.draw(st.dictionaries(st.sampled_from(here.names), st.sampled_from(ORDER), max_size=may_drop + 2))
    answered = [
        frozenset(name for name in here.names if name not in when or when[name].value > phase.value) for phase in ORDER
    ]
    ends = [expected_end(size, colluders, here.offer.min_survivors, answered[: at + 1]) for at in range(5)]
    end = here.run(lambda phase, name: name in when and phase.value >= when[name].value)
    if Phase.ABORTED in ends:
        assert end is Phase.ABORTED
    else:
        assert end is Phase.DONE
        here.assert_sum_over(answered[2])
    if len(when) <= may_drop:
        assert end is Phase.DONE  # what was promised at the offer


def test_the_promised_number_of_dropouts_is_tolerated_at_every_phase(scene):
    for phase in ORDER:
        here = scene(10, colluders=1, dropout=0.3)
        gone = set(here.names[::4])
        assert len(gone) == 3
        end = here.run(lambda at, name, phase=phase, gone=gone: name in gone and at.value >= phase.value)
        assert end is Phase.DONE
        here.assert_sum_over(set(here.names) - gone if phase.value <= Phase.MASK.value else here.names)


def test_a_regular_graph_gives_the_same_sum_as_the_complete_one(scene):
    # 120 members, 6 colluders, 6 drop-outs: k and t are those of the search, and far below n.
    degree, threshold = regular_parameters(120, 6, 6, 114)
    assert threshold < degree < 60
    here = scene(120, colluders=6, dropout=0.05, graph="regular")
    gone = set(here.names[3:118:23][:5])
    assert here.run(lambda phase, name: name in gone and phase.value >= Phase.MASK.value) is Phase.DONE
    here.assert_sum_over(set(here.names) - gone)
    neighbours = here.server._members().topology.neighbours
    assert {len(neighbours(member)) for member in range(120)} == {degree}


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_sums_are_exact_in_every_width(scene, bits):
    clip = {16: 90.0, 24: 30_000.0, 32: 5_000_000.0}[bits]
    layout = Layout((Block("update", 300, clip=clip, scale=1.0, rotated=False), WideBlock("sums", 3, 40, 20, 8)))
    here = scene(5, layout=layout)
    assert here.offer.bits == bits
    assert here.run() is Phase.DONE
    here.assert_sum_over(here.names)


def test_an_elided_round_is_bit_identical_to_a_real_one(scene):
    layout = Layout((Block("update", 1001, clip=0.3, scale=3000.7, rotated=True), Block("weight", 1, 50.0, 3.3)))
    here = scene(6, dropout=0.17, layout=layout)
    generator = np.random.default_rng(1)
    inputs = {
        name: {"update": generator.normal(0, 0.01, 1001).astype(np.float32), "weight": generator.uniform(1, 40, 1)}
        for name in here.names
    }

    def give(name):
        here.clients[name].contribute(inputs[name], ledger_head=bytes(32), ledger_counter=0)

    here.give = give
    gone = here.names[2]
    assert here.run(lambda phase, name: name == gone and phase is Phase.MASK) is Phase.DONE
    real = here.server.result()
    elided = ElidedRound(here.plan(mode="elided"))
    for name in real.survivors:
        elided.contribute(name, inputs[name], SeededRandomness(here.seed))
    assert elided.result().digest == real.digest
    assert elided.result().survivors == real.survivors
    for block in real.blocks:
        assert elided.result().blocks[block].tobytes() == real.blocks[block].tobytes()


def test_elided_and_real_rounds_accept_only_their_own_offers(scene):
    here = scene(5)
    with pytest.raises(LocalProtocolError, match="asks for masks"):
        ElidedRound(here.offer)
    with pytest.raises(LocalProtocolError, match="elided"):
        here.loopback.server(here.plan(mode="elided"))
    elided = ElidedRound(here.plan(mode="elided"))
    with pytest.raises(LocalProtocolError, match="at least"):
        elided.result()
    elided.contribute("m0000", here.values("m0000"), SeededRandomness(b"s" * 32))
    with pytest.raises(LocalProtocolError, match="already"):
        elided.contribute("m0000", here.values("m0000"), SeededRandomness(b"s" * 32))


def test_integers_that_a_mechanism_made_are_summed_as_they_are(scene):
    here = scene(5)
    generator = np.random.default_rng(3)
    integers = {name: generator.integers(-5000, 5000, here.offer.dimension) for name in here.names}
    here.give = lambda name: here.clients[name].contribute_integers(
        integers[name], ledger_head=bytes(32), ledger_counter=0
    )
    assert here.run() is Phase.DONE
    np.testing.assert_array_equal(here.server.result().integers, sum(integers.values()))


@pytest.mark.parametrize("phase", ORDER)
def test_a_coordinator_that_was_killed_goes_on_where_it_was(scene, phase):
    here = scene(6, dropout=0.17)
    here.until(phase)
    if phase is Phase.MASK:
        here.give_all()
    asked = sorted(here.server.waiting)
    for name in asked[:3]:  # answers that the dead process had and that nobody stored
        here.clients[name].receive(here.server.request(name))
    snapshot = here.server.snapshot()
    requests = here.server.requests()
    here.server = ServerRound.restore(
        snapshot, here.loopback.coordinator, authority_keys=here.server._authority_keys, now=0
    )
    assert here.server.phase is phase
    assert here.server.requests() == requests
    assert here.server.snapshot() == snapshot
    here.give = lambda name, give=here.give: None if here.clients[name]._input is not None else give(name)
    if phase is Phase.MASK:
        assert not exchange(here.server, here.clients, lambda _, __: False)
        here.server.close_phase()
    assert here.run() is Phase.DONE
    here.assert_sum_over(here.names)
    again = ServerRound.restore(
        here.server.snapshot(), here.loopback.coordinator, authority_keys=here.server._authority_keys, now=0
    )
    assert again.result().digest == here.server.result().digest
    assert again.receipts() == here.server.receipts()


def test_a_sum_that_was_given_away_is_in_no_snapshot_and_is_not_given_twice(scene):
    here = scene(5)
    assert here.run() is Phase.DONE
    result = here.server.result()
    digest, expected = result.digest, result.blocks
    given = result.give_away()
    assert given.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(given[name], values, rtol=1e-6, atol=1e-6 * np.linalg.norm(values))
    for call in (here.server.snapshot, result.give_away, lambda: result.integers):
        with pytest.raises(LocalProtocolError, match="given away"):
            call()
    assert result.digest == digest and set(here.server.receipts()) == set(result.survivors)


def test_a_snapshot_in_pieces_is_the_snapshot(scene):
    here = scene(5)
    while here.server.phase is not Phase.DONE:
        pieces = b"".join(here.server.snapshot_pieces())
        assert pieces == here.server.snapshot() == here.server._state.encode()
        here.exchange()


def test_a_snapshot_can_be_taken_after_every_single_answer(scene):
    here = scene(5)
    while here.server.phase is not Phase.DONE:
        for name in sorted(here.server.waiting):
            if here.server.phase is Phase.MASK:
                here.give(name)
            reply = here.clients[name].receive(here.server.request(name))
            here.server.receive(name, reply.message, reply.vector)
            here.server = ServerRound.restore(
                here.server.snapshot(), here.loopback.coordinator, authority_keys=here.server._authority_keys, now=0
            )
        here.server.close_phase()
    here.assert_sum_over(here.names)


def test_the_same_request_gets_the_same_reply_until_the_receipt(scene):
    here = scene(5)
    replies = []
    while here.server.phase is not Phase.DONE:
        if here.server.phase is Phase.MASK:
            here.give_all()
        for name in here.names:
            request = here.server.request(name)
            reply = here.clients[name].receive(request)
            replies.append((name, request, reply))
            assert here.clients[name].receive(request) is reply
            here.server.receive(name, reply.message, reply.vector)
            here.server.receive(name, reply.message, reply.vector)  # a transport may deliver twice
        here.server.close_phase()
    for name, request, reply in replies:
        assert here.clients[name].receive(request) is reply
    here.assert_sum_over(here.names)


def test_every_secret_is_gone_once_shares_were_released(scene):
    here = scene(5).until(Phase.UNMASK)
    client = here.clients["m0000"]
    vault = client._vault
    assert vault._held and vault._masking_pairs
    client.receive(here.server.request("m0000"))
    assert client.state is State.UNMASKED
    assert client._vault is None and client._input is None
    assert not (vault._held or vault._masking_pairs or vault._encryption_pairs)
    assert not (vault._self_seed or vault._masking_seed)
    assert not (any(vault._encryption_key) or any(vault._masking_key))


def test_no_representation_shows_a_secret(scene):
    here = scene(5).until(Phase.MASK)
    client = here.clients["m0001"]
    shown = repr(client) + repr(client._vault) + repr(here.server) + str(vars(client._vault).keys())
    for secret in (client._vault._self_seed, client._vault._masking_seed):
        assert str(secret) not in shown and hex(secret)[2:] not in shown
    assert repr(client) == "ClientRound(m0001, SHARED)"
