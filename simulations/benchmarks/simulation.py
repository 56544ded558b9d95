"""What a simulated round costs, beside a bare PyTorch loop that does the same work.

The engine's side is all of it: the run, Flower's messages through the grid in the process, the agents, the folding, the
checkpoint and the database. The bare side is what one would write by hand to average the models of a cohort: data in
memory as tensors, `torch.optim`, nothing else. Both use one thread, train the same clients from the same model on the
same batches, one round after the other, and must arrive at the same model.

Secure aggregation is off, as the bare loop has none. The images are Fashion-MNIST's where `TACIT_DATA` names its
directory, else noise of the same shape; making tensors of them is left out on both sides.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tacit.client.agent import Agent
from tacit.client.training import Workbench, training_seed
from tacit.models.data import open_source
from tacit.models.data.rows import Source
from tacit.models.plan import Plan, decode_plan
from tacit.models.recipe import Recipe, parse_recipe
from tacit.models.vector import state_dict_of
from tacit.privacy.randomness import SeededRandomness
from tacit.server.checkpoints import Checkpoints, RunState
from tacit.server.recorder import StoreRecorder
from tacit.server.reports import RoundReport
from tacit.server.run import Run
from tacit.server.sampling import DrawnCohorts
from tacit.server.store import NewRun, Store, open_store
from tacit.server.store.records import LedgerLine
from tacit.simulations.benchmarks.figure import Figure
from tacit.simulations.engine import FIRST_NODE, run_in_process
from tacit.simulations.population import SimulatedHoldings, iid

CLIENTS, COHORT, BATCH_SIZE, LEARNING_RATE = 100, 20, 32, 0.05
BOUND = 1.3
# Between two models that took the same steps, with sums taken in another order.
LARGEST_DIFFERENCE = 1e-4

RECIPE = """
name = "benchmark"
task.kind = "image-classification"
data.source = "{source}"
population.clients = {clients}
model.name = "{model}"
evaluation.validation = 0.0
secure_aggregation.enabled = false

[training]
rounds = {rounds}
cohort = {cohort}
batch_size = {batch_size}
learning_rate = {learning_rate}
device = "cpu"
engine = "plain"
"""

State = dict[str, Tensor]


class Spent(NamedTuple):
    """Seconds: of the processor, in all threads, and on the wall."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> Spent:
        """Return what both clocks show."""
        return cls(time.process_time(), time.perf_counter())

    def since(self, start: Spent) -> Spent:
        """Return what passed since `start`."""
        return Spent(self.cpu - start.cpu, self.wall - start.wall)


def recipe_of(model: str, rounds: int) -> Recipe:
    """Return a hundred clients, of whom twenty train for one epoch in each round after the first, which warms up."""
    source = "synthetic:images?rows=60000&size=28&classes=10"
    if "TACIT_DATA" in os.environ:
        source = "idx:${TACIT_DATA}/fashion-mnist"
    return parse_recipe(
        RECIPE.format(
            source=source,
            clients=CLIENTS,
            model=model,
            rounds=rounds + 1,
            cohort=COHORT,
            batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
        )
    )


