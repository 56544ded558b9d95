"""What an evaluation leaves: figures and how they came about, signed; no model."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tacit.models.evaluation_only import NOISED_SHARES
from tacit.models.evaluation_shares import evaluation_shares, means_of
from tacit.models.evaluation_sums import evaluation_sums
from tacit.models.noise import noise_plan
from tacit.models.plan import decode_plan
from tacit.models.recipe import Recipe
from tacit.privacy.secagg.layout import Block
from tacit.server.checkpoints import RunState
from tacit.server.federated_evaluation import identified
from tacit.server.kept_run import Ending, KeptRun
from tacit.server.signed_statement import SELF_SIGNED, sign_statement
from tacit.server.statement import Circumstances, privacy_statement, seen_by_coordinator
from tacit.server.statement_page import statement_markdown
from tacit.server.store import Store
from tacit.server.store.records import ModelVersion, RoundRecord
from tacit.server.summary import summarise

PAGE, FIGURES = "evaluation.md", "evaluation.json"
RELEASED = (
    "exact sums over the rows of all members that were counted (rows by class and by the model's answer, histograms of"
    " its scores, errors and losses), and the metrics that follow from them"
)
RELEASED_NOISED = (
    "two noised sums over all members that were counted, of means over each member's own rows, and the figures that"
    " follow from them; no number of rows"
)
MAY_BE_TRAINED_ON = (
    "The figures may be of rows that the model was trained on, and then flatter it: on rows that it has never seen it"
    " may do worse"
)
_DIVIDED_BY = ("clients", "partition", "alpha", "shards_per_client", "column")


def release_evaluation(
    kept: KeptRun, ending: Ending, version: ModelVersion
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write down what an evaluation found; nothing is registered.

    Args:
        kept: the run.
        ending: how it ended; its state has the sums.
        version: what was evaluated.

    Returns:
        The values of `summary.json`, and one flat mapping for each attempt at a round.
    """
    recipe, state, attempts = kept.recipe, ending.state, kept.store.rounds(kept.name)
    members, simulated = _counted(attempts), ending.signed_as == SELF_SIGNED
    rows = rows_evaluated(recipe, version, kept.store, simulated=simulated)
    about = Circumstances(ending.clients, simulated, ending.reproducible_noise)
    exact = recipe.privacy.unit == "none"
    tables = evaluation_sums(decode_plan(state.plan)).tables(state.sums) if exact else {"rows": None}
    unsigned = privacy_statement(recipe, state, about)
    bounds = (
        f"Nothing bounds what these figures say about the rows of the {members} members that were counted, and"
        f" {seen_by_coordinator(recipe)}."
        if exact
        else f"{unsigned['sentence']} What the model itself says about the rows it was trained on is not part of that."
    )
    unsigned |= {
        "evaluated": identified(version),
        "rows_evaluated": rows,
        "released": RELEASED if exact else RELEASED_NOISED,
        "sentence": f"{bounds} {rows}.",
        "utility": {"metrics": dict(ending.metrics)},
    }
    if ending.ledger is not None:
        unsigned["population_ledger"] = dict(ending.ledger)
    statement = sign_statement(unsigned, kept.identity, ending.signed_as)
    summary = summarise(
        kept.name, recipe, ending.clients, attempts, state, ending.metrics, {}, statement, ending.seconds, version
    )
    summary |= ending.found
    summary["evaluation"] = {"rows": recipe.evaluation.rows, "counted_rows": tables["rows"], "members": members}
    figures = {
        "run": kept.name,
        "model": identified(version),
        "task": recipe.task.kind,
        "rows_evaluated": rows,
        "members": members,
        "clients": ending.clients,
        "metrics": dict(ending.metrics),
        "noise_deviation": None if exact else noise_deviations(recipe, state, ending.clients, members),
        **tables,
    }
    directory = kept.directory
    overview = directory.write_rounds(attempts)
    directory.write_json("privacy.json", statement)
    directory.write_text("privacy.md", statement_markdown(statement))
    directory.write_json(FIGURES, figures)
    directory.write_text(PAGE, evaluation_page(figures, str(statement["sentence"])))
    directory.write_json("summary.json", summary)
    return summary, overview


