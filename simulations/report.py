"""The report of a run: one HTML file that explains itself, with nothing to load and nothing to execute."""

from __future__ import annotations

import math
import shlex
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from tacit.models.durable import write_file
from tacit.simulations.drawing import COLOURS, drawing
from tacit.simulations.inline_svg import inline_svg
from tacit.simulations.labels import metric_label, number
from tacit.simulations.plots import OUTCOMES, draw_plots
from tacit.simulations.run_files import (
    Attempt,
    PartitionFile,
    PerClient,
    RunFiles,
    Summaries,
    main_metric,
    printable,
    read_run_files,
)

MOST_CELLS = 20_000  # of a table; a longer one is cut, and says so
PRIVACY_LABELS = {
    "unit": "unit of privacy",
    "epsilon": "epsilon, against the coordinator",
    "epsilon_fellow_clients": "epsilon, against fellow clients",
    "epsilon_outsiders": "epsilon, against outsiders",
    "delta": "delta",
    "noise_multiplier": "noise multiplier",
    "clip": "clipping norm",
    "accountant": "accountant",
    "hypothetical": "hypothetical",
}
UNITS = ("client", "example")
SERVE = "tacit serve keys create me --scope predict\ntacit serve"


@dataclass(frozen=True)
class Table:
    """A table's words and cells, ready to print; `rest` says where the rows are that were left out."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1  # so many columns from the left hold text, the others numbers
    rest: str = ""


def write_report(directory: Path) -> Path:
    """Write `report.html` into a run directory, from that directory's files alone, and return its path.

    The file is whole in itself: plots are drawn within it, and a reader's browser is told to load nothing and to run
    nothing. The same run gives the same bytes with the same libraries.

    Raises:
        InputError: a file of the run is missing or does not say what it should.
    """
    run = read_run_files(directory)
    path = directory / "report.html"
    write_file(path, render(run).encode())
    return path


def render(run: RunFiles) -> str:
    """Return the page of a run."""
    from jinja2 import Environment, StrictUndefined

    template = files("tacit.simulations").joinpath("report.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.globals.update(number=number, label=metric_label)
    return page.from_string(template).render(
        summary=run.summary,
        colours=COLOURS,
        figures=_headline(run),
        privacy=_privacy(run),
        plots=_plots(run),
        tables=_tables(run),
        reasons=_reasons(run),
        partition=run.partition,
        holdings=_holdings(run.partition) if run.partition else [],
        recipe=run.recipe,
        environment=_environment(run.environment),
        packages=_packages(run.environment),
        commands=_commands(run),
        selected=bool(run.validated),
        retried=sum(not one.committed for one in run.attempts),
    )


def _plots(run: RunFiles) -> dict[str, Any]:
    plots = {}
    with drawing():
        for plot in draw_plots(run):
            svg = inline_svg(plot.figure, plot.name, plot.alternative)
            plots[plot.name] = {"title": plot.title, "caption": plot.caption, "svg": svg}
    return plots


def _headline(run: RunFiles) -> list[tuple[str, str, str]]:
    """Return (value, what it is, a remark) of the few figures that one wants first."""
    summary = run.summary
    found = []
    lead = main_metric(summary.metrics)
    if lead:
        found.append((number(summary.metrics[lead]), metric_label(lead), "on the test rows"))
    epsilon, readers = run.privacy.get("epsilon"), run.privacy.get("epsilon_outsiders")
    if run.privacy.get("unit") in UNITS:
        remark = f"for each {run.privacy['unit']}" + (", hypothetical" if run.privacy.get("hypothetical") else "")
        if epsilon is None and readers is not None:
            epsilon, remark = readers, f"{remark}, against readers alone"
        found.append((_bound(epsilon), "epsilon", remark))
    else:
        found.append(("none", "differential privacy", "no epsilon is promised"))
    kept = f"round {summary.best_round} was kept" if summary.best_round else ""
    found.append((number(summary.rounds_completed), "rounds", kept))
    asked = f"{summary.cohort:,} asked each round" if summary.cohort else ""
    found.append((number(summary.clients), "clients", asked))
    if (seconds := summary.timing.wall_seconds) is not None:
        each = summary.timing.seconds_per_round
        found.append((_duration(seconds), "in all", f"{_seconds(each)} s a round" if each is not None else ""))
    return found


def _bound(value: Any) -> str:
    """Return a bound to three significant digits, rounded up: a report never promises more than was computed."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "not stated"
    exact = Decimal(repr(value))
    digits = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), ROUND_CEILING) if value else exact
    text = f"{digits.normalize():f}"
    return text if digits == exact else f"\N{LESS-THAN OR EQUAL TO} {text}"