@dataclass(frozen=True)
class Population:
    """The agents, and the rows that they hold, which only a simulation knows."""

    source: Source
    agents: Mapping[int, Agent]
    names: Mapping[int, str]
    parts: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, source: Source, clients: int) -> Population:
        """Deal a source's rows out evenly."""
        names = {FIRST_NODE + at: f"client-{at:03d}" for at in range(clients)}
        dealt = iid(len(source.train), clients, np.random.default_rng(0))
        parts = dict(zip(names.values(), dealt, strict=True))
        bench = Workbench()
        nobody = np.empty(0, np.int64)
        agents = {
            node: Agent(name, SimulatedHoldings(source.train, parts[name], None, nobody), bench)
            for node, name in names.items()
        }
        return cls(source, agents, names, parts)

    def tensors(self, plan: Plan, client: str) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a client as the network takes them."""
        if plan.features is None:
            raise ValueError("the plan has no features yet")
        rows = self.source.train.take(self.parts[client])
        return torch.from_numpy(plan.features.transform(rows)), torch.from_numpy(rows.labels)


def bare_round(
    model: nn.Module,
    start: State,
    clients: Sequence[tuple[Tensor, Tensor]],
    shuffles: Sequence[torch.Generator],
    learning_rate: float = LEARNING_RATE,
) -> State:
    """Return the mean, weighted by examples, of models that were each trained from `start` by one epoch of SGD.

    Args:
        model: the network; its weights are overwritten.
        start: the model of the round before.
        clients: inputs and targets of each client.
        shuffles: what each client's order is drawn from.
        learning_rate: of SGD.
    """
    total = {name: torch.zeros_like(value) for name, value in start.items()}
    examples = 0
    model.train()
    for (inputs, targets), shuffle in zip(clients, shuffles, strict=True):
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
        for rows in torch.randperm(len(inputs), generator=shuffle).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs[rows]), targets[rows])
            loss.backward()
            optimizer.step()
        for name, value in model.state_dict().items():
            total[name].add_(value, alpha=len(inputs))
        examples += len(inputs)
    return {name: value / examples for name, value in total.items()}


@dataclass
class WarmedCohorts:
    """Cohorts as the recipe draws them, after a first round with everybody, in which agents prepare their rows."""

    drawn: DrawnCohorts

    def draw(self, clients: tuple[str, ...], number: int, attempt: int) -> tuple[tuple[str, ...], int]:
        """Return whom the round asks."""
        return (clients, len(clients)) if number == 1 else self.drawn.draw(clients, number, attempt)


class WatchedRecorder(StoreRecorder):
    """Keeps rounds as in every run, and remembers the state that was kept last."""

    kept: RunState

    def commit(self, report: RoundReport, state: RunState | None, ledger: Sequence[LedgerLine] = ()) -> None:
        """Keep a round."""
        super().commit(report, state, ledger)
        if state is not None:
            self.kept = state


@dataclass
class Comparison:
    """Takes the time of each round of a run, and of the same round in a bare loop right after it.

    Attributes:
        population: whose rows the bare loop trains on.
        recorder: knows the model after each round.
        engine, bare: what each round took; the first is for warming up, on both sides.
    """

    population: Population
    recorder: WatchedRecorder
    engine: list[Spent] = field(default_factory=list)
    bare: list[Spent] = field(default_factory=list)
    _bench: Workbench = field(default_factory=Workbench)
    _from: Spent = Spent(0.0, 0.0)
    _before: State = field(default_factory=dict)
    _tensors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def after(self, report: RoundReport) -> None:
        """Run the round that the engine has just finished again in the bare loop."""
        spent = Spent.now().since(self._from)
        state = self.recorder.kept
        plan = decode_plan(state.plan)
        model, layout, _, _ = self._bench.network(state.plan, plan)
        trained = state_dict_of(torch.tensor(state.vector), layout)
        if report.number > 0:
            bare = self._run_bare(model, plan, report, trained)
        if report.number > 1:
            self.engine.append(spent)
            self.bare.append(bare)
        self._before = trained
        self._from = Spent.now()

    def _run_bare(self, model: nn.Module, plan: Plan, report: RoundReport, expected: State) -> Spent:
        cohort = [participant.client for participant in report.participants]
        for client in set(cohort) - set(self._tensors):
            self._tensors[client] = self.population.tensors(plan, client)
        clients = [self._tensors[client] for client in cohort]
        shuffles = [_shuffle(training_seed(plan.recipe.seed, client, report.number, 0)) for client in cohort]
        start = Spent.now()
        found = bare_round(model, self._before, clients, shuffles)
        spent = Spent.now().since(start)
        apart = max(float((found[name] - value).abs().max()) for name, value in expected.items())
        if not apart < LARGEST_DIFFERENCE:
            raise RuntimeError(f"the bare loop's model is {apart:g} away; its time is of no interest")
        return spent


def _shuffle(seed: int) -> torch.Generator:
    """Return what an agent draws its order of examples from."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(2)[0]))


def compare(recipe: Recipe, source: Source) -> Comparison:
    """Run a recipe, and each of its rounds again in a bare loop.

    Raises:
        RuntimeError: the two did not arrive at the same model.
    """
    clients = recipe.population.clients or 1
    population = Population.of(source, clients)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as directory, open_store(f"sqlite:///{directory}/benchmark.db") as store:
            recorder = WatchedRecorder(store, recipe.name, Checkpoints(Path(directory) / "checkpoints"))
            _create_run(store, recipe, directory)
            comparison = Comparison(population, recorder)
            drawn = DrawnCohorts(recipe.name, recipe.training, SeededRandomness(bytes(32)))
            run_in_process(
                population,
                lambda transport: Run(
                    recipe.name,
                    Plan(recipe, source.schema),
                    transport,
                    recorder,
                    WarmedCohorts(drawn),
                    on_round=comparison.after,
                ).execute(),
            )
    finally:
        torch.set_num_threads(threads)
    return comparison


def _create_run(store: Store, recipe: Recipe, directory: str) -> None:
    store.create_run(
        NewRun(
            run=recipe.name,
            recipe_name=recipe.name,
            task=recipe.task.kind,
            recipe_toml=recipe.to_toml(),
            recipe_sha256=recipe.digest,
            directory=directory,
            environment={},
        )
    )


def figures(quick: bool) -> list[Figure]:
    """Return the figures of simulated rounds; `quick` runs fewer of them."""
    recipes = recipe_of("mlp", 7 if quick else 31), recipe_of("cnn", 3 if quick else 11)
    data = recipes[0].data
    source = open_source(data.source, task=recipes[0].task.kind, label=data.label, environ=os.environ)
    ratios, seconds = [], []
    for recipe in recipes:
        compared = compare(recipe, source)
        model, rounds = recipe.model.name, len(compared.engine)
        pairs = list(zip(compared.engine, compared.bare, strict=True))
        wall = statistics.median(ours.wall / bare.wall for ours, bare in pairs)
        engine, bare = (statistics.median(spent.cpu for spent in side) for side in zip(*pairs, strict=True))
        setting = f"median of {rounds} rounds: {COHORT} of {CLIENTS} clients, {model}, batch {BATCH_SIZE}, one thread"
        ratios.append(
            Figure(
                f"round_ratio_to_bare_loop_{model}",
                statistics.median(ours.cpu / bare.cpu for ours, bare in pairs),
                "ratio",
                f"bound {BOUND}",
                BOUND,
                f"processor time {engine:.3f} s to {bare:.3f} s; ratio on the wall {wall:.3f}; {setting}",
            )
        )
        seconds.append(
            Figure(
                f"round_seconds_{model}",
                statistics.median(spent.wall for spent in compared.engine),
                "s",
                "the bare loop",
                statistics.median(spent.wall for spent in compared.bare),
                setting,
            )
        )
    worst = max(ratios, key=lambda figure: figure.value or 0.0)
    return [replace(worst, name="round_ratio_to_bare_loop", detail=f"the worse: {worst.detail}"), *ratios, *seconds]
