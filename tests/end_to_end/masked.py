"""A small federation that masks, driven through Tacit's own ServerApp and ClientApp within this process."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from flwr.serverapp import Grid

from tacit.client.agent import Agent
from tacit.client.app import build_app as client_app
from tacit.client.training import Workbench
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import Plan
from tacit.models.recipe import Recipe, parse_recipe
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import SeededRandomness
from tacit.server.app import build_app as server_app
from tacit.server.budget import Budget, open_budget
from tacit.server.checkpoints import RunState
from tacit.server.feasibility import check_network
from tacit.server.flower import GridTransport
from tacit.server.masking import Masking
from tacit.server.reports import RoundReport
from tacit.server.run import Run
from tacit.server.sampling import DrawnCohorts
from tacit.server.store import LedgerLine, Store, open_store
from tacit.simulations.engine import FIRST_NODE, InProcessGrid, server_context, task_identity
from tacit.simulations.enrolment import enrol
from tacit.simulations.population import SimulatedHoldings

SCHEMA = Schema((Column("a", "numeric"), Column("b", "numeric"), Column("c", "categorical")), "y", ("no", "yes"))
RECIPE = """
name = "r"
seed = 5
[task]
kind = "tabular-classification"
[data]
source = "s:"
[population]
clients = 10
[training]
rounds = 2
learning_rate = 0.3
device = "cpu"
quorum = 0.1
[evaluation]
validation = 0.0
"""
LATE = "no answer within 600 s"
ONE_ROUND = ["training.rounds=1"]
PHASES = ("advertise", "share", "mask", "sign", "unmask")
Vanish = Callable[[int, str, str, int], bool]
"""Whether a client's answer never comes: `(client, action, round, attempt)`."""
Handler = Callable[[str, Instruction, Callable[[Instruction], Reply]], Reply]


def some_rows(count: int) -> Rows:
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(2, count))
    c = np.array(["x", "y"], dtype=object)[rng.integers(0, 2, count)]
    return Rows({"a": 100 + 20 * a, "b": b, "c": c}, (a - b + 0.3 * rng.normal(size=count) > 0).astype(np.int64))


