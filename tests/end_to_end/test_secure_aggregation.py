"""Whole masked federations: what leaves an agent, what agents refuse, and the same model with and without masks."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from tacit.models.messages import MASKED_ACTIONS, Instruction, Reply
from tacit.models.plan import Plan, decode_plan
from tacit.models.recipe import parse_recipe
from tacit.privacy.codec import sha256
from tacit.privacy.secagg.messages import Accusation, Advertise, MaskedInput, Shares
from tacit.privacy.secagg.unmasking import SurvivorSignature, UnmaskShares
from tacit.server.attempts import RunFailed
from tacit.server.exchanges import Occasion
from tacit.server.masked import masked_sum

from .masked import RECIPE, SCHEMA, Masked, Memory, flipped, honest

KINDS = (Advertise, Shares, MaskedInput, Accusation, SurvivorSignature, UnmaskShares)
MODEL = ["model.name=mlp", "model.hidden=[300]"]  # large enough for a test of its bytes


# What leaves


def test_nothing_leaves_an_agent_but_the_protocols_own_bytes_and_one_packed_vector() -> None:
    federation = Masked(MODEL)
    state = federation.execute()
    assert state.round == 2
    steps = Counter((sent.action, sent.round) for sent in federation.sent)
    assert steps == {(action, number): 10 for action in MASKED_ACTIONS for number in range(3)} | {("receipt", 2): 10}
    for sent in federation.sent:
        assert json.loads(sent.header) == {"outcome": "ok", "reason": "", "body": {}}
        assert {name: kind for name, (kind, _) in sent.arrays.items()} == (
            {"masked": "uint8"} if sent.action == "mask" else {}
        )
        if sent.action == "receipt":
            assert sent.message == b""
        else:
            (kind,) = [kind for kind in KINDS if kind.TAG == sent.message[0]]
            assert kind.decode(sent.message).encode() == sent.message


def test_the_packed_vectors_are_uniform_bytes_whatever_they_hold() -> None:
    federation = Masked(MODEL)
    federation.execute()
    vectors = [data for sent in federation.sent for _, data in sent.arrays.values()]
    assert len(vectors) == 30 and len(set(vectors)) == 30
    for data in (*vectors, b"".join(vectors)):
        counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
        expected = len(data) / 256
        assert expected > 5
        statistic = float(((counts - expected) ** 2 / expected).sum())
        # The seed is fixed, so this either holds or does not; at 1e-6 each of 31 the chance was 3 in 100,000.
        assert chi2.sf(statistic, 255) > 1e-6


def leaving(federation: Masked) -> bytes:
    return b"".join(s.header + s.message + b"".join(data for _, data in s.arrays.values()) for s in federation.sent)


def test_no_part_of_an_update_no_count_and_no_loss_is_anywhere_in_what_leaves() -> None:
    """What the plain steps send is looked for in the form that they send it in, and is found in theirs alone."""
    plain, masked = (Masked([*MODEL, f"secure_aggregation.enabled={on}"]) for on in ("false", "true"))
    plain.execute()
    masked.execute()
    needles: set[bytes] = set()
    for sent in plain.sent:
        needles |= {json.dumps({name: value})[1:-1].encode() for name, value in json.loads(sent.header)["body"].items()}
        # Eight bytes of a vector are found by chance once in 10^13 places.
        needles |= {data[at : at + 8] for _, data in sent.arrays.values() for at in range(0, min(len(data), 800), 8)}
    needles = {needle for needle in needles if len(set(needle)) > 4}  # not zeros, ones and the like
    assert len(needles) > 1000 and any(needle.startswith(b'"loss"') for needle in needles)
    one, other = leaving(plain), leaving(masked)
    assert all(needle in one for needle in needles)
    assert [needle for needle in needles if needle in other] == []


def test_every_round_of_a_federation_that_masks_goes_through_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the protocol away, and no round is left."""

    prepared = Memory()
    Masked(["training.rounds=1"], recorder=prepared).execute()

    def gone(*given: Any, **named: Any) -> Any:
        raise RunFailed("there is no protocol")

    for name in ("ServerRound", "ElidedRound"):
        monkeypatch.setattr(f"tacit.server.secure_sum.{name}", gone)
    for mode in ("real", "elided"):
        for recorder in (Memory(), prepared):  # the preparation, and a training round
            before = len(recorder.reports)
            federation = Masked([f"secure_aggregation.mode={mode}"], recorder=recorder)
            with pytest.raises(RunFailed, match="there is no protocol"):
                federation.execute()
            assert federation.sent == [] and len(recorder.reports) == before


