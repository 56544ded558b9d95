"""A recipe and the owner's data, as `policy check` and `outbox` try them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch

from tacit.client.cli.options import only_set
from tacit.client.consent import Consent
from tacit.client.directory import AgentDirectory
from tacit.client.journal import AgentJournal
from tacit.client.rehearsal import Held, Step, approves_code, steps
from tacit.client.training import Workbench
from tacit.models.data import open_source
from tacit.models.errors import InputError
from tacit.models.recipe import Recipe, load_recipe


@dataclass(frozen=True, repr=False)
class Tried:
    """What is tried, with a journal that knows what the agent's knows and is never written.

    Attributes:
        directory: the owner's.
        dataset: the data set's name.
        recipe: the recipe.
        cohort: how many clients a round is offered to.
        held: the rows.
        bench: where the network is built.
        steps: what a coordinator would ask for.
        runs_code: whether the recipe's own code, if it has any, was run.
        journal: what the agent knows.
        consent: decides as the agent's own does.
    """

    directory: AgentDirectory
    dataset: str
    recipe: Recipe
    cohort: int
    held: Held
    bench: Workbench
    steps: list[Step]
    runs_code: bool
    journal: AgentJournal
    consent: Consent


def tried(path: Path, recipe: Path, overrides: tuple[str, ...], data: str | None, cohort: int | None) -> Tried:
    """Read recipe and rows, and prepare the steps; one data set need not be named.

    Raises:
        InputError: anything that was given cannot be used.
        JournalBroken, AuditBroken: the agent's journal is not what was written.
    """
    directory = AgentDirectory.open(path)
    parsed = load_recipe(recipe, overrides)
    if directory.settings.threads:
        torch.set_num_threads(directory.settings.threads)
    dataset = data or only_set(directory)
    entry = directory.register.find(dataset)
    source = open_source(entry.source, task=parsed.task.kind, label=parsed.data.label, environ=os.environ)
    size = cohort or parsed.training.cohort or parsed.population.clients
    if size is None:
        raise InputError("the recipe does not say how many clients there are", right="give --cohort N")
    runs_code = approves_code(directory.policy, parsed)
    bench = Workbench(own_code=runs_code, device=directory.settings.own_device)
    journal = directory.rehearsal()
    return Tried(
        directory,
        dataset,
        parsed,
        size,
        Held(source),
        bench,
        steps(parsed, source, size, bench, run_code=runs_code, run=f"rehearsal-{uuid4().hex}"),
        runs_code or not parsed.model.factory,
        journal,
        Consent(journal, dataset, bench, directory.policy, directory.budgets, time.time),
    )
