"""An owner's limits: what does not fit is refused by its size, what takes too much is abandoned and costs nothing."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tacit.client.agent import Agent
from tacit.client.caps import BYTES_PER_PARAMETER, Caps, be_nice, caps, resident_bytes
from tacit.client.consent import Consent
from tacit.client.journal import AgentJournal
from tacit.client.policy import Policy
from tacit.client.settings import Settings
from tacit.client.training import Workbench
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import Plan
from tacit.models.preparation import preparation_sums, prepared_plan
from tacit.models.recipe import parse_recipe
from tacit.privacy.identity import Identity

SCHEMA = Schema((Column("a", "numeric"), Column("b", "numeric")), "y", ("no", "yes"))
RECIPE = """
name = "r"
[task]
kind = "tabular-classification"
[data]
source = "s:"
[population]
clients = 3
[training]
rounds = 9
local_steps = 20
device = "cpu"
[secure_aggregation]
enabled = false
"""
PROMISES = {
    "none": (),
    "client": ("privacy.unit=client", "privacy.noise=local", "privacy.noise_multiplier=8"),
    "example": ("privacy.unit=example", "privacy.noise_multiplier=4", "privacy.sample_rate=0.1"),
}
POLICY = Policy.model_validate(
    {
        "approved": {"models": ["logistic"], "statistics": ["examples"], "metrics": ["loss"]},
        "privacy": {"epsilon_total": 50.0, "accept_unprotected": True},
        "secure_aggregation": {"required": False},
    }
)


class Held:
    def training(self, plan: Plan) -> Rows:
        rng = np.random.default_rng(1)
        return Rows({"a": rng.normal(size=60), "b": rng.normal(size=60)}, rng.integers(0, 2, 60))

    def test(self, plan: Plan) -> Rows | None:
        return None


class Machine:
    """A clock and a memory that grow with every look at them."""

    def __init__(self, seconds: float = 0.0, growth: int = 0) -> None:
        self.now, self.used = 0.0, 1 << 20
        self.seconds, self.growth = seconds, growth

    def clock(self) -> float:
        self.now += self.seconds
        return self.now

    def resident(self) -> int:
        self.used += self.growth
        return self.used

    def lends(self, memory_bytes: int = 0, round_seconds: float = 0.0) -> Caps:
        return Caps(memory_bytes, round_seconds, self.resident, self.clock)


def owned(lent: Caps) -> tuple[Agent, Consent]:
    bench = Workbench(lent=lent)
    agent = Agent("a", Held(), bench)
    journal = AgentJournal.in_memory(Identity(bytes(32)), now=lambda: 0.0)
    consent = Consent(journal, "rows", bench, POLICY, lambda noise: POLICY.budgets(noise.terms.unit), now=lambda: 0.0)
    agent.governed_by(consent)
    return agent, consent


def ask(agent: Agent, promise: str, number: int = 1) -> Reply:
    plan = Plan(parse_recipe(RECIPE, PROMISES[promise]), SCHEMA)
    plan = prepared_plan(plan, preparation_sums(Held().training(plan), SCHEMA), 3, outputs=2, proximal_mu=0.0)
    vector = np.zeros(6, np.float32)
    return agent.handle(Instruction("train", "run", number, 0, plan.encode(), arrays={"vector": vector}))


@pytest.fixture(params=list(PROMISES))
def promise(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_within_the_limits_nothing_changes(promise: str) -> None:
    limited, _ = owned(Machine(seconds=0.001, growth=1).lends(memory_bytes=1 << 30, round_seconds=60.0))
    assert ask(limited, promise).outcome == "ok"


@pytest.mark.parametrize(
    ("grows", "limits", "told"),
    [
        ({"seconds": 1.0}, {"round_seconds": 10.0}, "longer"),
        ({"growth": 1 << 20}, {"memory_bytes": 10 << 20}, "more memory"),
    ],
    ids=["time", "memory"],
)
def test_work_that_passes_a_limit_is_abandoned_and_given_back(
    promise: str, grows: dict[str, Any], limits: dict[str, Any], told: str
) -> None:
    machine = Machine(**grows)
    agent, consent = owned(machine.lends(**limits))
    reply = ask(agent, promise)
    assert reply.outcome == "refused" and told in reply.reason and not reply.arrays
    if promise != "none":
        (ledger,) = consent.journal.kept_ledgers()
        assert (len(ledger.state.voided), len(ledger.state.waiting)) == (1, 0)
        assert ledger.state.epsilon_committed("assured") == 0.0
    # The next round starts with a time of its own.
    machine.seconds, machine.growth, machine.used = 0.0, 0, 1 << 20
    assert ask(agent, promise, number=2).outcome == "ok"


def test_a_model_that_does_not_fit_is_refused_by_its_size_before_anything_is_computed(promise: str) -> None:
    machine = Machine()
    agent, consent = owned(machine.lends(memory_bytes=(1 << 20) + 6 * BYTES_PER_PARAMETER - 1))
    reply = ask(agent, promise)
    assert reply.outcome == "refused" and reply.reason.startswith("memory-limit: a vector of 6 ")
    assert agent.bench._built is None and consent.journal.kept_ledgers() == []
    roomy, _ = owned(machine.lends(memory_bytes=(1 << 20) + 6 * BYTES_PER_PARAMETER))
    assert ask(roomy, promise).outcome == "ok"


def test_without_limits_neither_clock_nor_memory_is_looked_at() -> None:
    def never() -> Any:
        raise AssertionError("looked at")

    free = Caps(resident=never, clock=lambda: 0.0)
    assert free.has_room(1 << 40)
    free.begin()()


def test_this_process_knows_how_much_it_has_in_memory() -> None:
    before = resident_bytes()
    block = np.ones(64 << 17)  # 64 MB
    assert before > 10 << 20 and 32 << 20 < resident_bytes() - before < 256 << 20
    del block


def test_a_limit_that_cannot_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.client.caps.STATM", Path("/nowhere/statm"))
    with pytest.raises(InputError, match="memory_mb"):
        caps(100, 0)
    assert caps(0, 5).round_seconds == 5 and caps(0, 5).memory_bytes == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the whole process that steps back")
def test_an_agent_steps_back_behind_other_programs_and_never_forward() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    found: list[int] = []

    def thread() -> None:
        for asked in (0, 19, 5):
            be_nice(asked)
            found.append(priority())

    before = priority()
    running = threading.Thread(target=thread)
    running.start()
    running.join()
    assert found == [before, 19, 19] and priority() == before


def test_an_agent_says_what_it_uses() -> None:
    assert Settings(name="a").uses == (
        "the device of the recipe, as many threads as there are, nice 0, any amount of memory, any time in a round"
    )
    capped = Settings(name="a", device="cpu", threads=2, nice=10, memory_mb=2048, round_seconds=600)
    assert capped.uses == "device cpu, 2 threads, nice 10, 2048 MB of memory, 600 s a round"
