"""A coordinator at work: recipes wait in its directory, and are trained one after another over the fleet port."""

from __future__ import annotations

import logging
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tacit.models.errors import InputError, Unwritable
from tacit.models.recipe import Recipe, load_recipe
from tacit.models.training import resolve_device
from tacit.privacy.errors import PrivacyError
from tacit.privacy.identity import check_name
from tacit.privacy.randomness import Randomness, SystemRandomness
from tacit.server.attempts import RunFailed, RunStopped
from tacit.server.attendance import Attendance
from tacit.server.budget import open_budget
from tacit.server.coordinator_directory import CoordinatorDirectory
from tacit.server.environment import environment
from tacit.server.feasibility import check_cohorts, check_network, check_promise, fewest_clients
from tacit.server.fleet_grid import FleetGrid
from tacit.server.flower import GridTransport
from tacit.server.kept_run import KeptRun, Stopped
from tacit.server.masking import Masking
from tacit.server.membership import Membership
from tacit.server.names import check_names
from tacit.server.purpose import purpose_of
from tacit.server.registry import Registry
from tacit.server.reports import RoundReport
from tacit.server.run_directory import RunDirectory
from tacit.server.run_queue import (
    QUEUE,
    WAITS,
    forget_idle_stops,
    forget_stop,
    is_to_stop,
    put_aside,
    refuse_simulations,
)
from tacit.server.sampling import DrawnCohorts
from tacit.server.store import Store
from tacit.server.store.errors import StoreUnavailable
from tacit.server.superlink import SuperLink

_LOG = logging.getLogger(__name__)
RUNS = "runs"
RETRY_SECONDS = 5.0  # after the disk was full or the database away
TRIES = 3  # of a run that ends for a reason that nobody foresaw


