"""A run: the same model however often it was killed, whatever single clients do, and never more than was committed."""

import math
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tacit.client.agent import Agent
from tacit.client.app import build_app
from tacit.client.training import Workbench, training_seed
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import Plan, decode_plan
from tacit.models.preparation import preparation_sums, prepared_plan
from tacit.models.recipe import Recipe, parse_recipe
from tacit.models.training import LocalTraining, train_locally
from tacit.models.vector import layout_of
from tacit.privacy.randomness import SeededRandomness
from tacit.server.attempts import RunFailed
from tacit.server.checkpoints import Checkpoints, RunState
from tacit.server.flower import GridTransport
from tacit.server.phases import Phases
from tacit.server.recorder import StoreRecorder
from tacit.server.reports import RoundReport
from tacit.server.rounds import Participant
from tacit.server.run import ATTEMPTS, Run
from tacit.server.sampling import DrawnCohorts
from tacit.server.store import LedgerLine, NewRun, Store, open_store
from tacit.simulations.engine import FIRST_NODE, InProcessGrid, task_identity
from tacit.simulations.population import SimulatedHoldings

SCHEMA = Schema((Column("a", "numeric"), Column("b", "numeric"), Column("c", "categorical")), "y", ("no", "yes"))
CLIENTS = 6
RECIPE = f"""
name = "r"
seed = 5
[task]
kind = "tabular-classification"
[data]
source = "s:"
[population]
clients = {CLIENTS}
[training]
rounds = 4
learning_rate = 0.3
device = "cpu"
quorum = 0.5
[evaluation]
validation = 0.0
[secure_aggregation]
enabled = false
"""


def make_rows() -> Rows:
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(2, 240))
    c = np.array(["x", "y"], dtype=object)[rng.integers(0, 2, 240)]
    labels = (a - b + 0.3 * rng.normal(size=240) > 0).astype(np.int64)
    return Rows({"a": 100 + 20 * a, "b": b, "c": c}, labels)


ROWS = make_rows()
# Of different sizes, so that weights matter.
PARTS = np.split(np.arange(240), np.cumsum([10, 20, 30, 40, 60]))
NAMES = {FIRST_NODE + index: f"c{index}" for index in range(CLIENTS)}


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with task_identity():
        yield
    torch.set_num_threads(threads)


class Memory:
    """A recorder that keeps copies of all states in memory."""

    def __init__(self) -> None:
        self.reports: list[RoundReport] = []
        self.states: dict[int, RunState] = {}

    def resume_point(self) -> RunState | None:
        return copy_of(self.states[max(self.states)]) if self.states else None

    def commit(self, report: RoundReport, state: RunState | None, ledger: Sequence[LedgerLine] = ()) -> None:
        assert report.committed == (state is not None)
        self.reports.append(report)
        if state is not None:
            assert state.round == report.number and state.round not in self.states
            self.states[state.round] = copy_of(state)

    def state_of(self, number: int) -> RunState:
        return copy_of(self.states[number])

    def attempts(self, number: int) -> int:
        return sum(report.number == number for report in self.reports)

    def asked(self, number: int) -> Sequence[Participant]:
        return [member for report in self.reports if report.number == number for member in report.participants]


def copy_of(state: RunState) -> RunState:
    moments = {name: moment.copy() for name, moment in state.moments.items()}
    return replace(state, vector=state.vector.copy(), moments=moments)


Handler = Callable[[str, Instruction, Callable[[Instruction], Reply]], Reply]


