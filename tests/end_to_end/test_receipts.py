"""Receipts of masked rounds: each survivor gets its own, checks it, and keeps nothing else."""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from tacit.client.consent import Consent
from tacit.client.journal import AgentJournal
from tacit.client.masked import MOST_OWED
from tacit.models.messages import Instruction, Reply
from tacit.privacy.identity import Identity
from tacit.server.attempts import RunFailed
from tacit.server.reports import RoundReport

from .masked import ONE_ROUND, Handler, Masked, Memory, flipped, honest, silent

# Receipts


def test_every_survivor_gets_every_receipt_and_checks_it() -> None:
    federation = Masked(["training.rounds=4"], vanish=silent(("mask", 3), ("unmask", 5), number=2))
    federation.execute()
    assert [agent.receipts_checked for agent in federation.agents.values()] == [5, 5, 5, 4, 5, 5, 5, 5, 5, 5]
    assert federation.masking is not None and not federation.masking.owed
    assert (federation.masking.acknowledged, federation.masking.given_up) == (49, 0)


def test_a_receipt_comes_with_the_next_contact_however_much_later_that_is() -> None:
    federation = Masked(["training.rounds=5"], vanish=lambda c, a, number, t: c == 6 and number in (2, 3))
    federation.execute()
    assert list(federation.agents.values())[6].receipts_checked == 4
    came = [s.round for s in federation.sent if s.client == "c06" and s.action in ("advertise", "receipt")]
    assert came == [0, 1, 4, 5, 5]


def test_a_run_that_fails_delivers_its_receipts_too() -> None:
    federation = Masked(vanish=lambda c, action, number, t: number == 2 and action == "share" and c < 9)
    with pytest.raises(RunFailed):
        federation.execute()
    assert [agent.receipts_checked for agent in federation.agents.values()] == [2] * 10


def forging(change: Callable[[Instruction, dict[str, bytes]], bytes], victim: str = "c02") -> Handler:
    """Change what the victim gets as its receipt in round 2; `known` holds all true receipts of round 1 by client."""
    known: dict[str, bytes] = {}

    def handler(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if instruction.round == 2 and instruction.receipt:
            known[client] = instruction.receipt
            if client == victim:
                return agent(replace(instruction, receipt=change(instruction, known)))
        return agent(instruction)

    return handler


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda at, known: flipped(at.receipt), "bad-signature"),
        (lambda at, known: known["c00"], "bad-receipt: it is for another member"),
        (lambda at, known: at.receipt[:-1], "truncated"),
    ],
    ids=["forged", "another's", "truncated"],
)
def test_a_wrong_receipt_is_refused_and_drops_its_client_with_the_reason(
    change: Callable[[Instruction, dict[str, bytes]], bytes], reason: str
) -> None:
    federation = Masked(["training.rounds=3"], handler=forging(change))
    federation.execute()
    outcome, said = federation.outcomes(2)["c02"]
    assert outcome == "refused" and said.startswith(reason)
    assert federation.report(2).reported == 9 and federation.report(3).reported == 10
    # The true one comes with the next contact, and is taken.
    assert list(federation.agents.values())[2].receipts_checked == 4 - 1


@pytest.mark.parametrize("receipt", [b"\x0c" + bytes(64), b"", b"noise"])
def test_what_is_a_receipt_for_no_round_is_passed_over_and_counted_by_nobody(receipt: bytes) -> None:
    federation = Masked(["training.rounds=3"], handler=forging(lambda at, known: receipt or at.message))
    federation.execute()
    assert [federation.outcomes(number)["c02"] for number in (2, 3)] == [("reported", "")] * 2
    # Round 1 has its receipt replaced, and the coordinator takes it for delivered.
    assert list(federation.agents.values())[2].receipts_checked == 4 - 1