@dataclass
class Coordinator:
    """A federation that is up, and what it is about to train.

    Attributes:
        directory: keys and settings.
        store: runs, members, ledgers.
        membership: who may take part.
        link: the fleet port.
        until: says when to stop; a run that is under way then goes on when the coordinator is started again.
        pause: waits some seconds, or less when it is to stop.
        wait_seconds: how long a run waits for as many clients as its rounds need.
        randomness: where cohorts, rotations and noise of the coordinator's come from.
    """

    directory: CoordinatorDirectory
    store: Store
    membership: Membership
    link: SuperLink
    until: Callable[[], bool]
    pause: Callable[[float], object] = time.sleep
    wait_seconds: float = 600.0
    randomness: Randomness = field(default_factory=SystemRandomness)

    def __post_init__(self) -> None:
        """Begin with nothing to complain of."""
        self.attendance = Attendance(self.membership, self.link, self.until, self.pause)
        self._failures = Counter[str]()
        self._trouble = ""

    def work(self) -> None:
        """Train what waits, one recipe after another, and look for more, until told otherwise.

        A run that another process was in the middle of goes on where it was. A recipe that cannot be trained is put
        aside with the reason; the next one has its turn. While the database is away or the disk full, it waits.
        """
        looked = False
        while not self.until():
            try:
                if not looked:
                    self._put_down()
                    looked = True
                self.membership.bring(self.link)
                forget_idle_stops(self.directory.path)
                waiting = self._waiting()
                if waiting:
                    self._one(waiting[0])
                else:
                    self.pause(1.0)
                self._trouble = ""
            except (StoreUnavailable, Unwritable, OSError) as error:
                self._wait_after(error)

    def _put_down(self) -> None:
        """Mark runs that nobody goes on with as what they are."""
        waiting = {path.stem for path in self._waiting()}
        for record in self.store.list_runs(None, "running"):
            if record.run not in waiting and Path(record.directory).parent == self.directory.path / RUNS:
                self.store.set_run_status(record.run, "interrupted", "the coordinator was stopped")

    def _waiting(self) -> list[Path]:
        return sorted((self.directory.path / QUEUE).glob(f"*{WAITS}"))

    def _wait_after(self, error: Exception) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            _LOG.error("%s; trying again", error)
        self.pause(RETRY_SECONDS)

    def _one(self, path: Path) -> None:
        name = path.stem
        try:
            summary = self.train(load_recipe(path), name)
        except Stopped:
            _LOG.info("%s goes on when the coordinator is started again", name)
            return
        except RunStopped as error:
            _LOG.info("%s was ended before anything was trained: %s", name, error)
            path.unlink(missing_ok=True)
        except (StoreUnavailable, Unwritable, OSError):
            raise
        except (InputError, RunFailed, PrivacyError) as error:
            _LOG.error("%s was not trained: %s", name, error)
            put_aside(self.directory.path, name, str(error))
        except Exception as error:
            self._failures[name] += 1
            # The kind and the place alone: what an exception says may be anything.
            at = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(at.filename).name}:{at.lineno}"
            _LOG.error("%s ended in a way that nobody foresaw (%s at %s)", name, type(error).__name__, place)
            if self._failures[name] < TRIES:
                self.pause(RETRY_SECONDS)
                return
            put_aside(self.directory.path, name, f"nobody foresaw {type(error).__name__} at {place}")
        else:
            what = "evaluated" if "evaluation" in summary else "model"
            _LOG.info(f"{what:<12}%(name)s version %(version)d", summary["model"])
            path.unlink(missing_ok=True)
        forget_stop(self.directory.path, name)

    def train(self, recipe: Recipe, name: str) -> dict[str, Any]:
        """Train one recipe over the members that are there, register its model, and return the run's summary.

        Or evaluate one, if the recipe says so. Columns, classes, selection and the test come from a public sample, or
        from the model: no client's row is here. A run that has begun goes on where it was, in the very exchange that
        was announced last.

        Args:
            recipe: what to train.
            name: the run's.

        Raises:
            InputError: the recipe or its public sample cannot be used, or the run began with another recipe.
            RunStopped: it was told to end before anything was trained.
            RunFailed: too few clients came or answered, or the model diverged.
            Stopped: the coordinator is to stop.
            StoreUnavailable, Unwritable: nothing can be kept at the moment.
        """
        try:
            check_name(name)  # it becomes a directory, and whatever is there is replaced
        except ValueError as error:
            raise InputError(
                str(error), where=f"run {name!r}", right="another name for the file in the queue"
            ) from None
        refuse_simulations(recipe)
        check_names(recipe)
        identity = self.directory.coordinator
        kept = KeptRun(
            self.store,
            Registry(self.store, Path(self.directory.models)),
            RunDirectory(self.directory.path / RUNS / name),
            recipe,
            identity,
        )
        begun = kept.begun()
        if begun is not None and begun.summary is not None:
            return dict(begun.summary)
        purpose = purpose_of(kept, begun)
        masking = Masking(
            identity,
            frozenset({self.directory.authority.public_key}),
            recipe.secure_aggregation,
            self.randomness,
            holder=self.membership.holder,
        )
        parameters, phases = check_network(purpose.plan), kept.phases(masking.memory)
        enough, stop = partial(fewest_clients, recipe, masking, parameters), partial(self._asked_to_stop, name)
        if begun is None:
            clients = self.attendance.gather(recipe, self.wait_seconds, stop=stop)
            check_cohorts(recipe, masking, clients, parameters)
            check_promise(recipe, clients, parameters)
            # What a process left that ended before the store knew of the run: nobody was asked for anything.
            shutil.rmtree(kept.directory.path, ignore_errors=True)
            made_with = environment(str(resolve_device(recipe.training.device)), torch.get_num_threads())
            kept.begin({**made_with, **purpose.made_with, "clients": clients}, {})
        else:
            kept.begin_again(begun)
            clients = int(begun.environment["clients"])
            _LOG.info("%s goes on", name)
            self.attendance.reconnect(recipe, enough, phases.asked())
        with kept.running(), self.link.grid() as grid:
            budget = None
            if recipe.privacy.unit != "none":
                budget = open_budget(self.store, recipe, kept.name, parameters, clients, identity)
            started = time.perf_counter()
            state = purpose.run(
                name=kept.name,
                plan=purpose.plan,
                transport=self._transport(grid),
                recorder=kept.recorder(masking.memory),
                cohorts=DrawnCohorts(kept.name, recipe.training, self.randomness, clients),
                masking=masking,
                budget=budget,
                randomness=self.randomness,
                phases=phases,
                ready=partial(self.attendance.ready, recipe, enough, stop),
                stop=stop,
                validate=purpose.validate,
                initial=purpose.initial,
                on_round=self._after,
            ).execute()
            ledger = budget.facts() if budget is not None else None
            summary = purpose.release(kept, state, clients, time.perf_counter() - started, ledger)
            kept.finish(summary)
        return summary

    def _transport(self, grid: FleetGrid) -> GridTransport:
        def attentive(seconds: float) -> None:
            if self.until():
                raise Stopped
            grid.wait(seconds)

        return self.link.transport(grid, attentive)

    def _asked_to_stop(self, name: str) -> str:
        return "stopped by hand" if is_to_stop(self.directory.path, name) else ""

    def _after(self, report: RoundReport) -> None:
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
