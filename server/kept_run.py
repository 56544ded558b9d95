"""The life of a run on the disk and in the store: begun once, always marked as what it is, ended with its model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.rows import Schema
from tacit.models.errors import InputError, Unwritable
from tacit.models.plan import Plan
from tacit.models.recipe import Recipe
from tacit.privacy.errors import PrivacyError
from tacit.privacy.identity import Identity, check_name
from tacit.server.attempts import RunFailed, RunStopped
from tacit.server.checkpoints import Checkpoints, RunState
from tacit.server.feasibility import check_network
from tacit.server.lineage import with_lineage
from tacit.server.phases import Phases
from tacit.server.recorder import StoreRecorder
from tacit.server.registry import Registry
from tacit.server.release import initial_version, release, warm_start
from tacit.server.run_directory import RunDirectory
from tacit.server.signed_statement import SELF_SIGNED, sign_statement
from tacit.server.statement import Circumstances, privacy_statement
from tacit.server.statement_page import statement_markdown
from tacit.server.store import Store
from tacit.server.store.errors import StoreUnavailable
from tacit.server.store.records import NewRun, RunRecord
from tacit.server.summary import summarise

PHASES = "phases"


@dataclass(frozen=True)
class Ending:
    """How a run ended, for `KeptRun.release`.

    Attributes:
        state: the final state.
        metrics: test metrics by name.
        clients: how many clients there were.
        seconds: how long it took.
        data: one sentence for the model's card: what the model was trained on.
        per_client: summary of the clients' own metrics, where somebody may look at them.
        found: further entries of `summary.json`.
        signed_as: in what quality the statement is signed.
        reproducible_noise: whether anybody can repeat the noise, and so subtract it.
        ledger: what the population's ledger stands at, over all runs that it paid for; None without a promise.
    """

    state: RunState
    metrics: Mapping[str, float]
    clients: int
    seconds: float
    data: str
    per_client: Mapping[str, Any]
    found: Mapping[str, Any]
    signed_as: str = "coordinator"
    reproducible_noise: bool = False
    ledger: Mapping[str, Any] | None = None


class Stopped(Exception):
    """The process is to end; the run goes on where it is when it is started again."""


@dataclass(frozen=True)
class KeptRun:
    """What is kept of one run, whoever drives it and whatever carries its messages.

    Attributes:
        store: knows the run under the name of its directory.
        registry: takes the released model.
        directory: holds everything that people read.
        recipe: what is run.
        identity: signs the privacy statement and the population's ledger.
    """

    store: Store
    registry: Registry
    directory: RunDirectory
    recipe: Recipe
    identity: Identity

    @property
    def name(self) -> str:
        """Return the run's identifier."""
        return self.directory.path.name

    def begin(self, made_with: Mapping[str, Any], secrets: Mapping[str, bytes]) -> None:
        """Make the directory and the store's row, both or neither.

        Args:
            made_with: what the run is made with; see `environment`.
            secrets: contents of files that only their owner may read, by name.

        Raises:
            InputError: the directory exists already or cannot be made, the store knows a run of this name, or the
                messages of a masked round could not carry it.
        """
        if self.recipe.secure_aggregation.enabled:
            try:
                check_name(self.name)
            except ValueError as error:
                raise InputError(str(error), where=f"run {self.name}", right="another directory") from None
        self.directory.create()
        try:
            self._describe(made_with)
            for name, secret in secrets.items():
                _write_secret(self.directory.path / name, secret)
            self.store.create_run(
                NewRun(
                    run=self.name,
                    recipe_name=self.recipe.name,
                    task=self.recipe.task.kind,
                    recipe_toml=self.recipe.to_toml(),
                    recipe_sha256=self.recipe.digest,
                    directory=str(self.directory.path),
                    environment=made_with,
                )
            )
        except BaseException:
            shutil.rmtree(self.directory.path, ignore_errors=True)
            raise

    def _describe(self, made_with: Mapping[str, Any]) -> None:
        self.directory.write_text("recipe.toml", self.recipe.to_toml())
        self.directory.write_json("environment.json", made_with)

    def begin_again(self, record: RunRecord) -> None:
        """Make the directory of a run that the store knows, if it is not there.

        A database that went away while it said that it has the run leaves the one without the other.

        Raises:
            InputError: it cannot be made.
        """
        if not self.directory.path.exists():
            self.directory.create()
            self._describe(record.environment)

    def begun(self) -> RunRecord | None:
        """Return what the store knows of the run, None if it has not begun.

        Raises:
            InputError: it began with another recipe.
        """
        record = self.store.find_run(self.name)
        if record is not None and record.recipe_sha256 != self.recipe.digest:
            raise InputError("began with another recipe", where=f"run {self.name}", right="a run of another name")
        return record

    def starting_point(self, schema: Schema) -> tuple[Plan, NDArray[np.float32] | None]:
        """Return the plan of the first round and, for a warm start, the vector to begin with.

        Raises:
            InputError: the recipe asks for a model that does not fit the data, or starts from one that cannot be used.
        """
        plan = Plan(self.recipe, schema)
        check_network(plan)
        return warm_start(plan, self.registry) if self.recipe.model.init else (plan, None)

    def recorder(self, memory: Callable[[], Mapping[str, Any]] | None = None) -> StoreRecorder:
        """Return what keeps the rounds, with what the coordinator owes and knows where phases are announced."""
        return StoreRecorder(self.store, self.name, Checkpoints(self.directory.path / "checkpoints"), memory)

    def phases(self, memory: Callable[[], Mapping[str, Any]]) -> Phases:
        """Return what announces the phases of the rounds."""
        return Phases(self.store, self.name, self.directory.path / PHASES, memory)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Mark the run as running, and as interrupted, stopped or failed when the block is left by an exception."""
        self.store.set_run_status(self.name, "running")
        try:
            yield
        except (KeyboardInterrupt, SystemExit, Stopped):
            self.store.set_run_status(self.name, "interrupted", "stopped by hand")
            raise
        except (Unwritable, StoreUnavailable, OSError) as error:
            with suppress(StoreUnavailable):  # it is the newest thing that the store is told; what counts is kept
                self.store.set_run_status(self.name, "interrupted", str(error))
            raise
        except RunStopped as error:
            self.store.set_run_status(self.name, "stopped", f"{error}, before anything was trained")
            raise
        except (RunFailed, InputError, PrivacyError) as error:
            self.store.set_run_status(self.name, "failed", str(error))
            raise
        except BaseException as error:
            # The type alone: the text of an error that nobody foresaw may hold a row of data.
            self.store.set_run_status(self.name, "failed", type(error).__name__)
            raise

    def release(self, ending: Ending) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Register the model and write down what the run did.

        Returns:
            The values of `summary.json`, and one flat mapping for each attempt of a round.
        """
        attempts = self.store.rounds(self.name)
        state, metrics = ending.state, ending.metrics
        about = Circumstances(ending.clients, ending.signed_as == SELF_SIGNED, ending.reproducible_noise)
        unsigned = privacy_statement(self.recipe, state, about)
        if self.recipe.model.init:
            unsigned = with_lineage(unsigned, initial_version(self.recipe, self.registry))
        if ending.ledger is not None:
            unsigned["population_ledger"] = dict(ending.ledger)
        unsigned["utility"] = {"metrics": dict(metrics), "per_client": dict(ending.per_client)}
        statement = sign_statement(unsigned, self.identity, ending.signed_as)
        version = release(
            state, metrics, statement, self.directory.path / "model", self.registry, self.name, data=ending.data
        )
        summary = summarise(
            self.name,
            self.recipe,
            ending.clients,
            attempts,
            state,
            metrics,
            ending.per_client,
            statement,
            ending.seconds,
            version,
        )
        summary |= ending.found
        rounds = self.directory.write_rounds(attempts)
        self.directory.write_json("privacy.json", statement)
        self.directory.write_text("privacy.md", statement_markdown(statement))
        self.directory.write_json("summary.json", summary)
        return summary, rounds

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Seal the directory and mark the run as finished."""
        shutil.rmtree(self.directory.path / PHASES, ignore_errors=True)
        self.directory.write_manifest()
        self.store.finish_run(self.name, summary)


def new_directory(recipe: Recipe) -> Path:
    """Return a path below `runs` that is not taken: the time and the recipe's name."""
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{recipe.name}"
    path, count = Path("runs") / name, 1
    while path.exists():
        count += 1
        path = Path("runs") / f"{name}-{count}"
    return path


def _write_secret(path: Path, secret: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
