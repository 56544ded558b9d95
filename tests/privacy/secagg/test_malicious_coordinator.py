"""Attacks of the coordinator, each of which takes a member's input from an implementation without the check."""

from dataclasses import replace

import numpy as np
import pytest

from tacit.privacy.errors import BudgetExceeded, RemoteProtocolError
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg import keys, shamir
from tacit.privacy.secagg.client import State
from tacit.privacy.secagg.graph import regular_parameters
from tacit.privacy.secagg.messages import (
    BAD_SIGNATURE,
    Accusation,
    Delivery,
    MaskedInput,
    Roster,
    Shares,
    holders_transcript,
)
from tacit.privacy.secagg.policy import MemoryJournal
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.unmasking import (
    SURVIVORS_LABEL,
    Survivors,
    UnmaskRequest,
    UnmaskShares,
    survivors_body,
)


def inputs_of(here):
    """Run up to the survivors and return every member's packed input, as the coordinator saw it pass."""
    here.until(Phase.MASK)
    here.give_all()
    packed = {}
    for name in sorted(here.server.waiting):
        reply = here.clients[name].receive(here.server.request(name))
        packed[name] = reply.vector.copy()
        here.server.receive(name, reply.message, reply.vector)
    here.server.close_phase()
    return packed


def recovered(shares, owner, holders):
    """Combine released shares of one owner's secret."""
    points = [keys.point_of(holder) for holder in holders]
    return shamir.Holders(points).weights().secret([shares[holder][owner] for holder in holders])


def test_asking_for_both_kinds_of_share_of_one_member(scene):
    here = scene(7, colluders=1)
    packed = inputs_of(here)
    victim, threshold = 3, here.server._members().threshold
    honest_vault = here.clients["m0003"]._vault
    both = here.steal("m0003", packed["m0003"], honest_vault._self_seed, honest_vault._masking_seed)
    np.testing.assert_array_equal(both, here.plain("m0003"))  # b and s together are the input
    here.exchange()
    seed_shares = {}
    for at, name in enumerate(here.names):
        reply = here.clients[name].receive(here.server.request(name))
        seed_shares[at] = dict(UnmaskShares.decode(reply.message).shares)
    others = [at for at in range(7) if at != victim]
    seed = recovered(seed_shares, victim, others)
    # With b alone the pairwise masks stay on.
    assert not np.array_equal(here.steal("m0003", packed["m0003"], seed, None), here.plain("m0003"))
    # The second request: the same set without the victim, signed by everybody the coordinator could get to sign.
    transcript = here.server._transcript()
    without = tuple(others)
    body = survivors_body(transcript, without)
    forged = tuple((at, here.loopback.members[here.names[at]].sign(SURVIVORS_LABEL, body)) for at in without)
    assert len(forged) >= threshold
    for at in others:
        client = here.clients[here.names[at]]
        here.refuses(client, Survivors(transcript, without).encode(), "unexpected-message")
        here.refuses(client, UnmaskRequest(transcript, forged).encode(), "unexpected-message")
        assert client.state is State.UNMASKED


def test_an_unmask_reply_holds_one_share_of_each_member_by_construction(scene):
    with pytest.raises(ValueError, match="once"):
        UnmaskShares(bytes(32), 0, ((1, 5), (1, 6)))
    here = scene(6, dropout=0.17)
    here.until(Phase.SIGN, lambda phase, name: phase is Phase.MASK and name == "m0002").exchange()
    held = {at: dict(here.clients[f"m{at:04d}"]._vault._held) for at in range(6) if at != 2}
    for at in held:
        released = dict(
            UnmaskShares.decode(here.clients[f"m{at:04d}"].receive(here.server.request(f"m{at:04d}")).message).shares
        )
        assert released == {owner: pair[owner == 2] for owner, pair in held[at].items()}


