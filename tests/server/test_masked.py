"""A coordinator's part in masked rounds: what it offers, whom it asks again, what it owes, and what it says of it."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.contributions import METRICS, UPDATE, WEIGHT, training_layout
from tacit.models.messages import MASKED_ACTIONS, Reply
from tacit.models.recipe import parse_recipe
from tacit.models.sections import SecureAggregationSection
from tacit.privacy.codec import NO_DIGEST
from tacit.privacy.identity import VerifiedSignatures
from tacit.privacy.randomness import Keystream, SeededRandomness
from tacit.privacy.secagg.client import ClientRound
from tacit.privacy.secagg.encoding import encode
from tacit.privacy.secagg.graph import COMPLETE_GRAPH_MOST, graph_of
from tacit.privacy.secagg.layout import Infeasible
from tacit.privacy.secagg.loopback import Loopback
from tacit.privacy.secagg.offer import Offer
from tacit.privacy.secagg.receipt import Receipt
from tacit.server.exchanges import Occasion
from tacit.server.masked import MaskedTraining, inputs_left
from tacit.server.masking import MOST_DELIVERIES, Debt, Masking, Receipts, aggregation_facts
from tacit.server.rounds import Participant, RoundAborted
from tacit.server.secure_sum import ElidedSum, masked_sum

NAMES = tuple(f"m{at:02d}" for at in range(10))
PARTIES = Loopback.generate(NAMES, SeededRandomness(b"p" * 32), verify=VerifiedSignatures())
KEYS = {name: PARTIES.certificates[name].subject_key for name in NAMES}
MODEL = {"vector": np.zeros(4, np.float32)}
AT = Occasion("run", 1, 0, b"plan")


def masking(**settings: Any) -> Masking:
    return Masking(
        PARTIES.coordinator,
        frozenset({PARTIES.authority.public_key}),
        SecureAggregationSection(**settings),
        PARTIES.randomness,
        PARTIES.verify,
    )


class Members:
    """The members' own machines, behind the exchanges of a round."""

    def __init__(self, weight: float = 1.0) -> None:
        self.machines: dict[str, ClientRound] = {}
        self.values = {
            name: {UPDATE: np.full(4, float(at)), WEIGHT: np.array([weight]), METRICS: np.array([weight * at])}
            for at, name in enumerate(NAMES)
        }

    def answer(self, exchanges: MaskedTraining, exchange: int, name: str) -> Reply:
        request = exchanges.request(exchange, name)
        if exchange == 0:
            offer = Offer.decode(request.message)
            self.machines[name] = PARTIES.client(name, model_digest=offer.model_digest)
        if exchange == 2:
            self.machines[name].contribute(self.values[name], ledger_head=NO_DIGEST, ledger_counter=0)
        reply = self.machines[name].receive(request.message)
        return Reply(message=reply.message, arrays={} if reply.vector is None else {"masked": reply.vector})

    def exchange(self, exchanges: MaskedTraining, exchange: int, asked: tuple[str, ...]) -> tuple[str, ...]:
        for name in asked:
            exchanges.accept(exchange, name, self.answer(exchanges, exchange, name))
        return tuple(exchanges.close(exchange, asked))

    def run(
        self, exchanges: MaskedTraining, gone: dict[int, set[str]] | None = None, until: int = 5
    ) -> tuple[str, ...]:
        asked = NAMES
        for exchange in range(until):
            asked = tuple(name for name in asked if name not in (gone or {}).get(exchange, ()))
            asked = self.exchange(exchanges, exchange, asked)
        return asked


# What is offered


def test_an_offer_says_what_the_recipe_says() -> None:
    offer = masking(min_cohort=4, dropout=0.2, colluding=0.25).offer(AT, MODEL, training_layout(4, 10), 10)
    assert (offer.cohort, offer.min_cohort, offer.min_survivors, offer.colluders) == (10, 4, 8, 2)
    assert (offer.dropout_ppm, offer.graph, offer.mode, offer.mechanism) == (200_000, "complete", "real", "none")
    assert offer.attempt_key == ("run", 1, 0) and offer.last_receipt == NO_DIGEST


