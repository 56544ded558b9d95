"""A run that `flwr run` starts under stock Flower.

Everything is as in any other run, with two differences. There are no masks, because stock SuperNodes run each message
in a new process, in which no secret of an earlier step survives; a recipe that asks for a protection is refused, and
the log says what is missing. And nobody divides a data set: each client brings its own, so columns and classes come
from a public sample that the coordinator holds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tacit.models.errors import InputError
from tacit.models.plan import decode_plan
from tacit.models.recipe import Recipe, read_recipe
from tacit.models.tasks import task_named
from tacit.models.training import resolve_device
from tacit.privacy.randomness import SystemRandomness
from tacit.server.attempts import RunFailed
from tacit.server.environment import environment
from tacit.server.evaluation import CentralEvaluator
from tacit.server.kept_run import Ending, KeptRun, new_directory
from tacit.server.local_identity import key_file, local_identity
from tacit.server.names import check_names
from tacit.server.public_sample import open_public_sample
from tacit.server.registry import Registry
from tacit.server.reports import RoundReport
from tacit.server.run import Run
from tacit.server.run_directory import RunDirectory
from tacit.server.sampling import DrawnCohorts
from tacit.server.store import open_store
from tacit.server.transport import Transport

NOTHING_IS_MASKED = (
    "NOTHING IS MASKED under stock Flower: the coordinator sees every single update of every client, and the number of"
    " rows behind it. No noise is added. Only the rows themselves stay where they are."
)
_BUNDLED = files("tacit") / "simulations" / "recipes"
_LOG = logging.getLogger(__name__)


class StockSettings(BaseModel):
    """The run configuration: `[tool.flwr.app.config]`, changed by `flwr run --run-config`.

    Attributes:
        recipe: the path of a recipe, or the name of a bundled one.
        db: the store, a path or URL.
        models: the registry's directory.
        out: the run directory; empty for `runs/<time>-<name>`.
        min_clients: how many clients must be connected before the first round.
        wait_seconds: how long to wait for them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    recipe: str = Field(min_length=1)
    db: str = Field(default="tacit.db", min_length=1)
    models: str = Field(default="models-store", min_length=1)
    out: str = ""
    min_clients: int = Field(default=2, ge=1)
    wait_seconds: float = Field(default=300.0, gt=0, le=1e7)


def train(transport: Transport, run_config: Mapping[str, Any]) -> None:
    """Train, test, register and write down a model over the clients of a transport.

    Relative paths start at the working directory of the SuperLink.

    Args:
        transport: the way to the clients.
        run_config: see `StockSettings`.

    Raises:
        InputError: a setting, the recipe, the public sample or a file cannot be used.
        RunFailed: too few clients came or reported, or the model diverged.
    """
    settings = _settings(run_config)
    recipe = read_recipe(settings.recipe, bundled=_BUNDLED)
    refuse_promises(recipe)
    check_names(recipe)
    device = str(resolve_device(recipe.training.device))
    _LOG.warning("%s", NOTHING_IS_MASKED)
    sample = open_public_sample(recipe, os.environ)
    with open_store(settings.db) as store:
        directory = RunDirectory(Path(settings.out) if settings.out else new_directory(recipe))
        identity = local_identity(key_file())
        kept = KeptRun(store, Registry(store, Path(settings.models)), directory, recipe, identity)
        plan, initial = kept.starting_point(sample.schema)
        selection, _ = task_named(recipe.task.kind).selection_metric
        run = Run(
            name=kept.name,
            plan=plan,
            transport=transport,
            recorder=kept.recorder(),
            cohorts=DrawnCohorts(kept.name, recipe.training, SystemRandomness()),
            validate=CentralEvaluator(sample.validation) if sample.validation is not None else None,
            initial=initial,
            on_round=lambda report: _log_round(report, ("train_loss", f"validation_{selection}")),
        )
        kept.begin(environment(device, torch.get_num_threads()), {})
        with kept.running():
            clients = wait_for_clients(transport, settings.min_clients, settings.wait_seconds)
            started = time.perf_counter()
            state = run.execute()
            metrics = CentralEvaluator(sample.test)(decode_plan(state.plan), state.vector)
            summary, _ = kept.release(
                Ending(
                    state,
                    metrics,
                    len(clients),
                    time.perf_counter() - started,
                    "Rows that the clients brought and kept. Columns and classes come from the public sample that the"
                    " run's recipe names.",
                    per_client={},
                    signed_as="coordinator of a stock Flower run",
                    found={"mode": "stock-flower", "public_sample": sample.described()},
                )
            )
            kept.finish(summary)
    _LOG.info("test        %s", _listed(metrics))
    _LOG.info("model       %(name)s version %(version)d (sha256 %(sha256).12s)", summary["model"])
    _LOG.info("run         %s", directory.path)
    _LOG.warning("%s", NOTHING_IS_MASKED)


def wait_for_clients(
    transport: Transport, wanted: int, seconds: float, pause: Callable[[float], None] = time.sleep
) -> tuple[str, ...]:
    """Return the connected clients once there are as many as wanted.

    Raises:
        RunFailed: there are not so many after that many seconds.
    """
    deadline = transport.now() + seconds
    before = -1
    while True:
        clients = transport.clients()
        if len(clients) != before:
            _LOG.info("clients     %d connected, %d needed", len(clients), wanted)
            before = len(clients)
        if len(clients) >= wanted:
            return clients
        remaining = deadline - transport.now()
        if remaining <= 0:
            raise RunFailed(f"{len(clients)} of {wanted} clients were connected after {seconds:g} s")
        pause(min(1.0, remaining))


def refuse_promises(recipe: Recipe) -> None:
    """Refuse a recipe that promises what stock Flower cannot keep.

    Raises:
        InputError: it asks for secure aggregation or differential privacy.
    """
    if recipe.secure_aggregation.enabled:
        raise InputError(
            "stock Flower cannot keep the secrets of a mask",
            where="secure_aggregation.enabled",
            right="false, if the coordinator may see every single update",
        )
    if recipe.privacy.unit != "none":
        raise InputError("stock Flower keeps no ledger of what was spent", where="privacy.unit", right='"none"')


def _settings(run_config: Mapping[str, Any]) -> StockSettings:
    try:
        return StockSettings.model_validate(dict(run_config))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        if key == "recipe":
            raise InputError("names no recipe", where="--run-config", right='recipe="FILE.toml"') from None
        text = problem["msg"]
        raise InputError(f"{key} is not usable", where="--run-config", right=text[:1].lower() + text[1:]) from None


def _log_round(report: RoundReport, shown: tuple[str, ...]) -> None:
    what = "preparation" if report.number == 0 else f"round {report.number}"
    if report.committed:
        measured = {name: report.metrics[name] for name in shown if name in report.metrics}
        counts = f"{report.reported} of {len(report.participants)} clients reported"
        _LOG.info("%-11s %s", what, "  ".join(filter(None, (counts, _listed(measured)))))
    else:
        _LOG.warning("%-11s attempt %d failed: %s", what, report.attempt, report.reason)
    for one in report.participants:
        if one.outcome != "reported":
            _LOG.warning("%-11s client %s: %s (%s)", what, one.client, one.outcome, one.reason)


def _listed(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
