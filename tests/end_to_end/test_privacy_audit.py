"""Attack the noise that rounds really carry: a canary is no easier to find than what is accounted allows.

Many tiny rounds go through the real agents and the real coordinator, half of them with a client whose update is as
long as the clip allows and points in a known direction, half with that client's contribution zero. Whoever looks at
what is released bets that the client was there when the projection on the direction exceeds one half of the clip. Of
noise whose standard deviation is z times the sensitivity, no bet tells more than mu = 1/z:
Phi^-1(1 - FP) - Phi^-1(FN) <= mu (Dong, Roth and Su 2022, section 2). Clopper and Pearson's upper bounds on both rates
make a lower bound on the mu of the noise that there really was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dp_accounting import dp_event
from scipy import stats
from torch import from_numpy

from tacit.client import contribution as contribution_module
from tacit.client.agent import Agent
from tacit.client.training import AgentState, Workbench
from tacit.models import noise as noise_module
from tacit.models.messages import Instruction
from tacit.models.noise import NoisePlan, noise_plan
from tacit.models.plan import Plan
from tacit.models.preparation import preparation_sums, prepared_plan
from tacit.models.recipe import parse_recipe
from tacit.models.training import LocalResult
from tacit.privacy import dp_sgd_passes as passes_module
from tacit.privacy.clipping import clip_l2
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.mechanisms import local_gaussian, skellam_share, standard_normals
from tacit.privacy.randomness import Keystream, SeededRandomness
from tacit.privacy.terms import Observer
from tacit.server.exchanges import Occasion, ProtectedTraining
from tacit.server.masked import NoisedTraining
from tacit.simulations.enrolment import enrol
from tacit.simulations.population import SimulatedHoldings

from .masked import RECIPE, SCHEMA, some_rows

pytestmark = pytest.mark.slow

TRIALS = 1000
CONFIDENCE = 0.975
CLIP = 0.5
CLIENTS = 10
NAMES = tuple(f"c{index}" for index in range(CLIENTS))
THRESHOLDS = (
    "secure_aggregation.mode=elided",
    "secure_aggregation.min_cohort=3",
    "secure_aggregation.dropout=0.2",
    "secure_aggregation.colluding=0.3",
)
PLAIN = ("secure_aggregation.enabled=false",)
WEAKER = 0.7


def lower_bound_on_mu(scores_without: np.ndarray, scores_with: np.ndarray) -> float:
    """Return what the bets prove at least: the threshold of one half was fixed before any of them."""
    found, missed = int((scores_without > 0.5).sum()), int((scores_with <= 0.5).sum())
    highest = [stats.beta.ppf(CONFIDENCE, count + 1, TRIALS - count) for count in (found, missed)]
    return float(stats.norm.isf(highest[0]) - stats.norm.ppf(highest[1]))


@dataclass
class Rounds:
    """Rounds of one recipe, one for each trial, with updates that the test chooses."""

    overrides: tuple[str, ...]
    observer: Observer
    answering: tuple[str, ...] = NAMES
    silent: frozenset[str] = frozenset()
    weaker: float = 1.0

    def __post_init__(self) -> None:
        promise = ("privacy.unit=client", f"privacy.clip={CLIP}", "privacy.noise_multiplier=1")
        recipe = parse_recipe(RECIPE, [f"population.clients={CLIENTS}", *promise, *self.overrides])
        sums = preparation_sums(some_rows(60), SCHEMA)
        self.plan = prepared_plan(Plan(recipe, SCHEMA), sums, CLIENTS, outputs=2, proximal_mu=0.0)
        self.encoded, self.recipe = self.plan.encode(), recipe
        assert self.plan.architecture is not None
        self.size = sum(parameter.numel() for parameter in self.plan.architecture.build(0).parameters())
        self.noise: NoisePlan = noise_plan(recipe, self.size, CLIENTS, CLIENTS)
        self.randomness = SeededRandomness(b"audit" + bytes(27))
        bench, nobody = Workbench(), np.empty(0, np.int64)
        self.agents = {
            name: Agent(name, SimulatedHoldings(some_rows(60), np.arange(10), None, nobody), bench) for name in NAMES
        }
        self.masking: Any = None
        if recipe.secure_aggregation.enabled:
            federation: Any = SimpleNamespace(
                names=dict(enumerate(NAMES)), agents=dict(enumerate(self.agents.values()))
            )
            self.masking = enrol(federation, recipe, self.randomness)
        for agent in self.agents.values():
            agent.draw_from(self.randomness)
            if agent._member is not None:  # ledgers end after the rounds that the recipe has
                agent._member.membership = replace(agent._member.membership, consent=None)

        self.updates: dict[str, np.ndarray] = {}
        self.current = ""

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Put the chosen updates in the place of training, and take from the noise what the attacker knows of it."""
        share, gaussian, normals = skellam_share, local_gaussian, standard_normals

        def train(state: AgentState, *rest: Any) -> tuple[AgentState, LocalResult]:
            self.current = state.client
            return state, LocalResult(from_numpy(self.updates[state.client].copy()), 1, 0.0)

        def on_the_grid(values: np.ndarray, bound: Any, variance: float, shares: int, words: Any) -> Any:
            if self.current in self.silent:  # whoever knows a share subtracts it, and nothing is left of it
                return values, None
            return share(values, bound, variance * self.weaker**2, shares, words)

        def local(update: np.ndarray, l2_clip: float, multiplier: float, words: Any) -> Any:
            if self.current in self.silent:
                return clip_l2(update, l2_clip)
            return gaussian(update, l2_clip, multiplier * self.weaker, words)

        patch.setattr(contribution_module, "train", train)
        patch.setattr(noise_module, "skellam_share", on_the_grid)
        patch.setattr(noise_module, "local_gaussian", local)
        patch.setattr(noise_module, "standard_normals", lambda words, count: self.weaker * normals(words, count))

    @property
    def claimed_mu(self) -> float:
        """Return the sensitivity over the standard deviation of the noise, both as they are accounted."""
        event = self.noise.event(self.observer, len(self.answering))
        if isinstance(event, SkellamDpEvent):
            return event.l2_sensitivity / math.sqrt(event.variance)
        assert isinstance(event, dp_event.GaussianDpEvent)
        return 1.0 / event.noise_multiplier

    def released(self, trial: int) -> np.ndarray:
        """Return the sum that one round releases: its mean times the number of survivors."""
        at, vector = Occasion("audit", trial, 0, self.encoded), np.zeros(self.size, np.float32)
        words = Keystream(self.randomness.key("central-noise", at.run, at.round, at.attempt))
        exchanges: NoisedTraining | ProtectedTraining
        if self.masking is None:
            exchanges = ProtectedTraining(at, {"vector": vector}, self.noise, words)
        else:
            exchanges = NoisedTraining(at, {"vector": vector}, NAMES, self.masking, self.noise, words)
        for name in self.answering:
            reply = self.agents[name].handle(exchanges.request(0, name))
            assert reply.outcome == "ok", reply.reason
            exchanges.accept(0, name, reply)
        exchanges.close(0, self.answering)
        return exchanges.result().mean_update.astype(np.float64) * len(self.answering)

    def scores(self, canary: bool) -> np.ndarray:
        """Return the projections of what rounds release less what the others gave, in clips."""
        rng = np.random.default_rng(3)
        directions = {name: rng.normal(size=self.size) for name in NAMES}
        directions = {name: one / np.linalg.norm(one) for name, one in directions.items()}
        self.updates = {name: (0.4 * CLIP * one).astype(np.float32) for name, one in directions.items()}
        first, *others = self.answering
        # Longer than the clip allows, as a client's update may be.
        self.updates[first] = ((3.0 if canary else 0.0) * CLIP * directions[first]).astype(np.float32)
        known = sum((self.updates[name].astype(np.float64) for name in others), np.zeros(self.size))
        trials = range(1 + TRIALS * canary, 1 + TRIALS * (1 + canary))
        return np.array([(self.released(trial) - known) @ directions[first] / CLIP for trial in trials])