@pytest.mark.parametrize("cohort", [COMPLETE_GRAPH_MOST, COMPLETE_GRAPH_MOST + 1, 10_000])
def test_large_cohorts_share_masks_with_neighbours_only(cohort: int) -> None:
    offer = masking(colluding=0.05, dropout=0.05).offer(AT, MODEL, training_layout(4, cohort), cohort)
    assert offer.graph == graph_of(cohort) == ("complete" if cohort <= COMPLETE_GRAPH_MOST else "regular")


@pytest.mark.parametrize(
    ("cohort", "settings", "change"),
    [
        (2, {}, "raise cohort or lower min_cohort"),
        (4, {}, "raise cohort or lower min_cohort"),
        (2, {"min_cohort": 2}, "raise cohort"),
        (10, {"dropout": 0.5}, "lower dropout to at most 0.3"),
        (20, {"dropout": 0.5}, "lower dropout to at most 0.35"),
        (10, {"colluding": 0.4}, "lower dropout to at most 0.1, or lower colluding"),
        (20, {"colluding": 0.5}, "lower dropout to at most 0.15"),
        (5, {"colluding": 0.9}, "raise min_cohort to at least 6 or lower colluding"),
        (10_001, {}, "ask at most 10000"),
        (10**6, {}, "ask at most 10000"),
    ],
)
def test_thresholds_that_cannot_be_met_name_the_number_to_change(
    cohort: int, settings: dict[str, Any], change: str
) -> None:
    with pytest.raises(Infeasible) as caught:
        masking(**settings).offer(AT, MODEL, training_layout(4, cohort), cohort)
    assert change in caught.value.change


@given(st.integers(5, 200), st.floats(0, 0.99), st.floats(0, 0.4))
def test_a_dropout_that_is_advised_is_feasible(cohort: int, dropout: float, colluding: float) -> None:
    try:
        masking(dropout=dropout, colluding=colluding).offer(AT, MODEL, training_layout(4, cohort), cohort)
    except Infeasible as error:
        if advised := re.match(r"lower dropout to at most ([\d.e-]+)", error.change):
            settings = {"dropout": float(advised[1]), "colluding": colluding}
            masking(**settings).offer(AT, MODEL, training_layout(4, cohort), cohort)


@given(st.integers(0, 300), st.floats(0, 0.99), st.floats(0, 0.99), st.integers(2, 50))
def test_whatever_the_thresholds_an_offer_is_made_or_refused_in_words(
    cohort: int, dropout: float, colluding: float, min_cohort: int
) -> None:
    part = masking(dropout=dropout, colluding=colluding, min_cohort=min_cohort)
    try:
        offer = part.offer(AT, MODEL, training_layout(4, max(cohort, 1)), cohort)
    except Infeasible as error:
        assert error.what and error.change and "\n" not in str(error)
    else:
        assert offer.min_survivors >= max(min_cohort, offer.colluders + 2)


# One round


def test_the_weighted_mean_of_updates_and_losses_comes_out() -> None:
    members, part = Members(), masking()
    exchanges = MaskedTraining(AT, MODEL, NAMES, part)
    assert exchanges.names == MASKED_ACTIONS
    members.run(exchanges, {2: {"m01"}})
    result = exchanges.result()
    np.testing.assert_allclose(result.mean_update, (45 - 1) / 9, atol=1e-4)
    assert result.mean_loss == pytest.approx((45 - 1) / 9, abs=1e-5)
    assert exchanges.survivors == set(NAMES) - {"m01"}


def test_model_and_plan_travel_with_the_offer_alone() -> None:
    members, exchanges = Members(), MaskedTraining(AT, MODEL, NAMES, masking())
    asked = NAMES
    for exchange in range(5):
        for name in asked:
            request = exchanges.request(exchange, name)
            first = exchange == 0
            assert (request.plan, list(request.arrays)) == ((b"plan", ["vector"]) if first else (b"", []))
            assert (request.run, request.round, request.attempt) == ("run", 1, 0) and not request.body
        asked = members.exchange(exchanges, exchange, asked)


def test_a_sum_without_weight_has_no_mean() -> None:
    members, exchanges = Members(weight=0.0), MaskedTraining(AT, MODEL, NAMES, masking())
    members.run(exchanges)
    with pytest.raises(ZeroDivisionError, match="contributions without weight"):
        exchanges.result()


