"""A masked round that asks more clients than it wants is made of the first that answer, and promises what they keep."""

import pytest

from tacit.models.messages import ELIDED_ACTIONS, MASKED_ACTIONS
from tacit.privacy.secagg.offer import Offer

from .masked import Masked, silent

ASKS_MORE = [
    "training.rounds=1",
    "training.cohort=6",
    "training.over_selection=0.5",
    "secure_aggregation.min_cohort=5",
    "secure_aggregation.dropout=0.1",
    "secure_aggregation.colluding=0.0",
]
NOISED = ["privacy.unit=client", "privacy.noise_multiplier=1.0"]


@pytest.mark.parametrize("promise", [[], NOISED], ids=["plain", "noised"])
@pytest.mark.parametrize("mode", ["real", "elided"])
def test_the_first_that_answer_are_the_round_and_the_others_are_let_go(mode: str, promise: list[str]) -> None:
    federation = Masked([*ASKS_MORE, *promise, f"secure_aggregation.mode={mode}"])
    state = federation.execute()
    outcomes = federation.outcomes(1)
    reported = {client for client, (outcome, _) in outcomes.items() if outcome == "reported"}
    assert len(outcomes) == 9 and len(reported) == 6
    first = (MASKED_ACTIONS if mode == "real" else ELIDED_ACTIONS)[0]
    asked = [sent.client for sent in federation.sent if sent.round == 1 and sent.action == first]
    assert reported == set(asked[:6])
    assert {client: said for client, said in outcomes.items() if client not in reported} == {
        client: ("late", "the round was over") for client in outcomes if client not in reported
    }
    # Nobody else's input has left, and nobody else is counted.
    assert {sent.client for sent in federation.sent if sent.action in ("mask", "contribute") and sent.round} == reported
    if promise:
        assert set(state.taken) == reported and [(one.cohort, one.survivors) for one in state.spent] == [(6, 6)]


def test_thresholds_and_noise_are_for_as_many_as_are_wanted() -> None:
    offers = []

    def handler(client, instruction, agent):  # type: ignore[no-untyped-def]
        if instruction.action == "advertise" and instruction.round:
            offers.append(Offer.decode(instruction.message))
        return agent(instruction)

    Masked([*ASKS_MORE, *NOISED], handler=handler).execute()
    asking_more = offers.copy()
    offers.clear()
    Masked([*ASKS_MORE, *NOISED, "training.over_selection=0.0"], handler=handler).execute()
    for one, other in zip(asking_more, offers, strict=False):
        assert (one.cohort, one.min_survivors, one.colluders) == (6, 6, 0)
        assert (one.noise_variance, one.bits, one.mechanism_parameters) == (
            other.noise_variance, other.bits, other.mechanism_parameters
        )  # fmt: skip


def test_clients_that_never_answer_cost_nothing_while_enough_others_do() -> None:
    gone = silent(*[("advertise", client) for client in range(3)])
    federation = Masked(ASKS_MORE, vanish=gone)
    federation.execute()
    outcomes = federation.outcomes(1)
    assert sum(outcome == "reported" for outcome, _ in outcomes.values()) == 6
    assert not any(reason.startswith("no answer within") for _, reason in outcomes.values())