COLLUDERS = frozenset(NAMES[1:4])
CASES: dict[str, Callable[..., Rounds]] = {
    # As few survive as may, and of those as many collude as may: their shares are subtracted.
    "distributed": partial(Rounds, THRESHOLDS, "coordinator", NAMES[:8], COLLUDERS),
    "central, masked": partial(Rounds, (*THRESHOLDS, "privacy.noise=central"), "outsiders"),
    "central": partial(Rounds, (*PLAIN, "privacy.noise=central"), "outsiders"),
    # Nobody else's noise counts: the attacker knows all of it.
    "local, masked": partial(Rounds, (*THRESHOLDS, "privacy.noise=local"), "coordinator", NAMES, frozenset(NAMES[1:])),
    "local": partial(Rounds, (*PLAIN, "privacy.noise=local"), "coordinator", NAMES, frozenset(NAMES[1:])),
}


def audit(rounds: Rounds, patch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    rounds.patch(patch)
    return rounds.scores(canary=False), rounds.scores(canary=True)


@pytest.mark.parametrize("name", CASES)
def test_a_canary_is_no_easier_to_find_than_is_accounted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = CASES[name]()
    without, with_it = audit(rounds, monkeypatch)
    mu = rounds.claimed_mu
    assert mu == pytest.approx(1.0, rel=1e-3)
    assert lower_bound_on_mu(without, with_it) <= mu
    # The attack is one that works: the canary is where it is looked for, and as long as the clip.
    assert with_it.mean() - without.mean() == pytest.approx(1.0, abs=5 * math.sqrt(2 / TRIALS))
    assert without.std() == pytest.approx(1 / mu, rel=5 * math.sqrt(0.5 / TRIALS))


@pytest.mark.parametrize("name", CASES)
def test_the_audit_notices_three_tenths_too_little_noise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = CASES[name](weaker=WEAKER)
    assert lower_bound_on_mu(*audit(rounds, monkeypatch)) > rounds.claimed_mu


def test_the_audit_notices_drop_outs_and_colluders_that_are_counted_as_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = CASES["distributed"]()
    event = rounds.noise.event("coordinator", len(rounds.answering))
    assert isinstance(event, SkellamDpEvent)
    shares = round(event.variance / rounds.noise.share_variance)
    assert shares == len(rounds.answering) - len(COLLUDERS)
    everybody = event.variance * CLIENTS / shares
    assert lower_bound_on_mu(*audit(rounds, monkeypatch)) > event.l2_sensitivity / math.sqrt(everybody)


# One record of one client ---------------------------------------------------------------------------------------------

EXAMPLE = (
    *PLAIN,
    "privacy.unit=example",
    "privacy.noise_multiplier=1",
    "privacy.sample_rate=1.0",
    "privacy.clip=0.1",
    "training.local_steps=1",
    "training.batch_size=20",
)
STEP_LENGTH = 0.3 * 0.1 / 20  # learning rate, clip, and the public number that sums are divided by


def record_scores(canary: bool, weaker: float, patch: pytest.MonkeyPatch) -> np.ndarray:
    """Return where one record is looked for in private updates, in the length of its clipped gradient."""
    rows = some_rows(20)
    kept = np.arange(20) if canary else np.arange(1, 20)
    bench, nobody = Workbench(), np.empty(0, np.int64)
    plans = {}
    for noise in ("1", "0.000001"):
        overrides = [f"population.clients={CLIENTS}", *EXAMPLE, f"privacy.noise_multiplier={noise}"]
        unprepared = Plan(parse_recipe(RECIPE, overrides), SCHEMA)
        plans[noise] = prepared_plan(unprepared, preparation_sums(rows, SCHEMA), CLIENTS, outputs=2, proximal_mu=0.0)

    def updates(noise: str, part: np.ndarray, trials: range) -> np.ndarray:
        agent = Agent("c0", SimulatedHoldings(rows, part, None, nobody), bench, SeededRandomness(b"record" + bytes(26)))
        architecture = plans[noise].architecture
        assert architecture is not None
        start = np.zeros(sum(parameter.numel() for parameter in architecture.build(0).parameters()), np.float32)
        encoded, found = plans[noise].encode(), []
        for trial in trials:
            reply = agent.handle(Instruction("train", "audit", trial, 0, encoded, arrays={"vector": start}))
            assert reply.outcome == "ok", reply.reason
            found.append(reply.arrays["update"].astype(np.float64))
        return np.array(found)

    # The attacker knows all other records, and the one that it looks for.
    (without,) = updates("0.000001", np.arange(1, 20), range(1, 2))
    direction = updates("0.000001", np.arange(20), range(1, 2))[0] - without
    assert np.linalg.norm(direction) == pytest.approx(STEP_LENGTH, rel=1e-3)  # the canary's gradient is clipped
    normals = passes_module.normals
    patch.setattr(passes_module, "normals", lambda words, count, device: weaker * normals(words, count, device))
    released = updates("1", kept, range(1 + TRIALS * canary, 1 + TRIALS * (1 + canary)))
    scores: np.ndarray = (released - without) @ direction / (direction @ direction)
    return scores


@pytest.mark.parametrize("weaker", [1.0, WEAKER])
def test_a_record_is_no_easier_to_find_than_is_accounted_and_the_audit_notices_if_it_were(
    weaker: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = []
    for canary in (False, True):
        with monkeypatch.context() as patch:
            scores.append(record_scores(canary, weaker, patch))
    # One step at noise multiplier one, of which every record is a part: the Gaussian mechanism, mu = 1.
    assert (lower_bound_on_mu(*scores) <= 1.0) == (weaker == 1.0)
    assert scores[1].mean() - scores[0].mean() == pytest.approx(1.0, abs=5 * math.sqrt(2 / TRIALS))
