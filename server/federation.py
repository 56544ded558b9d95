"""A coordinator at work: recipes wait in its directory, and are trained one after another over the fleet port."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tacit.models.durable import write_file
from tacit.models.errors import InputError
from tacit.models.plan import decode_plan
from tacit.models.recipe import Recipe, load_recipe
from tacit.models.training import resolve_device
from tacit.privacy.errors import PrivacyError
from tacit.privacy.randomness import Randomness, SystemRandomness
from tacit.server.budget import open_budget
from tacit.server.coordinator_directory import CoordinatorDirectory
from tacit.server.environment import environment
from tacit.server.evaluation import CentralEvaluator
from tacit.server.feasibility import check_cohorts, check_names, check_network, check_promise
from tacit.server.kept_run import Ending, KeptRun, new_directory
from tacit.server.masking import Masking
from tacit.server.membership import Membership
from tacit.server.public_sample import open_public_sample
from tacit.server.registry import Registry
from tacit.server.reports import RoundReport
from tacit.server.run import Run, RunFailed
from tacit.server.run_directory import RunDirectory
from tacit.server.sampling import DrawnCohorts
from tacit.server.store import Store
from tacit.server.store.errors import StoreUnavailable
from tacit.server.superlink import SuperLink

_LOG = logging.getLogger(__name__)
QUEUE, RUNS = "queue", "runs"
SIGNED_AS = "the coordinator of the federation"


def enqueue(directory: Path, recipe: Recipe, now: datetime) -> Path:
    """Let a recipe wait in a coordinator's directory, and return its file; the oldest is trained first.

    Raises:
        InputError: the recipe is for a simulation, or the file cannot be written.
    """
    refuse_simulations(recipe)
    check_names(recipe)
    path = directory / QUEUE / f"{now.astimezone(UTC):%Y%m%d-%H%M%S-%f}-{recipe.name}.toml"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_file(path, recipe.to_toml().encode())
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from None
    return path


def refuse_simulations(recipe: Recipe) -> None:
    """Refuse what only a simulation may do.

    Raises:
        InputError: the recipe leaves the masks out, or asks for noise as if the cohort were larger.
    """
    if not recipe.secure_aggregation.enabled or recipe.secure_aggregation.mode != "real":
        raise InputError(
            "a federation's members answer masked rounds alone",
            where="secure_aggregation",
            right='enabled = true and mode = "real"',
        )
    if recipe.privacy.noise_cohort:
        raise InputError("is for simulations", where="privacy.noise_cohort", right="leave it out")


@dataclass
class Coordinator:
    """A federation that is up.

    Attributes:
        directory: keys and settings.
        store: runs, members, ledgers.
        membership: who may take part.
        link: the fleet port.
        wait_seconds: how long a run waits for as many clients as its rounds need.
        randomness: where cohorts, rotation seeds and noise of its own come from.
    """

    directory: CoordinatorDirectory
    store: Store
    membership: Membership
    link: SuperLink
    wait_seconds: float = 600.0
    randomness: Randomness = field(default_factory=SystemRandomness)

    def work(self, until: Callable[[], bool], pause: Callable[[float], None] = time.sleep) -> None:
        """Train what waits, one recipe after another, and look for more, until told otherwise.

        A recipe that cannot be trained is put aside with the reason; the next one has its turn.
        """
        for record in self.store.list_runs(None, "running"):
            self.store.set_run_status(record.run, "interrupted", "the coordinator was stopped")
        while not until():
            self.membership.bring(self.link)
            waiting = sorted((self.directory.path / QUEUE).glob("*.toml"))
            if not waiting:
                pause(1.0)
                continue
            self._one(waiting[0], until, pause)

    def _one(self, path: Path, until: Callable[[], bool], pause: Callable[[float], None]) -> None:
        try:
            summary = self.train(load_recipe(path), until, pause)
        except (InputError, RunFailed, PrivacyError, StoreUnavailable) as error:
            _LOG.error("%s was not trained: %s", path.stem, error)
            path.rename(path.with_suffix(".failed"))
            return
        if summary is not None:
            _LOG.info("model       %(name)s version %(version)d", summary["model"])
            path.unlink()

    def train(
        self, recipe: Recipe, until: Callable[[], bool], pause: Callable[[float], None] = time.sleep
    ) -> dict[str, Any] | None:
        """Train one recipe over the members that are there, register its model, and return the run's summary.

        Columns, classes, selection and the test come from the recipe's public sample: no client's row is here.

        Returns:
            None if it was to stop before there were enough clients.

        Raises:
            InputError: the recipe or its public sample cannot be used.
            RunFailed: too few clients came or answered, or the model diverged.
        """
        refuse_simulations(recipe)
        check_names(recipe)
        sample = open_public_sample(recipe, os.environ)
        identity, randomness = self.directory.coordinator, self.randomness
        directory = RunDirectory(self.directory.path / RUNS / new_directory(recipe).name)
        registry = Registry(self.store, Path(self.directory.models))
        kept = KeptRun(self.store, registry, directory, recipe, identity)
        plan, initial = kept.starting_point(sample.schema)
        clients = self._gather(recipe, until, pause)
        if not clients:
            return None
        masking = Masking(
            identity, frozenset({self.directory.authority.public_key}), recipe.secure_aggregation, randomness
        )
        parameters = check_network(plan)
        check_cohorts(recipe, masking, clients, parameters)
        check_promise(recipe, clients, parameters)
        kept.begin(environment(str(resolve_device(recipe.training.device)), torch.get_num_threads()), {})
        with kept.running(), self.link.grid() as grid:
            budget = None
            if recipe.privacy.unit != "none":
                budget = open_budget(self.store, recipe, kept.name, parameters, clients, identity)
            started = time.perf_counter()
            state = Run(
                name=kept.name,
                plan=plan,
                transport=self.link.transport(grid),
                recorder=kept.recorder(),
                cohorts=DrawnCohorts(kept.name, recipe.training, randomness, clients),
                masking=masking,
                budget=budget,
                randomness=randomness,
                validate=CentralEvaluator(sample.validation) if sample.validation is not None else None,
                initial=initial,
                on_round=self._round,
            ).execute()
            metrics = CentralEvaluator(sample.test)(decode_plan(state.plan), state.vector)
            ending = Ending(
                state,
                metrics,
                clients,
                time.perf_counter() - started,
                "Rows that the members brought and kept. Columns and classes come from the public sample that the run's"
                " recipe names.",
                per_client={},
                found={"mode": "federation", "public_sample": sample.described()},
                signed_as=SIGNED_AS,
                ledger=budget.facts() if budget is not None else None,
            )
            summary, _ = kept.release(ending)
            kept.finish(summary)
        return summary

    def _gather(self, recipe: Recipe, until: Callable[[], bool], pause: Callable[[float], None]) -> int:
        """Wait until as many members are there as a round needs, and return how many; 0 if it was to stop."""
        needed = recipe.training.cohort or max(recipe.secure_aggregation.min_cohort, recipe.population.clients or 0)
        deadline = time.monotonic() + self.wait_seconds
        while not until():
            self.membership.bring(self.link)
            there = sum(one.online for one in self.link.presence().values())
            if there >= needed:
                return there
            if time.monotonic() > deadline:
                raise RunFailed(f"{there} of {needed} clients were there after {self.wait_seconds:g} s")
            pause(0.5)
        return 0

    def _round(self, report: RoundReport) -> None:
        self.membership.bring(self.link)
        if report.committed:
            told = "  ".join(f"{name} {value:.4f}" for name, value in sorted(report.metrics.items()))
            _LOG.info(
                "round %-5d %d of %d reported  %s", report.number, report.reported, len(report.participants), told
            )
        else:
            _LOG.warning("round %-5d attempt %d failed: %s", report.number, report.attempt, report.reason)
        for one in report.participants:
            if one.outcome != "reported":
                _LOG.warning("round %-5d client %s: %s (%s)", report.number, one.client, one.outcome, one.reason)