def test_two_survivor_sets_never_collect_enough_signatures(scene):
    # Ten members, two of them colluders who sign whatever they are asked; t is 7. Every split of the eight honest ones.
    here = scene(10, colluders=2, dropout=0.1)
    packed = inputs_of(here)
    assert len(packed) == 10
    members, transcript = here.server._members(), here.server._transcript()
    assert members.threshold == 7
    everybody, fewer = tuple(range(10)), tuple(at for at in range(10) if at != 5)
    signed_by_colluders = {
        which: {
            at: here.loopback.members[here.names[at]].sign(SURVIVORS_LABEL, survivors_body(transcript, which))
            for at in (8, 9)
        }
        for which in (everybody, fewer)
    }
    for shown in (4, 5, 6):  # how many honest members see the full set; 5, the victim, sees it in any case
        clients = {}
        journals = {}
        for at in range(8):
            journals[at] = MemoryJournal()
            clients[at] = here.copy_at_mask(at)
        full_viewers = [5, *[at for at in range(8) if at != 5]][:shown]
        signatures = {everybody: dict(signed_by_colluders[everybody]), fewer: dict(signed_by_colluders[fewer])}
        for at, client in clients.items():
            which = everybody if at in full_viewers else fewer
            client.receive(Survivors(transcript, which).encode())
            signature = here.loopback.members[here.names[at]].sign(SURVIVORS_LABEL, survivors_body(transcript, which))
            signatures[which][at] = signature
        released = {everybody: 0, fewer: 0}
        for at, client in clients.items():
            which = everybody if at in full_viewers else fewer
            request = UnmaskRequest(transcript, tuple(sorted(signatures[which].items()))).encode()
            try:
                client.receive(request)
                released[which] += 1
            except RemoteProtocolError as error:
                assert error.reason == "too-few-signatures"
        assert not (released[everybody] and released[fewer])
        # b of the victim needs 7 shares of the full set, s needs 7 of the smaller one; colluders give both kinds.
        assert released[everybody] + 2 < 7 or released[fewer] + 2 < 7


def test_thresholds_leave_no_room_for_two_sets_whatever_the_split():
    from tacit.privacy.secagg.graph import complete_threshold

    for members in range(3, 40):
        for colluders in range(members - 1):
            threshold = complete_threshold(members, colluders)
            honest = members - colluders
            # One set is signed by `one` honest members and all colluders, the other by the rest and all colluders.
            assert not any(
                one + colluders >= threshold and honest - one + colluders >= threshold for one in range(honest + 1)
            )


def test_different_offers_to_different_members(scene):
    here = scene(5)
    other = here.plan(recipe_digest=b"r" * 32)
    adverts = []
    for at, name in enumerate(here.names):
        adverts.append(here.clients[name].receive(here.signed(other if at == 4 else here.offer)).message)
    for name in here.names:
        here.refuses(here.clients[name], Roster(tuple(adverts)).encode(), "other-offer")


def test_different_models_to_different_members(scene):
    # The victim gets a model of the coordinator's making, under an offer that names it or one that does not.
    here = scene(5)
    victim = here.client("m0004", model_digest=b"m" * 32)
    here.refuses(victim, here.signed(here.offer), "other-model")
    victim = here.client("m0004", model_digest=b"m" * 32)
    adverts = [here.clients[name].receive(here.signed(here.offer)).message for name in here.names[:4]]
    adverts.append(victim.receive(here.signed(here.plan(model_digest=b"m" * 32))).message)
    here.refuses(victim, Roster(tuple(adverts)).encode(), "other-offer")


def test_different_rosters_to_different_members(scene):
    # m0005 is shown to half of the members. Each half is large enough, but their transcripts differ.
    here = scene(6, dropout=0.17)
    adverts = {name: here.clients[name].receive(here.signed(here.offer)).message for name in here.names}
    large, small = (Roster(tuple(adverts[name] for name in names)) for names in (here.names, here.names[:5]))
    shares = {
        name: Shares.decode(here.clients[name].receive((large if at % 2 else small).encode()).message)
        for at, name in enumerate(here.names)
    }
    here.give_all()
    holders = tuple(range(5))
    for at, name in enumerate(here.names[:5]):
        transcript = (large if at % 2 else small).transcript
        parcels = tuple(
            shares[here.names[dealer]].by_holder[at]._replace(member=dealer) for dealer in holders if dealer != at
        )
        reply = here.clients[name].receive(Delivery(transcript, holders, parcels).encode())
        assert Accusation.decode(reply.message).kind == BAD_SIGNATURE and reply.vector is None


