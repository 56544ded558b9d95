"""A whole round of a real federation: ten agents in processes of their own, masks, noise, a database, and real HTTP.

Each agent takes one step of training on a few rows, so that nearly all of a round is what comes on top of training. Ten
agents share the cores of one machine, where a deployment has a machine for each. How many bytes an agent gets and sends
in a round is counted for each form that a model may travel in. Run as
`python -m tacit.simulations.benchmarks.federation_round PORT` this is the agents: standard input has the recipe and the
seed of their keys.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import sub
from pathlib import Path
from typing import get_args

import torch

from tacit.client.connection import Address, Connection
from tacit.client.fleet import Resident
from tacit.models.broadcast import Form
from tacit.models.plan import Plan
from tacit.models.recipe import Recipe, parse_recipe
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg.loopback import Loopback
from tacit.server.allocator import return_freed_memory
from tacit.server.budget import open_budget
from tacit.server.checkpoints import Checkpoints
from tacit.server.feasibility import check_network
from tacit.server.phases import Phases
from tacit.server.recorder import StoreRecorder
from tacit.server.reports import RoundReport
from tacit.server.run import Run
from tacit.server.sampling import DrawnCohorts
from tacit.server.store import NewRun, open_store
from tacit.server.superlink import SuperLink
from tacit.simulations.benchmarks.figure import Figure, absent
from tacit.simulations.enrolment import enrol
from tacit.simulations.federation import build_federation

AGENTS = 10
START_SECONDS = 120.0
# Hidden width of the network, and the bound in seconds: 50 890 and 5 008 510 parameters.
ROUNDS = {"round_overhead_seconds_10_agents_mlp": (64, 5.0), "round_seconds_10_agents_20mb": (6300, 15.0)}
IDLE_AFTER = "round_overhead_seconds_10_agents_mlp"
IDLE_SECONDS = 10.0
MEMORY_OF = "round_seconds_10_agents_20mb"
MODEL_COPIES, AGENT_MB = 3, 1.0  # what a coordinator's memory may grow by

RECIPE = """
name = "federation-round"
task.kind = "image-classification"
data.source = "synthetic:images?rows=400&size=28&classes=10"
population.clients = {agents}
model.name = "mlp"
model.hidden = [{hidden}]
evaluation.validation = 0.0
privacy.unit = "client"
privacy.noise_multiplier = 1.0
privacy.clip = 1.0
privacy.delta = 1e-5

[training]
broadcast = "{form}"
rounds = {rounds}
local_steps = 1
batch_size = 32
learning_rate = 0.05
device = "cpu"
engine = "plain"
deadline_seconds = 120
"""


def recipe_of(hidden: int, rounds: int, form: Form = "float32") -> Recipe:
    """Return ten agents that take one step a round, and a model that travels in some form."""
    return parse_recipe(RECIPE.format(agents=AGENTS, hidden=hidden, rounds=rounds, form=form))


def round_figures(name: str, rounds: int) -> list[Figure]:
    """Measure rounds, and afterwards an agent that has nothing to do.

    The first round, in which everybody builds the network, is left out.
    """
    hidden, bound = ROUNDS[name]
    recipe = recipe_of(hidden, rounds + 1)
    try:
        measured = measure(recipe)
    except TimeoutError as error:
        return [absent(name, "s", str(error))]
    seconds = Figure(
        name,
        statistics.median(measured.seconds),
        "s",
        f"bound {bound:g}",
        bound,
        f"{AGENTS} agents on {os.cpu_count()} cores, {measured.parameters} parameters, five exchanges with masks and "
        f"noise, one step of training each; median of {rounds}, {measured.processor_seconds:.1f} processor seconds of "
        f"all parties a round; {measured.bytes_to} bytes to each agent and {measured.bytes_from} from it",
    )
    if name == MEMORY_OF:
        model_mb = 4e-6 * measured.parameters
        most = MODEL_COPIES * model_mb + AGENT_MB * AGENTS
        detail = (
            f"highest memory in {rounds + 1} rounds and their checkpoints, beyond that of a coordinator with {AGENTS} "
            f"agents connected; a model is {model_mb:.1f} MB, a masked vector of it up to twice as much"
        )
        return [
            seconds,
            Figure("coordinator_mb_10_agents_20mb", measured.grown_mb, "MB", f"bound {most:.0f}", most, detail),
        ]
    if name != IDLE_AFTER:
        return [seconds]
    after = f"after {rounds + 1} private rounds"
    return [
        seconds,
        Figure("agent_idle_mb", measured.idle_mb, "MB", "bound 250", 250.0, f"beyond importing PyTorch, {after}"),
        Figure("agent_idle_cpu_percent", measured.idle_percent, "%", "bound 1", 1.0, f"of a core, {after}"),
    ]


def traffic_figures(rounds: int) -> list[Figure]:
    """Count an agent's bytes in a round of the small model, for each form that the model may travel in."""
    hidden, found = ROUNDS[IDLE_AFTER][0], list[Figure]()
    for form in get_args(Form):
        name = f"bytes_to_agent_{form}"
        try:
            measured = measure(recipe_of(hidden, rounds + 1, form), idle=False)
        except TimeoutError as error:
            found.append(absent(name, "bytes", str(error)))
            continue
        alone = 4.0 * measured.parameters
        detail = (
            f"in a round, median of {rounds}; the model {measured.parameters} parameters, the rest its plan, the offer "
            f"and the protocol; {measured.bytes_from} bytes from the agent"
        )
        found.append(Figure(name, measured.bytes_to, "bytes", "the model as float32", alone, detail))
    return found