def noise_deviations(recipe: Recipe, state: RunState, clients: int, members: int) -> dict[str, float]:
    """Return by how much, as a standard deviation, noise moves the figures of an evaluation under a promise."""
    noise = noise_plan(recipe, NOISED_SHARES, state.spent[-1].cohort, clients)
    (block,) = noise.layout.blocks if noise.layout is not None else ()
    if not isinstance(block, Block):
        raise ValueError("noise lies on a plain block")
    one_sum = math.sqrt(members * noise.share_variance) / block.scale
    each = means_of(np.full(NOISED_SHARES, one_sum / members))
    unit = evaluation_shares(decode_plan(state.plan))
    return unit.deviations(each)


def rows_evaluated(recipe: Recipe, version: ModelVersion, store: Store, *, simulated: bool) -> str:
    """Say in a sentence which rows were counted, and whether the model can have been trained on them."""
    if recipe.evaluation.rows == "all":
        return f"Counted were all rows of each member, also those that it trains on. {MAY_BE_TRAINED_ON}"
    held_out = "Counted were each member's held-out rows"
    if not simulated:
        return f"{held_out}, which its agent never trains on"
    if _divided_alike(recipe, version, store):
        return f"{held_out}, held out in the same way when the model was trained"
    return f"{held_out} as this recipe divides them, not as when the model was trained. {MAY_BE_TRAINED_ON}"


def _divided_alike(recipe: Recipe, version: ModelVersion, store: Store) -> bool:
    """Return whether the run that trained a model held out the very rows that a simulated evaluation does."""
    if version.run is None:
        return False
    before, now = tomllib.loads(store.get_run(version.run).recipe_toml), recipe.to_dict()
    privacy = version.details.get("privacy", {})
    if before["model"]["init"] or not privacy.get(
        "simulated"
    ):  # an earlier model's rows, or rows that stayed elsewhere
        return False

    def division(values: Mapping[str, Any]) -> tuple[Any, ...]:
        population = {key: values["population"].get(key) for key in _DIVIDED_BY}
        return values["seed"], values["data"], population, values["evaluation"]["validation"]

    return division(before) == division(now)


def evaluation_page(figures: Mapping[str, Any], sentence: str) -> str:
    """Return the figures as Markdown: what was measured on what, the metrics, the classes, and what is promised."""
    model = figures["model"]
    counted = "" if figures["rows"] is None else f"{figures['rows']:,} rows of "
    noised = ("deviation of the noise",) if figures["noise_deviation"] else ()
    parts = [
        f"# Evaluation of {model['name']} version {model['version']}",
        f"{counted}{figures['members']} members; {figures['clients']} were there. SHA-256 {model['sha256']}.",
        _table(("metric", "value", *noised), [_figure(name, figures) for name in figures["metrics"]]),
    ]
    if classes := figures.get("classes"):
        rows = [
            (_cell(name), f"{one['rows']:,}", f"{one['predicted']:,}", f"{one['right']:,}")
            for name, one in classes.items()
        ]
        parts += ["## Classes", _table(("class", "rows", "predicted", "rightly"), rows)]
    parts += ["## Privacy", sentence]
    return "\n\n".join(parts) + "\n"


def _figure(name: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    deviations = figures["noise_deviation"]
    return name, f"{figures['metrics'][name]:.4f}", *((f"{deviations[name]:.4f}",) if deviations else ())


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return the name of a class, which comes from data, so that it stays within its cell."""
    return "".join(c if c.isprintable() else " " for c in text).replace("\\", "\\\\").replace("|", "\\|")


def _counted(attempts: list[RoundRecord]) -> int:
    """Return how many members are in the sum."""
    committed = [one for one in attempts if one.outcome == "committed" and one.number > 0]
    return sum(member.outcome == "reported" for one in committed for member in one.participation)
