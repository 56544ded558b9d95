"""Simulate a federation from a recipe: run it, keep every round, release the model, write it all down."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tacit.models.errors import InputError
from tacit.models.plan import Plan, decode_plan
from tacit.models.recipe import Recipe, load_recipe, parse_recipe
from tacit.models.training import resolve_device
from tacit.privacy.randomness import KEY_BYTES, SeededRandomness
from tacit.server.checkpoints import Checkpoints, RunState
from tacit.server.evaluation import CentralEvaluator
from tacit.server.recorder import StoreRecorder
from tacit.server.registry import Registry
from tacit.server.release import release, warm_start
from tacit.server.run import Cohorts, RoundReport, Run, RunFailed
from tacit.server.sampling import DrawnCohorts
from tacit.server.store import Store, open_store
from tacit.server.store.records import NewRun
from tacit.simulations.engine import run_in_process
from tacit.simulations.environment import environment
from tacit.simulations.federation import Federation, build_federation
from tacit.simulations.per_client import per_client_summary
from tacit.simulations.run_directory import RunDirectory
from tacit.simulations.summary import privacy_statement, summarise

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
        return self.directory / "report.html"


def simulate(
    recipe: Recipe | Path | str,
    overrides: Iterable[str] = (),
    *,
    out: Path | None = None,
    db: str = "sqlite:///tacit.db",
    models: Path = Path("models-store"),
    resume: bool = False,
    cohorts: Cohorts | None = None,
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
        on_start: called before the first round.
        on_round: called after every attempt at a round.

    Raises:
        InputError: something in the recipe, the data or the files cannot be used.
        RunFailed: the federation could not finish; what was committed stays and can be resumed.
        KeyboardInterrupt: passed on after the run was marked as interrupted.
    """
    checked = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, overrides)
    with open_store(db) as store:
        directory = _resumed(store, checked, out) if resume else RunDirectory(out or _new_path(store, checked))
        federation = build_federation(checked)
        threads = _use_threads(checked, directory if resume else None)
        device = str(resolve_device(checked.training.device))
        registry = Registry(store, models)
        plan, initial = Plan(checked, federation.schema), None
        if checked.model.init:
            plan, initial = warm_start(plan, registry)
        if not resume:
            _begin(store, directory, checked, environment(device, threads))
        run = directory.path.name
        store.set_run_status(run, "running")
        try:
            on_start(checked, federation, directory.path)
            seed = _run_seed(directory.path)
            recorder = StoreRecorder(store, run, Checkpoints(directory.path / "checkpoints"))
            validate = CentralEvaluator(federation.validation) if federation.validation is not None else None

            def execute(transport: Any) -> tuple[RunState, dict[str, dict[str, float]]]:
                current = Run(
                    name=run,
                    plan=plan,
                    transport=transport,
                    recorder=recorder,
                    cohorts=cohorts or DrawnCohorts(run, checked.training, SeededRandomness(seed)),
                    validate=validate,
                    initial=initial,
                    on_round=on_round,
                )
                final = current.execute()
                has_tests = any(federation.partition_summary["test_rows"])
                return final, current.evaluate_at_clients(final) if has_tests else {}

            started = time.perf_counter()
            state, by_client = run_in_process(federation, execute)
            seconds = time.perf_counter() - started
            return _finish(store, registry, directory, checked, federation, state, by_client, seconds, device)
        except KeyboardInterrupt:
            store.set_run_status(run, "interrupted", "stopped by hand")
            raise
        except (RunFailed, OSError) as error:
            store.set_run_status(run, "failed", str(error))
            raise


def read_recipe(recipe: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by its path, or by the name of a bundled one.

    Raises:
        InputError: there is no such file and no such bundled recipe, or it cannot be used.
    """
    path = Path(recipe)
    if path.suffix == ".toml" or path.exists():
        return load_recipe(path, overrides)
    from importlib.resources import files

    from tacit.models.spelling import unknown

    bundled = {entry.name.removesuffix(".toml"): entry for entry in files("tacit.simulations.recipes").iterdir()}
    bundled = {name: entry for name, entry in bundled.items() if entry.name.endswith(".toml")}
    if str(recipe) not in bundled:
        raise unknown("recipe", str(recipe), bundled, where="RECIPE")
    return parse_recipe(bundled[str(recipe)].read_text(encoding="utf-8"), overrides, where=f"bundled recipe {recipe}")


def _new_path(store: Store, recipe: Recipe) -> Path:
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{recipe.name}"
    path, count = Path("runs") / name, 1
    while path.exists():
        count += 1
        path = Path("runs") / f"{name}-{count}"
    return path


def _begin(store: Store, directory: RunDirectory, recipe: Recipe, made_with: dict[str, Any]) -> None:
    """Make the directory and the store's row, both or neither."""
    directory.create()
    try:
        directory.write_text("recipe.toml", recipe.to_toml())
        directory.write_json("environment.json", made_with)
        _write_secret(directory.path / SEED_FILE)
        store.create_run(
            NewRun(
                run=directory.path.name,
                recipe_name=recipe.name,
                task=recipe.task.kind,
                recipe_toml=recipe.to_toml(),
                recipe_sha256=recipe.digest,
                directory=str(directory.path),
                environment=made_with,
            )
        )
    except BaseException:
        for name in ("recipe.toml", "environment.json", SEED_FILE):
            (directory.path / name).unlink(missing_ok=True)
        directory.path.rmdir()
        raise


def _write_secret(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())


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
    if not (out / SEED_FILE).is_file():
        raise InputError("its secret seed is gone, so it cannot go on as it began", where=str(out))
    return RunDirectory(out)


def _use_threads(recipe: Recipe, resumed: RunDirectory | None) -> int:
    """Set and return torch's threads: one for the reference engine and small models, and as before when resuming."""
    if resumed is not None:
        threads = int(resumed.read_json("environment.json")["threads"])
    elif recipe.training.engine == "plain" or recipe.model.name in ("logistic", "mlp"):
        threads = 1
    else:
        threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    return threads


def _run_seed(directory: Path) -> bytes:
    seed = (directory / SEED_FILE).read_bytes()
    if len(seed) != KEY_BYTES:
        raise InputError("is damaged", where=str(directory / SEED_FILE))
    return seed


def _finish(
    store: Store,
    registry: Registry,
    directory: RunDirectory,
    recipe: Recipe,
    federation: Federation,
    state: RunState,
    by_client: dict[str, dict[str, float]],
    seconds: float,
    device: str,
) -> Simulation:
    run = directory.path.name
    attempts = store.rounds(run)
    per_client = per_client_summary(by_client)
    if federation.test is not None:
        metrics = dict(CentralEvaluator(federation.test)(decode_plan(state.plan), state.vector))
    else:
        metrics = dict(per_client["weighted_mean"]) if per_client else {}
    statement = privacy_statement(recipe)
    version = release(state, metrics, statement, directory.path / "model", registry, run)
    summary = summarise(run, recipe, federation, attempts, state, metrics, per_client, statement, seconds, version)
    rounds = directory.write_rounds(attempts)
    directory.write_json("privacy.json", statement)
    directory.write_json("partition.json", federation.partition_summary)
    if per_client:
        directory.write_json("per_client.json", {"clients": by_client} | per_client)
    directory.write_json("summary.json", summary)
    from tacit.simulations.plots import write_plots
    from tacit.simulations.report import write_report

    write_plots(directory.path)
    write_report(directory.path)
    (directory.path / SEED_FILE).unlink(missing_ok=True)
    directory.write_manifest()
    store.finish_run(run, summary)
    return Simulation(directory.path, summary, tuple(rounds))
