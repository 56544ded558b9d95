"""Clients that fall silent, fail or misbehave in a masked round: the sum of the others is exact, or there is none."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from tacit.client.masked import MOST_OWED
from tacit.models.features import Standardise
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import decode_plan
from tacit.models.training import TrainingDiverged
from tacit.privacy.secagg.messages import Advertise, Parcel, Shares
from tacit.server.masking import MOST_DELIVERIES
from tacit.server.run import ATTEMPTS, RunFailed

from .masked import PHASES, Handler, Masked, Memory, honest, some_rows

LATE = "no answer within 600 s"
ONE_ROUND = ["training.rounds=1"]
# Ten clients with one colluder and two drop-outs: t = 6, U_min = 8.


def names(clients: Iterable[int]) -> set[str]:
    return {f"c{client:02d}" for client in clients}


def silent(*gone: tuple[str, int], number: int = 1, attempt: int | None = None) -> Callable[[int, str, int, int], bool]:
    """Drop clients in a phase of one round: `(phase, client)`."""

    def vanish(client: int, action: str, at_round: int, at_attempt: int) -> bool:
        return at_round == number and (attempt is None or at_attempt == attempt) and (action, client) in gone

    return vanish


_SUMS: dict[frozenset[int], bytes] = {}


def model_over(survivors: Iterable[int]) -> bytes:
    """Return the model after one round over some clients, from their integers added up without any mask."""
    key = frozenset(survivors)
    if key not in _SUMS:
        gone = [("contribute", client) for client in set(range(10)) - key]
        _SUMS[key] = (
            Masked([*ONE_ROUND, "secure_aggregation.mode=elided"], vanish=silent(*gone)).execute().vector.tobytes()
        )
    return _SUMS[key]


# One phase, and several


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("gone", [(0,), (9,), (3, 7)])
def test_the_sum_is_exact_over_the_survivors_whatever_phase_the_others_left_in(
    phase: str, gone: tuple[int, ...]
) -> None:
    federation = Masked(ONE_ROUND, vanish=silent(*((phase, client) for client in gone)))
    state = federation.execute()
    survivors = set(range(10)) if phase in ("sign", "unmask") else set(range(10)) - set(gone)
    assert state.vector.tobytes() == model_over(survivors)
    found = federation.outcomes(1)
    assert {client for client, (outcome, _) in found.items() if outcome == "reported"} == names(survivors)
    assert {client for client, (_, reason) in found.items() if reason} == names(gone)
    for client in names(gone):
        assert found[client] == ("reported" if client in names(survivors) else "late", LATE)
        (member,) = [p for p in federation.report(1).participants if p.client == client]
        assert member.exchange == phase


@pytest.mark.parametrize(("first", "second"), list(combinations(PHASES, 2)))
def test_clients_that_leave_in_two_phases_cost_the_round_nothing_but_themselves(first: str, second: str) -> None:
    gone = ((first, 2), (second, 8))
    federation = Masked(ONE_ROUND, vanish=silent(*gone))
    state = federation.execute()
    survivors = set(range(10)) - {client for phase, client in gone if phase in ("advertise", "share", "mask")}
    assert state.vector.tobytes() == model_over(survivors)
    assert federation.report(1).reported == len(survivors)


def test_a_quorum_above_the_threshold_does_not_throw_away_a_sum_whose_inputs_are_in() -> None:
    gone = (("mask", 1), ("sign", 3), ("unmask", 4))
    federation = Masked([*ONE_ROUND, "training.quorum=0.9"], vanish=silent(*gone))
    assert federation.execute().vector.tobytes() == model_over(set(range(10)) - {1})


@pytest.mark.parametrize("phase", ["advertise", "share"])
def test_a_round_with_too_few_members_is_tried_again_with_everybody_as_no_input_has_left(phase: str) -> None:
    federation = Masked(ONE_ROUND, vanish=silent(*((phase, c) for c in (1, 5, 6)), attempt=0))
    state = federation.execute()
    assert [(r.attempt, r.committed, r.reported) for r in federation.recorder.reports[1:]] == [
        (0, False, 7),
        (1, True, 10),
    ]
    steps = {sent.action for sent in federation.sent if (sent.round, sent.attempt) == (1, 0)}
    assert steps <= {"advertise", "share", "receipt"}
    assert {client for client, (_, reason) in federation.outcomes(1).items() if reason == LATE} == names((1, 5, 6))
    np.testing.assert_allclose(state.vector, np.frombuffer(model_over(range(10)), np.float32), atol=0.05)


@pytest.mark.parametrize(
    ("phase", "gone", "reason"),
    [
        ("mask", 3, "too-few-members: 7 are left, at least 8 must be"),
        ("sign", 4, "too-few-shares"),
        ("unmask", 4, "too-few-shares"),
    ],
)
def test_below_the_threshold_nothing_is_unmasked_and_the_round_is_over(phase: str, gone: int, reason: str) -> None:
    federation = Masked(vanish=silent(*((phase, client) for client in range(gone))))
    state = federation.execute()
    assert [(r.number, r.attempt, r.committed) for r in federation.recorder.reports] == [
        (0, 0, True), (1, 0, True), (2, 0, True)
    ]  # fmt: skip
    assert federation.report(1).reason.startswith(f"over without a sum: {reason}")
    assert "train_loss" not in federation.report(1).metrics and "train_loss" in federation.report(2).metrics
    states = federation.recorder.states
    assert states[1].vector.tobytes() == states[0].vector.tobytes() != state.vector.tobytes()
    if phase != "unmask":  # not one share was released for the sum of round 1
        assert not [sent for sent in federation.sent if (sent.action, sent.round) == ("unmask", 1)]


def test_rounds_that_keep_ending_without_a_sum_end_the_run() -> None:
    federation = Masked(["training.rounds=9"], vanish=lambda c, action, n, a: n > 1 and action == "mask" and c < 3)
    with pytest.raises(RunFailed, match=f"{ATTEMPTS} rounds in a row were over without a sum: .*{LATE}"):
        federation.execute()
    assert max(federation.recorder.states) == 1 + ATTEMPTS


def test_a_preparation_whose_statistics_have_left_is_not_asked_for_again() -> None:
    federation = Masked(vanish=silent(("mask", 0), ("mask", 1), ("mask", 2), number=0))
    with pytest.raises(RunFailed, match="the preparation failed after statistics had left: too-few-members"):
        federation.execute()
    assert len(federation.recorder.reports) == 1 and not federation.recorder.states


def test_a_preparation_before_which_too_few_came_is_asked_for_again() -> None:
    federation = Masked(vanish=silent(("share", 0), ("share", 1), ("share", 2), number=0, attempt=0))
    assert federation.execute().round == 2
    assert [(r.number, r.attempt, r.committed) for r in federation.recorder.reports[:2]] == [
        (0, 0, False),
        (0, 1, True),
    ]


def test_the_preparation_is_exact_over_its_survivors() -> None:
    plain = Masked(
        [*ONE_ROUND, "secure_aggregation.enabled=false"], vanish=silent(("prepare", 4), ("prepare", 6), number=0)
    )
    masked = Masked(ONE_ROUND, vanish=silent(("mask", 4), ("share", 6), number=0))
    plain.execute(), masked.execute()
    one, other = (decode_plan(run.recorder.states[0].plan) for run in (plain, masked))
    assert one.mean_examples == other.mean_examples
    assert one.features is not None and other.features is not None
    for expected, found in zip(one.features.encoders, other.features.encoders, strict=True):
        if isinstance(expected, Standardise) and isinstance(found, Standardise):
            # The plain sums are rounded at every addition, the masked ones once.
            np.testing.assert_allclose(found.mean + found.scale, expected.mean + expected.scale, rtol=1e-13)
        else:
            assert found == expected


# Other attempts


def test_only_clients_whose_input_never_left_are_asked_again_and_nobody_masks_twice_in_a_round() -> None:
    asked: dict[tuple[int, int], set[str]] = defaultdict(set)

    def look(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if instruction.action == "advertise":
            asked[instruction.round, instruction.attempt].add(client)
        return agent(instruction)

    def vanish(client: int, action: str, number: int, attempt: int) -> bool:
        """Three of the first cohort, and three others of the second one, before any input of theirs."""
        (chosen,) = [sorted(asked[number, attempt])] or [[]]
        place = chosen.index(f"c{client:02d}") if f"c{client:02d}" in chosen else -1
        return number == 1 and ((attempt, action) in ((0, "mask"), (1, "share"))) and 0 <= place < 3

    settings = ["training.rounds=2", "training.cohort=8", "secure_aggregation.dropout=0.25"]
    federation = Masked(settings, clients=24, handler=look, vanish=vanish)
    federation.execute()
    assert [(r.number, r.attempt, r.committed) for r in federation.recorder.reports] == [
        (0, 0, True), (1, 0, False), (1, 1, False), (1, 2, True), (2, 0, True)
    ]  # fmt: skip
    sent_input = {
        attempt: {s.client for s in federation.sent if (s.action, s.round, s.attempt) == ("mask", 1, attempt)}
        for attempt in range(3)
    }
    assert len(sent_input[0]) == 5 and not sent_input[1] and len(sent_input[2]) == 8
    assert sent_input[0].isdisjoint(asked[1, 1] | asked[1, 2])


def test_every_attempt_has_keys_of_its_own() -> None:
    federation = Masked(vanish=silent(*(("share", client) for client in range(3)), attempt=0))
    federation.execute()
    keys = [
        key
        for sent in federation.sent
        if sent.action == "advertise"
        for key in (lambda a: (a.encryption_key, a.masking_key, a.seed_commitment))(Advertise.decode(sent.message))
    ]
    assert len(keys) == len(set(keys)) == 3 * 10 * 4  # two rounds, the preparation, and one attempt more


@pytest.mark.parametrize("left", [8, 4, 3, 2, 1, 0])
def test_a_poisson_cohort_that_comes_out_too_small_is_an_aborted_attempt_and_never_a_crash(left: int) -> None:
    class Small:
        def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
            drawn = clients[: 10 if attempt else left]
            return drawn, len(drawn)

    federation = Masked([*ONE_ROUND, "training.sampling=poisson", "training.cohort=8"])
    state = federation.execute(cohorts=Small())
    attempts = [(r.attempt, r.committed, r.reported) for r in federation.recorder.reports[1:]]
    if left in (8, 0):
        assert attempts == [(0, True, left)]
    else:
        assert attempts == [(0, False, 0), (1, True, 10)]
        assert "min_cohort is 5" in federation.report(1).reason
        assert not [s for s in federation.sent if (s.round, s.attempt) == (1, 0) and s.action != "receipt"]
    assert state.round == 1


def test_cohorts_that_are_always_too_small_end_the_run_with_the_reason() -> None:
    class Small:
        def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
            return clients[:3], 3

    with pytest.raises(RunFailed, match="round 1 failed 3 times: min_cohort is 5, the cohort 3"):
        Masked(ONE_ROUND).execute(cohorts=Small())


# Clients that fail by themselves


def failing(client: str, error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> Handler:
    """Let one client's training fail, or give values that are not finite."""
    from tacit.client import agent as module

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


