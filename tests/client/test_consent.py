"""An owner's consent to steps without masks: what an agent would give is what is judged, and paid for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tacit.client.agent import Agent
from tacit.client.consent import Consent
from tacit.client.journal import AgentJournal
from tacit.client.policy import Policy
from tacit.client.training import Workbench
from tacit.models.broadcast import encode
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import Plan
from tacit.models.preparation import preparation_sums, prepared_plan
from tacit.models.recipe import parse_recipe
from tacit.privacy.identity import Identity

SCHEMA = Schema((Column("age", "numeric"), Column("job", "categorical")), "y", ("no", "yes"))
RECIPE = """
name = "r"
[task]
kind = "tabular-classification"
[data]
source = "s:"
[population]
clients = 3
[training]
rounds = 2
local_steps = 1
device = "cpu"
[secure_aggregation]
enabled = false
"""
LOCAL = ("privacy.unit=client", "privacy.noise=local", "privacy.noise_multiplier=4")
EXAMPLE = ("privacy.unit=example", "privacy.noise_multiplier=1", "privacy.sample_rate=0.1")
OPEN: dict[str, Any] = {
    "approved": {"models": ["logistic"], "statistics": ["examples"], "metrics": ["loss"]},
    "privacy": {"epsilon_total": 8.0, "min_noise_multiplier": 0.5},
    "secure_aggregation": {"required": False},
}


class Held:
    def training(self, plan: Plan) -> Rows:
        rng = np.random.default_rng(1)
        jobs = np.array(["nurse", "clerk"], dtype=object)[rng.integers(0, 2, 60)]
        return Rows({"age": rng.normal(50, 20, 60), "job": jobs}, rng.integers(0, 2, 60))

    def test(self, plan: Plan) -> Rows | None:
        return None


def prepared(*overrides: str) -> Plan:
    plan = Plan(parse_recipe(RECIPE, overrides), SCHEMA)
    return prepared_plan(plan, preparation_sums(Held().training(plan), SCHEMA), 3, outputs=2, proximal_mu=0.0)


def owned(**changes: dict[str, Any]) -> tuple[Agent, Consent]:
    policy = Policy.model_validate({table: {**keys, **changes.get(table, {})} for table, keys in OPEN.items()}
                                   | {table: keys for table, keys in changes.items() if table not in OPEN})  # fmt: skip
    bench = Workbench()
    agent = Agent("a", Held(), bench)
    journal = AgentJournal.in_memory(Identity(bytes(32)), now=lambda: 0.0)
    consent = Consent(journal, "rows", bench, policy, granted(policy), now=lambda: 0.0)
    agent.governed_by(consent)
    return agent, consent


def granted(policy: Policy) -> Callable[[Any], Any]:
    return lambda noise: policy.budgets(noise.terms.unit)


def ask(agent: Agent, plan: Plan, number: int = 1, attempt: int = 0, action: str = "train") -> Reply:
    vector = np.zeros(10, np.float32)
    return agent.handle(Instruction(action, "run", number, attempt, plan.encode(), arrays={"vector": vector}))


def spent(consent: Consent, unit: Any) -> float:
    return float(consent.journal.ledger("rows", unit, {}).state.committed("assured").divergence)


@pytest.mark.parametrize("promise", [LOCAL, EXAMPLE])
def test_an_update_is_paid_for_before_it_leaves(promise: tuple[str, ...]) -> None:
    agent, consent = owned()
    assert ask(agent, prepared(*promise)).outcome == "ok"
    once = spent(consent, promise[0].partition("=")[2])
    assert once > 0
    assert ask(agent, prepared(*promise), 2).outcome == "ok"
    assert spent(consent, promise[0].partition("=")[2]) == pytest.approx(2 * once)


@pytest.mark.parametrize("promise", [LOCAL, EXAMPLE])
def test_no_plan_passes_an_update_off_as_a_statistic(promise: tuple[str, ...]) -> None:
    # A plan that says it asks for a number of rows alone, in a step that would give an update for it all the same.
    weak = [one if "multiplier" not in one else "privacy.noise_multiplier=0.001" for one in promise]
    agent, consent = owned()
    assert ask(agent, replace(prepared(*weak), mean_examples=0.0)).reason.startswith("noise-floor: ")
    assert ask(agent, replace(prepared(*promise), mean_examples=0.0)).outcome == "ok"
    assert spent(consent, promise[0].partition("=")[2]) > 0


def test_no_plan_passes_all_statistics_off_as_a_number_of_rows() -> None:
    agent, _ = owned()
    assert ask(agent, prepared(*EXAMPLE), 0, action="prepare").reason.startswith("statistic-not-allowed: ")
    agent, _ = owned(approved={"statistics": ["examples", "counts", "moments"]})
    assert ask(agent, prepared(*EXAMPLE), 0, action="prepare").outcome == "ok"


def test_attempts_at_one_round_count_one_by_one() -> None:
    agent, _ = owned()
    # Two rounds, and one to spare, are what the noise of this recipe was made for.
    replies = [ask(agent, prepared(*LOCAL), attempt=attempt) for attempt in range(4)]
    assert [reply.outcome for reply in replies] == ["ok", "ok", "ok", "refused"]
    assert replies[-1].reason.startswith("participations-limit: ")


def test_an_attempt_is_answered_once() -> None:
    agent, consent = owned()
    assert ask(agent, prepared(*LOCAL)).outcome == "ok"
    before = spent(consent, "client")
    assert ask(agent, prepared(*LOCAL)).outcome == "refused"
    assert spent(consent, "client") == before


def test_rounds_without_masks_count_against_the_owners_limit() -> None:
    agent, consent = owned(limits={"max_participations": 1}, privacy={"accept_unprotected": True})
    assert ask(agent, prepared()).outcome == "ok"
    assert consent.journal.participations("run") == 1
    assert ask(agent, prepared(), 2).reason.startswith("participations-limit: ")


def test_a_paused_agent_refuses_and_pays_nothing_until_it_is_resumed() -> None:
    agent, consent = owned()
    paused = [True]
    consent.paused = lambda: paused[0]
    assert ask(agent, prepared(*LOCAL)).reason == "paused: its owner has paused it"
    assert not consent._ledgers and consent.journal.participations("run") == 0
    (noted,) = consent.journal.audit.entries()
    assert (noted.kind, noted.details["code"]) == ("offer-refused", "paused")
    paused[0] = False
    assert ask(agent, prepared(*LOCAL)).outcome == "ok"


def test_a_pause_between_an_offer_and_its_input_keeps_the_input_back() -> None:
    agent, consent = owned()
    looks = iter([False, True])
    consent.paused = lambda: next(looks)
    assert ask(agent, prepared(*LOCAL)).reason.startswith("paused: ")
    assert spent(consent, "client") == 0 and consent.journal.participations("run") == 0


def test_a_pause_while_an_input_is_computed_keeps_it_back() -> None:
    agent, consent = owned()
    looks = iter([False, False, True])
    consent.paused = lambda: next(looks)
    reply = ask(agent, prepared(*LOCAL))
    assert (reply.reason, dict(reply.arrays)) == ("paused: its owner has paused it", {})
    assert spent(consent, "client") == 0
    assert not [noted for noted in consent.journal.audit.entries() if noted.kind == "message-left"]


@pytest.mark.parametrize("form", ["float32", "float16", "int8"])
def test_an_update_is_paid_for_and_limits_hold_however_the_model_travels(form: Any) -> None:
    arrays, _ = encode(np.linspace(-1, 1, 10, dtype=np.float32), None, form)
    asked = Instruction("train", "run", 1, 0, prepared(*LOCAL).encode(), arrays=arrays)
    agent, consent = owned()
    assert agent.handle(asked).outcome == "ok" and spent(consent, "client") > 0
    agent, consent = owned(limits={"max_parameters": 9})
    assert agent.handle(asked).reason.startswith("parameters-limit: ")


def test_a_network_that_the_vector_hides_takes_no_memory() -> None:
    """The limits are asked about the vector; a network of terabytes would end the process instead of the round."""
    large = [65_536] * 32
    agent, _ = owned(approved={"models": ["mlp"], "statistics": ["examples"], "metrics": ["loss"]})
    honest = prepared(*LOCAL, "model.name=mlp", f"model.hidden={large}")
    reply = ask(agent, honest)  # a vector of ten
    assert reply.outcome == "refused" and "a vector of 10 is none of the plan's network" in reply.reason
    assert agent.bench._built is None
    assert ask(agent, prepared(*LOCAL, "model.name=mlp", "model.hidden=[1]")).outcome == "refused"
