"""The policy's judgement: every refusal and the request beside it that is accepted, and no by default."""

from __future__ import annotations

import math
from calendar import timegm
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from dp_accounting import dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.client.asked import CODES, Accept, Asked, Refuse, Used
from tacit.client.journal import AgentJournal
from tacit.client.policy import Policy
from tacit.privacy.filters import RenyiFilter, renyi_filter
from tacit.privacy.identity import Identity
from tacit.privacy.ledger import Ledger, open_ledger
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.records import Column, Entry, NoiseBy, Opening

RECIPE = "ab" * 32
OWN_CODE = "cd" * 32
OWNER = Identity.generate(SeededRandomness(bytes(32)), "owner")

GENEROUS: dict[str, dict[str, Any]] = {
    "approved": {
        "recipes": [RECIPE],
        "models": ["logistic"],
        "code": {"own.net:build": OWN_CODE},
        "statistics": ["examples"],
        "metrics": ["loss"],
    },
    "privacy": {
        "required_unit": "client",
        "min_noise_multiplier": 0.5,
        "epsilon_total": 8.0,
        "epsilon_per_run": 4.0,
        "accept_promised_noise": True,
        "promised_epsilon_total": 6.0,
        "promised_epsilon_per_run": 3.0,
    },
    "secure_aggregation": {"min_cohort": 10, "max_colluders": 2},
    "limits": {
        "max_rounds": 50,
        "max_participations": 20,
        "max_parameters": 1000,
        "max_local_epochs": 3,
        "max_local_steps": 100,
        "devices": ["cpu", "cuda"],
    },
}


def policy(**changes: Mapping[str, Any]) -> Policy:
    """Return the generous policy with keys changed, by table."""
    return Policy.model_validate(
        {table: {**keys, **changes.get(table, {})} for table, keys in GENEROUS.items()}
        | {table: keys for table, keys in changes.items() if table not in GENEROUS}
    )


def entry(round_number: int = 1, noise: float = 5.0, noise_by: NoiseBy = "own", run: str = "run-1") -> Entry:
    event = dp_event.GaussianDpEvent(noise)
    return Entry(run, round_number, 0, bytes(32), "Gaussian", event, 1e-5, noise_by)


ASKED = Asked(
    run="run-1",
    recipe=RECIPE,
    model="logistic",
    updates=True,
    unit="client",
    mode="real",
    min_cohort=10,
    colluders=2,
    rounds=50,
    parameters=1000,
    place="distributed",
    noise_multiplier=0.5,
    delta=1e-5,
    entries=(entry(),),
    statistics=frozenset({"examples"}),
    metrics=frozenset({"loss"}),
    local_epochs=3,
    device="cpu",
)
MONDAY_NOON = float(timegm((2026, 11, 23, 12, 0, 0)))


def code_of(answer: Accept | Refuse) -> str | None:
    return answer.code if isinstance(answer, Refuse) else None


def judged(asked: Asked, ours: Policy | None = None, used: Used | None = None, now: float = MONDAY_NOON) -> str | None:
    return code_of((ours or policy()).judge(asked, used or Used(), now))


def least_noise(budget: RenyiFilter) -> float:
    """Return the least noise multiplier of one Gaussian round that fits: `order / (2 z^2) <= limit`."""
    return math.sqrt(budget.order / (2.0 * budget.limit))


# One refusal each, and what is accepted right beside it ---------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is refused with a code, and what is accepted right beside it; all else is as in the generous policy."""

    code: str
    refused: Mapping[str, Any]
    accepted: Mapping[str, Any]
    policy: Mapping[str, Mapping[str, Any]] | None = None
    asked: Mapping[str, Any] | None = None


own_net = {"factory": "own.net:build", "model": "", "recipe": "00" * 32}
run_limit = least_noise(renyi_filter(4.0, 1e-5))
total_limit = least_noise(renyi_filter(8.0, 1e-5))
promised_limit = least_noise(renyi_filter(3.0, 1e-5))
one_total = {"privacy": {"epsilon_per_run": None}}

