"""An evaluation of a registered model: what the members' own rows say, as a sum, and nothing else of any of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tacit.models.errors import InputError
from tacit.models.evaluation_shares import SHARES
from tacit.models.evaluation_sums import CONFUSION, evaluation_layout
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import Plan, decode_plan
from tacit.models.recipe import parse_recipe
from tacit.models.spending import Spent
from tacit.privacy.secagg.layout import bits_for
from tacit.server.attempts import RunFailed
from tacit.server.checkpoints import Checkpoints, RunState
from tacit.server.cli.model import model
from tacit.server.evaluation import CentralEvaluator
from tacit.server.evaluation_release import noise_deviations
from tacit.server.federated_evaluation import EvaluationRun, figures_of
from tacit.server.population_ledger import read_ledger
from tacit.server.registry import Registry
from tacit.server.signed_statement import check_statement
from tacit.server.statement import Circumstances, privacy_statement
from tacit.server.store import open_store
from tacit.simulations import simulate

from .masked import PHASES, Masked, Memory, names, silent, some_rows
from .test_phase_recovery import Federation as Recovering
from .test_phase_recovery import Killed as KilledCoordinator
from .test_phase_recovery import spent

ONLY = ("evaluation.only=true", "evaluation.rows=all", "model.init=registry:r@latest", "training.learning_rate=0.05")
WITHOUT = ("training.rounds=1",)


@pytest.fixture(scope="module")
def trained() -> tuple[Plan, np.ndarray]:
    """Return the plan and the vector that two rounds over ten members ended with."""
    state = Masked(["secure_aggregation.mode=elided"]).execute()
    return decode_plan(state.plan), state.vector


def federation(*overrides: str, **how: Any) -> Masked:
    return Masked([*ONLY, *WITHOUT, *overrides], **how)


def evaluated(masked: Masked, trained: tuple[Plan, np.ndarray], **changes: Any) -> RunState:
    plan, vector = trained
    evaluates = Plan(masked.recipe, plan.schema, plan.features, plan.architecture, target_mean=0.0, mean_examples=1.0)
    return masked.execute(kind=EvaluationRun, plan=evaluates, initial=vector.copy(), **changes)


def test_the_figures_are_those_of_all_rows_together_and_the_model_stays_as_it_was(
    trained: tuple[Plan, np.ndarray],
) -> None:
    masked = federation()
    state = evaluated(masked, trained)
    central = CentralEvaluator(some_rows(300))(trained[0], trained[1])
    found = figures_of(state)
    assert found.keys() == central.keys()
    for name, value in central.items():
        assert found[name] == pytest.approx(value, abs=2e-6), name
    assert state.round == 1 and state.vector.tobytes() == trained[1].tobytes()
    assert dict(masked.report(1).metrics) == found


def test_with_and_without_masks_the_same_integers_are_added_up(trained: tuple[Plan, np.ndarray]) -> None:
    real = evaluated(federation(), trained)
    elided = evaluated(federation("secure_aggregation.mode=elided"), trained)
    assert {name: values.tobytes() for name, values in real.sums.items()} == {
        name: values.tobytes() for name, values in elided.sums.items()
    }


def test_nothing_leaves_but_the_protocol_and_one_masked_vector(trained: tuple[Plan, np.ndarray]) -> None:
    masked = federation()
    evaluated(masked, trained)
    assert {sent.action for sent in masked.sent} == {*PHASES, "receipt"}
    vectors = [(sent.action, name) for sent in masked.sent for name in sent.arrays]
    assert vectors == [("mask", "masked")] * 10
    layout = evaluation_layout(trained[0])
    width = {16: 2, 24: 3, 32: 4}[bits_for(layout, 10)]
    for sent in masked.sent:
        for _, data in sent.arrays.values():
            assert len(data) >= width * layout.dimension
        assert b"confusion" not in sent.header


def test_members_that_drop_out_are_not_in_the_figures(trained: tuple[Plan, np.ndarray]) -> None:
    masked = federation(vanish=silent(("advertise", 9), ("mask", 4)))
    state = evaluated(masked, trained)
    sizes = [len(part) for part in parts()]
    assert int(state.sums[CONFUSION].sum()) == sum(sizes) - sizes[9] - sizes[4]
    assert {name for name, (outcome, _) in masked.outcomes(1).items() if outcome != "reported"} == names([4, 9])


def parts() -> list[np.ndarray]:
    ends = np.cumsum(np.arange(1, 11)) * 300 // 55
    return np.split(np.arange(300), ends[:-1])


def test_a_member_that_lies_about_its_counts_is_found_out_where_no_rows_could_have_them(
    trained: tuple[Plan, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tacit.client.contribution as contribution

    honest, asked = contribution.evaluation_values, []

    def one_lies(*args: Any) -> Any:
        values = dict(honest(*args))
        asked.append(values)
        if len(asked) == 1:
            values[CONFUSION] = values[CONFUSION] + 1e6
        return values

    monkeypatch.setattr(contribution, "evaluation_values", one_lies)
    masked = federation()
    with pytest.raises(RunFailed, match="the summed counts: contradict each other"):
        evaluated(masked, trained)
    assert not masked.report(1).committed and "contradict" in masked.report(1).reason


def test_no_member_is_asked_for_its_counts_twice(trained: tuple[Plan, np.ndarray]) -> None:
    # Seven inputs have left when too few answer the next exchange; three others are not enough for another sum.
    gone = [("mask", client) for client in (7, 8, 9)] + [("unmask", client) for client in range(7)]
    masked = federation(vanish=silent(*gone))
    with pytest.raises(RunFailed, match="the evaluation failed after counts had left"):
        evaluated(masked, trained)
    asked = [sent.client for sent in masked.sent if sent.action == "mask"]
    assert len(asked) == len(set(asked))


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_an_evaluation_killed_at_some_moment_ends_as_if_it_had_not_been(trained: tuple[Plan, np.ndarray]) -> None:
    expected = evaluated(federation(), trained)

    def run(memory: Memory, dies_at: int) -> tuple[RunState | None, int]:
        moments = 0

        def handler(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
            nonlocal moments
            moments += 1
            if moments == dies_at:
                raise Killed
            return agent(instruction)

        try:
            return evaluated(federation(handler=handler, recorder=memory), trained), moments
        except Killed:
            return None, moments

    _, moments = run(Memory(), 0)
    assert moments > 50
    for at in range(1, moments + 1, 9):
        memory = Memory()
        assert run(memory, at)[0] is None
        state, _ = run(memory, 0)
        assert state is not None
        assert state.sums.keys() == expected.sums.keys()
        assert all((state.sums[name] == values).all() for name, values in expected.sums.items())


def test_a_checkpoint_keeps_the_sums_to_the_last_bit(trained: tuple[Plan, np.ndarray], tmp_path: Path) -> None:
    state = evaluated(federation("secure_aggregation.mode=elided"), trained)
    checkpoints = Checkpoints(tmp_path)
    again = checkpoints.read(checkpoints.write(state))
    assert {name: values.tobytes() for name, values in again.sums.items()} == {
        name: values.tobytes() for name, values in state.sums.items()
    }
    assert figures_of(again) == figures_of(state)


# Under a promise ------------------------------------------------------------------------------------------------------

PROMISED = ("privacy.unit=client", "privacy.noise_multiplier=1.0")


def promised(trained: tuple[Plan, np.ndarray], *overrides: str, **how: Any) -> tuple[Masked, RunState]:
    masked = federation(*PROMISED, *overrides, **how)
    return masked, evaluated(masked, trained)


def test_a_promise_is_kept_by_noise_that_members_make_and_paid_for_once(trained: tuple[Plan, np.ndarray]) -> None:
    masked, state = promised(trained)
    assert state.spent == (Spent(10, 10),) and set(state.taken.values()) == {1}
    ledger = read_ledger(masked.store, "run/run", "client")
    assert ledger is not None and len(ledger.settled - ledger.voided) == 1 and not ledger.waiting
    epsilon = ledger.epsilon_committed("assured")
    statement = privacy_statement(masked.recipe, state, Circumstances(10))
    assert 0 < statement["epsilon"] <= epsilon * 1.05
    assert "share counted or was zero" in statement["sentence"]
    assert state.vector.tobytes() == trained[1].tobytes()
    # Two values of each member left, and nothing about how many rows there are.
    assert {name: values.shape for name, values in state.sums.items()} == {SHARES: (2,)}
    assert set(figures_of(state)) == {"member_loss", "member_accuracy"}


def test_the_noised_figures_lie_around_the_members_own_as_far_as_is_said(trained: tuple[Plan, np.ndarray]) -> None:
    own = [CentralEvaluator(some_rows(300).take(part))(*trained)["accuracy"] for part in parts()]
    drawn, said = [], 0.0
    for seed in range(24):
        mode = "secure_aggregation.mode=elided"
        masked, state = promised(trained, mode, seed=bytes([seed]) * 32, name=f"run-{seed}")
        drawn.append(float(state.sums[SHARES][0]))
        said = noise_deviations(masked.recipe, state, 10, 10)["member_accuracy"]
    # 24 draws: their mean within four standard errors, their deviation within a factor that chance leaves below 1e-4.
    assert abs(np.mean(drawn) - np.mean(own)) < 4 * said / math.sqrt(24)
    assert 0.5 * said < np.std(drawn) < 1.6 * said


def test_a_run_that_cannot_pay_for_an_evaluation_fails_and_asks_nobody(trained: tuple[Plan, np.ndarray]) -> None:
    masked = federation(*PROMISED, "population.ledger=wards", "population.epsilon_budget=0.5")
    with pytest.raises(RunFailed, match="the privacy budget is spent"):
        evaluated(masked, trained)
    assert not [sent for sent in masked.sent if sent.action == "mask"]


@pytest.mark.parametrize("overrides", [(), PROMISED])
def test_a_coordinator_killed_in_any_phase_of_an_evaluation_goes_on_there(
    overrides: tuple[str, ...], trained: tuple[Plan, np.ndarray], tmp_path: Path
) -> None:
    settings = [*ONLY, *WITHOUT, *overrides, "secure_aggregation.min_cohort=4", "secure_aggregation.dropout=0.3"]

    def begun(name: str) -> Recovering:
        federation = Recovering(tmp_path / name, settings)
        plan = trained[0]
        evaluates = Plan(federation.members.recipe, plan.schema, plan.features, plan.architecture)
        federation.members.execute = partial(  # type: ignore[method-assign]
            federation.members.execute, kind=EvaluationRun, plan=evaluates, initial=trained[1].copy()
        )
        return federation

    straight = begun("straight")
    expected = straight.coordinate()
    moments = straight.moment.moments  # type: ignore[attr-defined]
    assert moments > 50
    for at in range(2, moments + 1, 11):
        federation = begun(f"killed-{at}")
        with pytest.raises(KilledCoordinator):
            federation.coordinate(at)
        state = federation.coordinate()
        assert {name: values.tobytes() for name, values in state.sums.items()} == {
            name: values.tobytes() for name, values in expected.sums.items()
        }
        assert federation.history() == straight.history() and spent(federation.store) == spent(straight.store)
        assert all(len(answers) == 1 for answers in federation.answers.values())


# Whole simulations ----------------------------------------------------------------------------------------------------

TRAIN = """
name = "wines"
seed = 3
[task]
kind = "tabular-classification"
[data]
source = "sklearn:wine"
test = "per-client"
[population]
clients = 8
[training]
rounds = 3
learning_rate = 0.1
[evaluation]
validation = 0.0
"""
EVALUATE = """
name = "how-good"
seed = 3
[task]
kind = "tabular-classification"
[data]
source = "sklearn:wine"
test = "per-client"
[population]
clients = 8
[model]
init = "registry:wines@latest"
[evaluation]
only = true
validation = 0.0
"""


FLATTERED = "The figures may be of rows that the model was trained on"


@pytest.fixture
def out(home: Path, tmp_path: Path) -> Path:
    """Return a folder whose name no other run of the shared database has."""
    return home / tmp_path.name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("home")
    threads = torch.get_num_threads()
    simulate(parse_recipe(TRAIN), out=path / "train", **places(path))
    torch.set_num_threads(threads)
    return path


def places(home: Path) -> dict[str, Any]:
    return {"db": str(home / "tacit.db"), "models": home / "models", "key": home / "key"}


def test_a_simulated_evaluation_leaves_figures_and_registers_nothing(home: Path) -> None:
    finished = simulate(parse_recipe(EVALUATE), out=home / "figures", **places(home))
    training = json.loads((home / "train" / "per_client.json").read_text())
    # Each member's held-out rows are those that were held out when the model was trained.
    held_out = sum(one["examples"] for one in training["clients"].values())
    right = sum(one["examples"] * one["accuracy"] for one in training["clients"].values())
    assert finished.metrics["accuracy"] == pytest.approx(right / held_out, abs=1e-6)
    figures = json.loads((home / "figures" / "evaluation.json").read_text())
    assert figures["rows"] == held_out == sum(map(sum, figures["confusion"])) and figures["members"] == 8
    assert figures["metrics"] == dict(finished.metrics)
    with open_store(str(home / "tacit.db"), create=False) as store:
        assert [model.name for model in store.list_models()] == ["wines"]
        assert len(store.list_versions("wines")) == 1
        run = store.get_run("figures")
        assert run.status == "finished" and run.rounds_committed == 1
        assert run.summary is not None and run.summary["model"] == figures["model"]
        assert read_ledger(store, "run/figures", "client") is None
    with open_store(str(home / "tacit.db"), create=False) as store:
        registry = Registry(store, home / "models")
        assert [run.run for run in registry.evaluations(registry.find("wines@1"))] == ["figures"]
    shown = CliRunner().invoke(
        model, ["show", "wines@1", "--db", str(home / "tacit.db"), "--models", str(home / "models"), "--format", "json"]
    )
    (listed,) = json.loads(shown.output)["evaluations"]
    assert listed["run"] == "figures" and listed["metrics"] == dict(finished.metrics)
    assert finished.summary["evaluation"] == {"rows": "held-out", "counted_rows": held_out, "members": 8}
    page = (home / "figures" / "evaluation.md").read_text()
    assert "# Evaluation of wines version 1" in page and f"{finished.metrics['accuracy']:.4f}" in page
    statement = json.loads((home / "figures" / "privacy.json").read_text())
    check_statement(statement)
    assert statement["unit"] == "none" and statement["epsilon"] is None
    assert "held out in the same way when the model was trained" in statement["sentence"]
    assert statement["sentence"] in page
    assert not (home / "figures" / "model").exists() and not (home / "figures" / ".run-seed").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("evaluation.rows=all",),
            "also those that it trains on. The figures may be of rows that the model was trained on",
        ),
        (("seed=4",), "not as when the model was trained. The figures may be of rows that the model was trained on"),
        (("population.clients=7",), "The figures may be of rows that the model was trained on"),
    ],
)
def test_the_statement_says_so_where_rows_may_have_been_trained_on(
    overrides: tuple[str, ...], said: str, home: Path, out: Path
) -> None:
    finished = simulate(parse_recipe(EVALUATE, overrides), out=out, **places(home))
    statement = json.loads((finished.directory / "privacy.json").read_text())
    assert said in statement["sentence"] and said in finished.report.read_text()


def test_an_evaluation_that_was_interrupted_goes_on_with_the_version_it_began_with(home: Path, out: Path) -> None:
    recipe = parse_recipe(EVALUATE, ["name=later", "model.init=registry:moving@latest"])
    moving = parse_recipe(TRAIN, ["name=moving", "training.rounds=1"])
    simulate(moving, out=out.parent / f"{out.name}-first", **places(home))

    def interrupt(report: Any) -> None:
        if report.number == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(recipe, out=out, on_round=interrupt, **places(home))
    simulate(
        parse_recipe(TRAIN, ["name=moving", "training.rounds=2"]), out=out.parent / f"{out.name}-second", **places(home)
    )
    finished = simulate(recipe, out=out, resume=True, **places(home))
    assert finished.summary["model"]["version"] == 1
    again = simulate(recipe, out=out.parent / f"{out.name}-again", **places(home))
    assert again.summary["model"]["version"] == 2


def test_a_regression_is_evaluated_too(home: Path, out: Path) -> None:
    kind = ["task.kind=tabular-regression", "data.source=sklearn:diabetes"]
    simulate(parse_recipe(TRAIN, [*kind, "name=sugar"]), out=out.parent / f"{out.name}-train", **places(home))
    recipe = parse_recipe(EVALUATE, [*kind, "model.init=registry:sugar@latest"])
    finished = simulate(recipe, out=out, **places(home))
    training = json.loads((out.parent / f"{out.name}-train" / "per_client.json").read_text())["clients"].values()
    rows = sum(one["examples"] for one in training)
    assert finished.metrics["mae"] == pytest.approx(
        sum(one["examples"] * one["mae"] for one in training) / rows, rel=1e-6
    )
    squares = sum(one["examples"] * one["rmse"] ** 2 for one in training)
    assert finished.metrics["rmse"] == pytest.approx((squares / rows) ** 0.5, rel=1e-6)
    assert set(finished.metrics) == {"loss", "mae", "rmse", "r2"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.init=registry:nobody@latest",), "there is no such model"),
        (("model.name=mlp",), "name the same architecture"),
        (("data.source=sklearn:breast_cancer",), "was trained for other data"),
    ],
)
def test_a_model_that_cannot_be_evaluated_is_refused_before_anything_is_written(
    overrides: tuple[str, ...], message: str, home: Path, out: Path
) -> None:
    with pytest.raises(InputError, match=message):
        simulate(parse_recipe(EVALUATE, overrides), out=out, **places(home))
    assert not (out).exists()


def test_a_simulated_evaluation_under_a_promise_states_what_it_cost(home: Path, out: Path) -> None:
    finished = simulate(parse_recipe(EVALUATE, ["privacy.unit=client", "privacy.epsilon=8"]), out=out, **places(home))
    assert 0 < finished.summary["privacy"]["epsilon"] <= 8
    assert finished.summary["evaluation"] == {"rows": "held-out", "counted_rows": None, "members": 8}
    figures = json.loads((out / "evaluation.json").read_text())
    assert set(figures["noise_deviation"]) == set(figures["metrics"]) == {"member_loss", "member_accuracy"}
    statement = json.loads((out / "privacy.json").read_text())
    check_statement(statement)
    assert "What the model itself says about the rows it was trained on is not part of that" in statement["sentence"]
    assert statement["population_ledger"]["epsilon_committed"] > 0
    with open_store(str(home / "tacit.db"), create=False) as store:
        assert read_ledger(store, f"run/{out.name}", "client") is not None