def test_a_client_that_forgot_everything_in_a_restart_takes_part_in_the_very_next_round() -> None:
    def restarted(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if client == "c02" and instruction.action == "advertise" and instruction.round == 2:
            federation.agents[4].join(federation.agents[4]._member.membership)  # type: ignore[union-attr]
        return agent(instruction)

    federation = Masked(["training.rounds=3"], handler=restarted)
    federation.execute()
    assert [federation.outcomes(number)["c02"] for number in (1, 2, 3)] == [("reported", "")] * 3
    assert federation.masking is not None and federation.masking.given_up == 0
    # The receipt of round 1 cannot be checked any more; those of rounds 2 and 3 are.
    assert federation.agents[4].receipts_checked == 2


def test_somebody_new_under_the_name_of_one_who_left_gets_no_receipt_of_its_and_takes_part_at_once() -> None:
    """With a ledger at stake: the receipt of a round that it never paid for would say that its ledger was cut."""
    federation = Masked(["training.rounds=3", "privacy.unit=client", "privacy.noise_multiplier=1.0"])
    assert federation.masking is not None
    node, (authority, newcomer) = 4, (Identity.generate(federation.randomness, name) for name in ("authority", "new"))
    agent = federation.agents[node]
    assert agent._member is not None
    holders = {name: federation.agents[at]._member.membership for at, name in federation.names.items()}  # type: ignore[union-attr]
    federation.masking.holder = lambda name: holders[name].certificate.subject_key

    def change_hands(report: RoundReport) -> None:
        if report.number == 1:
            kept = holders["c02"]
            certificate = replace(
                kept.certificate, subject_key=newcomer.public_key, organisation_key=newcomer.public_key
            )
            journal = AgentJournal.in_memory(newcomer)
            assert isinstance(kept.consent, Consent)
            consent = Consent(
                journal, "c02", agent.bench, policy=None, budgets=kept.consent.budgets, now=time.time, hypothetical=True
            )
            holders["c02"] = replace(
                kept,
                identity=newcomer,
                certificate=certificate.endorsed(newcomer).certified(authority),
                journal=consent,
                consent=consent,
            )
            agent.join(holders["c02"])

    federation.execute(on_round=change_hands)
    assert [federation.outcomes(number)["c02"] for number in (1, 2, 3)] == [("reported", "")] * 3
    # Its own two; the one of round 1 is owed to a key that nobody has.
    assert agent.receipts_checked == 2
    assert (federation.masking.given_up, federation.masking.acknowledged) == (0, 10 * 4 - 1)


def test_an_answer_that_is_lost_on_its_way_costs_one_round_and_no_receipt() -> None:
    def lost(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        reply = agent(instruction)
        if client == "c02" and instruction.action == "advertise" and instruction.round == 2:
            raise ConnectionError
        return reply

    federation = Masked(["training.rounds=4"], handler=lost)
    federation.execute()
    assert federation.outcomes(2)["c02"] == ("dropped", "the node failed (code 2)")
    assert federation.report(3).reported == 10
    assert list(federation.agents.values())[2].receipts_checked == 4


def test_an_agent_keeps_no_more_of_past_rounds_than_their_receipts_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that are aborted after the inputs have left never get a receipt; they must not pile up."""
    monkeypatch.setattr("tacit.server.run.ATTEMPTS", 99)
    rounds = 3 * MOST_OWED
    federation = Masked(
        [f"training.rounds={rounds}"], vanish=lambda c, action, n, a: n > 0 and action == "mask" and c < 3
    )
    with pytest.raises(RunFailed, match="no round had a result"):
        federation.execute()
    for agent in list(federation.agents.values())[3:]:
        member = agent._member
        assert member is not None and len(member._owed) == MOST_OWED
        current = member._current
        assert current is not None
        for machine in member._owed.values():
            if machine is not current.machine:
                assert machine._vault is None and machine._input is None and not machine._replies
        journal = member.membership.journal
        assert [len(vars(journal)[name]) for name in ("answers", "contributions", "survivors")] == [1, 1, 1]


def test_reasons_are_kept_with_the_rounds() -> None:
    memory = Memory()
    federation = Masked(ONE_ROUND, recorder=memory, vanish=silent(("share", 2)), handler=honest)
    federation.execute()
    text = json.dumps([[p.client, p.outcome, p.reason, p.exchange] for p in memory.reports[1].participants])
    assert '["c02", "late", "no answer within 600 s", "share"]' in text