CASES = [
    Case("not-masked", {"mode": "elided"}, {"mode": "real"}),
    Case("not-masked", {"mode": "none"}, {"mode": "real"}),
    Case("cohort-floor", {"min_cohort": 9}, {"min_cohort": 10}),
    Case("colluders-floor", {"colluders": 1}, {"colluders": 2}),
    Case("graph", {"regular_graph": True}, {"regular_graph": False}),
    Case("recipe-not-approved", {"recipe": "00" * 32, "model": "cnn"}, {"model": "cnn"}),
    Case("recipe-not-approved", {"recipe": "00" * 32, "model": "cnn"}, {"recipe": "00" * 32}),
    Case("code-not-approved", {"code": "00" * 32}, {"code": OWN_CODE}, asked=own_net),
    Case("code-not-approved", {"code": None}, {"code": OWN_CODE}, asked=own_net),
    Case("code-not-approved", {"factory": "own.net:os.system"}, {}, asked={**own_net, "code": OWN_CODE}),
    Case("code-not-approved", {"factory": "other:f", "code": None}, {}),  # an approved recipe's digest is not enough
    Case("statistic-not-allowed", {"statistics": frozenset({"examples", "moments"})}, {"statistics": frozenset()}),
    Case("metric-not-allowed", {"metrics": frozenset({"loss", "accuracy"})}, {"metrics": frozenset()}),
    Case("evaluation-not-allowed", {"evaluates": "held-out"}, {"evaluates": None}),
    Case(
        "evaluation-not-allowed",
        {"evaluates": "all"},
        {"evaluates": "held-out"},
        {"approved": {**GENEROUS["approved"], "evaluations": ["held-out"]}},
    ),
    Case(  # that evaluations are allowed does not make an exact sum acceptable to who asks for noise
        "unit-none",
        {"evaluates": "held-out"},
        {"evaluates": "held-out", "unit": "client", "entries": (entry(),)},
        {"approved": {**GENEROUS["approved"], "evaluations": ["held-out"]}},
        {"unit": "none", "entries": ()},
    ),
    Case("unit-none", {}, {"unit": "client", "entries": (entry(),)}, asked={"unit": "none", "entries": ()}),
    Case("unit-other", {"unit": "example"}, {"unit": "client"}),
    Case("noise-place", {"place": "central"}, {"place": "local"}),
    Case("noise-place", {"place": None}, {"place": "distributed"}),
    Case("noise-floor", {"noise_multiplier": 0.4999}, {"noise_multiplier": 0.5}),
    Case("noise-floor", {"noise_multiplier": math.nan}, {"noise_multiplier": 0.5}),
    Case("noise-floor", {"noise_multiplier": None}, {"noise_multiplier": 0.5}),
    Case("delta-ceiling", {"delta": 1.1e-5}, {"delta": 1e-5}),
    Case("delta-ceiling", {"delta": math.nan}, {"delta": 1e-6}),
    Case("delta-ceiling", {"delta": None}, {"delta": 0.0}),
    Case("unaccountable", {"entries": ()}, {"entries": (entry(),)}),
    Case("unaccountable", {"entries": (replace(entry(), event=dp_event.LaplaceDpEvent(1.0)),)}, {}),
    Case("unaccountable", {"entries": (replace(entry(), event=dp_event.GaussianDpEvent(math.nan)),)}, {}),
    Case(
        "promised-noise",
        {"entries": (entry(noise_by="promised"),)},
        {"entries": (entry(noise_by="pinned"),)},
        {"privacy": {"accept_promised_noise": False}},
    ),
    Case("no-budget", {}, {"unit": "none"}, {"privacy": {"epsilon_total": None, "accept_unprotected": True}}),
    Case(
        "epsilon-run",
        {"entries": (entry(noise=run_limit * 0.999),)},
        {"entries": (entry(noise=run_limit * 1.001),)},
    ),
    Case(
        "epsilon-run",
        {"entries": (entry(noise_by="promised", noise=promised_limit * 0.999),)},
        {"entries": (entry(noise_by="promised", noise=promised_limit * 1.001),)},
    ),
    Case(
        "epsilon-total",
        {"entries": (entry(noise=total_limit * 0.999),)},
        {"entries": (entry(noise=total_limit * 1.001),)},
        one_total,
    ),
    Case("epsilon-total", {"entries": (replace(entry(), event=dp_event.NonPrivateDpEvent()),)}, {}),
    Case("rounds-limit", {"rounds": 51}, {"rounds": 50}),
    Case("parameters-limit", {"parameters": 1001}, {"parameters": 1000}),
    Case("local-work-limit", {"local_epochs": 4}, {"local_epochs": 3}),
    Case("local-work-limit", {"local_steps": 101}, {"local_steps": 100, "local_epochs": 99}),
    Case("device", {"device": "mps"}, {"device": "cuda:1"}),
    Case("device", {"device": "auto"}, {"device": "cpu"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_a_request_is_refused_on_one_side_of_a_bound_and_accepted_on_the_other(case: Case) -> None:
    ours, asked = policy(**case.policy or {}), replace(ASKED, **case.asked or {})
    answer = ours.judge(replace(asked, **case.refused), Used(), MONDAY_NOON)
    assert isinstance(answer, Refuse) and answer.code == case.code
    assert answer.reason.isprintable() and str(answer) == f"{case.code}: {answer.reason}"
    assert ours.judge(replace(asked, **case.accepted), Used(), MONDAY_NOON) == Accept()


def test_every_code_has_a_test() -> None:
    # Below, or with the agent's consent and caps: they depend on the time, the past, the owner's pause, or the machine.
    elsewhere = {"schedule", "participations-limit", "budget-spent", "paused", "memory-limit"}
    assert {case.code for case in CASES} | elsewhere == CODES.keys()


def test_a_refusal_has_a_code_that_coordinators_know() -> None:
    with pytest.raises(ValueError, match="is no code of a refusal"):
        Refuse("because", "of the weather")


def test_a_name_from_outside_stays_on_one_short_line() -> None:
    answer = policy().judge(replace(ASKED, factory="x\ny" + "z" * 1000), Used(), MONDAY_NOON)
    assert isinstance(answer, Refuse) and answer.reason.isprintable() and len(answer.reason) < 200


# No by default --------------------------------------------------------------------------------------------------------


def test_a_policy_that_says_nothing_refuses_everything() -> None:
    harmless = replace(ASKED, entries=(entry(noise=1e6),), statistics=frozenset(), metrics=frozenset(), rounds=1)
    assert judged(harmless, Policy()) == "recipe-not-approved"
    assert judged(replace(harmless, unit="none", entries=()), Policy()) == "recipe-not-approved"
    assert judged(replace(harmless, updates=False), Policy()) == "recipe-not-approved"


def test_an_approved_recipe_alone_still_grants_neither_privacy_nor_the_lack_of_it() -> None:
    approved = Policy.model_validate({"approved": {"recipes": [RECIPE]}})
    harmless = replace(ASKED, entries=(entry(noise=1e6),), statistics=frozenset(), metrics=frozenset())
    assert judged(harmless, approved) == "no-budget"
    assert judged(replace(harmless, unit="none", entries=()), approved) == "unit-none"
    assert approved.budgets("client") == {} == approved.budgets("example")


@pytest.mark.parametrize("table", ["approved", "privacy"])
def test_a_policy_with_a_table_left_out_refuses(table: str) -> None:
    assert judged(ASKED) is None
    rest = Policy.model_validate({name: keys for name, keys in GENEROUS.items() if name != table})
    assert judged(ASKED, rest) is not None


def test_a_run_without_protection_is_accepted_only_where_the_owner_says_so() -> None:
    unprotected = replace(ASKED, unit="none", place=None, noise_multiplier=None, delta=None, entries=())
    assert judged(unprotected) == "unit-none"
    assert judged(unprotected, policy(privacy={"accept_unprotected": True})) is None


def test_a_round_without_masks_is_accepted_only_where_the_owner_says_so() -> None:
    open_to_it = policy(secure_aggregation={"required": False})
    assert judged(replace(ASKED, mode="none", min_cohort=2, colluders=0), open_to_it) is None
    assert judged(replace(ASKED, mode="elided"), open_to_it) is None
    assert judged(replace(ASKED, mode="elided", min_cohort=9), open_to_it) == "cohort-floor"


def test_the_preparation_is_judged_by_its_statistics_and_by_the_promise_that_follows() -> None:
    preparation = replace(ASKED, updates=False, entries=(), noise_multiplier=None, parameters=0, metrics=frozenset())
    assert judged(preparation) is None
    assert judged(replace(preparation, statistics=frozenset({"moments"}))) == "statistic-not-allowed"
    assert judged(replace(preparation, unit="none")) == "unit-none"
    assert judged(replace(preparation, place="central")) == "noise-place"
    assert judged(replace(preparation, noise_multiplier=0.1)) == "noise-floor"
    assert judged(preparation, used=Used(participations=20)) is None


def test_a_member_takes_part_in_as_many_rounds_of_a_run_as_its_owner_says() -> None:
    assert judged(ASKED, used=Used(participations=19)) is None
    assert judged(ASKED, used=Used(participations=20)) == "participations-limit"


# The schedule ---------------------------------------------------------------------------------------------------------


def at(day: int, hour: int, minute: int = 0) -> float:
    """Return a moment of the week from Monday, 23 November 2026, in UTC."""
    return float(timegm((2026, 11, 23 + day, hour, minute, 0)))


@pytest.mark.parametrize(
    ("day", "hour", "minute", "works"),
    [(0, 8, 59, False), (0, 9, 0, True), (0, 16, 59, True), (0, 17, 0, False), (1, 12, 0, False), (2, 12, 0, True)],
)
def test_it_works_within_its_hours_on_its_days(day: int, hour: int, minute: int, works: bool) -> None:
    ours = policy(schedule={"weekdays": ["mon", "wed"], "from_hour_utc": 9, "until_hour_utc": 17})
    assert judged(ASKED, ours, now=at(day, hour, minute)) == (None if works else "schedule")


@pytest.mark.parametrize(
    ("day", "hour", "works"),
    [(0, 21, False), (0, 22, True), (1, 5, True), (1, 6, False), (1, 22, False), (2, 5, False), (0, 5, False)],
)
def test_a_night_belongs_to_the_day_that_it_began_on(day: int, hour: int, works: bool) -> None:
    ours = policy(schedule={"weekdays": ["mon"], "from_hour_utc": 22, "until_hour_utc": 6})
    assert judged(ASKED, ours, now=at(day, hour)) == (None if works else "schedule")


def test_a_schedule_without_a_day_never_works() -> None:
    ours = policy(schedule={"weekdays": []})
    assert all(judged(ASKED, ours, now=at(day, 12)) == "schedule" for day in range(7))


# Budgets --------------------------------------------------------------------------------------------------------------


def ledger_with(entries: Sequence[Entry], ours: Policy) -> Used:
    """Return what a ledger says that these entries were reserved in, asked for run-1."""
    ledger = AgentJournal.in_memory(OWNER).ledger("wards", "client", ours.budgets("client"))
    for one in entries:
        ledger.reserve([one])
    return Used(ledger.state, ledger.events_of("run-1"))


def test_budgets_become_the_filters_that_a_ledger_is_opened_with() -> None:
    assert policy().budgets("client") == {"assured": renyi_filter(8.0, 1e-5), "promised": renyi_filter(6.0, 1e-5)}
    for unit in ("client", "example"):  # each against the adjacency of its unit, or no ledger could be opened
        open_ledger(Opening(unit, "wards", policy().budgets(unit)), lambda message: bytes(64))  # type: ignore[arg-type]
    strict = policy(
        privacy={"accept_promised_noise": False, "promised_epsilon_total": None, "promised_epsilon_per_run": None}
    )
    assert strict.budgets("client").keys() == {"assured"}


def test_what_a_run_used_counts_against_the_run_and_what_others_used_against_the_total() -> None:
    thick = entry(noise=run_limit * 1.5)
    ours = policy()
    used = ledger_with([entry(7, run_limit * 1.5)], ours)
    assert judged(replace(ASKED, entries=(thick,)), ours) is None
    assert judged(replace(ASKED, entries=(thick,)), ours, used) is None  # 2 / 1.5^2 of the limit is less than 1
    assert judged(
        replace(ASKED, entries=(thick,)), ours, ledger_with([entry(n, run_limit * 1.5) for n in (7, 8)], ours)
    )
    others = ledger_with([entry(n, total_limit * 1.5, run=f"run-{n}") for n in (7, 8)], ours)
    assert others.run_events == {}
    half = replace(ASKED, entries=(entry(noise=run_limit * 1.1),))
    assert judged(half, ours) is None and judged(half, ours, others) == "epsilon-total"


def test_promised_and_assured_noise_have_budgets_apart() -> None:
    ours = policy()
    third = promised_limit * 1.5  # 1 / 1.5^2 of what a run may use: two fit, three do not
    one, two = (ledger_with([entry(n, third, "promised") for n in rounds], ours) for rounds in ((5,), (5, 6)))
    promised = replace(ASKED, entries=(entry(noise=third, noise_by="promised"),))
    assert judged(promised, ours, one) is None and judged(promised, ours, two) == "epsilon-run"
    assert judged(replace(ASKED, entries=(entry(noise=third, noise_by="own"),)), ours, two) is None
    both = replace(ASKED, entries=(entry(noise_by="own"), *promised.entries))
    assert judged(both, ours, one) is None and judged(both, ours, two) == "epsilon-run"


def test_a_policy_that_grants_less_than_the_ledger_has_is_obeyed() -> None:
    used = ledger_with([entry(n, 3.0, run=f"run-{n}") for n in (7, 8)], policy())
    assert used.ledger is not None
    budget = used.ledger.opening.budgets["assured"]
    after = budget.epsilon_of(used.ledger.committed("assured") + budget.spent([ASKED.entries[0].event]))
    assert after < 8.0 and judged(ASKED, policy(), used) is None
    assert judged(ASKED, policy(privacy={"epsilon_total": after * 1.001}), used) is None
    assert judged(ASKED, policy(privacy={"epsilon_total": after * 0.999}), used) == "epsilon-total"
    smaller_delta = policy(privacy={"epsilon_total": after * 1.001, "delta": 0.9e-5})
    assert judged(ASKED, smaller_delta, used) == "delta-ceiling"
    assert judged(replace(ASKED, delta=0.9e-5), smaller_delta, used) == "epsilon-total"
    assert judged(ASKED, policy(privacy={"epsilon_total": 1e-3}), used) == "epsilon-total"  # the order leaves nothing


def test_a_policy_that_grants_more_does_not_widen_the_ledger() -> None:
    used = ledger_with([entry(n, total_limit * 1.5, run=f"run-{n}") for n in (7, 8)], policy())
    more = policy(privacy={"epsilon_total": 100.0, "epsilon_per_run": 100.0})
    thick = replace(ASKED, entries=(entry(noise=total_limit * 1.5),))
    assert judged(thick, more) is None
    assert judged(thick, more, used) == "budget-spent"


def test_a_column_that_the_ledger_was_opened_without_is_granted_nothing_later() -> None:
    strict = policy(
        privacy={"accept_promised_noise": False, "promised_epsilon_total": None, "promised_epsilon_per_run": None}
    )
    assert (
        judged(replace(ASKED, entries=(entry(noise_by="promised"),)), policy(), ledger_with([], strict)) == "no-budget"
    )


def test_a_ledger_of_the_other_unit_pays_for_nothing() -> None:
    opening = Opening("example", "wards", policy().budgets("example"))
    ledger, _ = open_ledger(opening, lambda message: bytes(64))
    assert judged(ASKED, used=Used(ledger)) == "no-budget"


def test_an_event_that_cannot_be_looked_up_costs_what_its_parts_cost() -> None:
    composed = dp_event.ComposedDpEvent([dp_event.GaussianDpEvent(run_limit * 1.5)] * 2)
    assert judged(replace(ASKED, entries=(replace(entry(), event=composed),))) is None
    thicker = dp_event.SelfComposedDpEvent(composed, 2)
    assert judged(replace(ASKED, entries=(replace(entry(), event=thicker),))) == "epsilon-run"


noises = st.lists(st.floats(1.0, 30.0), min_size=1, max_size=30)


@given(noises)
@settings(deadline=None, max_examples=40)
def test_what_is_accepted_can_be_reserved_and_never_adds_up_to_more_than_was_granted(noises: list[float]) -> None:
    ours = policy()
    ledger = AgentJournal.in_memory(OWNER).ledger("wards", "client", ours.budgets("client"))
    accepted = []
    for number, noise in enumerate(noises, start=1):
        one = entry(number, noise)
        if judged(replace(ASKED, entries=(one,)), ours, Used(ledger.state, ledger.events_of("run-1"))) is None:
            ledger.reserve([one])
            accepted.append(one.event)
    # Canonne, Kamath, Steinke 2020, proposition 12, at the best order there is: the filter's can only be above it.
    rho = sum(0.5 / event.noise_multiplier**2 for event in accepted)
    epsilons = (
        a * rho + math.log1p(-1.0 / a) - math.log(1e-5 * a) / (a - 1.0)
        for a in (1.0 + 0.01 * n for n in range(1, 9999))
    )
    assert min(epsilons) <= 4.0


def test_the_policy_in_sentences_says_what_it_says() -> None:
    text = "\n".join(policy().explain())
    for said in (
        "epsilon 8 in all and 4 in one run",
        "at least 10 members",
        "model logistic",
        "epsilon 6 in all",
        "loss",
    ):
        assert said in text
    assert "It runs nothing" in "\n".join(Policy().explain())
    assert "promise nothing about anybody" in "\n".join(policy(privacy={"accept_unprotected": True}).explain())
    assert all(sentence.isprintable() and sentence.endswith(".") for sentence in policy().explain())


def test_pins_are_those_of_the_policy() -> None:
    key = OWNER.public_key
    pins = policy(secure_aggregation={"pinned_organisations": [key.hex()], "members_per_organisation": 3}).pins
    assert pins is not None and pins.organisation_keys == {key} and pins.members_per_organisation == 3
    assert policy().pins is None


def test_a_ledger_state_is_all_that_judgement_needs() -> None:
    # Pure: the same answer twice, and nothing changed in what it was given.
    used = ledger_with([entry(7)], policy())
    before: Ledger | None = used.ledger
    columns: Mapping[Column, Any] = dict(used.run_events)
    assert policy().judge(ASKED, used, MONDAY_NOON) == policy().judge(ASKED, used, MONDAY_NOON)
    assert used.ledger is before and used.run_events == columns