def honest(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
    return agent(instruction)


@dataclass
class Handled:
    """An agent behind a handler that may answer in its place."""

    client: str
    agent: Agent
    handler: Handler

    def handle(self, instruction: Instruction) -> Reply:
        return self.handler(self.client, instruction, self.agent.handle)


@dataclass
class World:
    """Six agents with rows of their own, and the way to them."""

    handler: Handler = honest
    vanish: Callable[[int, str, str], bool] = lambda node, kind, group: False
    clients: int = CLIENTS
    agents: dict[int, Any] = field(default_factory=dict)

    def transport(self) -> GridTransport:
        bench = Workbench(own_code=True)
        for index in range(self.clients):
            holdings = SimulatedHoldings(ROWS, PARTS[index], None, np.empty(0, np.int64))
            agent = Agent(f"c{index}", holdings, bench)
            self.agents[FIRST_NODE + index] = Handled(f"c{index}", agent, self.handler)
        grid = InProcessGrid(build_app(lambda context: self.agents[context.node_id]), self.clients, self.vanish)
        return GridTransport(grid, names=NAMES, now=grid.now, pause=grid.pause, forget=grid.discard, share_memory=True)


def recipe_of(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, overrides)


def a_run(*overrides: str, world: World | None = None, recorder: Any = None, **changes: Any) -> Run:
    recipe = recipe_of(*overrides)
    return Run(
        name="run",
        plan=changes.pop("plan", Plan(recipe, SCHEMA)),
        transport=(world or World()).transport(),
        recorder=recorder or Memory(),
        cohorts=changes.pop("cohorts", DrawnCohorts("run", recipe.training, SeededRandomness(bytes(32)))),
        **changes,
    )


# What a run does


def reference(recipe: Recipe, server: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """Train with a bare loop in double precision: everybody, every round, weighted by rows."""
    first = Plan(recipe, SCHEMA)
    total = sum(preparation_sums(ROWS.take(part), SCHEMA) for part in PARTS)
    plan = prepared_plan(first, total, CLIENTS, outputs=2, proximal_mu=0.0)
    assert plan.features is not None and plan.architecture is not None
    model = plan.architecture.build(recipe.seed)
    layout = layout_of(model)
    vector = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().astype(np.float64)
    settings = recipe.training
    for number in range(1, settings.rounds + 1):
        updates = []
        for index, part in enumerate(PARTS):
            rows = ROWS.take(part)
            result = train_locally(
                model,
                layout,
                torch.from_numpy(vector.astype(np.float32)),
                torch.from_numpy(plan.features.transform(rows)),
                torch.from_numpy(rows.labels),
                plan.task(),
                LocalTraining(settings.local_epochs, None, settings.batch_size, "sgd", settings.learning_rate),
                training_seed(recipe.seed, f"c{index}", number, 0),
            )
            updates.append(result.delta.numpy().astype(np.float64))
        weights = np.array([len(part) for part in PARTS], np.float64)
        if recipe.strategy.weighting == "uniform":
            weights = np.ones(CLIENTS)
        vector = vector + np.average(updates, axis=0, weights=weights)
    return vector


@pytest.mark.parametrize("weighting", ["auto", "examples", "uniform"])
@pytest.mark.parametrize("model", ["model.name=logistic", "model.name=mlp"])
def test_a_run_trains_what_a_bare_loop_trains(weighting: str, model: str) -> None:
    overrides = [f"strategy.weighting={weighting}", model]
    state = a_run(*overrides).execute()
    np.testing.assert_allclose(state.vector, reference(recipe_of(*overrides)), atol=2e-6)


def test_every_round_is_kept_once_with_who_took_part() -> None:
    recorder = Memory()
    state = a_run(recorder=recorder).execute()
    assert [(r.number, r.attempt, r.committed, r.reported) for r in recorder.reports] == [
        (number, 0, True, CLIENTS) for number in range(5)
    ]
    assert state.round == 4
    losses = [report.metrics["train_loss"] for report in recorder.reports[1:]]
    assert losses == sorted(losses, reverse=True) and losses[0] == pytest.approx(math.log(2), abs=0.2)


def test_durations_are_measured_with_the_clock_that_was_given() -> None:
    ticks = iter(range(1000))
    recorder = Memory()
    a_run(recorder=recorder, clock=lambda: float(next(ticks))).execute()
    assert all(report.seconds >= 1 for report in recorder.reports)


def test_everybody_hears_of_every_attempt_after_it_was_kept() -> None:
    recorder, heard = Memory(), []
    a_run(recorder=recorder, on_round=lambda report: heard.append((report.number, len(recorder.reports)))).execute()
    assert heard == [(number, number + 1) for number in range(5)]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("strategy.name=fedavgg", "strategy.name: unknown strategy 'fedavgg'; the nearest is 'fedavg'"),
        ("strategy.beta_1=0.5", "unknown option of fedavg 'beta_1'"),
        ("task.kind=tabular-regresion", "task.kind: unknown task 'tabular-regresion'"),
        ("task.kind=tabular-regression", "the label 'y' has classes; use tabular-classification"),
        ("model.name=logistik", "model.name: unknown model 'logistik'; the nearest is 'logistic'"),
        ("model.hidden=[3]", "unknown option 'hidden'"),
    ],
)
def test_a_wrong_name_is_found_before_anybody_is_asked(override: str, expected: str) -> None:
    asked: list[str] = []

    def ears(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        asked.append(client)
        return agent(instruction)

    with pytest.raises(InputError, match=expected):
        a_run(override, world=World(ears)).execute()
    assert asked == []


def test_rounds_whose_attempts_nothing_announces_have_no_phases(tmp_path: Path) -> None:
    """Or what is reserved for a round without masks would be given back after a crash, and its updates have left."""
    with new_store(tmp_path) as store, pytest.raises(ValueError, match="only masked rounds have phases"):
        a_run(phases=Phases(store, "run", tmp_path / "phases", dict))


# Clients that fail


def lying(liars: Mapping[str, Reply | Exception], action: str = "train") -> Handler:
    def handler(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        answer = liars.get(client) if instruction.action == action else None
        if isinstance(answer, Exception):
            raise answer
        return answer or agent(instruction)

    return handler


def vector_of(value: float, size: int = 12) -> np.ndarray:
    return np.full(size, value, np.float32)


GOOD_BODY = {"examples": 10, "loss": 0.5}
LIES: dict[str, tuple[Reply | Exception, str]] = {
    "NaN": (Reply(body=GOOD_BODY, arrays={"update": vector_of(np.nan)}), "holds a value that is not finite"),
    "too short": (Reply(body=GOOD_BODY, arrays={"update": vector_of(0, 3)}), "float32 of shape (3,)"),
    "no update": (Reply(body=GOOD_BODY), "the vector 'update' is missing"),
    "no rows": (Reply(body=GOOD_BODY | {"examples": 0}, arrays={"update": vector_of(0)}), "examples is not a number"),
    "a huge weight": (
        Reply(body=GOOD_BODY | {"examples": 10**300}, arrays={"update": vector_of(0)}),
        "examples is not",
    ),
    "an infinite loss": (Reply(body=GOOD_BODY | {"loss": math.inf}, arrays={"update": vector_of(0)}), "loss is not"),
    "a giant": (Reply(body=GOOD_BODY, arrays={"update": vector_of(3e38)}), "too large to be summed"),
    "a refusal": (Reply("refused", "policy: too little privacy"), "policy: too little privacy"),
    "a failure": (Reply("failed", "the training diverged"), "the training diverged"),
    "an exception": (KeyError("Alice, HIV"), "the node failed (code 2)"),
}


@pytest.mark.parametrize(("lie", "reason"), LIES.values(), ids=LIES)
def test_one_client_that_fails_is_dropped_with_its_reason_and_the_model_is_that_of_the_others(
    lie: Reply | Exception, reason: str
) -> None:
    recorder = Memory()
    state = a_run(world=World(lying({"c3": lie})), recorder=recorder).execute()
    absent = a_run(world=World(vanish=lambda node, kind, group: node == FIRST_NODE + 3 and "0." not in group)).execute()
    assert state.round == 4
    assert state.vector.tobytes() == absent.vector.tobytes()
    for report in recorder.reports[1:]:
        assert report.committed and report.reported == 5
        (dropped,) = [p for p in report.participants if p.client == "c3"]
        assert dropped.outcome in ("dropped", "refused") and reason in dropped.reason
        assert "Alice" not in dropped.reason


def test_a_client_that_spoils_the_preparation_is_left_out_of_it() -> None:
    honest_sums = preparation_sums(ROWS.take(PARTS[2]), SCHEMA)
    for position, value in [(0, -1.0), (1, np.nan), (2, -1e30), (-1, 1e9), (5, np.inf)]:
        sums = honest_sums.copy()
        sums[position] = value
        recorder = Memory()
        liar = lying({"c2": Reply(arrays={"statistics": sums})}, action="prepare")
        state = a_run("training.rounds=1", world=World(liar), recorder=recorder).execute()
        assert recorder.reports[0].reported == 5 and state.round == 1
        features = decode_plan(state.plan).features
        others = sum(preparation_sums(ROWS.take(part), SCHEMA) for i, part in enumerate(PARTS) if i != 2)
        expected = prepared_plan(Plan(recipe_of(), SCHEMA), others, 5, outputs=2, proximal_mu=0.0).features
        assert features == expected


def test_statistics_that_are_absurd_but_possible_do_not_end_the_run() -> None:
    sums = preparation_sums(ROWS.take(PARTS[2]), SCHEMA)
    sums[5] = 1e300  # the squares of column "b": as if one value of it were 1e150
    state = a_run(world=World(lying({"c2": Reply(arrays={"statistics": sums})}, action="prepare"))).execute()
    assert state.round == 4 and np.isfinite(state.vector).all()


def test_whoever_refuses_is_not_asked_again_in_the_round_so_that_the_others_can_go_on() -> None:
    recorder = Memory()
    no = {"c1": Reply("refused", "noise-floor: too little")} | dict.fromkeys(("c3", "c4"), Reply("refused", "paused"))
    state = a_run("training.quorum=1", world=World(lying(no)), recorder=recorder).execute()
    assert state.round == 4
    for number in range(1, 5):
        attempts = [report for report in recorder.reports if report.number == number]
        assert [report.committed for report in attempts] == [False] * ATTEMPTS + [True], "one is enough to break it off"
        asked = [{member.client for member in report.participants} for report in attempts]
        assert asked[0] == set(NAMES.values()), "in a new round everybody is asked again"
        assert [report.refusers for report in attempts] == [{"c1"}, {"c3"}, {"c4"}, set()]
        for before, then, refuser in zip(asked, asked[1:], ("c1", "c3", "c4"), strict=False):
            assert then == before - {refuser}
        assert attempts[-1].reported == 3


def test_a_refusal_does_not_end_the_preparation() -> None:
    recorder = Memory()
    no = lying({"c1": Reply("refused", "statistic-not-allowed: means")}, action="prepare")
    state = a_run("training.quorum=1", world=World(no), recorder=recorder).execute()
    assert state.round == 4
    first, second = recorder.reports[:2]
    assert (first.number, first.committed, first.refusers) == (0, False, {"c1"})
    assert (second.number, second.committed, second.reported) == (0, True, 5)


@pytest.mark.parametrize("refusers", [5, 6])
def test_where_fewer_than_two_others_are_there_whoever_refused_is_asked_again(refusers: int) -> None:
    """A model that one client alone has trained is no federation's."""
    recorder = Memory()
    no = lying({f"c{index}": Reply("refused", "schedule") for index in range(refusers)})
    with pytest.raises(RunFailed, match=f"round 1 failed {1 + ATTEMPTS} times: .*most often: schedule"):
        a_run("training.quorum=0.3", world=World(no), recorder=recorder).execute()
    assert [len(report.participants) for report in recorder.reports[1:]] == [6] * (1 + ATTEMPTS)


def test_too_few_reports_are_tried_again_with_the_reasons_kept_and_then_the_run_fails() -> None:
    recorder = Memory()
    broken = lying({f"c{index}": Reply("failed", "out of memory") for index in range(4)})
    run = a_run(world=World(broken), recorder=recorder)
    with pytest.raises(RunFailed, match="round 1 failed 3 times: .*the quorum is 3"):
        run.execute()
    assert [(r.number, r.attempt, r.committed) for r in recorder.reports] == [
        (0, 0, True), (1, 0, False), (1, 1, False), (1, 2, False)
    ]  # fmt: skip
    assert {p.reason for p in recorder.reports[1].participants if p.outcome == "dropped"} == {"out of memory"}
    assert list(recorder.states) == [0]


def test_a_failed_run_goes_on_with_the_next_attempt_when_the_clients_are_back() -> None:
    recorder = Memory()
    broken = lying({f"c{index}": Reply("failed", "out of memory") for index in range(4)})
    with pytest.raises(RunFailed):
        a_run(world=World(broken), recorder=recorder).execute()
    state = a_run(recorder=recorder).execute()
    assert state.round == 4
    assert [(r.number, r.attempt) for r in recorder.reports if r.committed] == [(0, 0), (1, ATTEMPTS)] + [
        (number, 0) for number in range(2, 5)
    ]


def test_a_preparation_that_fails_three_times_ends_the_run_before_anything_is_trained() -> None:
    recorder = Memory()
    broken = lying({f"c{index}": Reply("failed", "no rows") for index in range(4)}, action="prepare")
    with pytest.raises(RunFailed, match="the preparation failed 3 times"):
        a_run(world=World(broken), recorder=recorder).execute()
    assert not recorder.states and len(recorder.reports) == ATTEMPTS


def test_a_federation_without_clients_fails_and_commits_nothing() -> None:
    recorder = Memory()
    with pytest.raises(RunFailed, match="no client can be reached"):
        a_run(world=World(clients=0), recorder=recorder).execute()
    assert recorder.reports == []


def test_a_federation_whose_clients_have_all_gone_commits_no_empty_rounds() -> None:
    recorder = Memory()
    a_run("training.rounds=2", recorder=recorder).execute()
    with pytest.raises(RunFailed, match="no client can be reached"):
        a_run(world=World(clients=0), recorder=recorder).execute()
    assert max(recorder.states) == 2


def test_an_empty_cohort_is_a_round_that_changes_nothing() -> None:
    class Nobody:
        def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
            return ((), 0) if number == 2 else (clients, len(clients))

    recorder = Memory()
    a_run(recorder=recorder, cohorts=Nobody()).execute()
    assert recorder.states[2].vector.tobytes() == recorder.states[1].vector.tobytes()
    assert recorder.states[3].vector.tobytes() != recorder.states[2].vector.tobytes()
    assert (recorder.reports[2].reason, recorder.reports[2].committed) == ("the cohort was empty", True)
    assert dict(recorder.reports[2].metrics) == {}


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_a_model_that_overflows_ends_the_run_and_is_not_kept(strategy: str) -> None:
    # Fine for the sum, but beyond single precision once squared (adaptive) or multiplied by the learning rate.
    giants = lying({f"c{i}": Reply(body=GOOD_BODY, arrays={"update": vector_of(1e36)}) for i in range(CLIENTS)})
    recorder = Memory()
    with pytest.raises(RunFailed, match="round 1: the model diverged; try a smaller learning rate"):
        a_run(
            f"strategy.name={strategy}", "strategy.server_learning_rate=1e4", world=World(giants), recorder=recorder
        ).execute()
    assert list(recorder.states) == [0]


# Selection and early stopping


def scripted(values: list[float]) -> Callable[[Plan, np.ndarray], Mapping[str, float]]:
    remaining = iter(values)
    return lambda plan, vector: {"accuracy": next(remaining), "loss": 1.0}


def test_the_best_round_on_the_validation_share_is_what_comes_out() -> None:
    recorder = Memory()
    state = a_run("evaluation.validation=0.1", recorder=recorder, validate=scripted([0.5, 0.9, 0.7, 0.9])).execute()
    assert (state.round, state.best_round, state.best_value) == (2, 2, 0.9)
    assert state.vector.tobytes() == recorder.states[2].vector.tobytes()
    assert [report.metrics["validation_accuracy"] for report in recorder.reports[1:]] == [0.5, 0.9, 0.7, 0.9]


def test_a_metric_that_is_undefined_selects_nothing() -> None:
    state = a_run("evaluation.validation=0.1", validate=scripted([math.nan] * 4)).execute()
    assert (state.round, state.best_round, state.best_value) == (4, 0, None)


def test_training_stops_when_nothing_got_better_for_the_patience() -> None:
    recorder = Memory()
    state = a_run(
        "evaluation.validation=0.1", "evaluation.patience=2", "training.rounds=9",
        recorder=recorder, validate=scripted([0.5, 0.6, 0.6, 0.55, 0.9]),
    ).execute()  # fmt: skip
    assert max(recorder.states) == 4
    assert recorder.states[4].stopped == "no better accuracy for 2 rounds"
    assert state.round == 2


def test_a_run_that_stopped_early_stays_stopped_when_it_is_resumed() -> None:
    recorder = Memory()
    overrides = ["evaluation.validation=0.1", "evaluation.patience=1", "training.rounds=9"]
    a_run(*overrides, recorder=recorder, validate=scripted([0.5, 0.4])).execute()
    again = a_run(*overrides, recorder=recorder, validate=scripted([])).execute()
    assert again.round == 1 and max(recorder.states) == 2


def test_measuring_every_few_rounds_measures_the_last_one_too() -> None:
    recorder = Memory()
    overrides = ["evaluation.validation=0.1", "evaluation.every=3", "training.rounds=5"]
    a_run(*overrides, recorder=recorder, validate=scripted([0.5, 0.4])).execute()
    measured = [report.number for report in recorder.reports if "validation_accuracy" in report.metrics]
    assert measured == [3, 5]


# Warm starts


def warm_plan(*overrides: str) -> Plan:
    total = sum(preparation_sums(ROWS.take(part), SCHEMA) for part in PARTS)
    return prepared_plan(Plan(recipe_of(*overrides), SCHEMA), total, CLIENTS, outputs=2, proximal_mu=0.0)


def test_a_warm_start_begins_with_its_vector_and_without_a_preparation() -> None:
    recorder, initial = Memory(), np.linspace(-1, 1, 12, dtype=np.float32)
    expected = initial.copy()
    a_run(recorder=recorder, plan=warm_plan(), initial=initial).execute()
    assert recorder.states[0].vector.tobytes() == expected.tobytes()
    assert (recorder.reports[0].reason, recorder.reports[0].participants) == ("the warm start's preparation", ())


def test_a_warm_start_keeps_the_strategys_proximal_term() -> None:
    overrides = ["strategy.name=fedprox", "strategy.proximal_mu=5.0", "training.local_epochs=3"]
    plan = warm_plan(*overrides)
    assert plan.proximal_mu == 0.0
    state = a_run(*overrides, plan=plan, initial=np.zeros(12, np.float32)).execute()
    cold = a_run(*overrides).execute()
    assert decode_plan(state.plan).proximal_mu == 5.0
    assert state.vector.tobytes() == cold.vector.tobytes()


def test_a_read_only_vector_serves_as_a_warm_start() -> None:
    initial = np.frombuffer(np.zeros(12, np.float32).tobytes(), np.float32)
    assert a_run(plan=warm_plan(), initial=initial).execute().round == 4


def test_a_warm_start_of_another_size_is_refused_before_anything_is_kept() -> None:
    recorder = Memory()
    with pytest.raises(InputError, match="model.init: the warm start has 3 parameters, the model 12"):
        a_run(recorder=recorder, plan=warm_plan(), initial=np.zeros(3, np.float32)).execute()
    assert recorder.reports == []


# Killed and resumed


class Killed(BaseException):
    """Stands for SIGKILL: nothing that would clean up is allowed to know it."""


class Deadly:
    """Kills the process at the n-th moment that is worth dying at; counts the moments."""

    def __init__(self, at: int) -> None:
        self.at, self.moments = at, 0

    def __call__(self) -> None:
        self.moments += 1
        if self.moments == self.at:
            raise Killed


class DeadlyCheckpoints(Checkpoints):
    def __init__(self, directory: Path, moment: Deadly) -> None:
        super().__init__(directory)
        self.moment = moment

    def write(self, state: RunState) -> Any:
        self.moment()  # before the file
        reference = super().write(state)
        self.moment()  # the file is there, the transaction is not
        return reference

    def prune(self, keep: set[int]) -> None:
        self.moment()  # the transaction is there, old files too
        super().prune(keep)


OVERRIDES = ["strategy.name=fedadam", "training.cohort=4", "training.quorum=0.9", "training.over_selection=0.25",
             "evaluation.validation=0.1", "training.rounds=3", "training.broadcast=int8"]  # fmt: skip


def unlucky(node: int, kind: str, group: str) -> bool:
    """Round 2 fails at its first attempt: too many of its cohort vanish."""
    return group == "2.0" and node >= FIRST_NODE + 2


def strict(client: str, instruction: Instruction) -> bool:
    """In round 3 two refuse however often they are asked, and one is enough to break the quorum."""
    return instruction.round == 3 and client in ("c1", "c2")


def measured(plan: Plan, vector: np.ndarray) -> Mapping[str, float]:
    return {"accuracy": float(np.abs(vector).sum() % 1.0), "loss": 1.0}


def execute(store: Store, directory: Path, moment: Deadly) -> RunState:
    """Start or resume the run in a process of its own: nothing but the store and the directory is shared."""

    def handler(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        moment()  # in the middle of a round
        return Reply("refused", "no rows") if strict(client, instruction) else agent(instruction)

    recorder = StoreRecorder(store, "run", DeadlyCheckpoints(directory, moment))
    return a_run(
        *OVERRIDES, world=World(handler, unlucky), recorder=recorder, validate=measured, on_round=lambda _: moment()
    ).execute()


def new_store(path: Path) -> Store:
    store = open_store(f"sqlite:///{path / 'tacit.db'}")
    store.create_run(NewRun("run", "r", "tabular-classification", RECIPE, "0" * 64, str(path), {}))
    return store


@dataclass
class Uninterrupted:
    state: RunState
    history: list[Any]
    moments: int


def history(store: Store) -> list[Any]:
    return [replace(record, seconds=0.0, committed_at=None) for record in store.rounds("run")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    torch.set_num_threads(1)
    path, moment = tmp_path_factory.mktemp("uninterrupted"), Deadly(0)
    with task_identity(), new_store(path) as store:
        state = execute(store, path / "checkpoints", moment)
        found = history(store)
    assert [(r.number, r.attempt, r.outcome) for r in found] == [
        (0, 0, "committed"), (1, 0, "committed"), (2, 0, "aborted"), (2, 1, "committed"),
        (3, 0, "aborted"), (3, 1, "committed"),
    ]  # fmt: skip
    return Uninterrupted(state, found, moment.moments)


def assert_the_same(store: Store, state: RunState, expected: Uninterrupted) -> None:
    assert state.vector.tobytes() == expected.state.vector.tobytes()
    assert state.carry is not None and expected.state.carry is not None
    assert state.carry.tobytes() == expected.state.carry.tobytes()
    assert {name: moment.tobytes() for name, moment in state.moments.items()} == {
        name: moment.tobytes() for name, moment in expected.state.moments.items()
    }
    assert (state.round, state.plan, state.best_round, state.best_value) == (
        expected.state.round, expected.state.plan, expected.state.best_round, expected.state.best_value
    )  # fmt: skip
    assert history(store) == expected.history


def test_a_run_killed_at_any_one_moment_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    assert uninterrupted.moments > 30
    for at in range(1, uninterrupted.moments + 1):
        path = tmp_path / str(at)
        path.mkdir()
        with new_store(path) as store:
            with pytest.raises(Killed):
                execute(store, path / "checkpoints", Deadly(at))
            assert_the_same(store, execute(store, path / "checkpoints", Deadly(0)), uninterrupted)


@pytest.mark.parametrize("patience", [9, 11, 14])
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: Uninterrupted, patience: int
) -> None:
    """A process that lives for `patience` moments gets on, because what was committed is never done again."""
    with new_store(tmp_path) as store:
        for _ in range(uninterrupted.moments):
            try:
                state = execute(store, tmp_path / "checkpoints", Deadly(patience))
                break
            except Killed:
                continue
        assert_the_same(store, state, uninterrupted)


def test_a_full_disk_ends_the_run_in_one_line_and_it_goes_on_when_there_is_room(
    tmp_path: Path, uninterrupted: Uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def full(tensors: Any, path: Path, metadata: Any = None) -> None:
        written.append(1)
        if len(written) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata=metadata)

    from safetensors.numpy import save_file

    with new_store(tmp_path) as store:
        with monkeypatch.context() as small_disk:
            small_disk.setattr("tacit.server.checkpoints.save_file", full)
            with pytest.raises(InputError, match="cannot be written .*No space left on device"):
                execute(store, tmp_path / "checkpoints", Deadly(0))
        assert [record.number for record in store.rounds("run") if record.outcome == "committed"] == [0, 1]
        assert_the_same(store, execute(store, tmp_path / "checkpoints", Deadly(0)), uninterrupted)


def test_a_run_does_not_go_on_from_a_checkpoint_that_was_tampered_with(tmp_path: Path) -> None:
    with new_store(tmp_path) as store:
        with pytest.raises(Killed):
            execute(store, tmp_path / "checkpoints", Deadly(20))
        newest = max((tmp_path / "checkpoints").glob("round-*.safetensors"))
        content = bytearray(newest.read_bytes())
        content[-1] ^= 1
        newest.write_bytes(bytes(content))
        with pytest.raises(InputError, match="is not the checkpoint that was written"):
            execute(store, tmp_path / "checkpoints", Deadly(0))


def test_the_best_model_is_not_taken_from_a_file_that_was_tampered_with(tmp_path: Path) -> None:
    overrides = ["evaluation.validation=0.1"]
    with new_store(tmp_path) as store:
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        recorder = StoreRecorder(store, "run", checkpoints)
        state = a_run(*overrides, recorder=recorder, validate=scripted([0.5, 0.9, 0.7, 0.6])).execute()
        assert state.round == 2
        best = tmp_path / "checkpoints" / "round-000002.safetensors"
        content = bytearray(best.read_bytes())
        content[-1] ^= 1
        best.write_bytes(bytes(content))
        with pytest.raises(InputError, match="is not the checkpoint that was written"):
            a_run(*overrides, recorder=recorder, validate=scripted([])).execute()


def test_only_the_newest_two_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    with new_store(tmp_path) as store:
        recorder = StoreRecorder(store, "run", Checkpoints(tmp_path / "checkpoints"))
        names: list[set[str]] = []

        def look(report: RoundReport) -> None:
            names.append({path.name[6:12].lstrip("0") or "0" for path in (tmp_path / "checkpoints").iterdir()})

        validate = scripted([0.5, 0.9, 0.7, 0.6, 0.6, 0.95])
        overrides = ["training.rounds=6", "evaluation.validation=0.1"]
        a_run(*overrides, recorder=recorder, validate=validate, on_round=look).execute()
    assert names == [{"0"}, {"0", "1"}, {"1", "2"}, {"2", "3"}, {"2", "3", "4"}, {"2", "4", "5"}, {"5", "6"}]


def test_a_killed_process_leaves_a_half_written_file_that_nobody_minds(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    with new_store(tmp_path) as store:
        with pytest.raises(Killed):
            execute(store, tmp_path / "checkpoints", Deadly(18))
        (tmp_path / "checkpoints" / "round-000001.tmp").write_bytes(b"half")
        (tmp_path / "checkpoints" / "round-000003.tmp").write_bytes(b"half")
        assert_the_same(store, execute(store, tmp_path / "checkpoints", Deadly(0)), uninterrupted)


# Memory


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedavgm", "fedadam"])
def test_a_whole_run_holds_three_models_and_the_moments_of_its_strategy_whatever_the_cohort(
    tmp_path: Path, strategy: str
) -> None:
    side = 600
    schema = Schema((Column("image", "image", (1, side, side)),), "y", ("no", "yes"))
    rows = Rows({"image": np.zeros((9, 1, side, side), np.uint8)}, np.arange(9) % 2)
    recipe = recipe_of(f"strategy.name={strategy}", "task.kind=image-classification", "training.rounds=2")
    sums = preparation_sums(rows, schema)
    plan = prepared_plan(Plan(recipe, schema), sums, CLIENTS, outputs=2, proximal_mu=0.0)
    size = 2 * side * side + 2

    class Trivial:
        def handle(self, instruction: Instruction) -> Reply:
            return Reply(body=GOOD_BODY, arrays={"update": small})

    # A view of one number: the reply's bytes on their way are the copy that counts.
    small = np.broadcast_to(np.float32(1e-3), (size,))
    peaks = []
    for clients in (3, 12):
        grid = InProcessGrid(build_app(lambda context: Trivial()), clients)
        transport = GridTransport(grid, now=grid.now, pause=grid.pause, forget=grid.discard, share_memory=True)
        path = tmp_path / str(clients)
        path.mkdir()
        with new_store(path) as store:
            tracemalloc.start()
            try:
                Run(
                    name="run",
                    plan=plan,
                    transport=transport,
                    recorder=StoreRecorder(store, "run", Checkpoints(path / "checkpoints")),
                    cohorts=DrawnCohorts("run", recipe.training, SeededRandomness(bytes(32))),
                    initial=np.zeros(size, np.float32),
                ).execute()
                peaks.append(tracemalloc.get_traced_memory()[1] / (4 * size))
            finally:
                tracemalloc.stop()
    moments = {"fedavgm": 1, "fedadam": 2}.get(strategy, 0)
    # Safetensors takes bytes, so while a checkpoint is written there is a second copy of the vector and the moments.
    assert max(peaks) < 3.3 + 2 * moments
    assert peaks[1] == pytest.approx(peaks[0], abs=0.1)
