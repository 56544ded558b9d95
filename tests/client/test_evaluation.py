"""An agent's part in an evaluation: which rows it counts, and what its owner has a say in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tacit.client.asked import CODES
from tacit.client.caps import Caps
from tacit.client.consent import Consent, PolicyRefusal
from tacit.client.evaluation import evaluation_values, evaluation_vector
from tacit.client.journal import AgentJournal
from tacit.client.policy import Policy
from tacit.client.training import Refused, Workbench
from tacit.models import broadcast
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.evaluation_sums import CONFUSION, evaluation_layout
from tacit.models.messages import Instruction
from tacit.models.noise import noise_plan
from tacit.models.plan import Plan
from tacit.models.preparation import preparation_sums, prepared_plan
from tacit.models.recipe import parse_recipe
from tacit.privacy.codec import sha256
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Identity
from tacit.privacy.secagg.offer import Offer

SCHEMA = Schema((Column("a", "numeric"), Column("b", "numeric")), "y", ("no", "yes"))
RECIPE = """
name = "r"
[task]
kind = "tabular-classification"
[data]
source = "s:"
[population]
clients = 6
[model]
init = "registry:m@champion"
[evaluation]
only = true
"""
OPEN: dict[str, dict[str, Any]] = {
    "approved": {"models": ["logistic"], "evaluations": ["held-out"]},
    "privacy": {"accept_unprotected": True},
    "secure_aggregation": {"min_cohort": 5},
}


def some(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return Rows({"a": rng.normal(size=count), "b": rng.normal(size=count)}, rng.integers(0, 2, count))


class Held:
    """Rows to train on, and rows that never are."""

    def __init__(self, training: int, test: int | None) -> None:
        self._training, self._test = training, test

    def training(self, plan: Plan) -> Rows:
        return some(self._training, 1)

    def test(self, plan: Plan) -> Rows | None:
        return None if self._test is None else some(self._test, 2)


def planned(*overrides: str) -> Plan:
    plan = Plan(parse_recipe(RECIPE, overrides), SCHEMA)
    return prepared_plan(plan, preparation_sums(some(50, 3), SCHEMA), 6, outputs=2, proximal_mu=0.0)


def instruction(plan: Plan) -> Instruction:
    vector = np.arange(6, dtype=np.float32) - 3
    encoded, promise = plan.encode(), {}
    layout = evaluation_layout(plan)
    if plan.recipe.privacy.unit != "none":
        noise = noise_plan(plan.recipe, vector.size, 6)
        assert noise.layout is not None
        layout, promise = (
            noise.layout,
            {
                "mechanism": noise.mechanism,
                "mechanism_parameters": noise.parameters,
                "noise_variance": noise.share_variance,
            },
        )
    offer = Offer.plan(
        run="run", round=1, attempt=0, model_digest=sha256(vector.tobytes()), recipe_digest=sha256(encoded),
        layout=layout, rotation_seed=bytes(32), cohort=6, min_cohort=5, colluders=0, dropout=0.2, **promise,
    )  # fmt: skip
    return Instruction("advertise", "run", 1, 0, encoded, arrays={"vector": vector}, message=offer.encode())


@pytest.mark.parametrize(
    ("rows", "test", "counted"), [("held-out", 7, 7), ("all", 7, 27), ("all", None, 20), ("all", 0, 20)]
)
def test_the_rows_that_the_recipe_names_are_counted(rows: str, test: int | None, counted: int) -> None:
    plan = planned(f"evaluation.rows={rows}")
    values = evaluation_values(instruction(plan), plan, Held(20, test), Workbench())
    assert values[CONFUSION].sum() == counted


def test_counts_over_all_rows_are_those_over_both_parts() -> None:
    plans = {rows: planned(f"evaluation.rows={rows}") for rows in ("held-out", "all")}
    both = evaluation_values(instruction(plans["all"]), plans["all"], Held(20, 7), Workbench())
    held_out = evaluation_values(instruction(plans["held-out"]), plans["held-out"], Held(20, 7), Workbench())
    training = evaluation_values(instruction(plans["all"]), plans["all"], Held(20, None), Workbench())
    for name, values in both.items():
        np.testing.assert_allclose(values, held_out[name] + training[name], rtol=1e-12)


def test_under_a_promise_nobody_sees_who_has_no_held_out_row_of_the_classes() -> None:
    plan = planned("privacy.unit=client", "privacy.noise_multiplier=2.0")
    assert evaluation_vector(instruction(plan), plan, Held(20, 0), Workbench()).tolist() == [0.0, 0.0]
    with pytest.raises(Refused, match="no held-out rows"):  # its owner holds none out
        evaluation_vector(instruction(plan), plan, Held(20, None), Workbench())


@pytest.mark.parametrize("test", [None, 0])
def test_an_agent_without_held_out_rows_takes_no_part(test: int | None) -> None:
    plan = planned()
    with pytest.raises(Refused, match="no held-out rows"):
        evaluation_values(instruction(plan), plan, Held(20, test), Workbench())


def judged(plan: Plan, **changes: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    policy = Policy.model_validate({table: {**keys, **changes.get(table, {})} for table, keys in OPEN.items()})
    journal = AgentJournal.in_memory(Identity(bytes(32)), now=lambda: 0.0)
    consent = Consent(
        journal, "rows", Workbench(), policy, lambda noise: policy.budgets(noise.terms.unit), now=lambda: 0.0
    )
    asked = instruction(plan)
    try:
        consent.judge(asked, Offer.decode(asked.message))
    except PolicyRefusal as error:
        return error.refusal.code, noted(journal)
    return "", noted(journal)


def noted(journal: AgentJournal) -> list[dict[str, Any]]:
    return [{"kind": event.kind, **event.details} for event in journal.audit.entries()]


def test_an_owner_who_allows_it_is_asked_for_an_exact_evaluation_and_the_account_says_so() -> None:
    code, account = judged(planned())
    assert code == ""
    assert account[-1]["kind"] == "offer-accepted" and account[-1]["evaluates"] == "held-out"


@pytest.mark.parametrize(
    ("overrides", "changes", "code"),
    [
        ((), {"approved": {"evaluations": []}}, "evaluation-not-allowed"),
        (("evaluation.rows=all",), {}, "evaluation-not-allowed"),
        ((), {"privacy": {"accept_unprotected": False}}, "unit-none"),
        ((), {"approved": {"models": ["mlp"]}}, "recipe-not-approved"),
        ((), {"secure_aggregation": {"min_cohort": 6}}, "cohort-floor"),
    ],
)
def test_an_owner_who_does_not_allow_it_refuses_and_the_account_says_why(
    overrides: tuple[str, ...], changes: dict[str, Any], code: str
) -> None:
    found, account = judged(planned(*overrides), **changes)
    assert found == code and code in CODES
    assert account[-1]["kind"] == "offer-refused" and account[-1]["code"] == code


def test_an_evaluation_asks_in_one_round_and_no_other() -> None:
    policy = Policy.model_validate(OPEN)
    journal = AgentJournal.in_memory(Identity(bytes(32)), now=lambda: 0.0)
    consent = Consent(
        journal, "rows", Workbench(), policy, lambda noise: policy.budgets(noise.terms.unit), now=lambda: 0.0
    )
    asked = instruction(planned())
    offer = Offer.decode(asked.message)
    consent.judge(asked, offer)
    with pytest.raises(RemoteProtocolError, match="an evaluation is one round"):
        consent.judge(replace(asked, round=2), replace(offer, round=2))
    assert noted(journal)[-1]["kind"] == "offer-refused"


def test_a_promised_evaluation_is_paid_for_from_the_owners_ledger() -> None:
    plan = planned("privacy.unit=client", "privacy.noise_multiplier=2.0")
    granted = {"epsilon_total": 9.0, "accept_promised_noise": True, "promised_epsilon_total": 9.0}
    granted["accept_unprotected"] = False
    policy = Policy.model_validate({**OPEN, "privacy": granted})
    journal = AgentJournal.in_memory(Identity(bytes(32)), now=lambda: 0.0)
    consent = Consent(
        journal, "rows", Workbench(), policy, lambda noise: policy.budgets(noise.terms.unit), now=lambda: 0.0
    )
    asked = instruction(plan)
    offer = Offer.decode(asked.message)
    consent.judge(asked, offer)
    assert consent.reserve(asked, offer) is not None
    ledger = journal.ledger("rows", "client", {})
    assert ledger.state.committed("promised").divergence > 0
    # Weaker noise than the plan says is no offer of this plan.
    weaker = replace(offer, noise_variance=offer.noise_variance / 4)
    with pytest.raises(RemoteProtocolError, match="the noise is not what the plan promises"):
        consent.judge(asked, weaker)


def test_no_plan_passes_an_evaluation_off_as_a_number_of_rows() -> None:
    plan = planned()
    disguised = Plan(plan.recipe, plan.schema, plan.features, plan.architecture, mean_examples=0.0)
    closed = {"approved": {"evaluations": [], "statistics": ["examples"]}}
    assert judged(disguised, **closed)[0] == "evaluation-not-allowed"
    nothing_yet = Plan(plan.recipe, plan.schema)
    assert judged(nothing_yet, approved={"evaluations": [], "statistics": ["examples", "counts", "moments"]})[0] == (
        "evaluation-not-allowed"
    )


def test_no_member_evaluates_another_model_than_the_one_that_all_agreed_on() -> None:
    """Else one member counts for a model of its own, and the sum with everybody shows what it alone has counted."""
    plan = planned()
    honest, _ = broadcast.encode(np.arange(6, dtype=np.float32) - 3, None, "int8")
    other = np.arange(6, dtype=np.float32)
    asked = replace(instruction(plan), arrays={**honest, "vector": other})
    with pytest.raises(ValueError, match="a vector comes as"):
        broadcast.digest(asked.arrays)
    with pytest.raises(ValueError, match="a vector comes as"):
        evaluation_values(asked, plan, Held(20, 7), Workbench())
    counted = evaluation_values(replace(asked, arrays=honest), plan, Held(20, 7), Workbench())
    assert counted[CONFUSION].sum() == 7  # in whichever form it comes, it is the one of the digest


def test_a_vector_in_few_bytes_needs_as_much_room_as_any_other() -> None:
    asked = instruction(planned())
    codes, _ = broadcast.encode(asked.arrays["vector"], None, "int8")
    policy = Policy.model_validate(OPEN)
    journal = AgentJournal.in_memory(Identity(bytes(32)), now=lambda: 0.0)
    bench = Workbench(lent=Caps(memory_bytes=1 << 20, resident=lambda: 1 << 20))
    consent = Consent(journal, "rows", bench, policy, lambda noise: {}, now=lambda: 0.0)
    with pytest.raises(PolicyRefusal, match="memory-limit: a vector of 6 "):
        consent.judge(replace(asked, arrays=codes), Offer.decode(asked.message))
