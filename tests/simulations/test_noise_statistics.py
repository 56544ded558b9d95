"""A million coordinates of noise as agents make it: its variance and shape are those claimed, and no two are alike."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from scipy import special, stats

from tacit.client.agent import Agent
from tacit.client.training import Workbench
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.messages import Instruction
from tacit.models.noise import NoisePlan, noise_plan
from tacit.models.plan import Plan
from tacit.models.preparation import preparation_sums, prepared_plan
from tacit.models.recipe import Recipe, parse_recipe
from tacit.privacy.randomness import Keystream, Randomness, SeededRandomness
from tacit.simulations.population import SimulatedHoldings

RECIPE = """
name = "statistics"
[task]
kind = "tabular-classification"
[data]
source = "s:"
[population]
clients = 12
[training]
rounds = 3
local_steps = 2
device = "cpu"
"""
COUNT = 1_000_000
CLIENTS, ROUNDS = ("a", "b", "c"), (1, 2)


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, overrides)


@pytest.fixture(scope="module")
def plan() -> NoisePlan:
    return noise_plan(recipe("privacy.unit=client", "privacy.epsilon=8"), COUNT, 12)


@pytest.fixture(scope="module")
def noises(plan: NoisePlan) -> dict[tuple[int, str], np.ndarray]:
    """What clients without an update give in each round: their noise alone, as rounding leaves zero as it is."""
    randomness, nothing = SeededRandomness(b"noise" * 6 + b"!!"), np.zeros(COUNT, np.float32)

    def given(number: int, client: str) -> np.ndarray:
        words = (Keystream(randomness.key("secagg", "run", number, 0, client, p)) for p in ("grid-rounding", "noise"))
        return plan.integers(nothing, bytes(32), *words)

    return {(number, client): given(number, client) for number in ROUNDS for client in CLIENTS}


def test_the_variance_of_every_share_is_the_one_that_is_claimed(
    plan: NoisePlan, noises: dict[tuple[int, str], np.ndarray]
) -> None:
    for noise in noises.values():
        assert noise.size >= COUNT
        # Five standard errors, sqrt(2 / 10^6) each.
        assert 0.9931 <= float(np.mean(noise.astype(np.float64) ** 2)) / plan.share_variance <= 1.0069
    for number in ROUNDS:
        total = sum(noises[number, client].astype(np.float64) for client in CLIENTS)
        assert 0.9931 <= float(np.mean(total**2)) / (len(CLIENTS) * plan.share_variance) <= 1.0069


def test_its_shape_is_skellams(plan: NoisePlan, noises: dict[tuple[int, str], np.ndarray]) -> None:
    sigma, noise = math.sqrt(plan.share_variance), noises[1, "a"]
    width = max(1, round(sigma / 10))
    edges = np.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + width, width)
    values = np.arange(edges[0], edges[-1])
    if sigma < 1e3:
        probabilities = np.add.reduceat(special.ive(np.abs(values), sigma**2), edges[:-1] - edges[0])
    else:  # so wide that a normal distribution's bins are its own: they differ by far less than these draws could show
        probabilities = np.diff(stats.norm.cdf((edges - 0.5) / sigma))
    observed = np.histogram(noise, edges)[0]
    expected = probabilities * noise.size
    outside = noise.size - observed.sum(), noise.size - expected.sum()
    statistic = float(((observed - expected) ** 2 / expected).sum()) + (outside[0] - outside[1]) ** 2 / outside[1]
    assert stats.chi2.sf(statistic, len(expected)) > 1e-5


def test_the_noise_of_clients_and_rounds_is_uncorrelated(noises: dict[tuple[int, str], np.ndarray]) -> None:
    correlations = np.corrcoef(np.array(list(noises.values()), dtype=np.float64)) - np.eye(len(noises))
    assert np.abs(correlations).max() < 5 / math.sqrt(COUNT)


# Agents that were started alike ---------------------------------------------------------------------------------------

SCHEMA = Schema((Column("a", "numeric"), Column("b", "numeric")), "y", ("no", "yes"))
PROMISES = {
    "every example, by DP-SGD": ("privacy.unit=example", "privacy.noise_multiplier=1", "privacy.sample_rate=0.5"),
    "the client, by its own noise": ("privacy.unit=client", "privacy.noise=local", "privacy.noise_multiplier=1"),
}


def update(promise: tuple[str, ...], randomness: Randomness | None = None) -> np.ndarray:
    """Return the update of an agent whose process began with these seeds; rows and name are always the same."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    rng = np.random.default_rng(1)
    rows = Rows({"a": rng.normal(size=60), "b": rng.normal(size=60)}, rng.integers(0, 2, 60))
    plan = Plan(recipe("secure_aggregation.enabled=false", *promise), SCHEMA)
    plan = prepared_plan(plan, preparation_sums(rows, SCHEMA), 12, outputs=2, proximal_mu=0.0)
    agent = Agent("same", SimulatedHoldings(rows, np.arange(60), None, np.empty(0, np.int64)), Workbench(), randomness)
    start = {"vector": np.zeros(6, np.float32)}
    reply = agent.handle(Instruction("train", "run", 1, 0, plan.encode(), arrays=start))
    assert reply.outcome == "ok", reply.reason
    return reply.arrays["update"]


@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES)
def test_the_same_seeds_at_two_clients_give_different_noise(promise: tuple[str, ...]) -> None:
    one, two = update(promise), update(promise)
    assert (one != two).all()
    # The noise is all that differs: from one secret source both would be the same.
    source = SeededRandomness(bytes(range(32)))
    assert np.array_equal(update(promise, source), update(promise, source))