def test_a_run_that_should_mask_and_cannot_does_not_begin() -> None:
    federation = Masked()
    federation.masking = None
    with pytest.raises(ValueError, match="a run masks exactly if its recipe says so"):
        federation.execute()
    assert federation.sent == []


# What agents refuse


def joined() -> Masked:
    federation = Masked(["training.rounds=1"])
    federation.execute()
    return federation


def plain_plan(federation: Masked) -> Plan:
    """Return the plan of a federation, doctored to say that nothing is masked."""
    plan = decode_plan(federation.recorder.states[1].plan)
    return replace(plan, recipe=parse_recipe(RECIPE, ["secure_aggregation.enabled=false"]))


@pytest.mark.parametrize("doctored", [False, True])
def test_an_agent_that_joined_takes_no_plain_step_whatever_the_plan_says(doctored: bool) -> None:
    federation = joined()
    agent = next(iter(federation.agents.values()))
    state = federation.recorder.states[1]
    plan = plain_plan(federation) if doctored else decode_plan(state.plan)
    for action, encoded in [
        ("prepare", replace(plan, features=None, architecture=None).encode()),
        ("train", plan.encode()),
    ]:
        for number in (0, 1, 2):
            reply = agent.handle(Instruction(action, "run", number, 0, encoded, arrays={"vector": state.vector}))
            assert (reply.outcome, reply.reason) == ("refused", "what this agent computes leaves masked or not at all")
            assert not reply.arrays and not reply.body and not reply.message


def test_an_agent_that_never_joined_refuses_plain_steps_of_a_plan_that_masks() -> None:
    federation = joined()
    state = federation.recorder.states[1]
    stranger = Masked(["secure_aggregation.enabled=false"]).agents[2]
    plan = decode_plan(state.plan)
    for action, encoded in [
        ("prepare", replace(plan, features=None, architecture=None).encode()),
        ("train", state.plan),
    ]:
        reply = stranger.handle(Instruction(action, "run", 1, 0, encoded, arrays={"vector": state.vector}))
        assert reply.outcome == "refused" and not reply.arrays
    for action in (*MASKED_ACTIONS, "contribute", "receipt", "measure", ""):
        assert stranger.handle(Instruction(action, "run", 1, 0, state.plan)).reason == "the step is not known here"


def test_an_offer_without_masks_is_refused_by_every_agent_that_is_no_simulation() -> None:
    real, vector = Masked(), np.zeros(12, np.float32)
    real.execute()
    assert real.masking is not None
    real.masking.settings = real.masking.settings.model_copy(update={"mode": "elided"})
    plan = real.recorder.states[2].plan
    from tacit.models.contributions import training_layout

    at = Occasion("run", 3, 0, plan)
    exchanges = masked_sum(at, {"vector": vector}, training_layout(12, 10), tuple(real.names.values()), real.masking)
    request = exchanges.request(0, "c00")
    assert request.action == "contribute"
    for agent in real.agents.values():
        for action in ("contribute", "advertise"):
            reply = agent.handle(replace(request, action=action))
            assert reply.outcome == "refused" and not reply.arrays and not reply.message
            assert reply.reason == "not-masked: a round without masks is a simulation, never answered"


