"""Simulate a federation from a recipe: run it, keep every round, release the model, write it all down."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tacit.models.errors import InputError
from tacit.models.plan import decode_plan
from tacit.models.recipe import Recipe, read_recipe
from tacit.models.training import resolve_device
from tacit.privacy.randomness import KEY_BYTES
from tacit.server.budget import Budget, open_budget
from tacit.server.checkpoints import RunState
from tacit.server.environment import environment
from tacit.server.evaluation import CentralEvaluator
from tacit.server.evaluation_release import PAGE, release_evaluation
from tacit.server.feasibility import check_cohorts, check_network, check_promise
from tacit.server.federated_evaluation import (
    EVALUATES,
    EvaluationRun,
    evaluated_version,
    evaluation_start,
    figures_of,
    identified,
)
from tacit.server.kept_run import Ending, KeptRun, new_directory
from tacit.server.local_identity import key_file, local_identity
from tacit.server.names import check_names
from tacit.server.registry import Registry
from tacit.server.reports import RoundReport
from tacit.server.run import Run
from tacit.server.run_directory import RunDirectory
from tacit.server.sampling import Cohorts, DrawnCohorts
from tacit.server.signed_statement import SELF_SIGNED
from tacit.server.store import ModelVersion, Store, open_store
from tacit.server.summary import data_found
from tacit.server.transport import Transport
from tacit.simulations.engine import run_in_process
from tacit.simulations.enrolment import enrol
from tacit.simulations.federation import Federation, build_federation
from tacit.simulations.noise_source import public_seed, randomness_of
from tacit.simulations.per_client import measure_at_clients, per_client_summary
from tacit.simulations.recipes import BUNDLED

OnRound = Callable[[RoundReport], None]

SEED_FILE = ".run-seed"


@dataclass(frozen=True)
class Simulation:
    """A finished simulation.

    Attributes:
        directory: where everything about it lies.
        summary: the values of `summary.json`.
        rounds: one flat mapping for each attempt of a round, as in `rounds.jsonl`.
    """

    directory: Path
    summary: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...]

    @property
    def metrics(self) -> Mapping[str, float]:
        """Return the test metrics of the final model by name."""
        metrics: Mapping[str, float] = self.summary["metrics"]
        return metrics

    @property
    def report(self) -> Path:
        """Return the report, one self-contained page."""
        return self.directory / (PAGE if "evaluation" in self.summary else "report.html")


def simulate(
    recipe: Recipe | Path | str,
    overrides: Iterable[str] = (),
    *,
    out: Path | None = None,
    db: str = "sqlite:///tacit.db",
    models: Path = Path("models-store"),
    resume: bool = False,
    cohorts: Cohorts | None = None,
    key: Path | None = None,
    reproducible_noise: bool = False,
    threads: int | None = None,
    on_start: Callable[[Recipe, Federation, Path], None] = lambda recipe, federation, directory: None,
    on_round: OnRound = lambda report: None,
) -> Simulation:
    """Run a federation in this process and return the finished run.

    Args:
        recipe: a recipe, the path of one, or the name of a bundled one.
        overrides: `section.key=value` settings that replace the file's.
        out: the run directory; `runs/<time>-<name>` unless told otherwise.
        db: the store.
        models: the registry's directory.
        resume: go on with the run in `out`, or with the newest unfinished run of this recipe.
        cohorts: whom each round asks; drawn as the recipe says unless told otherwise.
        key: the file of the key that signs statement and ledger; made at first need. `TACIT_KEY`, else `tacit.key`.
        reproducible_noise: draw noise from the recipe's seed, so that the run can be repeated: nothing is promised.
        threads: how many threads PyTorch uses; chosen by the model's size unless told otherwise.
        on_start: called before the first round.
        on_round: called after every attempt at a round.

    Raises:
        InputError: something in the recipe, the data or the files cannot be used.
        RunFailed: the federation could not finish; what was committed stays and can be resumed.
        KeyboardInterrupt: passed on after the run was marked as interrupted.
    """
    checked = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, overrides, bundled=BUNDLED)
    check_names(checked)
    device = str(resolve_device(checked.training.device))
    # Before the store, so that a mistake in the recipe or the data leaves nothing behind, not even an empty database.
    federation = build_federation(checked)
    identity = local_identity(key or key_file())
    with open_store(db, create=not resume) as store:
        directory = _resumed(store, checked, out) if resume else RunDirectory(out or new_directory(checked))
        threads = _use_threads(checked, directory if resume else None, threads)
        kept = KeptRun(store, Registry(store, models), directory, checked, identity)
        if resume and not (directory.path / SEED_FILE).is_file():
            return _sealed(kept)
        version = evaluated_version(kept, kept.begun() if resume else None) if checked.evaluation.only else None
        start = kept.starting_point if version is None else partial(evaluation_start, kept, version)
        plan, initial = start(federation.schema)
        seed = _run_seed(directory.path, checked.seed, resume=resume, reproducible=reproducible_noise)
        reproducible_noise = seed == public_seed(checked.seed)  # a run goes on as it began, whatever is asked for now
        randomness = randomness_of(seed, checked.seed, kept.name, reproducible=reproducible_noise)
        masking = enrol(federation, checked, randomness) if checked.secure_aggregation.enabled else None
        parameters, clients = check_network(plan), len(federation.names)
        if masking is not None:
            check_cohorts(checked, masking, clients, parameters)
        check_promise(checked, clients, parameters, reproducible_noise=reproducible_noise)
        for agent in federation.agents.values():
            agent.draw_from(randomness)

        def paid() -> Budget:
            return open_budget(store, checked, kept.name, parameters, clients, identity, repeatable=True)

        promised, named = checked.privacy.unit != "none", bool(checked.population.ledger)
        # A ledger that cannot be used must leave no half of a run behind; one of the run's own comes with it.
        budget = paid() if promised and named else None
        if not resume:
            evaluates = {EVALUATES: identified(version)} if version is not None else {}
            kept.begin(environment(device, threads) | evaluates, {SEED_FILE: seed})
        with kept.running():
            on_start(checked, federation, directory.path)
            if promised and budget is None:
                budget = paid()
            validate = CentralEvaluator(federation.validation) if federation.validation is not None else None

            def execute(transport: Transport) -> RunState:
                return (EvaluationRun if version is not None else Run)(
                    name=kept.name,
                    plan=plan,
                    transport=transport,
                    recorder=kept.recorder(),
                    cohorts=cohorts or DrawnCohorts(kept.name, checked.training, randomness, clients),
                    masking=masking,
                    budget=budget,
                    randomness=randomness,
                    validate=validate,
                    initial=initial,
                    on_round=on_round,
                ).execute()

            started = time.perf_counter()
            state = run_in_process(federation, execute)
            seconds, ledger = time.perf_counter() - started, budget.facts() if budget is not None else None
            if version is not None:
                return _finish_evaluation(kept, federation, state, seconds, reproducible_noise, ledger, version)
            return _finish(kept, federation, state, seconds, reproducible_noise, ledger)


def _resumed(store: Store, recipe: Recipe, out: Path | None) -> RunDirectory:
    if out is None:
        unfinished = [
            found
            for found in store.list_runs(None)
            if found.recipe_sha256 == recipe.digest and found.status in ("running", "interrupted", "failed")
        ]
        if not unfinished:
            raise InputError("this recipe has no unfinished run", where="--resume", right="give its directory by --out")
        out = Path(unfinished[0].directory)
    record = store.get_run(out.name)
    if record.status == "finished":
        raise InputError("is finished", where=f"run {out.name}", right="start a new run without --resume")
    if record.recipe_sha256 != recipe.digest:
        raise InputError(
            "was started with another recipe", where=f"run {out.name}", right=f"resume with {out}/recipe.toml"
        )
    if not (out / SEED_FILE).is_file() and not (out / "summary.json").is_file():
        raise InputError("its secret seed is gone, so it cannot go on as it began", where=str(out))
    return RunDirectory(out)


def _sealed(kept: KeptRun) -> Simulation:
    """Finish a run that was stopped between the end of its secret seed and its own: all files are there."""
    summary, rounds = (
        kept.directory.read_json("summary.json"),
        kept.directory.write_rounds(kept.store.rounds(kept.name)),
    )
    kept.finish(summary)
    return Simulation(kept.directory.path, summary, tuple(rounds))


def _use_threads(recipe: Recipe, resumed: RunDirectory | None, asked: int | None) -> int:
    """Set and return torch's threads: one for the reference engine and small models, and as before when resuming.

    Small models take milliseconds a step: a second thread gains nothing there, and where it must wait for its turn on a
    busy machine it makes every step wait.
    """
    if resumed is not None:
        threads = int(resumed.read_json("environment.json")["threads"])
    elif asked is not None:
        threads = asked
    elif recipe.training.engine == "plain" or recipe.model.name in ("logistic", "mlp", "cnn"):
        threads = 1
    else:
        threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    return threads


def _run_seed(directory: Path, recipe_seed: int, *, resume: bool, reproducible: bool) -> bytes:
    if not resume:
        return public_seed(recipe_seed) if reproducible else secrets.token_bytes(KEY_BYTES)
    seed = (directory / SEED_FILE).read_bytes()
    if len(seed) != KEY_BYTES:
        raise InputError("is damaged", where=str(directory / SEED_FILE))
    if reproducible and seed != public_seed(recipe_seed):
        raise InputError(
            "was started with secret noise, and goes on so",
            where=f"run {directory.name}",
            right="resume without reproducible noise",
        )
    return seed


def _finish_evaluation(
    kept: KeptRun,
    federation: Federation,
    state: RunState,
    seconds: float,
    reproducible_noise: bool,
    ledger: Mapping[str, Any] | None,
    version: ModelVersion,
) -> Simulation:
    ending = Ending(
        state,
        figures_of(state),
        len(federation.names),
        seconds,
        "",
        per_client={},
        found={"data": data_found(federation.findings)},
        signed_as=SELF_SIGNED,
        reproducible_noise=reproducible_noise and kept.recipe.privacy.unit != "none",
        ledger=ledger,
    )
    summary, rounds = release_evaluation(kept, ending, version)
    kept.directory.write_json("partition.json", federation.partition_summary)
    (kept.directory.path / SEED_FILE).unlink(missing_ok=True)
    kept.finish(summary)
    return Simulation(kept.directory.path, summary, tuple(rounds))


def _finish(
    kept: KeptRun,
    federation: Federation,
    state: RunState,
    seconds: float,
    reproducible_noise: bool,
    ledger: Mapping[str, Any] | None,
) -> Simulation:
    directory = kept.directory
    by_client = measure_at_clients(federation.agents.values(), state)
    per_client = per_client_summary(by_client)
    if federation.test is not None:
        metrics = dict(CentralEvaluator(federation.test)(decode_plan(state.plan), state.vector))
    else:
        metrics = dict(per_client["weighted_mean"]) if per_client else {}
    data = f"The source named in the run's recipe, divided over clients by {kept.recipe.population.partition}."
    found = {"data": data_found(federation.findings)}
    summary, rounds = kept.release(
        Ending(
            state,
            metrics,
            len(federation.names),
            seconds,
            data,
            per_client=per_client,
            found=found,
            signed_as=SELF_SIGNED,
            reproducible_noise=reproducible_noise and kept.recipe.privacy.unit != "none",
            ledger=ledger,
        )
    )
    directory.write_json("partition.json", federation.partition_summary)
    if per_client:
        directory.write_json("per_client.json", {"clients": by_client} | per_client)
    from tacit.simulations.plots import write_plots
    from tacit.simulations.report import write_report

    write_plots(directory.path)
    write_report(directory.path)
    (directory.path / SEED_FILE).unlink(missing_ok=True)
    kept.finish(summary)
    return Simulation(directory.path, summary, tuple(rounds))
