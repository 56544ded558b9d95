"""Clients that fall silent at any phase of a masked round: the sum of the others is exact, or there is none."""

from collections import defaultdict
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from tacit.models.features import Standardise
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import decode_plan
from tacit.privacy.secagg.messages import Advertise
from tacit.privacy.secagg.policy import ROUND_OVER
from tacit.server.attempts import RunFailed
from tacit.server.run import ATTEMPTS

from .masked import LATE, ONE_ROUND, PHASES, Masked, model_over, names, silent

# Ten clients with one colluder and two drop-outs: t = 6, U_min = 8.

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


@pytest.mark.parametrize("overrides", [[], ["privacy.unit=client", "privacy.epsilon=8"]], ids=["masks", "noise"])
def test_more_members_refuse_than_may_be_missing_and_the_others_go_on_without_them(overrides: list[str]) -> None:
    def strict(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        refuses = instruction.action == "advertise" and instruction.round and client in names((0, 4, 9))
        return Reply("refused", "noise-floor: less than the policy asks for") if refuses else agent(instruction)

    federation = Masked([*overrides, "training.quorum=0.8"], handler=strict)
    assert federation.execute().round == 2
    for number in (1, 2):
        first, second = federation.report(number), federation.report(number, 1)
        assert (first.committed, first.refusers) == (False, names((0, 4, 9)))
        assert (second.committed, second.reported) == (True, 7)
        assert set(federation.outcomes(number, 1)) == names({1, 2, 3, 5, 6, 7, 8})


def test_a_refusal_does_not_end_a_run_as_if_the_others_had_taken_part_as_often_as_they_may() -> None:
    class First:
        """Asks the first seven of those who may be asked: two rounds use up what they may take part in."""

        def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
            return clients[:7], min(7, len(clients))

    def strict(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        refuses = instruction.action == "advertise" and instruction.round == 3 and client == "c13"
        return Reply("refused", "paused: its owner has paused it") if refuses else agent(instruction)

    promise = ["privacy.unit=client", "privacy.epsilon=8", "privacy.max_participations=1"]
    rounds = ["training.rounds=3", "training.cohort=7", "training.quorum=1"]
    federation = Masked([*promise, *rounds], clients=14, handler=strict)
    state = federation.execute(cohorts=First())
    assert (state.round, state.stopped) == (3, "")
    first, second = federation.report(3), federation.report(3, 1)
    assert (len(first.participants), first.committed, first.refusers) == (7, False, {"c13"})
    assert {one.client for one in second.participants} == names(range(7, 13)) and second.committed


def test_where_too_few_others_are_left_to_hide_among_whoever_refused_is_asked_again() -> None:
    def strict(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        refuses = instruction.round and client in names(range(6))
        return Reply("refused", "schedule: not at this hour") if refuses else agent(instruction)

    federation = Masked(handler=strict)
    with pytest.raises(RunFailed, match=f"round 1 failed {1 + ATTEMPTS} times: .*most often: schedule"):
        federation.execute()
    assert [len(report.participants) for report in federation.recorder.reports[1:]] == [10] * (1 + ATTEMPTS)


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
    with pytest.raises(RunFailed, match="the preparation failed after statistics had left: too-few-members.*anew"):
        federation.execute()
    assert len(federation.recorder.reports) == 1 and not federation.recorder.states


def test_a_preparation_of_which_no_statistics_left_is_asked_for_again() -> None:
    """As where a line broke before anybody was told whose inputs to mask."""
    federation = Masked(vanish=silent(*(("mask", client) for client in range(10)), number=0, attempt=0))
    assert federation.execute().round == 2
    assert [(r.number, r.attempt, r.reported) for r in federation.recorder.reports[:2]] == [(0, 0, 0), (0, 1, 10)]


def test_a_preparation_is_asked_for_again_of_those_whose_statistics_have_not_left() -> None:
    """No member is in two sums: their difference would show what it holds."""

    def vanish(client: int, action: str, number: int, attempt: int) -> bool:
        return (number, attempt, action) == (0, 0, "mask") and client >= 6

    federation = Masked(["secure_aggregation.min_cohort=4"], clients=12, vanish=vanish)
    assert federation.execute().round == 2
    assert set(federation.outcomes(0, 1)) == names(range(6, 12)) and federation.report(0, 1).reported == 6
    inputs = [(s.client, s.attempt) for s in federation.sent if (s.action, s.round) == ("mask", 0)]
    assert len({client for client, _ in inputs}) == len(inputs) == 12


def test_a_preparation_whose_statistics_left_and_were_lost_is_refused_by_its_members_and_given_up() -> None:
    def lost(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        reply = agent(instruction)
        if (instruction.action, instruction.round) == ("mask", 0):
            raise ConnectionError
        return reply

    federation = Masked(handler=lost)
    with pytest.raises(RunFailed, match="failed after statistics had left: 0 reported.*it can be started anew"):
        federation.execute()
    assert {reason.partition(":")[0] for _, reason in federation.outcomes(0, 1).values()} == {ROUND_OVER}


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


def test_a_round_whose_inputs_were_all_lost_on_their_way_is_over_and_the_next_one_trains() -> None:
    """Nobody gives a second input for a round, and the coordinator learns of the first ones by that alone."""

    def lose(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        reply = agent(instruction)
        lost = (instruction.action, instruction.round, instruction.attempt) == ("mask", 1, 0)
        return Reply("failed", "lost") if lost else reply

    federation = Masked(handler=lose)
    state = federation.execute()
    assert [(r.number, r.attempt, r.committed) for r in federation.recorder.reports] == [
        (0, 0, True), (1, 0, False), (1, 1, True), (2, 0, True)
    ]  # fmt: skip
    assert federation.report(1, 1).reason.startswith("over without a sum: ")
    states = federation.recorder.states
    assert states[1].vector.tobytes() == states[0].vector.tobytes() != state.vector.tobytes()


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
            drawn = clients[: left if (number, attempt) == (1, 0) else 10]
            return drawn, len(drawn)

    federation = Masked(["training.rounds=2", "training.sampling=poisson", "training.cohort=8"])
    state = federation.execute(cohorts=Small())
    attempts = [(r.attempt, r.committed, r.reported) for r in federation.recorder.reports if r.number == 1]
    if left in (8, 0):
        assert attempts == [(0, True, left)]
    else:
        assert attempts == [(0, False, 0), (1, True, 10)]
        assert "min_cohort is 5" in federation.report(1).reason
        assert not [s for s in federation.sent if (s.round, s.attempt) == (1, 0) and s.action != "receipt"]
    assert state.round == 2


def test_rounds_that_asked_nobody_leave_no_model_that_nobody_trained() -> None:
    class Nobody:
        def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
            return (), 0

    federation = Masked(["training.rounds=2", "training.sampling=poisson", "training.cohort=8"])
    with pytest.raises(RunFailed, match="no round had a result"):
        federation.execute(cohorts=Nobody())
    assert [report.reason for report in federation.recorder.reports[1:]] == ["the cohort was empty"] * 2


def test_cohorts_that_are_always_too_small_end_the_run_with_the_reason() -> None:
    class Small:
        def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
            return clients[:3], 3

    with pytest.raises(RunFailed, match="round 1 failed 3 times: min_cohort is 5, the cohort 3"):
        Masked(ONE_ROUND).execute(cohorts=Small())