def test_different_sets_of_share_holders_give_noise_and_no_difference(scene):
    # Half of the members are told that m0005 shares no masks, the other half that it does: a difference of two such
    # sums would show what m0005's masks hide. The masks are keyed by the set, so nothing cancels.
    here = scene(6, dropout=0.17).until(Phase.MASK)
    here.give_all()
    everybody, fewer = tuple(range(6)), tuple(range(5))
    total = 0
    for at, name in enumerate(here.names[:5]):
        holders = everybody if at % 2 else fewer
        delivery = Delivery.decode(here.server.request(name))
        parcels = tuple(parcel for parcel in delivery.parcels if parcel.member in holders)
        reply = here.clients[name].receive(replace(delivery, members=holders, parcels=parcels).encode())
        header = MaskedInput.decode(reply.message)
        assert header.holders_transcript == holders_transcript(here.server._members().transcript, holders)
        total = total + here.steal(name, reply.vector, here.clients[name]._vault._self_seed, None).astype(np.int64)
    # Even with every self-mask gone, the pairwise masks that should cancel do not.
    expected = sum(here.plain(name) for name in here.names[:5])
    assert np.abs(total - expected).max() > 1000
    # And nobody signs a set of the other transcript.
    here.refuses(here.clients["m0000"], Survivors(here.server._transcript(), fewer).encode(), "other-holders")


def test_sybil_neighbours_below_the_floor(scene):
    # The coordinator lets only its own members' shares through.
    here = scene(10, colluders=2, dropout=0.2).until(Phase.MASK)
    here.give_all()
    delivery = Delivery.decode(here.server.request("m0000"))
    few = (0, 8, 9)
    parcels = tuple(parcel for parcel in delivery.parcels if parcel.member in few)
    here.refuses(here.clients["m0000"], replace(delivery, members=few, parcels=parcels).encode(), "too-few-members")


def test_too_few_surviving_neighbours_on_a_regular_graph(scene):
    here = scene(100, colluders=5, dropout=0.2, graph="regular")
    degree, threshold = regular_parameters(100, 5, 20, 80)
    here.until(Phase.MASK)
    here.give("m0000")
    delivery = Delivery.decode(here.server.request("m0000"))
    neighbours = here.server._members().topology.neighbours(0)
    assert len(neighbours) == degree and threshold <= degree
    dropped = set(neighbours[: degree - threshold + 1])  # one too many, far fewer than may drop out of the cohort
    assert len(dropped) <= 20
    holders = tuple(at for at in range(100) if at not in dropped)
    parcels = tuple(parcel for parcel in delivery.parcels if parcel.member in holders)
    here.refuses(
        here.clients["m0000"], replace(delivery, members=holders, parcels=parcels).encode(), "too-few-neighbours"
    )


def test_lowering_the_threshold_at_the_unmasking(scene):
    here = scene(7, colluders=2).until(Phase.UNMASK)
    members, client = here.server._members(), here.clients["m0000"]
    request = UnmaskRequest.decode(here.server.request("m0000"))
    assert members.threshold == 5
    few = replace(request, signatures=request.signatures[:4])
    body = survivors_body(here.server._transcript(), tuple(range(7)))
    own = (0, here.loopback.members["m0000"].sign(SURVIVORS_LABEL, body))
    stranger = (11, request.signatures[4][1])
    wrong_set = (5, here.loopback.members["m0005"].sign(SURVIVORS_LABEL, survivors_body(bytes(32), tuple(range(7)))))
    wrong_label = (5, here.loopback.members["m0005"].sign("tacit/secagg/1/other", body))
    for extra in (None, own, stranger, wrong_set, wrong_label):
        victim = here.copy_at_mask(0)
        victim.receive(Survivors(here.server._transcript(), tuple(range(7))).encode())
        signatures = few.signatures if extra is None else tuple(sorted((*few.signatures, extra)))
        here.refuses(victim, replace(few, signatures=signatures).encode(), "too-few-signatures")
        assert victim.state is State.ABORTED and victim._vault is None
    repeated = here.server.request("m0000")[:1] + UnmaskRequest.decode(here.server.request("m0000")).encode()[1:37]
    with pytest.raises(RemoteProtocolError):  # one signature five times is no five signatures
        client.receive(repeated + (5).to_bytes(4, "big") + 5 * ((1).to_bytes(2, "big") + request.signatures[0][1]))
    assert client.state is State.SIGNED
    client.receive(here.server.request("m0000"))