@dataclass(frozen=True)
class Measured:
    """What a run took.

    Attributes:
        seconds: of each round but the first.
        processor_seconds: of all parties in one of these, which other work on the machine does not change.
        parameters: of the model.
        bytes_to, bytes_from: an agent, in one of these rounds.
        idle_mb, idle_percent: an agent's memory and part of a core when the run was over.
        grown_mb: how far the coordinator's memory rose above what it was before the run.
    """

    seconds: list[float]
    processor_seconds: float
    parameters: int
    bytes_to: int
    bytes_from: int
    idle_mb: float
    idle_percent: float
    grown_mb: float


def measure(recipe: Recipe, *, idle: bool = True) -> Measured:
    """Run a federation, and look at an agent that has nothing to do where `idle` says so.

    Raises:
        TimeoutError: its agents did not start.
    """
    return_freed_memory()  # as a coordinator does
    federation, seed = build_federation(recipe), os.urandom(32)
    masking = enrol(federation, recipe, SeededRandomness(seed))
    members = Loopback.generate(federation.names.values(), SeededRandomness(seed)).members
    plan, reports, spent = Plan(recipe, federation.schema), list[RoundReport](), list[float]()
    traffic: list[tuple[int, int]] = []  # bytes to and from all agents so far
    parameters = check_network(plan)
    federation.agents.clear()  # theirs is another process
    identity = Identity(os.urandom(32))
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(f"sqlite:///{folder}/benchmark.db") as store,
        SuperLink() as link,
        link.grid() as grid,
    ):
        for name, member in members.items():
            link.admit(member.public_key, name)
        transport = link.transport(grid)
        store.create_run(NewRun("run", recipe.name, recipe.task.kind, recipe.to_toml(), recipe.digest, folder, {}))
        with _agents(link.address[1], recipe, seed) as parent:
            until = time.monotonic() + START_SECONDS
            while len(transport.clients()) < AGENTS:
                if time.monotonic() > until:
                    raise TimeoutError("the agents did not start in time")
                time.sleep(0.1)

            def after(report: RoundReport) -> None:
                reports.append(report)
                spent.append(time.process_time() + sum(map(_processor_seconds, _children(parent))))
                traffic.append((link.traffic.sent, link.traffic.received))

            before = memory_mb(peak=False)
            # Kept and announced as a coordinator does it: what a round writes before it asks is part of what it takes.
            Run(
                "run",
                plan,
                transport,
                StoreRecorder(store, "run", Checkpoints(Path(folder, "checkpoints")), masking.memory),
                DrawnCohorts("run", recipe.training, SeededRandomness(os.urandom(32))),
                masking,
                open_budget(store, recipe, "run", parameters, AGENTS, identity),
                phases=Phases(store, "run", Path(folder, "phases"), masking.memory),
                on_round=after,
            ).execute()
            grown_mb = memory_mb(peak=True) - before
            idle_mb, idle_percent = _idle(parent) if idle else (math.nan, math.nan)
    seconds = [report.seconds for report in reports if report.committed and report.number > 1]
    per_round = (spent[-1] - spent[1]) / (len(spent) - 2)  # the preparation and the first round left out
    pairs = zip(*traffic[1:], strict=True)
    bytes_to, bytes_from = (round(statistics.median(map(sub, some[1:], some)) / AGENTS) for some in pairs)
    return Measured(seconds, per_round, parameters, bytes_to, bytes_from, idle_mb, idle_percent, grown_mb)


def memory_mb(*, peak: bool) -> float:
    """Return this process's memory, as it is now or as it was at most since this was asked for."""
    gc.collect()
    if not peak:
        with suppress(OSError, AttributeError):  # what was freed goes back to the system, where its allocator can do so
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    key = "VmHWM:" if peak else "VmRSS:"
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6


def _children(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _idle(parent: int) -> tuple[float, float]:
    """Return the memory of one agent beyond that of PyTorch in MB, and its part of a core in percent."""
    agent = _children(parent)[0]
    bare = "import torch, pathlib; print(pathlib.Path('/proc/self/statm').read_text().split()[1])"
    imported = int(subprocess.check_output([sys.executable, "-c", bare]))  # noqa: S603 - our own words
    pages = int(Path(f"/proc/{agent}/statm").read_text().split()[1])

    before = _processor_seconds(agent)
    time.sleep(IDLE_SECONDS)
    spent = _processor_seconds(agent) - before
    return (pages - imported) * resource.getpagesize() / 1e6, 100 * spent / IDLE_SECONDS


@contextmanager
def _agents(port: int, recipe: Recipe, seed: bytes) -> Iterator[int]:
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", __name__, str(port)],
        stdin=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        if process.stdin is not None:
            process.stdin.write(json.dumps({"recipe": recipe.to_toml(), "seed": seed.hex()}).encode())
            process.stdin.close()
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def main(port: int, given: dict[str, str]) -> None:
    """Part into one process for each agent, and wait."""
    torch.set_num_threads(1)
    recipe, seed = parse_recipe(given["recipe"]), bytes.fromhex(given["seed"])
    federation = build_federation(recipe)
    enrol(federation, recipe, SeededRandomness(seed))
    members = Loopback.generate(federation.names.values(), SeededRandomness(seed)).members
    children: list[int] = []

    def end(number: int, frame: object) -> None:
        for child in children:
            os.kill(child, signal.SIGTERM)

    for agent in federation.agents.values():
        identity = members[agent.client]
        child = os.fork()
        if child == 0:
            agent.draw_from(SeededRandomness(os.urandom(32)))
            Resident(lambda me=identity: Connection(Address("127.0.0.1", port), me), agent).run()  # type: ignore[misc]
            os._exit(0)
        children.append(child)
    signal.signal(signal.SIGTERM, end)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.load(sys.stdin))