@pytest.mark.parametrize("changed", ["plan", "vector", "run", "round", "attempt", "layout", "offer"])
def test_an_agent_shares_no_key_over_an_offer_that_is_not_about_what_came_with_it(changed: str) -> None:
    reasons: list[str] = []

    def meddle(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if instruction.action == "advertise" and instruction.round == 1 and client == "c03":
            vector = instruction.arrays["vector"]
            instruction = {
                "plan": lambda: replace(instruction, plan=instruction.plan + b" "),
                "vector": lambda: replace(instruction, arrays={"vector": vector + np.float32(1)}),
                "run": lambda: replace(instruction, run="other"),
                "round": lambda: replace(instruction, round=7),
                "attempt": lambda: replace(instruction, attempt=7),
                "layout": lambda: replace(instruction, arrays={}),
                "offer": lambda: replace(instruction, message=flipped(instruction.message)),
            }[changed]()
            reply = agent(instruction)
            reasons.append(reply.reason)
            assert reply.outcome == "refused" and not reply.message and not reply.arrays
            return reply
        return agent(instruction)

    federation = Masked(["training.rounds=1"], handler=meddle)
    federation.execute()
    (reason,) = reasons
    expected = {
        "plan": "other-plan", "vector": "other-model", "layout": "other-model", "offer": "bad-signature"
    }.get(changed, "other-attempt")  # fmt: skip
    assert reason.startswith(expected)
    assert federation.outcomes(1)["c03"] == ("refused", reason)
    assert federation.report(1).reported == 9


# The same with and without masks


def trained(mode: str, *overrides: str, gone: frozenset[tuple[str, int, int]] = frozenset(), **named: Any) -> Masked:
    """Train with clients that drop out: (action, round, client), where `mask` is `contribute` without masks."""

    def vanish(client: int, action: str, number: int, attempt: int) -> bool:
        return ({"contribute": "mask"}.get(action, action), number, client) in gone

    federation = Masked([f"secure_aggregation.mode={mode}", *overrides], vanish=vanish, **named)
    federation.execute()
    return federation


def same_but_for_the_mode(one: bytes, other: bytes) -> bool:
    return one.replace(b'"mode":"real"', b'"mode":"elided"') == other


PRIVATE = ["privacy.unit=client", "privacy.noise_multiplier=0.5", "privacy.delta=1e-5"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["strategy.name=fedavg"],
        ["strategy.name=fedavg", "strategy.weighting=uniform"],
        ["strategy.name=fedprox", "strategy.proximal_mu=0.1"],
        ["strategy.name=fedadam", "training.cohort=7"],
        ["strategy.name=fedyogi", "training.local_epochs=2"],
        ["strategy.name=fedavgm", "training.sampling=poisson", "training.cohort=8"],
        ["strategy.name=fedadagrad", *PRIVATE],
    ],
    ids=lambda overrides: "+".join(part.partition("=")[2] for part in overrides),
)
def test_a_simulation_without_masks_trains_the_same_model_to_the_last_bit(overrides: list[str]) -> None:
    gone = frozenset({("mask", 0, 4), ("mask", 1, 2), ("mask", 2, 8), ("mask", 2, 0)})
    common = ["training.rounds=3", "secure_aggregation.min_cohort=3", *overrides]
    real, elided = (trained(mode, *common, gone=gone).recorder for mode in ("real", "elided"))
    assert [(r.number, r.attempt, r.committed, r.reported) for r in real.reports] == [
        (r.number, r.attempt, r.committed, r.reported) for r in elided.reports
    ]
    assert real.states.keys() == elided.states.keys()
    for number, state in real.states.items():
        assert same_but_for_the_mode(state.plan, elided.states[number].plan)
        assert state.vector.tobytes() == elided.states[number].vector.tobytes()
        assert {name: moment.tobytes() for name, moment in state.moments.items()} == {
            name: moment.tobytes() for name, moment in elided.states[number].moments.items()
        }
        assert state.spent == elided.states[number].spent


def test_the_secret_seed_of_a_simulation_is_in_its_masks_and_not_in_its_model() -> None:
    """So a run can be repeated to the last bit when its seed is gone, and nothing that is left opens its masks."""
    one, other = (trained("real", seed=bytes([seed]) * 32) for seed in (1, 2))
    assert one.recorder.states[2].vector.tobytes() == other.recorder.states[2].vector.tobytes()
    assert {s.message for s in one.sent if s.message}.isdisjoint(s.message for s in other.sent)
    vectors = [{data for sent in run.sent for _, data in sent.arrays.values()} for run in (one, other)]
    assert vectors[0].isdisjoint(vectors[1])