def _seconds(value: float | None) -> str:
    return number(None) if value is None else f"{value:,.2f}" if value >= 0.1 else f"{value:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _privacy(run: RunFiles) -> dict[str, Any]:
    said = run.privacy
    unit = said.get("unit")
    table = [
        (PRIVACY_LABELS.get(key, key.replace("_", " ")), _exactly(value))
        for key, value in said.items()
        if key not in ("sentence", "utility")  # what it is worth is all over the page
    ]
    return {
        "protected": unit in UNITS,
        "hypothetical": bool(said.get("hypothetical")),
        "sentence": printable(str(said.get("sentence") or "")),
        "rows": table,
        "elided": _recipe_value(run.recipe, "secure_aggregation", "mode") == "elided",
    }


def _exactly(value: Any) -> str:
    """Return a value of the privacy statement in words, its digits as they are."""
    match value:
        case None:
            return "not stated"
        case bool():
            return "yes" if value else "no"
        case dict() | list():
            return "; ".join(
                f"{printable(str(key))}: {_exactly(item)}"
                for key, item in (value.items() if isinstance(value, dict) else enumerate(value, 1))
            )
    return printable(str(value))


def _tables(run: RunFiles) -> dict[str, Table]:
    attempts, rounds = run.attempts, run.rounds
    validated = run.validated
    losses = {"training": "train_loss", "validation": "validation_loss"}
    losses = {word: name for word, name in losses.items() if any(name in one.metrics for one in rounds)}
    counts = ("selected", *(name for name, _, _ in OUTCOMES))
    tables = {
        "loss": _table(
            "Loss by round",
            ("round", *losses, "seconds"),
            [
                (str(one.round), *(number(one.metrics.get(name)) for name in losses.values()), _seconds(one.seconds))
                for one in rounds
            ],
            "rounds.jsonl",
        ),
        "metrics": _table(
            "Metrics on the validation share by round",
            ("round", *map(metric_label, validated)),
            [
                (str(one.round), *(number(one.metrics.get(f"validation_{name}")) for name in validated))
                for one in rounds
            ],
            "rounds.jsonl",
        ),
        "participation": _table(
            "Participation in every attempt of every round",
            ("round", "attempt", "result", *counts),
            [
                (_round_name(one), str(one.attempt + 1), _result(one), *(number(getattr(one, name)) for name in counts))
                for one in attempts
            ],
            "rounds.jsonl",
            texts=3,
        ),
    }
    if run.partition:
        tables["partition"] = _partition_table(run.partition)
    if run.per_client:
        tables["per-client"] = _per_client_table(run.per_client)
    averages = run.per_client or run.summary.per_client or Summaries()
    if averages.weighted_mean or averages.mean or averages.worst_decile:
        tables["averages"] = _averages_table(averages)
    return tables


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], file: str, *, texts: int = 1) -> Table:
    most = max(1, MOST_CELLS // len(columns))
    rest = f"These are the first {most:,} of {len(rows):,} rows; all are in {file}." if len(rows) > most else ""
    return Table(caption, columns, rows[:most], texts, rest)


def _round_name(one: Attempt) -> str:
    return str(one.round) if one.round else "preparation"


def _result(one: Attempt) -> str:
    if one.committed:
        return f"committed: {one.reason}" if one.reason else "committed"
    return f"failed: {one.reason}" if one.reason else "failed"


def _partition_table(partition: PartitionFile) -> Table:
    tested: list[int | None] = [*partition.test_rows] or [None] * len(partition.rows)
    counts = partition.counts if partition.classes else [[] for _ in partition.rows]
    rows = [
        (client, number(held), number(test), *map(number, row))
        for client, held, test, row in zip(partition.clients, partition.rows, tested, counts, strict=True)
    ]
    return _table(
        "Training rows at each client" + (", by class" if partition.classes else ""),
        ("client", "training rows", "test rows", *partition.classes),
        rows,
        "partition.json",
    )


def _holdings(partition: PartitionFile) -> list[tuple[str, str]]:
    rows, tested = partition.rows, partition.test_rows
    found = [
        ("clients", number(len(rows))),
        ("training rows, all clients", number(sum(rows))),
        ("training rows, smallest client", number(min(rows))),
        ("training rows, median client", number(round(median(rows)))),
        ("training rows, largest client", number(max(rows))),
    ]
    if any(tested):
        found.append(("test rows, all clients", number(sum(tested))))
    if partition.classes:
        held = [sum(count > 0 for count in row) for row in partition.counts]
        found.append(("classes", number(len(partition.classes))))
        found.append(("classes at the median client", number(round(median(held)))))
        found.append(("clients with a single class", number(sum(count == 1 for count in held))))
    return found


def _per_client_table(per_client: PerClient) -> Table:
    names = list(dict.fromkeys(name for each in per_client.clients.values() for name in each))
    rows = [
        (client, *(_count(each.get(name)) if name == "examples" else number(each.get(name)) for name in names))
        for client, each in per_client.clients.items()
    ]
    columns = ("client", *("test rows" if name == "examples" else metric_label(name) for name in names))
    return _table("The final model at each client", columns, rows, "per_client.json")


def _count(value: float | None) -> str:
    return number(None if value is None else round(value))


def _averages_table(averages: Summaries) -> Table:
    columns = {
        "weighted by rows": averages.weighted_mean,
        "mean of clients": averages.mean,
        "worst tenth": averages.worst_decile,
    }
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = [(metric_label(name), *(number(values.get(name)) for values in columns.values())) for name in names]
    return Table("The final model over clients", ("metric", *columns), rows)


def _reasons(run: RunFiles) -> Table | None:
    """Return why clients did not report, the most frequent reason first."""
    if not run.absences:
        return None
    times: Counter[tuple[str, str, str]] = Counter()
    who: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for one in run.absences:
        key = (one.outcome, one.reason or "no reason was given", one.exchange)
        times[key] += 1
        who[key].add(one.client)
    rows = [(*key, f"{count:,}", f"{len(who[key]):,}") for key, count in times.most_common()]
    columns = ("outcome", "reason", "exchange", "times", "clients")
    return _table("Why clients did not report", columns, rows, "participation.jsonl", texts=3)


def _environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {"cpu": "processor", "gpu": "GPU", "git_commit": "commit", "cpu_capability": "processor capability"}
    return [
        (names.get(key, key.replace("_", " ")), "none" if value is None else _exactly(value))
        for key, value in environment.items()
        if key != "packages"
    ]


def _packages(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    packages = environment.get("packages")
    return [(printable(str(k)), printable(str(v))) for k, v in packages.items()] if isinstance(packages, dict) else []


def _commands(run: RunFiles) -> list[tuple[str, str]]:
    """Return (what for, the command) for what one does after a run."""
    model = run.summary.model
    name = shlex.quote(model.name or run.summary.recipe_name)
    ask = f"tacit predict --url http://127.0.0.1:8100 --model {name}"
    if model.version is not None:
        ask += f" --version {shlex.quote(str(model.version))}"
    return [
        ("Everything that is recorded about this run", f"tacit runs show {shlex.quote(run.summary.run)}"),
        ("Make a key for the callers of a service, and serve the model", SERVE),
        ("Ask the service; it takes the key from the environment variable TACIT_API_KEY", f"{ask} --input FILE"),
        ("Run the recipe again, with another seed", "tacit simulate recipe.toml --set seed=1"),
    ]


def _recipe_value(recipe: str, section: str, key: str) -> Any:
    try:
        table: Any = tomllib.loads(recipe).get(section, {})
    except tomllib.TOMLDecodeError:
        return None
    return table.get(key) if isinstance(table, dict) else None