def test_nobody_who_may_have_sent_an_input_is_asked_again() -> None:
    members, exchanges = Members(), MaskedTraining(AT, MODEL, NAMES, masking())
    members.run(exchanges, until=2)
    assert exchanges.may_retry is None
    for name in NAMES[:4]:
        exchanges.accept(2, name, members.answer(exchanges, 2, name))
    assert exchanges.may_retry == set(NAMES[4:])
    with pytest.raises(RoundAborted, match="too-few-members: 4 are left, at least 8 must be"):
        exchanges.close(2, NAMES[:4])
    assert exchanges.may_retry == set(NAMES[4:])


def test_an_attempt_that_is_given_up_keeps_nothing_of_what_was_added_up() -> None:
    members, exchanges = Members(), MaskedTraining(AT, MODEL, NAMES, masking())
    members.run(exchanges, until=2)
    exchanges.accept(2, "m00", members.answer(exchanges, 2, "m00"))
    server = exchanges.sum._server  # type: ignore[attr-defined]
    assert server._state.total.any()
    exchanges.abandon("the quorum was not met")
    assert not server._state.total.any() and server.abort_reason == "the quorum was not met"
    exchanges.abandon("again")  # changes nothing
    assert server.abort_reason == "the quorum was not met"


def test_who_is_asked_next_is_asked_in_the_order_of_arrival() -> None:
    members, exchanges = Members(), MaskedTraining(AT, MODEL, NAMES, masking())
    order = tuple(reversed(NAMES))
    for exchange in range(4):
        assert members.exchange(exchanges, exchange, order) == order


def test_what_became_of_a_member_says_what_it_did_after_its_input_was_in() -> None:
    members, exchanges = Members(), MaskedTraining(AT, MODEL, NAMES, masking())
    asked = members.run(exchanges, {1: {"m09"}}, until=3)
    bad = replace(members.answer(exchanges, 3, "m03"), message=b"\x09" + bytes(66))
    with pytest.raises(ValueError, match="wrong-sender|bad-signature"):
        exchanges.accept(3, "m03", bad)
    asked = members.exchange(exchanges, 3, tuple(name for name in asked if name != "m03"))
    members.exchange(exchanges, 4, tuple(name for name in asked if name != "m05"))
    seen = [
        Participant("m00", "reported", "", "unmask"),
        Participant("m03", "reported", "", "mask"),
        Participant("m05", "late", "no answer", "unmask"),
        Participant("m09", "late", "no answer", "share"),
    ]
    verdicts = exchanges.verdicts(seen, True)
    assert [(v.client, v.outcome) for v in verdicts] == [
        ("m00", "reported"), ("m03", "reported"), ("m05", "reported"), ("m09", "late")
    ]  # fmt: skip
    assert verdicts[0].reason == "" and verdicts[2].reason == verdicts[3].reason == "no answer"
    assert "wrong-sender" in verdicts[1].reason or "bad-signature" in verdicts[1].reason


def test_whose_input_has_left_follows_from_what_became_of_everybody() -> None:
    seen = [
        Participant("a", "reported", "", "advertise"),
        Participant("b", "reported", "", "share"),
        Participant("c", "late", "no answer", "mask"),
        Participant("d", "reported", "", "mask"),
        Participant("e", "late", "no answer", "sign"),
        Participant("f", "dropped", "bad-signature", "unmask"),
        Participant("g", "reported", "", "unmask"),
        Participant("h", "reported", "", "contribute"),
        Participant("i", "late", "no answer", "contribute"),
        Participant("j", "refused", "no", "advertise"),
        Participant("k", "refused", "round-over: an input for this round has left", "advertise"),
        Participant("l", "reported", "round-over: so it says", "share"),
    ]
    assert inputs_left(seen) == set("defghk")


# The same without masks


def elided(part: Masking) -> ElidedSum:
    exchanges = masked_sum(AT, MODEL, training_layout(4, 10), NAMES, part)
    assert isinstance(exchanges, ElidedSum)
    return exchanges


def integers(name: str) -> Reply:
    layout, values = training_layout(4, 10), Members().values[name]
    return Reply(arrays={"integers": encode(layout, values, bytes(32), Keystream(bytes(32)))})