def test_the_noise_of_a_promise_comes_from_the_secret_seed() -> None:
    common = ["secure_aggregation.min_cohort=3", *PRIVATE]
    one, other = (trained("real", *common, seed=bytes([seed]) * 32).recorder.states[2] for seed in (1, 2))
    assert np.abs(one.vector - other.vector).max() > 1e-3


@pytest.mark.parametrize("model", ["model.name=logistic", "model.name=mlp"])
@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_masks_change_the_model_by_no_more_than_the_rounding(model: str, weighting: str) -> None:
    common = [model, f"strategy.weighting={weighting}", "training.rounds=5"]
    plain = Masked([*common, "secure_aggregation.enabled=false"]).execute()
    masked = Masked(common).execute()
    np.testing.assert_allclose(masked.vector, plain.vector, atol=2e-6)


def test_a_round_that_is_over_without_a_sum_is_over_with_and_without_masks() -> None:
    gone = frozenset({("mask", 1, client) for client in (1, 5, 7)})
    real, elided = (trained(mode, "training.rounds=2", gone=gone).recorder for mode in ("real", "elided"))
    for recorder in (real, elided):
        assert [(r.number, r.attempt, r.committed, r.reported) for r in recorder.reports] == [
            (0, 0, True, 10), (1, 0, True, 7), (2, 0, True, 10)
        ]  # fmt: skip
        assert recorder.states[1].vector.tobytes() == recorder.states[0].vector.tobytes()
    assert real.states[2].vector.tobytes() == elided.states[2].vector.tobytes()


def test_the_model_that_travels_is_the_one_that_the_offer_is_about() -> None:
    digests: dict[int, set[bytes]] = {}

    def look(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if instruction.action == "advertise":
            vector = instruction.arrays.get("vector")
            digests.setdefault(instruction.round, set()).add(sha256(b"" if vector is None else vector.tobytes()))
        else:
            assert not instruction.arrays and not instruction.plan and not instruction.body
        return honest(client, instruction, agent)

    federation = Masked(handler=look)
    federation.execute()
    states = federation.recorder.states
    assert digests == {
        0: {sha256(b"")},
        1: {sha256(states[0].vector.tobytes())},
        2: {sha256(states[1].vector.tobytes())},
    }
    assert decode_plan(states[2].plan).features is not None and SCHEMA == decode_plan(states[2].plan).schema


def test_a_warm_start_weighs_clients_as_a_run_without_masks_does() -> None:
    """The features are known, so the number of rows is all that is asked for before the first round."""
    first = Masked(["training.rounds=1"])
    first.execute()
    began = decode_plan(first.recorder.states[1].plan)

    def warm(*overrides: str) -> Masked:
        federation = Masked(overrides)
        plan = replace(began, recipe=federation.recipe, mean_examples=1.0)
        federation.execute(plan=plan, initial=np.linspace(-1, 1, 12, dtype=np.float32))
        return federation

    plain, masked = warm("secure_aggregation.enabled=false"), warm()
    np.testing.assert_allclose(masked.recorder.states[2].vector, plain.recorder.states[2].vector, atol=5e-6)
    uniform = warm("strategy.weighting=uniform")
    assert np.abs(uniform.recorder.states[2].vector - plain.recorder.states[2].vector).max() > 1e-3
    assert decode_plan(masked.recorder.states[0].plan).mean_examples == 30.0
    assert [r.reported for r in masked.recorder.reports] == [10, 10, 10]
    assert [r.reported for r in uniform.recorder.reports] == [0, 10, 10]  # nothing to ask for
    sizes = {len(data) for sent in masked.sent if sent.round == 0 for _, data in sent.arrays.values()}
    assert sizes == {4 * 3}  # one number of 48 bits
