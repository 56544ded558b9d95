"""Clients that fail, lie or are spoken to twice in a masked round: each costs itself, and nobody else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tacit.client import contribution
from tacit.models.errors import InputError
from tacit.models.messages import Instruction, Reply
from tacit.models.training import TrainingDiverged
from tacit.privacy.secagg.messages import PARCEL_LABEL, Parcel, Shares, parcel_body
from tacit.server.attempts import RunFailed

from .masked import ONE_ROUND, PHASES, Handler, Masked, flipped, model_over, names, some_rows

# Clients that fail by themselves


def failing(client: str, error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> Handler:
    """Let one client's training fail, or give values that are not finite."""
    from tacit.client import contribution as module

    real = module.training_values

    def handler(name: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        def values(update: Any, *given: Any) -> Any:
            if name == client and error is not None:
                raise error
            return real(update * np.float32(np.nan) if name == client else update, *given)

        monkeypatch.setattr(module, "training_values", values)
        return agent(instruction)

    return handler


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (TrainingDiverged("Alice, HIV"), "dropped", "the training diverged"),
        (None, "refused", "block update has a value that is not finite; nothing was sent"),
        (KeyError("Alice, HIV"), "dropped", "KeyError in the step mask"),
        (MemoryError("Alice, HIV"), "dropped", "MemoryError in the step mask"),
    ],
    ids=["diverged", "NaN", "error", "memory"],
)
def test_a_client_that_fails_drops_out_before_it_masks_anything(
    error: Exception | None, outcome: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Masked(ONE_ROUND, handler=failing("c04", error, monkeypatch))
    assert federation.execute().vector.tobytes() == model_over(set(range(10)) - {4})
    assert federation.outcomes(1)["c04"] == (outcome, reason)
    (sent,) = [s for s in federation.sent if (s.client, s.action, s.round) == ("c04", "mask", 1)]
    assert not sent.message and not sent.arrays and b"Alice" not in sent.header
    for later in ("sign", "unmask"):
        assert not [s for s in federation.sent if (s.client, s.action, s.round) == ("c04", later, 1)]
    member = federation.agents[6]._member
    assert member is not None and member._current is not None
    assert member._current.machine._vault is None and not member._owed


EXAMPLE = ["privacy.unit=example", "privacy.noise_multiplier=1", "privacy.sample_rate=0.2", "training.local_steps=1"]


@pytest.mark.parametrize("how", ["diverged", "beyond reach"])
@pytest.mark.parametrize(
    ("promise", "step"),
    [(["privacy.unit=client", "privacy.noise_multiplier=1.0"], "train"), (EXAMPLE, "train_examples")],
    ids=["client", "example"],
)
def test_under_a_promise_nobody_sees_whose_training_diverged_and_it_costs_as_much(
    promise: list[str], step: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = getattr(contribution, step)
    diverged: list[str] = []

    def diverging(state: Any, *given: Any) -> Any:
        if state.client != "c04":
            return trained(state, *given)
        diverged.append(state.client)
        if how == "diverged":
            raise TrainingDiverged("Alice, HIV")
        state, result = trained(state, *given)
        return state, replace(result, delta=result.delta + 1e6)

    monkeypatch.setattr(contribution, step, diverging)
    federation = Masked([*ONE_ROUND, *promise])
    state = federation.execute()
    assert diverged == ["c04"] and federation.outcomes(1)["c04"] == ("reported", "")
    assert state.taken["c04"] == 1 and state.spent[0].survivors == 10
    assert np.abs(state.vector).max() < 1e3


def test_a_client_without_rows_drops_out_of_every_round_and_the_preparation() -> None:
    federation = Masked(rows=lambda count: some_rows(count).take(np.arange(54)))  # the first of ten gets none
    federation.execute()
    for number in range(3):
        assert federation.outcomes(number)["c00"] == ("refused", "no rows")
        assert federation.report(number).reported == 9


@pytest.mark.parametrize("promise", [["privacy.unit=client", "privacy.noise_multiplier=1.0"], EXAMPLE])
def test_under_a_promise_nobody_sees_who_has_no_row_of_the_federations_classes(promise: list[str]) -> None:
    federation = Masked([*ONE_ROUND, *promise], rows=lambda count: some_rows(count).take(np.arange(54)))
    state = federation.execute()
    for number in range(2):
        assert federation.outcomes(number)["c00"] == ("reported", "")
    assert state.taken["c00"] == 1 and state.spent[0].survivors == 10


# Clients that break the protocol


def answering(
    phase: str, change: Callable[[Reply, Instruction], Reply], client: str = "c04", number: int = 1
) -> Handler:
    def handler(name: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        reply = agent(instruction)
        if (name, instruction.action, instruction.round) == (client, phase, number):
            return change(reply, instruction)
        return reply

    return handler


LIES: dict[str, Callable[[Reply, Instruction], Reply]] = {
    "nothing": lambda reply, at: Reply(),
    "noise": lambda reply, at: replace(reply, message=b"\xff" * 200),
    "truncated": lambda reply, at: replace(reply, message=reply.message[:-1]),
    "more": lambda reply, at: replace(reply, message=reply.message + b"\0"),
    "another signature": lambda reply, at: replace(reply, message=flipped(reply.message)),
    "the request itself": lambda reply, at: replace(reply, message=at.message),
    "floats": lambda reply, at: Reply(arrays={"update": np.zeros(12, np.float32)}, body={"loss": 1.0, "examples": 9}),
    "huge": lambda reply, at: replace(reply, message=reply.message[:1] + bytes(1 << 22)),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_malformed_answer_drops_its_client_and_not_the_round(
    phase: str, lie: Callable[[Reply, Instruction], Reply]
) -> None:
    federation = Masked(ONE_ROUND, handler=answering(phase, lie))
    state = federation.execute()
    summed = phase in ("sign", "unmask")
    assert state.vector.tobytes() == model_over(set(range(10)) - (set() if summed else {4}))
    outcome, reason = federation.outcomes(1)["c04"]
    assert outcome == ("reported" if summed else "dropped") and reason and "\n" not in reason
    assert federation.report(1).reported == (10 if summed else 9)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(3, np.uint8),
        np.zeros((14,), np.float32),
        np.zeros(56, np.int32),
        np.zeros(4 << 20, np.uint8),
    ],
    ids=["short", "floats", "integers", "long"],
)
def test_a_vector_of_another_kind_never_enters_the_sum(vector: np.ndarray) -> None:
    handler = answering("mask", lambda reply, at: replace(reply, arrays={"masked": vector}))
    federation = Masked(ONE_ROUND, handler=handler)
    assert federation.execute().vector.tobytes() == model_over(set(range(10)) - {4})
    outcome, reason = federation.outcomes(1)["c04"]
    assert outcome == "dropped" and ("wrong-length" in reason or "cannot be read" in reason)


def false_shares(federation: Masked) -> Handler:
    """Let c04 deal ciphertexts that do not open, under good signatures."""

    def change(reply: Reply, at: Instruction) -> Reply:
        member = federation.agents[6]._member
        assert member is not None
        identity, shares = member.membership.identity, Shares.decode(reply.message)
        parcels = tuple(
            Parcel(
                old.member,
                bytes(80),
                identity.sign(
                    PARCEL_LABEL, parcel_body(shares.roster_transcript, shares.member, old.member, bytes(80))
                ),
            )
            if old.member == 7
            else old
            for old in shares.parcels
        )
        return replace(reply, message=replace(shares, parcels=parcels).signed(identity).encode())

    return answering("share", change)


def test_a_client_that_is_at_fault_is_not_asked_again_and_its_accuser_is() -> None:
    federation = Masked(["training.rounds=3"])
    federation.handler = false_shares(federation)
    federation.execute()
    found = federation.outcomes(1)
    assert found["c07"][0] == "dropped" and found["c07"][1].startswith("accuser")
    assert found["c04"][1].startswith("bad-shares: for c07")
    for number in (2, 3):
        assert set(federation.outcomes(number)) == names(range(10)) - {"c04"}
        assert federation.report(number).reported == 9


def test_a_total_that_no_rows_have_ends_the_run_in_one_line() -> None:
    """Masks hide who lied; so nobody can be left out."""

    def absurd(name: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        from tacit.client import contribution as module

        original = module.preparation_sums
        if name == "c04":
            module.preparation_sums = lambda rows, schema: -1e9 * original(rows, schema)
        try:
            return agent(instruction)
        finally:
            module.preparation_sums = original

    federation = Masked(handler=absurd)
    with pytest.raises((InputError, RunFailed)) as caught:
        federation.execute()
    assert "\n" not in str(caught.value) and not federation.recorder.states


# The same instruction again


def test_the_same_instruction_gets_the_same_bytes_however_often_it_comes() -> None:
    twice: list[str] = []

    def stutter(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        first, second = agent(instruction), agent(instruction)
        assert (first.outcome, first.reason, first.message) == (second.outcome, second.reason, second.message)
        assert first.outcome == "ok"
        assert {n: v.tobytes() for n, v in first.arrays.items()} == {n: v.tobytes() for n, v in second.arrays.items()}
        twice.append(instruction.action)
        return second

    federation = Masked(ONE_ROUND, handler=stutter)
    assert federation.execute().vector.tobytes() == model_over(range(10))
    assert {action: twice.count(action) for action in set(twice)} == dict.fromkeys(PHASES, 20) | {"receipt": 10}
    assert [agent.receipts_checked for agent in federation.agents.values()] == [2] * 10


@pytest.mark.parametrize("phase", PHASES)
def test_after_an_answer_a_changed_instruction_is_refused_and_the_first_one_still_answered(phase: str) -> None:
    refused: list[str] = []

    def meddle(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        first = agent(instruction)
        if instruction.action == phase and instruction.round == 1:
            changed = agent(replace(instruction, message=flipped(instruction.message)))
            assert changed.outcome == "refused" and not changed.message and not changed.arrays
            refused.append(changed.reason)
            again = agent(instruction)
            assert again.message == first.message
        return first

    federation = Masked(ONE_ROUND, handler=meddle)
    assert federation.execute().vector.tobytes() == model_over(range(10))
    assert len(refused) == 10 and all(reason.startswith("unexpected-message") for reason in refused)


def test_a_malformed_request_costs_no_second_training_and_no_attempt() -> None:
    trained: list[str] = []

    def meddle(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if instruction.action == "mask" and instruction.round == 1:
            assert agent(replace(instruction, message=instruction.message[:-1])).outcome == "refused"
            assert agent(replace(instruction, message=b"")).outcome == "refused"
        return agent(instruction)

    from tacit.client import training as module

    real = module.train_locally

    def counted(*given: Any, **named: Any) -> Any:
        trained.append("once")
        return real(*given, **named)

    federation = Masked(ONE_ROUND, handler=meddle)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "train_locally", counted)
        assert federation.execute().vector.tobytes() == model_over(range(10))
    assert len(trained) == 10


def test_an_offer_that_is_refused_does_not_end_the_attempt_that_is_under_way() -> None:
    def meddle(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if instruction.action == "mask":
            forged = replace(instruction, action="advertise", attempt=9, message=b"\x01" + bytes(300))
            assert agent(forged).outcome == "refused"
        return agent(instruction)

    assert Masked(ONE_ROUND, handler=meddle).execute().vector.tobytes() == model_over(range(10))