def test_without_masks_the_same_is_added_up_in_one_exchange() -> None:
    exchanges = elided(masking(mode="elided"))
    assert exchanges.names == ("contribute",) and exchanges.may_retry == set(NAMES)
    for name in NAMES[1:]:
        exchanges.accept(0, name, integers(name))
    assert exchanges.may_retry == {"m00"}
    assert exchanges.close(0, NAMES[1:]) == ()
    np.testing.assert_allclose(exchanges.aggregate.blocks[UPDATE], 45, atol=1e-3)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(),
        Reply(arrays={"integers": np.zeros(3, np.int32)}),
        Reply(arrays={"integers": np.zeros(12, np.float32)}),
        Reply(arrays={"masked": np.zeros(48, np.uint8)}),
    ],
)
def test_what_cannot_be_added_drops_its_client(reply: Reply) -> None:
    exchanges = elided(masking(mode="elided"))
    with pytest.raises(ValueError):
        exchanges.accept(0, "m00", reply)
    assert exchanges.may_retry == set(NAMES)


def test_too_few_without_masks_are_too_few() -> None:
    exchanges = elided(masking(mode="elided"))
    for name in NAMES[:7]:
        exchanges.accept(0, name, integers(name))
    with pytest.raises(RoundAborted, match="7 are in the sum, at least 8 must be"):
        exchanges.close(0, NAMES[:7])


# Receipts


def test_receipts_are_owed_to_the_survivors_and_chained() -> None:
    members, part = Members(), masking()
    members.run(MaskedTraining(AT, MODEL, NAMES, part), {2: {"m04"}})
    assert set(part.owed) == set(NAMES) - {"m04"}
    following = MaskedTraining(Occasion("run", 2, 0, b"plan"), MODEL, NAMES, part)
    requests = {name: following.request(0, name) for name in NAMES}
    assert requests["m04"].receipt == b""
    for name in set(NAMES) - {"m04"}:
        receipt = Receipt.decode(requests[name].receipt)
        assert receipt.client == name and "m04" not in receipt.survivors
        assert Offer.decode(requests[name].message).last_receipt == receipt.digest
    again = {name: following.request(1, name) for name in ()}
    assert not again
    for name in NAMES:
        following.accept(0, name, members.answer(following, 0, name))
    assert not part.owed and part.acknowledged == 9


def test_a_receipt_that_is_never_taken_is_given_up_and_a_new_one_is_not() -> None:
    part = masking()
    part.owed.update({"m00": Debt(KEYS["m00"], b"one"), "m01": Debt(KEYS["m01"], b"other")})
    assert [part.receipt_for("m00") for _ in range(MOST_DELIVERIES + 2)] == [b"one"] * MOST_DELIVERIES + [b""] * 2
    assert (part.given_up, part.acknowledged, dict(part.owed)) == (1, 0, {"m01": Debt(KEYS["m01"], b"other")})
    members = Members()
    members.run(MaskedTraining(AT, MODEL, NAMES, part))
    assert set(part.owed) == set(NAMES)
    assert all(part.receipt_for("m00") for _ in range(MOST_DELIVERIES))


def test_only_what_was_delivered_can_be_acknowledged() -> None:
    part = masking()
    part.acknowledge("m00")
    part.owed["m00"] = Debt(KEYS["m00"], b"receipt")
    part.acknowledge("m00")
    assert part.acknowledged == 0 and part.owed
    delivery = Receipts(AT, part)
    assert delivery.request(0, "m00").receipt == b"receipt"
    delivery.accept(0, "m00", Reply())
    assert part.acknowledged == 1 and not part.owed and delivery.close(0, ("m00",)) == ()


def test_a_receipt_is_owed_to_a_key_and_never_to_the_next_one_who_has_its_members_name() -> None:
    part, holders = masking(), dict(KEYS)
    part.holder = holders.get
    Members().run(MaskedTraining(AT, MODEL, NAMES, part))
    assert {name: debt.key for name, debt in part.owed.items()} == KEYS
    assert part.receipt_for("m00") and part.receipt_for("m01")
    holders["m00"] = PARTIES.coordinator.public_key  # somebody else is enrolled under the name
    del holders["m01"]
    assert not part.owes("m00") and not part.owes("m01")
    assert part.receipt_for("m00") == part.receipt_for("m01") == b""
    part.acknowledge("m00")  # of an offer without a receipt
    assert part.acknowledged == part.given_up == 0
    # Whoever comes back under its name has missed nothing.
    holders.update(KEYS)
    assert Receipt.decode(part.receipt_for("m00")).client == "m00"
    part.acknowledge("m00")
    assert part.acknowledged == 1 and "m00" not in part.owed


