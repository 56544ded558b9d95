"""Whole runs under every promise that a recipe can make: what leaves, what is counted, and what ends them."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from dp_accounting import NeighboringRelation, dp_event

from tacit.models.noise import noise_plan
from tacit.models.plan import Plan
from tacit.models.recipe import parse_recipe
from tacit.models.spending import Spent
from tacit.privacy.accounting import cost, repeated
from tacit.privacy.ledger import Ledger
from tacit.server.attempts import RunFailed
from tacit.server.checkpoints import RunState
from tacit.server.population_ledger import read_ledger
from tacit.server.run import BUDGET_SPENT
from tacit.server.statement import Circumstances, privacy_statement

from .masked import RECIPE, SCHEMA, Masked, silent

DISTRIBUTED = ("privacy.unit=client", "privacy.epsilon=8", "secure_aggregation.mode=elided")
PLACES = {
    "distributed": DISTRIBUTED,
    "masked": (*DISTRIBUTED, "secure_aggregation.mode=real"),
    "adaptive": (*DISTRIBUTED, "privacy.clip=adaptive"),
    "local": (*DISTRIBUTED, "privacy.noise=local"),
    "central": (*DISTRIBUTED, "privacy.noise=central", "privacy.epsilon_against=outsiders"),
    "hypothetical": (*DISTRIBUTED, "privacy.noise_cohort=200"),
    "local, unmasked": (*DISTRIBUTED, "privacy.noise=local", "secure_aggregation.enabled=false"),
    "central, unmasked": (
        *DISTRIBUTED, "privacy.noise=central", "privacy.epsilon_against=outsiders", "secure_aggregation.enabled=false",
    ),
    "example": (*DISTRIBUTED, "privacy.unit=example", "privacy.sample_rate=0.1", "training.local_steps=2"),
    "example, unmasked": (
        *DISTRIBUTED, "privacy.unit=example", "privacy.sample_rate=0.1", "training.local_steps=2",
        "secure_aggregation.enabled=false",
    ),
}  # fmt: skip
THRESHOLDS = ("secure_aggregation.min_cohort=4", "secure_aggregation.dropout=0.3")


def federation(*overrides: str, **changes: object) -> Masked:
    return Masked([*THRESHOLDS, *overrides], **changes)  # type: ignore[arg-type]


def ledger_of(run: Masked) -> Ledger:
    unit = run.recipe.privacy.unit
    assert unit != "none"
    ledger = read_ledger(run.store, run.recipe.population.ledger or "run/run", unit)
    assert ledger is not None
    return ledger


def statement(run: Masked, state: RunState) -> dict[str, object]:
    return privacy_statement(run.recipe, state, Circumstances(run.clients))


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_every_round_under_a_promise_is_reserved_spent_and_stated(place: Sequence[str]) -> None:
    run = federation(*place)
    state = run.execute()
    ledger = ledger_of(run)
    assert not ledger.waiting and len(ledger.settled) == 2 == len(state.spent)
    assert all(times == 2 for times in state.taken.values()) and len(state.taken) == 10
    said = statement(run, state)
    observer = "epsilon_outsiders" if "privacy.noise=central" in place else "epsilon"
    assert 0 < said[observer] <= 8.0  # type: ignore[operator]
    assert said["epsilon"] is None or said["epsilon_outsiders"] <= said["epsilon"]  # type: ignore[operator]
    assert said["hypothetical"] == ("privacy.noise_cohort=200" in place)
    assert ("HYPOTHETICAL" in str(said["sentence"])) == said["hypothetical"]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_nothing_but_the_protected_update_leaves_a_client(place: Sequence[str]) -> None:
    run = federation(*place)
    run.execute()
    for sent in run.sent:
        body = json.loads(sent.header)["body"]
        assert body == {}
        if sent.action == "plain":
            assert set(sent.arrays) == {"update"}
        elif sent.action != "prepare":
            assert set(sent.arrays) <= {"masked", "integers"}
    assert not any("train_loss" in report.metrics for report in run.recorder.reports)


def test_the_stated_epsilon_is_that_of_an_independent_account() -> None:
    run = federation(*PLACES["local, unmasked"])
    state = run.execute()
    plan = noise_plan(run.recipe, state.vector.size, 10, 10)
    expected = cost(repeated(dp_event.GaussianDpEvent(plan.noise_multiplier), 2), 1e-5).epsilon
    assert statement(run, state)["epsilon"] == pytest.approx(expected)
    doubled = cost(
        repeated(dp_event.GaussianDpEvent(plan.noise_multiplier), 2), 1e-5, NeighboringRelation.REPLACE_ONE
    ).epsilon
    assert statement(run, state)["replacement"]["coordinator"] == pytest.approx(doubled)  # type: ignore[index]


def test_an_adaptive_clip_moves_towards_the_median_and_the_next_round_uses_it() -> None:
    run = federation(*PLACES["adaptive"], "training.rounds=4", "privacy.epsilon=40")
    state = run.execute()
    clips = [report.metrics["l2_clip"] for report in run.recorder.reports if report.number]
    fractions = [report.metrics["unclipped"] for report in run.recorder.reports if report.number]
    assert clips[0] == 1.0 and state.l2_clip is not None
    for before, fraction, after in zip(clips, fractions, [*clips[1:], state.l2_clip], strict=True):
        assert after == pytest.approx(before * math.exp(-0.2 * (fraction - 0.5)))


def test_an_attempt_that_ends_without_a_sum_is_spent_at_the_fewest_survivors() -> None:
    gone = silent(*(("contribute", client) for client in range(5)), number=1, attempt=0)
    run = federation(*DISTRIBUTED, vanish=gone)
    state = run.execute()
    lost = [report for report in run.recorder.reports if report.number and not report.reported >= 7]
    assert lost
    plan = noise_plan(run.recipe, state.vector.size, 10, 10)
    assert len(state.spent) == len(ledger_of(run).settled) == len([r for r in run.recorder.reports if r.number])
    assert plan.min_survivors in {one.survivors for one in state.spent}


def test_a_run_of_masked_rounds_in_which_nothing_left_spends_nothing() -> None:
    gone = silent(*(("advertise", client) for client in range(10)), number=1, attempt=0)
    run = federation(*PLACES["masked"], vanish=gone)
    state = run.execute()
    # Three attempts were reserved, and the one that asked for no input was given back.
    assert len(state.spent) == 2 and len(ledger_of(run).settled) == 3


def test_a_client_takes_part_no_more_often_than_its_noise_was_made_for() -> None:
    run = federation(*DISTRIBUTED, "privacy.max_participations=1", "training.rounds=6")
    state = run.execute()
    # One participation and a tenth to spare, rounded up.
    assert max(state.taken.values()) == 2
    assert state.stopped == BUDGET_SPENT and state.round == 2


def test_smaller_cohorts_share_the_rounds_that_one_client_may_not_have() -> None:
    settings = ["privacy.max_participations=1", "training.rounds=4", "training.cohort=5"]
    run = federation(*DISTRIBUTED, *settings, "secure_aggregation.min_cohort=3")
    state = run.execute()
    assert state.round >= 2 and max(state.taken.values()) <= 2
    said = statement(run, state)
    assert said["participations"] == 2 and said["epsilon"] <= 8.0  # type: ignore[operator]


def test_a_population_that_cannot_pay_ends_the_run_with_its_last_model() -> None:
    shared = ["population.ledger=town", "population.epsilon_budget=6", "privacy.epsilon=8", "training.rounds=8"]
    run = federation(*DISTRIBUTED, *shared)
    state = run.execute()
    assert state.stopped == BUDGET_SPENT and 0 < state.round < 8
    ledger = ledger_of(run)
    assert ledger.epsilon_committed("assured") <= 6.0 and not ledger.waiting
    assert statement(run, state)["epsilon"] <= 6.0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        ("0.5", f"{BUDGET_SPENT}: privacy budget of town: epsilon .* would exceed the 0.5"),
        ("100", "not drawn exactly enough"),
    ],
)
def test_a_population_that_cannot_pay_for_the_first_round_leaves_no_model_that_nobody_trained(
    budget: str, why: str
) -> None:
    """As where the ledger was opened by an earlier version, or is spent by other runs."""
    run = federation(*DISTRIBUTED, "population.ledger=town", f"population.epsilon_budget={budget}", "privacy.epsilon=8")
    with pytest.raises(RunFailed, match=why):
        run.execute()
    assert max(run.recorder.states) == 0 and not ledger_of(run).waiting and not ledger_of(run).settled


def test_a_run_without_a_budget_for_its_promise_does_not_begin() -> None:
    run = federation(*DISTRIBUTED)
    with pytest.raises(ValueError, match="has a budget exactly if"):
        run.execute(budget=None)


def test_central_noise_is_on_the_model_and_differs_from_run_to_run() -> None:
    first, second = (federation(*PLACES["central"], seed=bytes([number]) * 32).execute() for number in (1, 2))
    assert not np.array_equal(first.vector, second.vector)


def test_poisson_cohorts_are_divided_by_the_expected_number() -> None:
    place = [*PLACES["central"], "training.sampling=poisson", "training.cohort=30", "privacy.noise_multiplier=1"]
    place = [setting for setting in place if not setting.startswith("privacy.epsilon=")]
    run = federation(*place, clients=40)
    state = run.execute()
    said = statement(run, state)
    assert said["sampling"]["counted_against_outsiders"] is True  # type: ignore[index]
    assert said["epsilon_outsiders"] < said["epsilon_fellow_clients"]  # type: ignore[operator]


def test_a_sparse_graph_of_masks_adds_its_own_chance_of_failing_to_delta() -> None:
    said = {}
    for clients in (100, 300):
        recipe = parse_recipe(RECIPE, [*THRESHOLDS, *DISTRIBUTED, f"population.clients={clients}"])
        state = RunState(
            2, Plan(recipe, SCHEMA).encode(), np.zeros(60, np.float32), spent=(Spent(clients, clients),) * 2
        )
        said[clients] = privacy_statement(recipe, state, Circumstances(clients))["delta"]
    assert said[100] == 1e-5
    assert said[300] == 1e-5 + 2 * 2.0**-40
