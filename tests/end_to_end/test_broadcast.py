"""A model that travels in fewer bytes: everybody trains from the same one, and nothing else about a run changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tacit.models.broadcast import decode, encode
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import decode_plan
from tacit.privacy.codec import sha256
from tacit.privacy.secagg.offer import Offer
from tacit.server.checkpoints import RunState
from tacit.simulations import simulate

from .masked import Masked, honest, silent

FORMS = ("float16", "int8")
OPENING = ("advertise", "contribute", "train")
PLAIN = "secure_aggregation.enabled=false"
MODES = {
    "masked": (),
    "elided": ("secure_aggregation.mode=elided",),
    "plain": (PLAIN,),
    "masked, noised": ("privacy.unit=client", "privacy.noise_multiplier=1.0", "privacy.clip=1.0"),
    "plain, noised": (
        PLAIN, "privacy.unit=client", "privacy.noise=local", "privacy.noise_multiplier=1.0", "privacy.clip=1.0"
    ),
}  # fmt: skip


class Watched:
    """A federation, and every vector that it was sent: by round and attempt, as it travelled."""

    def __init__(self, *overrides: str, **more: Any) -> None:
        self.came: dict[tuple[int, int], list[dict[str, NDArray[Any]]]] = {}
        self.offers: dict[tuple[int, int], Offer] = {}
        self.federation = Masked(["training.rounds=4", *overrides], handler=self._look, **more)

    def _look(self, client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if instruction.round and instruction.action in OPENING:
            key = instruction.round, instruction.attempt
            self.came.setdefault(key, []).append(
                {name: values.copy() for name, values in instruction.arrays.items()}  # the memory is shared
            )
            if instruction.message:
                self.offers[key] = Offer.decode(instruction.message)
        else:
            assert not instruction.arrays
        return honest(client, instruction, agent)

    @property
    def states(self) -> dict[int, RunState]:
        found: dict[int, RunState] = self.federation.recorder.states
        return found


def same(one: dict[str, NDArray[Any]], other: Any) -> bool:
    return list(one) == list(other) and all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_everybody_gets_the_same_codes_and_the_next_round_makes_up_for_what_they_lost(form: Any, mode: str) -> None:
    run = Watched(f"training.broadcast={form}", *MODES[mode])
    run.federation.execute()
    states = run.states
    assert states[0].carry is None
    for number in range(1, 5):
        before = states[number - 1]
        expected, lost = encode(before.vector, before.carry, form)
        came = run.came[number, 0]
        assert len(came) == 10 and all(same(expected, one) for one in came)
        assert {name: str(values.dtype) for name, values in came[0].items()} == {"codes": form, "scales": "float32"}
        assert lost is not None and states[number].carry is not None
        assert lost.tobytes() == states[number].carry.tobytes()
        if run.offers:
            trained_from = decode(expected, before.vector.size)
            assert run.offers[number, 0].model_digest == sha256(trained_from.tobytes())


def test_a_model_that_travels_as_it_is_carries_nothing() -> None:
    run = Watched()
    run.federation.execute()
    assert {name for came in run.came.values() for one in came for name in one} == {"vector"}
    assert all(state.carry is None for state in run.states.values())


@pytest.mark.parametrize("form", FORMS)
def test_masks_and_none_arrive_at_the_same_bits(form: str) -> None:
    masked, elided = (
        Watched(f"training.broadcast={form}", *MODES[mode]).federation.execute() for mode in ("masked", "elided")
    )
    assert masked.vector.tobytes() == elided.vector.tobytes()
    assert masked.carry is not None and elided.carry is not None
    assert masked.carry.tobytes() == elided.carry.tobytes()


def test_the_mean_update_is_relative_to_what_travelled_and_is_applied_to_the_whole_model() -> None:
    """One step of plain gradient descent from a rounded model, taken from the model that was not rounded."""
    run = Watched(
        "training.broadcast=int8", PLAIN, "strategy.weighting=uniform", "training.rounds=1", "training.batch_size=1000"
    )
    updates: list[NDArray[np.float32]] = []

    def look(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        reply = agent(instruction)
        if instruction.action == "train":
            updates.append(reply.arrays["update"].copy())
        return reply

    run.federation.handler = look
    start = np.linspace(-1, 1, 12, dtype=np.float32)
    first = Watched(PLAIN, "training.rounds=1").federation
    first.execute()
    plan = replace(decode_plan(first.recorder.states[0].plan), recipe=run.federation.recipe)
    run.federation.execute(plan=plan, initial=start.copy())
    expected = start + np.mean(updates, axis=0, dtype=np.float64)
    np.testing.assert_allclose(run.states[1].vector, expected, rtol=0, atol=1e-6)
    rounded = decode(encode(start, None, "int8")[0], 12)
    assert np.abs(rounded - start).max() > 1e-4  # so that the two could be told apart


@pytest.mark.parametrize("mode", ["masked", "plain"])
def test_another_attempt_at_a_round_sends_the_same_codes(mode: str) -> None:
    opening = "advertise" if mode == "masked" else "plain"
    gone = silent(*((opening, client) for client in range(10)), number=2, attempt=0)
    run = Watched("training.broadcast=int8", *MODES[mode], vanish=gone)
    run.federation.execute()
    assert (2, 0) not in run.came
    before = run.states[1]
    assert all(same(encode(before.vector, before.carry, "int8")[0], one) for one in run.came[2, 1])


@pytest.mark.parametrize("name", ["codes", "scales"])
def test_a_model_whose_codes_were_changed_on_the_way_is_refused(name: str) -> None:
    reasons: list[str] = []

    def meddle(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if client == "c03" and instruction.round == 2 and instruction.action == "advertise":
            changed = {key: values.copy() for key, values in instruction.arrays.items()}
            changed[name].view(np.uint8)[0] ^= 1
            reply = agent(replace(instruction, arrays=changed))
            reasons.append(reply.reason)
            return reply
        return agent(instruction)

    Masked(["training.broadcast=int8"], handler=meddle).execute()
    (reason,) = reasons
    assert reason.startswith("other-model")


def test_codes_without_their_scales_are_refused_before_a_key_is_made() -> None:
    reasons: list[str] = []

    def meddle(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if client == "c03" and instruction.round == 1 and instruction.action == "advertise":
            reply = agent(replace(instruction, arrays={"codes": instruction.arrays["codes"]}))
            assert reply.outcome == "refused" and not reply.message
            reasons.append(reply.reason)
            return reply
        return agent(instruction)

    Masked(["training.rounds=1", "training.broadcast=int8"], handler=meddle).execute()
    assert reasons == ["other-model: 12 codes have a float32 scale for every 1024 of them"]


DIGITS = """
name = "digits"
seed = 1
task.kind = "image-classification"
data.source = "sklearn:digits"
population.clients = 10
model.name = "mlp"
training.rounds = 12
training.local_epochs = 2
training.learning_rate = 0.1
secure_aggregation.mode = "elided"
"""


@pytest.mark.slow
def test_digits_are_told_apart_as_well_from_eight_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TACIT_DB", raising=False)
    Path("digits.toml").write_text(DIGITS)
    reached = {
        form: simulate(Path("digits.toml"), [f"training.broadcast={form}"], out=Path(f"runs/{form}")).metrics
        for form in ("float32", *FORMS)
    }
    assert reached["float32"]["accuracy"] > 0.93
    for form in FORMS:
        assert reached[form]["accuracy"] > reached["float32"]["accuracy"] - 0.01, reached
