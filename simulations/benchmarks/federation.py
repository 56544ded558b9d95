"""What a message stage of a real federation costs: agents in processes of their own, real HTTP on the loopback.

A stage asks every agent and takes every answer in, through the transport that rounds use. The messages hold half a
kilobyte and the agents do nothing, so that what is measured is the way. Starting the agents is left out. What a whole
round costs, with masks and noise, is beside it.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from pathlib import Path

from tacit.models.messages import Instruction
from tacit.privacy.identity import Identity
from tacit.server.flower import GridTransport
from tacit.server.rounds import Request
from tacit.server.superlink import SuperLink
from tacit.simulations.benchmarks.federation_agents import agents
from tacit.simulations.benchmarks.federation_round import ROUNDS, round_figures, traffic_figures
from tacit.simulations.benchmarks.figure import Figure, absent
from tacit.simulations.benchmarks.stock_flower import Unmeasured
from tacit.simulations.benchmarks.stock_flower import stage_seconds as stock_stage_seconds

BOUNDS = {2: (0.2, 0.1), 10: (1.0, 0.4)}  # agents: seconds that must and that should be kept
MANY = 200  # agents, to see that it still works
START_SECONDS = 60.0
STAGE_SECONDS = 30.0
STOCK_AGENTS, STOCK_STAGES = 2, 3


def stage(transport: GridTransport, number: int) -> float:
    """Ask every agent once and return how long it took until all answers were in."""
    instruction = Instruction("mask", "benchmark", number, 0, b"", message=bytes(500))
    began = time.perf_counter()
    clients = transport.clients()
    transport.send([Request(client, instruction) for client in clients])
    waiting, deadline = set(clients), transport.now() + STAGE_SECONDS
    while waiting and transport.now() < deadline:
        for arrival in transport.arrivals(deadline):
            if arrival.reply is None:
                raise RuntimeError(f"an agent did not answer: {arrival.reason}")
            waiting.discard(arrival.client)
    if waiting:
        raise RuntimeError(f"{len(waiting)} agents did not answer in time")
    return time.perf_counter() - began


def stage_figure(count: int, stages: int) -> Figure:
    """Measure stages with so many agents."""
    identities = [Identity(os.urandom(32)) for _ in range(count)]
    with SuperLink() as link, link.grid() as grid:
        for at, identity in enumerate(identities):
            link.admit(identity.public_key, f"agent-{at}")
        transport = link.transport(grid)
        with agents(link.address[1], identities):
            until = time.monotonic() + START_SECONDS
            while len(transport.clients()) < count:
                if time.monotonic() > until:
                    return absent(f"stage_seconds_{count}_agents", "s", "the agents did not start in time")
                time.sleep(0.05)
            stage(transport, 0)
            spent = time.process_time()
            seconds = [stage(transport, number) for number in range(1, stages + 1)]
            spent = (time.process_time() - spent) / stages
    name, median = f"stage_seconds_{count}_agents", statistics.median(seconds)
    detail = f"median of {stages}, slowest {max(seconds):.3f}; the coordinator's processor {spent:.3f} s"
    if count not in BOUNDS:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Figure(name, median, "s", detail=f"{detail}, {2 * count / median:.0f} requests/s, {peak:.0f} MB at most")
    bound, goal = BOUNDS[count]
    return Figure(name, median, "s", f"bound {bound}", bound, f"{detail}, goal {goal}")


def stock_figure() -> Figure:
    """Measure Flower's own way, with its own processes."""
    name = "stock_flower_stage_seconds"
    try:
        seconds = stock_stage_seconds(STOCK_AGENTS, STOCK_STAGES)
    except (OSError, Unmeasured) as error:
        return absent(name, "s", str(error))
    return Figure(
        name, statistics.median(seconds), "s", detail=f"{STOCK_AGENTS} SuperNodes, median of {len(seconds)} stages"
    )


def figures(quick: bool) -> list[Figure]:
    """Return the figures; `quick` measures fewer stages and rounds, neither many agents nor Flower's own way."""
    if not Path("/proc/self/statm").exists():
        return [absent(f"stage_seconds_{count}_agents", "s", "measured on Linux alone") for count in BOUNDS]
    small, large = ROUNDS
    found = [stage_figure(count, 20 if quick else 100) for count in BOUNDS]
    if quick:
        return [*found, *round_figures(small, 3)]
    found += [stage_figure(MANY, 10), stock_figure(), *round_figures(small, 10), *round_figures(large, 3)]
    return [*found, *traffic_figures(3)]
