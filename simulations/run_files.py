"""The files of a run directory, read back and checked: all that plots and report are made from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tacit.models.errors import InputError

PREFERRED_METRICS = ("accuracy", "rmse", "mae")


def printable(text: str) -> str:
    """Return text without control characters and lone surrogates; names and reasons come from other machines."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Line = Annotated[str, AfterValidator(printable)]
Number = Annotated[float | None, AfterValidator(_finite)]
Metrics = dict[Line, Number]


class _Entry(BaseModel):
    """Something that a file says; keys that the report does not know are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Attempt(_Entry):
    """One attempt of one round: how many took part, and what was measured; round 0 is the preparation."""

    round: int = Field(ge=0)
    attempt: int = Field(default=0, ge=0)
    committed: bool
    reason: Line = ""
    seconds: Number = None
    selected: int = Field(ge=0)
    reported: int = Field(ge=0)
    dropped: int = Field(ge=0)
    late: int = Field(ge=0)
    refused: int = Field(ge=0)
    metrics: Metrics = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_metrics(cls, line: Any) -> Any:
        """Move `train_loss` and `validation_*`, which stand beside the counts, into one table."""
        if not isinstance(line, dict):
            return line
        metrics = {key: value for key, value in line.items() if key == "train_loss" or key.startswith("validation_")}
        return {key: value for key, value in line.items() if key not in metrics} | {"metrics": metrics}


class Absence(_Entry):
    """Why one client that was asked is not in a result."""

    round: int = Field(ge=0)
    attempt: int = Field(default=0, ge=0)
    client: Line
    outcome: Line
    reason: Line = ""
    exchange: Line = ""


class PartitionFile(_Entry):
    """Who holds what, which only a simulation can know: `counts` has shape (clients, classes)."""

    clients: list[Line] = Field(min_length=1)
    classes: list[Line] = []
    counts: list[list[Annotated[int, Field(ge=0)]]] = []
    rows: list[Annotated[int, Field(ge=0)]]
    test_rows: list[Annotated[int, Field(ge=0)]] = []

    @model_validator(mode="after")
    def _check_shapes(self) -> PartitionFile:
        clients, classes = len(self.clients), len(self.classes)
        if len(self.rows) != clients or len(self.test_rows) not in (0, clients):
            raise ValueError(f"there must be one number of rows for each of the {clients} clients")
        if classes and (len(self.counts) != clients or any(len(row) != classes for row in self.counts)):
            raise ValueError(f"the counts must have the shape {clients} clients x {classes} classes")
        return self


class Summaries(_Entry):
    """Metrics over clients, put together in three ways."""

    weighted_mean: Metrics = {}
    mean: Metrics = {}
    worst_decile: Metrics = {}


class PerClient(Summaries):
    """The final model's metrics on each client's own test rows."""

    clients: dict[Line, Metrics]


class Timing(_Entry):
    """How long the run took."""

    wall_seconds: Number = None
    seconds_per_round: Number = None
    clients_per_second: Number = None


class ModelVersion(_Entry):
    """The model that the run left in the registry."""

    name: Line = ""
    version: int | Line | None = None
    sha256: Line = ""


class SecureAggregation(_Entry):
    """Whether the coordinator sees single updates; a file that does not say so has not switched it on."""

    enabled: bool = False
    threshold: int | None = None
    min_cohort: int | None = None
    adversary: Line | None = None


class Summary(_Entry):
    """What became of the run."""

    run: Line
    recipe_name: Line
    task: Line
    rounds_completed: int
    clients: int
    cohort: int | None = None
    metrics: Metrics = {}
    secure_aggregation: SecureAggregation = SecureAggregation()
    timing: Timing = Timing()
    model: ModelVersion = ModelVersion()
    per_client: Summaries | None = None
    best_round: int | None = None
    stopped: Line | None = None
    warnings: list[Line] = []


@dataclass(frozen=True)
class RunFiles:
    """All files of one run.

    Attributes:
        recipe: the resolved recipe's text.
        environment: what the run was made with.
        attempts: every attempt of every round, in the order of the file.
        absences: who did not report, and why.
        summary: what became of the run.
        privacy: the privacy statement, exactly as it was written.
        partition: who holds what; None where nobody can know.
        per_client: results at each client; None where nobody measured them.
    """

    recipe: str
    environment: Mapping[str, Any]
    attempts: tuple[Attempt, ...]
    absences: tuple[Absence, ...]
    summary: Summary
    privacy: Mapping[str, Any]
    partition: PartitionFile | None
    per_client: PerClient | None

    @property
    def rounds(self) -> tuple[Attempt, ...]:
        """Return the committed training rounds, in order."""
        return tuple(one for one in self.attempts if one.committed and one.round > 0)

    @property
    def validated(self) -> tuple[str, ...]:
        """Return the names of what was measured on the validation share, the loss left out."""
        names = dict.fromkeys(name for one in self.rounds for name in one.metrics)
        found = (name.removeprefix("validation_") for name in names if name.startswith("validation_"))
        return tuple(name for name in found if name != "loss")


def read_run_files(directory: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        InputError: a file that every run has is missing, or a file does not say what it should.
    """
    partition, per_client = directory / "partition.json", directory / "per_client.json"
    return RunFiles(
        recipe="".join(c if c in "\n\t" else printable(c) for c in _text(directory / "recipe.toml")),
        environment=_object(directory / "environment.json"),
        attempts=_lines(Attempt, directory / "rounds.jsonl"),
        absences=_lines(Absence, directory / "participation.jsonl", optional=True),
        summary=_checked(Summary, _object(directory / "summary.json"), str(directory / "summary.json")),
        privacy=_object(directory / "privacy.json"),
        partition=_checked(PartitionFile, _object(partition), str(partition)) if partition.exists() else None,
        per_client=_checked(PerClient, _object(per_client), str(per_client)) if per_client.exists() else None,
    )


def main_metric(names: Mapping[str, Any]) -> str | None:
    """Return the metric to lead with: what training selects by, else the first that is not the loss."""
    others = [name for name in names if name not in ("examples", "loss")]
    preferred = [name for name in PREFERRED_METRICS if name in others]
    return next(iter(preferred + others), "loss" if "loss" in names else None)


Checked = TypeVar("Checked", bound=BaseModel)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=str(path)) from None


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON ({error.msg})", where=f"{path} line {error.lineno}") from None
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", where=str(path))
    return value


def _lines(model: type[Checked], path: Path, *, optional: bool = False) -> tuple[Checked, ...]:
    if optional and not path.exists():
        return ()
    entries = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"is not JSON ({error.msg})", where=where) from None
        entries.append(_checked(model, value, where))
    return tuple(entries)


def _checked(model: type[Checked], value: Any, where: str) -> Checked:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"][:1].lower() + problem["msg"][1:]
        raise InputError(f"{key} is not usable" if key else "is not usable", where=where, right=message) from None