def test_a_new_process_owes_to_the_same_keys() -> None:
    part, again = masking(), masking()
    Members().run(MaskedTraining(AT, MODEL, NAMES, part))
    again.recall(json.loads(json.dumps(part.memory())))
    assert again.owed == part.owed and again.memory() == part.memory()


def test_what_an_earlier_version_owed_to_a_name_is_owed_to_whoever_has_it_when_it_is_read() -> None:
    part, again = masking(), masking()
    Members().run(MaskedTraining(AT, MODEL, NAMES, part))
    earlier = part.memory() | {"owed": {name: debt.receipt.hex() for name, debt in part.owed.items()}}
    holders = {name: key for name, key in KEYS.items() if name != "m01"}
    again.holder = holders.get
    again.recall(earlier)
    assert again.owed == {name: debt for name, debt in part.owed.items() if name != "m01"}
    holders["m00"] = PARTIES.coordinator.public_key
    assert not again.owes("m00") and again.owes("m02")
    by_name = masking()
    by_name.recall(earlier)
    assert all(by_name.receipt_for(name) == part.owed[name].receipt for name in NAMES)


def test_charges_add_up_over_rounds_until_nobody_else_can_have_lied() -> None:
    class Round:
        at_fault: frozenset[str] = frozenset()

        def __init__(self, *charges: tuple[str, str]) -> None:
            self.charges = frozenset(charges)

    part = masking(colluding=0.2, dropout=0.0)
    part.offer(AT, MODEL, training_layout(4, 10), 10)  # two of ten may collude
    for holder, fault in [("m01", set()), ("m02", set()), ("m02", set()), ("m03", {"m00"})]:
        part.judge(Round(("m00", holder)))  # type: ignore[arg-type]
        assert part.at_fault == fault
    part.offer(AT, MODEL, training_layout(4, 5), 5)  # a smaller cohort convicts nobody the sooner
    part.judge(Round(("m05", "m06"), ("m07", "m05")))  # type: ignore[arg-type]
    assert part.at_fault == {"m00"}


# What is said of it

RECIPE = """
name = "r"
task.kind = "tabular-classification"
data.source = "s:"
population.clients = 50
"""


def test_the_facts_of_a_run_are_those_of_its_offers() -> None:
    facts = aggregation_facts(parse_recipe(RECIPE, ["training.cohort=20"]), 50)
    offer = masking().offer(AT, MODEL, training_layout(4, 20), 20)
    assert facts == {
        "enabled": True, "threshold": (20 + 2) // 2 + 1, "min_cohort": 5, "mode": "real",
        "min_survivors": offer.min_survivors, "colluders": offer.colluders, "dropout": 0.2, "graph": offer.graph,
        "adversary": "honest-but-curious coordinator",
    }  # fmt: skip
    assert (offer.min_survivors, offer.colluders) == (16, 2)


def test_a_run_without_masks_says_that_they_withstand_nobody() -> None:
    facts = aggregation_facts(parse_recipe(RECIPE, ["secure_aggregation.mode=elided"]), 50)
    assert (facts["mode"], facts["adversary"]) == ("elided", "nobody: a simulation without masks")


def test_a_run_without_secure_aggregation_has_no_thresholds() -> None:
    facts = aggregation_facts(parse_recipe(RECIPE, ["secure_aggregation.enabled=false"]), 50)
    assert facts.pop("enabled") is False
    assert set(facts.values()) == {None}


def test_a_large_cohort_is_said_to_be_on_a_regular_graph() -> None:
    overrides = ["population.clients=1000", "secure_aggregation.colluding=0.02", "secure_aggregation.dropout=0.05"]
    facts = aggregation_facts(parse_recipe(RECIPE, overrides), 1000)
    assert facts["graph"] == "regular" and facts["colluders"] == 20
    assert facts["threshold"] < math.floor(0.95 * 1000) / 2