def test_a_client_without_rows_drops_out_of_every_round_and_the_preparation() -> None:
    federation = Masked(rows=lambda count: some_rows(count).take(np.arange(54)))  # the first of ten gets none
    federation.execute()
    for number in range(3):
        assert federation.outcomes(number)["c00"] == ("refused", "no rows")
        assert federation.report(number).reported == 9


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


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


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
        from tacit.privacy.secagg.messages import PARCEL_LABEL, parcel_body

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
    from tacit.models.errors import InputError

    def absurd(name: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        from tacit.client import agent as module

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

    from tacit.client import agent as module

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
        (lambda at, known: b"\x0c" + bytes(64), "truncated"),
        (lambda at, known: at.message, "unexpected-message"),
    ],
    ids=["forged", "another's", "malformed", "another message"],
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


def test_a_receipt_of_a_round_that_a_client_knows_nothing_of_keeps_it_out_of_a_few_rounds_at_most() -> None:
    """As after a restart, which forgets what was sent."""

    def restarted(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if client == "c02" and instruction.action == "advertise" and instruction.round == 2:
            federation.agents[4].join(federation.agents[4]._member.membership)  # type: ignore[union-attr]
        return agent(instruction)

    rounds = 3 + MOST_DELIVERIES
    federation = Masked([f"training.rounds={rounds}"], handler=restarted)
    federation.execute()
    found = [federation.outcomes(number)["c02"] for number in range(2, rounds + 1)]
    assert (
        found[:MOST_DELIVERIES]
        == [("refused", "unknown-receipt: it is for no round that this member waits for")] * MOST_DELIVERIES
    )
    assert found[MOST_DELIVERIES:] == [("reported", "")] * 2
    assert federation.masking is not None and federation.masking.given_up == 1


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