def honest(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
    return agent(instruction)


def nobody(client: int, action: str, number: int, attempt: int) -> bool:
    return False


class Memory:
    """A recorder that keeps copies of all states in memory."""

    def __init__(self) -> None:
        self.reports: list[RoundReport] = []
        self.states: dict[int, RunState] = {}
        self.store: Store | None = None

    def resume_point(self) -> RunState | None:
        return copy_of(self.states[max(self.states)]) if self.states else None

    def commit(self, report: RoundReport, state: RunState | None, ledger: Sequence[LedgerLine] = ()) -> None:
        assert report.committed == (state is not None)
        for line in ledger:
            assert self.store is not None
            self.store.append_ledger(line.population, line.unit, line.counter, line.line)
        self.reports.append(report)
        if state is not None:
            self.states[state.round] = copy_of(state)

    def state_of(self, number: int) -> RunState:
        return copy_of(self.states[number])

    def attempts(self, number: int) -> int:
        return sum(report.number == number for report in self.reports)

    def asked(self, number: int) -> Sequence[Any]:
        return [member for report in self.reports if report.number == number for member in report.participants]


def copy_of(state: RunState) -> RunState:
    moments = {name: moment.copy() for name, moment in state.moments.items()}
    return replace(state, vector=state.vector.copy(), moments=moments)


@dataclass
class Handled:
    """An agent behind a handler that may answer in its place."""

    client: str
    agent: Agent
    handler: Handler

    def handle(self, instruction: Instruction) -> Reply:
        return self.handler(self.client, instruction, self.agent.handle)


@dataclass(frozen=True)
class Sent:
    """One message that left a ClientApp."""

    client: str
    action: str
    round: int
    attempt: int
    header: bytes
    message: bytes
    arrays: dict[str, tuple[str, bytes]]


@dataclass
class Masked:
    """A federation of agents `c00`, `c01`, ... that have joined, each with rows of its own."""

    overrides: Sequence[str] = ()
    clients: int = 10
    vanish: Vanish = nobody
    handler: Handler = honest
    seed: bytes = bytes(32)
    rows: Callable[[int], Rows] = some_rows
    recorder: Any = field(default_factory=Memory)
    sent: list[Sent] = field(default_factory=list)
    name: str = "run"

    def __post_init__(self) -> None:
        overrides = [f"population.clients={self.clients}", *self.overrides]
        self.recipe: Recipe = parse_recipe(RECIPE, overrides)
        self.names = {FIRST_NODE + index: f"c{index:02d}" for index in range(self.clients)}
        rows = self.rows(30 * self.clients)
        # Of different sizes, so that weights matter.
        ends = np.cumsum(np.arange(1, self.clients + 1)) * len(rows) // (self.clients * (self.clients + 1) // 2)
        bench = Workbench(own_code=True)
        self.agents = {
            node: Agent(self.names[node], SimulatedHoldings(rows, part, None, np.empty(0, np.int64)), bench)
            for node, part in zip(self.names, np.split(np.arange(len(rows)), ends[:-1]), strict=True)
        }
        self.randomness = SeededRandomness(self.seed)
        self.masking: Masking | None = None
        if self.recipe.secure_aggregation.enabled:
            federation: Any = SimpleNamespace(names=self.names, agents=self.agents)
            self.masking = enrol(federation, self.recipe, self.randomness)
        self.store = open_store(":memory:")
        if isinstance(self.recorder, Memory):
            self.recorder.store = self.store

    def execute(self, **changes: Any) -> RunState:
        outcomes: list[RunState] = []
        handled = {node: Handled(self.names[node], agent, self.handler) for node, agent in self.agents.items()}
        app = client_app(lambda context: handled[context.node_id])  # type: ignore[arg-type, return-value]

        def leaving(message: Message, context: Context) -> Message:
            reply = app(message, context)
            self.sent.append(seen(self.names[context.node_id], message, reply))
            return reply

        def gone(node: int, kind: str, group: str) -> bool:
            number, attempt = map(int, group.split("."))
            return self.vanish(node - FIRST_NODE, kind.partition(".")[2], number, attempt)

        grid = InProcessGrid(leaving, self.clients, gone)  # type: ignore[arg-type]

        plan = changes.pop("plan", Plan(self.recipe, SCHEMA))
        budget = self.budget(plan)

        def main(given: Grid, context: Context) -> None:
            run = changes.pop("kind", Run)(
                name=self.name,
                plan=plan,
                transport=GridTransport(
                    given, names=self.names, now=grid.now, pause=grid.pause, forget=grid.discard, share_memory=True
                ),
                recorder=self.recorder,
                cohorts=changes.pop("cohorts", DrawnCohorts(self.name, self.recipe.training, self.randomness)),
                masking=self.masking,
                budget=changes.pop("budget", budget),
                randomness=self.randomness,
                **changes,
            )
            outcomes.append(run.execute())

        with task_identity():
            server_app(main)(grid, server_context())
        return outcomes[0]

    def budget(self, plan: Plan | None = None) -> Budget | None:
        """Return what pays for the rounds, if they promise anything."""
        if self.recipe.privacy.unit == "none":
            return None
        size, identity = check_network(plan or Plan(self.recipe, SCHEMA)), Identity(bytes(32))
        return open_budget(self.store, self.recipe, self.name, size, self.clients, identity, repeatable=True)

    def report(self, number: int, attempt: int = 0) -> RoundReport:
        (found,) = [r for r in self.recorder.reports if (r.number, r.attempt) == (number, attempt)]
        return found

    def outcomes(self, number: int, attempt: int = 0) -> dict[str, tuple[str, str]]:
        return {p.client: (p.outcome, p.reason) for p in self.report(number, attempt).participants}


def seen(client: str, message: Message, reply: Message) -> Sent:
    """Take down everything that a reply carries."""
    number, attempt = map(int, message.metadata.group_id.split("."))
    action = message.metadata.message_type.partition(".")[2]
    config, arrays = reply.content["reply"], reply.content["arrays"]
    assert set(reply.content) == {"reply", "arrays"} and set(config) == {"header", "message"}
    assert isinstance(arrays, ArrayRecord)
    vectors = {name: (array.dtype, bytes(array.data)) for name, array in arrays.items()}
    return Sent(client, action, number, attempt, config["header"], config["message"], vectors)


def names(clients: Iterable[int]) -> set[str]:
    return {f"c{client:02d}" for client in clients}


def silent(*gone: tuple[str, int], number: int = 1, attempt: int | None = None) -> Callable[[int, str, int, int], bool]:
    """Drop clients in a phase of one round: `(phase, client)`."""

    def vanish(client: int, action: str, at_round: int, at_attempt: int) -> bool:
        return at_round == number and (attempt is None or at_attempt == attempt) and (action, client) in gone

    return vanish


_SUMS: dict[frozenset[int], bytes] = {}


def model_over(survivors: Iterable[int]) -> bytes:
    """Return the model after one round over some clients, from their integers added up without any mask."""
    key = frozenset(survivors)
    if key not in _SUMS:
        gone = [("contribute", client) for client in set(range(10)) - key]
        _SUMS[key] = (
            Masked([*ONE_ROUND, "secure_aggregation.mode=elided"], vanish=silent(*gone)).execute().vector.tobytes()
        )
    return _SUMS[key]


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