def test_an_offer_that_withstands_fewer_colluders_or_starts_with_fewer_members_than_the_policy_asks(scene):
    here = scene(10, colluders=1, dropout=0.2, policy=lambda policy: replace(policy, max_colluders=2))
    here.refuses(here.clients["m0000"], here.signed(here.offer), "colluders-floor")
    here = scene(10, min_cohort=4, policy=lambda policy: replace(policy, min_cohort=5))
    here.refuses(here.clients["m0000"], here.signed(here.offer), "cohort-floor")


def test_an_offer_cannot_claim_a_lower_floor_than_its_own_numbers_give(scene):
    here = scene(10, colluders=2, dropout=0.2)
    with pytest.raises(ValueError, match="fewer than min_cohort and dropout allow"):
        replace(here.offer, min_survivors=4)
    raw = bytearray(here.signed(here.offer))
    at = raw.index((8).to_bytes(4, "big") + (2).to_bytes(4, "big"))  # min_survivors, colluders
    raw[at : at + 4] = (4).to_bytes(4, "big")
    here.refuses(here.clients["m0000"], bytes(raw), "malformed")
    assert here.clients["m0000"].state is State.NEW


def test_an_upload_that_was_declared_dropped_arrives_late(scene):
    # The coordinator holds back the victim's input, says that it dropped out, gets s, and takes its masks off.
    here = scene(6, dropout=0.17).until(Phase.MASK)
    here.give_all()
    late = here.clients["m0003"].receive(here.server.request("m0003"))
    seeds = here.clients["m0003"]._vault._self_seed, here.clients["m0003"]._vault._masking_seed
    here.give = lambda name: None
    assert here.run(lambda phase, name: name == "m0003" and phase is Phase.MASK) is Phase.DONE
    released = {at: dict(message.shares) for at, message in here.server._state.released.items()}
    masking_seed = recovered(released, 3, sorted(released))
    assert masking_seed == seeds[1]
    # Without the self-mask that would be the input; b was never released.
    np.testing.assert_array_equal(here.steal("m0003", late.vector, seeds[0], masking_seed), here.plain("m0003"))
    left = here.steal("m0003", late.vector, None, masking_seed)
    assert not np.array_equal(left, here.plain("m0003")) and np.abs(left).max() > 1000
    assert seeds[0] not in {share for shares in released.values() for share in shares.values()}
    with pytest.raises(RemoteProtocolError) as caught:
        here.server.receive("m0003", late.message, late.vector)
    assert caught.value.reason == "late"


def test_an_offer_of_somebody_else_or_without_masks_or_on_a_graph_that_the_policy_does_not_accept(scene):
    here = scene(5)
    stranger = Identity.generate(SeededRandomness(b"x" * 32), "stranger")
    here.refuses(here.clients["m0000"], here.offer.signed(stranger).encode(), "bad-signature")
    here.refuses(here.clients["m0001"], here.offer.encode(), "bad-signature")
    here.refuses(here.clients["m0002"], here.signed(here.plan(mode="elided")), "not-masked")
    big = scene(
        60,
        colluders=3,
        dropout=0.05,
        graph="regular",
        policy=lambda policy: replace(policy, accept_regular_graph=False),
    )
    big.refuses(big.clients["m0000"], big.signed(big.offer), "graph")


def test_a_ledger_that_cannot_pay_refuses_before_any_key_is_made(scene):
    def broke(offer):
        raise BudgetExceeded(9.0, 8.0)

    here = scene(5, policy=lambda policy: replace(policy, approve=broke))
    with pytest.raises(BudgetExceeded):
        here.clients["m0000"].receive(here.signed(here.offer))
    assert here.clients["m0000"].state is State.ABORTED
    assert not here.journals["m0000"].answers


def test_a_member_is_told_of_a_set_without_it_or_outside_of_the_one_before(scene):
    here = scene(6, dropout=0.17).until(Phase.SIGN, lambda phase, name: phase is Phase.SHARE and name == "m0005")
    transcript = here.server._transcript()
    for members, reason in [
        ((1, 2, 3, 4), "survivors-without-us"),
        ((0, 1, 2, 3, 4, 5), "bad-survivors"),
        ((0, 1, 2, 9), "bad-survivors"),
        ((0, 1, 2, 3), "too-few-members"),
    ]:
        client = here.copy_at_mask(0)
        here.refuses(client, Survivors(transcript, members).encode(), reason)
        assert client.state is State.ABORTED
