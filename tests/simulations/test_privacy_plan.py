"""`tacit privacy plan`: its numbers are those that a run would spend, and it says so when a plan is hopeless."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from dp_accounting import NeighboringRelation, dp_event

from tacit.__main__ import run
from tacit.models.errors import InputError
from tacit.models.noise import noise_plan
from tacit.models.recipe import Recipe, parse_recipe
from tacit.models.spending import Spent, ledger_event, spent_costs
from tacit.models.zoo.catalogue import build
from tacit.privacy.accounting import cost, repeated
from tacit.privacy.calibration import with_spare
from tacit.privacy.errors import BudgetExceeded
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import Keystream
from tacit.privacy.skellam import draw_error
from tacit.privacy.terms import OBSERVERS
from tacit.server.budget import open_budget
from tacit.server.store import NewRun, RoundRecord, open_store
from tacit.simulations.cli.plan import plan as command
from tacit.simulations.privacy_plan import AfterRounds, PrivacyPlan, privacy_plan, rounds_to_show
from tacit.simulations.signal_to_noise import HOPELESS, expected_signal, summed_variance

LOGISTIC = 650  # parameters, for 8 x 8 pixels and ten classes
RECIPE = """
name = "planned"
[task]
kind = "image-classification"
[data]
source = "sklearn:digits"
[population]
clients = 50
[training]
rounds = 20
[privacy]
unit = "client"
"""
CENTRAL = ("privacy.noise=central", "privacy.epsilon_against=outsiders")
POISSON = (*CENTRAL, "training.sampling=poisson", "training.cohort=20")
EXAMPLE = ("privacy.unit=example", "privacy.sample_rate=0.05", "training.local_steps=5")
PLAIN = ("secure_aggregation.enabled=false",)
MULTIPLIER = "privacy.noise_multiplier=4"


def recipe(*overrides: str) -> Recipe:
    given = any(one.startswith(("privacy.epsilon=", "privacy.noise_multiplier=")) for one in overrides)
    return parse_recipe(RECIPE, [*overrides, *([] if given else ["privacy.epsilon=8"])])


def planned(*overrides: str, parameters: int = LOGISTIC, targets: tuple[float, ...] | None = ()) -> PrivacyPlan:
    given = recipe(*overrides)
    return privacy_plan(given, parameters, given.population.clients or 0, targets=targets)


# Epsilon by round


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("privacy.clip=adaptive",),
        ("training.cohort=10", "privacy.max_participations=3"),
        ("privacy.noise=local",),
        ("privacy.noise=local", *PLAIN, MULTIPLIER, "training.rounds=2"),
        (*CENTRAL, MULTIPLIER, "training.rounds=2"),
        pytest.param((*POISSON, MULTIPLIER, "training.rounds=3"), marks=pytest.mark.slow),
        ("privacy.noise_cohort=200",),
        pytest.param((*EXAMPLE, "privacy.noise_multiplier=1.5", "training.rounds=2"), marks=pytest.mark.slow),
    ],
    ids=lambda overrides: " ".join(overrides) or "distributed",
)
def test_the_last_rows_epsilons_are_those_of_a_statement_after_as_many_rounds(overrides: tuple[str, ...]) -> None:
    given = recipe(*overrides)
    made = planned(*overrides)
    last = made.by_round[-1]
    assert last.rounds == with_spare(given.training.rounds)
    # The run sees its own survivors, of whom each stands for several of a hypothetical cohort.
    fewest = made.min_survivors * made.cohort // (made.noise_cohort or made.cohort)
    costs = spent_costs(given, LOGISTIC, 50, last.rounds * [Spent(made.cohort, fewest)]).by_observer
    for observer in OBSERVERS:
        assert last.against(observer) == pytest.approx(costs[observer].epsilon, rel=1e-9), observer
    everybody = given.training.rounds * [Spent(made.cohort, made.cohort)]
    usual = spent_costs(given, LOGISTIC, 50, everybody).by_observer
    for observer in OBSERVERS:
        assert made.after_all_rounds.against(observer) == pytest.approx(usual[observer].epsilon, rel=1e-9)


def test_the_calibrated_noise_spends_its_target_at_the_horizon_and_not_before() -> None:
    made = planned()
    at = {point.rounds: point.coordinator for point in made.by_round}
    assert made.horizon == 22
    assert 8.0 * 0.999 < at[22] <= 8.0
    values = [point.coordinator for point in made.by_round]
    assert values == sorted(values) and values[-2] < 8.0
    assert made.after_all_rounds.coordinator < at[20]


def test_noise_that_the_coordinator_makes_bounds_nothing_against_it() -> None:
    made = planned(*CENTRAL, MULTIPLIER, "training.rounds=3")
    assert all(math.isinf(point.coordinator) for point in made.by_round)
    gaussian = repeated(dp_event.GaussianDpEvent(4.0), 4)
    assert made.by_round[-1].outsiders == pytest.approx(cost(gaussian, 1e-5).epsilon)


def test_poisson_cohorts_are_counted_for_outsiders_alone() -> None:
    made = planned(*POISSON, MULTIPLIER, "training.rounds=3")
    assert made.by_round[-1].outsiders < made.by_round[-1].fellow_clients
    assert "0.4" in made.amplified_because
    assert planned(MULTIPLIER, "training.sampling=poisson", "training.cohort=20").amplified_because == ""


def test_one_example_costs_the_same_against_everybody() -> None:
    made = planned(*EXAMPLE, "privacy.noise_multiplier=1.5", "training.rounds=2")
    step = dp_event.PoissonSampledDpEvent(0.05, dp_event.GaussianDpEvent(1.5))
    expected = cost(repeated(step, 3 * 5), 1e-5, NeighboringRelation.ADD_OR_REMOVE_ONE).epsilon
    last = made.by_round[-1]
    assert last == AfterRounds(3, last.outsiders, last.outsiders, last.outsiders)
    assert last.outsiders == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("last", [1, 2, 29, 30, 31, 5000])
def test_few_rounds_are_shown_and_the_ones_that_matter_are_among_them(last: int) -> None:
    shown = rounds_to_show(last, 30, (7, last + 1))
    assert list(shown) == sorted(set(shown))
    assert {1, last} <= set(shown) and max(shown) == last and min(shown) == 1
    assert (7 in shown) == (last >= 7)
    assert len(shown) <= 31
    assert rounds_to_show(last, 1)[-1] == last


# Noise for a target


def test_the_noise_for_a_target_meets_it_and_one_percent_less_does_not() -> None:
    for one in planned(targets=(2.0, 4.0, 16.0)).targets:
        assert one.noise_multiplier is not None

        def spent(share: float, noise: float = one.noise_multiplier) -> float:
            given = recipe(f"privacy.noise_multiplier={share * noise}")
            return spent_costs(given, LOGISTIC, 50, 22 * [Spent(50, 40)]).by_observer["coordinator"].epsilon

        assert spent(1.0) <= one.epsilon * (1 + 1e-9)
        assert spent(0.99) > one.epsilon


def test_the_recipes_own_target_is_always_among_the_targets_with_its_own_noise() -> None:
    made = planned(targets=(4.0,))
    assert [one.epsilon for one in made.targets] == [4.0, 8.0]
    assert made.targets[-1].noise_multiplier == made.noise_multiplier
    assert made.targets[-1].signal == made.signal
    assert [one.epsilon for one in planned(MULTIPLIER, targets=(4.0,)).targets] == [4.0]


def test_a_target_that_no_noise_keeps_says_why() -> None:
    impossible = planned(targets=(0.01,)).targets[0]
    assert impossible.noise_multiplier is None and impossible.signal is None
    assert impossible.impossible_because


# The end of the budget


def rounds_paid(given: Recipe, tmp_path: Path, survivors: int) -> int:
    """Reserve and settle rounds in a real ledger until it refuses one."""
    plan = noise_plan(given, LOGISTIC, 50, 50)
    with open_store(str(tmp_path / "ledger.db")) as store:
        store.create_run(NewRun("r", given.name, given.task.kind, "", "a" * 64, "runs/r"))
        budget = open_budget(store, given, "r", LOGISTIC, 50, Identity(bytes(32)))
        for number in range(1, 200):
            try:
                key = budget.reserve(plan, number, 0, bytes(32))
            except BudgetExceeded:
                return number - 1
            line = budget.accounts.settle(key, ledger_event(plan, survivors))
            store.commit_round("r", RoundRecord(number, 0, "committed", 1.0), ledger=[line])
            budget.accounts.committed(line)
    raise AssertionError("the budget never ended")


@pytest.mark.parametrize("overrides", [(), ("population.epsilon_budget=6",)])
def test_the_budget_ends_where_the_ledger_refuses_a_round(overrides: tuple[str, ...], tmp_path: Path) -> None:
    made = planned(*overrides)
    given = recipe(*overrides)
    (tmp_path / "a").mkdir()
    assert made.budget.last_round == rounds_paid(given, tmp_path, made.min_survivors)
    assert made.budget.last_round_if_all_survive == rounds_paid(given, tmp_path / "a", made.cohort)
    assert made.budget.last_round < made.budget.last_round_if_all_survive


def test_a_budget_that_ends_early_is_warned_of_with_the_one_that_would_do() -> None:
    made = planned("population.epsilon_budget=6")
    assert made.budget.granted_by == "population.epsilon_budget"
    (warning,) = made.warnings
    assert f"after round {made.budget.last_round} of 20" in warning
    enough = math.ceil(made.budget.epsilon_for_all_rounds * 100) / 100
    assert f"{enough:g}" in warning
    after = planned(f"population.epsilon_budget={enough}")
    assert after.budget.last_round >= 22 and after.warnings == ()


def test_a_budget_that_pays_for_no_round_is_refused_with_one_that_does() -> None:
    with pytest.raises(InputError, match=r"epsilon_budget: 1 does not pay for one round.*8\.08 for all"):
        planned("population.epsilon_budget=1")


@pytest.mark.parametrize("epsilon", [60, 100, 1e6])
def test_a_budget_that_no_noise_could_vouch_for_is_refused_with_the_largest_that_one_could(epsilon: float) -> None:
    """Not as one that is too small, which it looks like to a stop rule that lets nothing through."""
    with pytest.raises(
        InputError, match=r"epsilon_budget: .* grows with e\^epsilon; at most (?P<most>[\d.]+)"
    ) as caught:
        planned(f"population.epsilon_budget={epsilon}")
    most = float(str(caught.value).rpartition(" ")[2])
    assert planned(f"population.epsilon_budget={most}").budget.last_round >= 20
    # Beyond it the promise of all rounds would take more than its share of delta, derived from the draws alone.
    plan = noise_plan(recipe(), LOGISTIC, 50, 50)
    assert plan.bound is not None
    shares = plan.min_survivors - plan.colluders
    erred = with_spare(20) * shares * plan.bound.dimension * draw_error(plan.share_variance)
    assert most == pytest.approx(math.log(0.01 * 1e-5 / erred), abs=0.011)


def test_clients_that_may_take_part_too_seldom_are_warned_of() -> None:
    made = planned("privacy.max_participations=5")
    assert made.last_round_by_participation == made.horizon == 6
    assert "after round 6 of 20" in " ".join(made.warnings)
    assert planned("privacy.max_participations=5", "training.cohort=10").warnings == ()


# Signal to noise


@pytest.mark.parametrize(
    "overrides",
    [CENTRAL, (*CENTRAL, *PLAIN), (*POISSON, "privacy.noise_cohort=200")],
    ids=["masked", "plain", "hypothetical"],
)
def test_the_noise_that_is_compared_with_is_the_one_that_the_coordinator_adds(overrides: tuple[str, ...]) -> None:
    given = recipe(*overrides, MULTIPLIER)
    plan = noise_plan(given, 20_000, given.training.cohort or 50, 50)
    zeros = {"update": np.zeros(20_000)}
    noise = plan.central(zeros, Keystream(bytes(32)))["update"]
    scale = 1.0 if plan.layout is None else next(b.scale for b in plan.layout.blocks if b.name == "update")
    # The standard deviation of 20,000 draws is within 2.5 percent of the true one, five sigma.
    assert noise.std() == pytest.approx(math.sqrt(summed_variance(plan)) / scale, rel=0.025)


@pytest.mark.parametrize("overrides", [(), ("privacy.noise=local",), ("privacy.noise=local", *PLAIN)])
def test_the_noise_that_is_compared_with_is_the_one_that_clients_add(overrides: tuple[str, ...]) -> None:
    plan = noise_plan(recipe(*overrides, MULTIPLIER), 4096, 50, 50)
    zeros = np.zeros(4096, dtype=np.float32)
    if plan.layout is None:
        sent = [plan.release(zeros, Keystream(bytes([n]) * 32)).astype(float) for n in range(50)]
    else:
        words = [(Keystream(bytes([n]) * 32), Keystream(bytes([n + 50]) * 32)) for n in range(50)]
        sent = [plan.integers(zeros, bytes(32), *pair).astype(float) for pair in words]
    # 4,096 draws: five and a half percent are five sigma.
    assert np.sum(sent, axis=0).std() == pytest.approx(math.sqrt(summed_variance(plan)), rel=0.055)


def test_the_ratio_is_the_length_of_the_sum_over_that_of_its_noise_whatever_the_clip() -> None:
    made = planned()
    # Forty survivors of whom five collude make the noise that counts; all fifty make it.
    deviation = made.noise_multiplier * math.sqrt(50 / (40 - 5))
    assert made.signal.aligned == pytest.approx(50 / (math.sqrt(LOGISTIC) * deviation), rel=0.01)
    assert made.signal.orthogonal == pytest.approx(made.signal.aligned / math.sqrt(50))
    assert planned("privacy.clip=0.1").signal.aligned == pytest.approx(made.signal.aligned)


def test_a_hypothetical_cohort_has_the_ratio_of_a_real_one_of_its_size() -> None:
    hypothetical = planned("privacy.noise_cohort=200")
    real = planned("population.clients=200")
    assert hypothetical.noise_multiplier == real.noise_multiplier
    assert hypothetical.signal.aligned == pytest.approx(real.signal.aligned)
    assert hypothetical.hypothetical and hypothetical.warnings[0].startswith("HYPOTHETICAL")
    assert not real.hypothetical and real.warnings == ()


def test_private_steps_are_compared_by_their_summed_gradients() -> None:
    given = recipe(*EXAMPLE, "privacy.noise_multiplier=1.5")
    signal = expected_signal(noise_plan(given, LOGISTIC, 50, 50), LOGISTIC, 40.0)
    # 50 clients with 5 steps of 40 examples each, against 250 times the variance of one step.
    assert signal.aligned == pytest.approx(250 * 40 / math.sqrt(250 * LOGISTIC * 1.5**2))
    assert signal.orthogonal == pytest.approx(math.sqrt(250 * 40) / math.sqrt(250 * LOGISTIC * 1.5**2))


def test_a_small_model_at_fifty_clients_is_not_called_hopeless() -> None:
    made = planned()
    assert made.signal.aligned > HOPELESS and made.warnings == ()


def test_a_network_with_twenty_clients_is_called_hopeless_and_what_would_do_does() -> None:
    parameters = sum(each.numel() for each in build("cnn", (1, 28, 28), 10, {}).parameters())
    made = planned("population.clients=20", parameters=parameters)
    assert made.signal.hopeless
    (warning,) = made.warnings
    assert "the noise drowns the signal" in warning
    assert "more clients, a larger epsilon or a smaller model" in warning
    clients, fewer = (
        int(found.replace(",", "")) for found in re.findall(r"[\d,]+(?= (?:clients|parameters))", warning)
    )
    assert not planned(f"population.clients={clients + 5}", parameters=parameters).signal.hopeless
    assert not planned("population.clients=20", parameters=round(0.98 * fewer)).signal.hopeless


def test_an_epsilon_that_bounds_next_to_nothing_is_warned_of() -> None:
    assert "hardly a promise" in planned("privacy.epsilon=40").warnings[0]


def test_a_size_that_is_not_known_is_said_to_be_a_least_one() -> None:
    given = recipe()
    made = privacy_plan(given, LOGISTIC, 50, parameters_are_exact=False, targets=())
    assert "at least 650 parameters" in made.warnings[0]


# The command

Invoke = Callable[..., Result]

KEYS = {
    "recipe",
    "unit",
    "place",
    "mechanism",
    "hypothetical",
    "noise_cohort",
    "clients",
    "cohort",
    "min_survivors",
    "colluders",
    "parameters",
    "parameters_are_exact",
    "l2_clip",
    "clip_adapts",
    "delta",
    "noise_multiplier",
    "target_epsilon",
    "target_against",
    "rounds",
    "horizon",
    "last_round_by_participation",
    "sampling",
    "sampling_rate",
    "amplified_because",
    "accountant",
    "by_round",
    "after_all_rounds",
    "budget",
    "signal",
    "targets",
    "warnings",
}


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return lambda *arguments: CliRunner().invoke(command, ["recipe.toml", *arguments])


def test_the_command_prints_tables_and_writes_a_picture(invoke: Invoke, tmp_path: Path) -> None:
    found = invoke("--set", "privacy.epsilon=8", "--targets", "4")
    assert found.exit_code == 0, found.output
    picture = tmp_path / "planned-privacy-plan.png"
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "plot  planned-privacy-plan.png\n" in found.stdout
    rows = [line.split() for line in found.stdout.splitlines()]
    assert ["22", "8.000", "8.000", "8.000"] in rows
    assert "warning" not in found.output and "HYPOTHETICAL" not in found.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["planned-privacy-plan.png", "recipe.toml"]
    again = invoke("--set", "privacy.epsilon=8", "--targets", "4")
    assert "plot  planned-privacy-plan.png (replaced)" in again.stdout


def test_the_same_plan_gives_the_same_picture(invoke: Invoke, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        assert invoke("--set", "privacy.epsilon=8", "--out", name).exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_a_program_reads_has_stable_keys(invoke: Invoke) -> None:
    settings = _each("--set", ("privacy.noise_multiplier=4", "privacy.noise=central", "training.rounds=2"))
    printed = json.loads(invoke(*settings, "--targets", "8", "--format", "json").stdout)
    assert printed.keys() == {"plan", "plot"}
    assert printed["plan"].keys() == KEYS
    assert printed["plan"]["by_round"][0].keys() == {"rounds", "coordinator", "fellow_clients", "outsiders"}
    assert printed["plan"]["by_round"][0]["coordinator"] is None
    assert printed["plan"]["budget"].keys() == {
        "granted_by",
        "epsilon",
        "last_round",
        "last_round_if_all_survive",
        "epsilon_for_all_rounds",
    }
    assert printed["plan"]["targets"][0].keys() == {"epsilon", "noise_multiplier", "signal", "impossible_because"}
    assert printed["plan"]["signal"].keys() == {"aligned", "orthogonal"}


def _each(option: str, values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in (option, value)]


def test_a_hopeless_plan_is_said_to_be_one(invoke: Invoke) -> None:
    found = invoke(*_each("--set", ("privacy.epsilon=8", "population.clients=20", "model.name=cnn")))
    assert found.exit_code == 0
    assert "the noise drowns the signal: " in found.stderr
    assert "hopeless" in found.stdout


def test_a_hypothetical_plan_says_so_over_every_table(invoke: Invoke) -> None:
    found = invoke(*_each("--set", ("privacy.epsilon=8", "privacy.noise_cohort=200")), "--targets", "8")
    headings = [line for line in found.stdout.splitlines() if line.startswith(("plan", "HYPOTHETICAL", "epsilon at"))]
    assert len(headings) == 3 and all("HYPOTHETICAL" in line for line in headings)
    assert "warning: HYPOTHETICAL" in found.stderr


def test_a_recipe_without_a_promise_is_told_which_keys_to_add(invoke: Invoke, tmp_path: Path) -> None:
    found = invoke("--set", "privacy.unit=none")
    assert found.exit_code == 0
    assert "nothing is promised" in found.stdout
    section = found.stdout.partition("[privacy]")[2]
    parse_recipe(RECIPE.partition("[privacy]")[0] + "[privacy]" + section)
    told = json.loads(invoke("--set", "privacy.unit=none", "--format", "json").stdout)
    assert told["plan"] is None and told["add"]["privacy"]["unit"] == "client"
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("privacy.epsilon=8", "population.clients=3"), "3 clients"),
        (("privacy.epsilon=0.001",), "a larger epsilon"),
        (("privacy.epsilon=8", "population.epsilon_budget=1"), "does not pay for one round"),
        (("privacy.epsilon=8", "model.name=cnm"), "cnn"),
    ],
)
def test_what_cannot_be_planned_exits_2_and_names_what_to_change(
    settings: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    assert run(["privacy", "plan", "recipe.toml", *_each("--set", settings)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize("targets", ["", "1,", "x", "0", "-1", "inf", "nan"])
def test_targets_are_positive_numbers(targets: str, invoke: Invoke) -> None:
    found = invoke("--set", "privacy.epsilon=8", "--targets", targets)
    assert found.exit_code == 2 and "positive number" in found.output


def test_the_picture_must_be_a_png(invoke: Invoke) -> None:
    found = invoke("--set", "privacy.epsilon=8", "--out", "plan.pdf")
    assert isinstance(found.exception, InputError) and ".png" in str(found.exception)
