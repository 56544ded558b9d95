"""The recipe: one TOML file that says what a federation trains, on what, how and under which promise."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, Field, ValidationError, model_validator

from tacit.models.errors import InputError
from tacit.models.evaluation_only import refusals, with_one_round
from tacit.models.sections import (
    DataSection,
    EvaluationSection,
    ModelSection,
    PopulationSection,
    PrivacySection,
    Section,
    SecureAggregationSection,
    StrategySection,
    TaskSection,
    TrainingSection,
)
from tacit.models.spelling import suggestion, unknown


class Recipe(Section):
    """A whole recipe, checked; see `docs/recipe.md` for every key."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    seed: int = Field(default=0, ge=0, lt=2**63)
    task: TaskSection
    data: DataSection
    population: PopulationSection = PopulationSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    strategy: StrategySection = StrategySection()
    privacy: PrivacySection = PrivacySection()
    evaluation: EvaluationSection = EvaluationSection()
    secure_aggregation: SecureAggregationSection = SecureAggregationSection()

    @model_validator(mode="before")
    @classmethod
    def _one_round(cls, values: Any) -> Any:
        """Give an evaluation the one round that it is, where the recipe does not say how many."""
        return with_one_round(values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the keys that were not given and have no default."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """Return the resolved recipe as TOML; parsing it gives an equal recipe."""
        return tomli_w.dumps(self.to_dict())

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the canonical form, in hex."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def read_recipe(recipe: Path | str, overrides: Iterable[str] = (), *, bundled: Traversable) -> Recipe:
    """Read a recipe by its path, or by the name of one of those in the folder `bundled`.

    Raises:
        InputError: there is no such file and no such bundled recipe, or it cannot be used.
    """
    path = Path(recipe)
    if path.suffix == ".toml" or path.is_file():
        return load_recipe(path, overrides)
    entries = {entry.name.removesuffix(".toml"): entry for entry in bundled.iterdir() if entry.name.endswith(".toml")}
    if str(recipe) not in entries:
        raise unknown("recipe", str(recipe), entries, where="RECIPE")
    return parse_recipe(entries[str(recipe)].read_text(encoding="utf-8"), overrides, where=f"bundled recipe {recipe}")


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply `a.b=value` overrides.

    Raises:
        InputError: the file cannot be read, is no TOML, or says something that a recipe cannot say.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=str(path), right="a recipe is a TOML file") from None
    return parse_recipe(text, overrides, where=str(path))


def parse_recipe(text: str, overrides: Iterable[str] = (), *, where: str = "recipe") -> Recipe:
    """Parse a recipe from TOML text; see `load_recipe`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not valid TOML: {error}", where=where) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or as many brackets
        raise InputError(f"is not usable TOML ({type(error).__name__})", where=where) from None
    for override in overrides:
        _override(values, override)
    return recipe_from_dict(values, where=where)


def recipe_from_dict(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Check plain values and return the recipe that they say.

    Raises:
        InputError: names the first key that is wrong, and the nearest known key where one is unknown.
    """
    try:
        recipe = Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise _readable(error, where) from None
    _check_together(recipe, where)
    _check_evaluation(recipe, where)
    _refuse_unbuilt(recipe, where)
    _check_privacy(recipe, where)
    return recipe


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise InputError(f"{override!r} sets nothing", where="--set", right="write --set section.key=value")
    text = text.strip()
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    # More than one key: the text has a line break and says more than its first line.
    value = parsed["value"] if set(parsed) == {"value"} else text
    *sections, last = key.strip().split(".")
    if (sections, last, value) == (["privacy"], "unit", "none"):
        # Whoever takes the promise away means all of it, and not to be told of each of its numbers.
        values["privacy"] = {}
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise InputError(f"{section!r} is a value, not a section", where=f"--set {key}")
    table[last] = value


def _readable(error: ValidationError, where: str) -> InputError:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        model: type[BaseModel] = Recipe
        for part in path[:-1]:
            annotation = model.model_fields[part].annotation
            model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else model
        return InputError(f"unknown key {key!r}", where=where, right=suggestion(path[-1], model.model_fields))
    if problem["type"] == "missing":
        return InputError(f"the key {key!r} is missing", where=where)
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return InputError(f"{key} is not usable", where=where, right=message)


def _check_together(recipe: Recipe, where: str) -> None:
    population, training = recipe.population, recipe.training
    by_data = population.partition in ("by-file", "by-column")
    if population.clients is None and not by_data:
        raise InputError(
            "the key 'population.clients' is missing", where=where, right="how many there are, as in clients = 8"
        )
    if population.clients is not None and training.cohort is not None and training.cohort > population.clients:
        raise InputError(
            f"training.cohort = {training.cohort} is more than population.clients = {population.clients}",
            where=where,
            right="ask for at most as many clients as there are",
        )
    if population.partition == "by-column" and not population.column:
        raise InputError("population.column is empty", where=where, right="by-column needs the column's name")
    if training.momentum and training.optimizer != "sgd":
        raise InputError(
            f"training.momentum: {training.optimizer} has none", where=where, right="leave it out, or use sgd"
        )
    if training.over_selection and training.sampling == "poisson":
        raise InputError(
            "training.over_selection means nothing to a poisson cohort", where=where, right="leave it out, or use fixed"
        )
    if not _is_plain(recipe.model.options):
        raise InputError(
            "an option in [model] is a date or not a finite number", where=where, right="text, numbers, lists, tables"
        )
    if recipe.model.factory and ":" not in recipe.model.factory:
        raise InputError("model.factory is not usable", where=where, right='write "package.module:function"')
    if recipe.evaluation.patience and not recipe.evaluation.validation:
        raise InputError(
            "evaluation.patience needs a validation share", where=where, right="set evaluation.validation above 0"
        )


def _check_evaluation(recipe: Recipe, where: str) -> None:
    defaults = {"training": TrainingSection(), "strategy": StrategySection(), "evaluation": EvaluationSection()}
    sections = ("model", "privacy", "secure_aggregation", *defaults)
    given = {name: getattr(recipe, name).model_dump() for name in sections}
    for asked, what, right in refusals(given, {name: section.model_dump() for name, section in defaults.items()}):
        if asked:
            raise InputError(what, where=where, right=right)


def _is_plain(value: object) -> bool:
    """Return whether a value comes back from JSON and from TOML as it went in."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _check_privacy(recipe: Recipe, where: str) -> None:
    """Refuse promises that contradict themselves, or that the place of the noise cannot keep."""
    privacy = recipe.privacy
    given = privacy.model_dump(exclude={"unit"}, exclude_none=True)
    if privacy.unit == "none":
        for key in given:
            raise InputError(f"privacy.{key} means nothing without a unit", where=where, right="set privacy.unit")
        if recipe.population.epsilon_budget is not None:
            raise InputError(
                "population.epsilon_budget means nothing without a promise", where=where, right="set privacy.unit"
            )
        return
    if (privacy.epsilon is None) == (privacy.noise_multiplier is None):
        raise InputError(
            "privacy needs either epsilon or noise_multiplier", where=where, right="give a target, or the noise"
        )
    if recipe.strategy.weighting == "examples":
        raise InputError(
            "strategy.weighting = 'examples' would show how many examples a client has", where=where, right="uniform"
        )
    refused = _refused_examples(recipe) if privacy.unit == "example" else _refused_clients(recipe)
    for asked, what, right in refused:
        if asked:
            raise InputError(what, where=where, right=right)


def _refused_clients(recipe: Recipe) -> Iterator[tuple[bool, str, str]]:
    privacy, masked = recipe.privacy, recipe.secure_aggregation.enabled
    place = privacy.noise or "distributed"
    yield (
        place == "distributed" and not masked,
        "distributed noise protects only within a masked sum",
        "set secure_aggregation.enabled = true, or privacy.noise",
    )
    yield (
        place == "central" and privacy.epsilon is not None and privacy.epsilon_against != "outsiders",
        "central noise is worth nothing against the coordinator, who makes it",
        "set privacy.epsilon_against = 'outsiders', or use distributed noise",
    )
    yield (
        privacy.clip == "adaptive" and not masked,
        "an adaptive clip asks every client whether it was clipped, which only a masked sum may hold",
        "set secure_aggregation.enabled = true, or give the clip",
    )
    yield (
        bool(privacy.noise_cohort) and not masked,
        "privacy.noise_cohort is for masked sums",
        "set secure_aggregation.enabled = true",
    )
    yield (
        bool(privacy.noise_cohort) and place == "local",
        "privacy.noise_cohort means nothing to local noise, which relies on nobody",
        "leave it out",
    )
    yield _refused_cap(recipe)
    yield privacy.sample_rate is not None, "privacy.sample_rate is for unit 'example'", "leave it out"


def _refused_cap(recipe: Recipe) -> tuple[bool, str, str]:
    rounds = recipe.training.rounds
    return (
        recipe.training.sampling == "poisson" and (recipe.privacy.max_participations or rounds) < rounds,
        "privacy.max_participations cannot be kept by poisson cohorts, which may draw anyone in any round",
        "leave it out, or set training.sampling = 'fixed'",
    )


def _refused_examples(recipe: Recipe) -> Iterator[tuple[bool, str, str]]:
    privacy, training = recipe.privacy, recipe.training
    yield (
        privacy.noise not in (None, "local"),
        f"{privacy.noise} noise cannot protect one example: its influence is bounded step by step at its client",
        "set privacy.noise = 'local', or privacy.unit = 'client'",
    )
    yield _refused_cap(recipe)
    yield privacy.clip == "adaptive", "privacy.clip = 'adaptive' is for unit 'client'", "give the clip"
    yield bool(privacy.noise_cohort), "privacy.noise_cohort is for unit 'client'", "leave it out"
    yield (
        privacy.sample_rate is None,
        "unit 'example' needs privacy.sample_rate: public and the same at every client",
        "the probability that an example enters a batch",
    )
    yield (
        training.local_steps is None,
        "unit 'example' needs training.local_steps: epochs would show how many examples a client has",
        "give the number of steps",
    )
    yield (
        recipe.strategy.name == "fedprox",
        "fedprox pulls every step, which private steps do not have",
        "another strategy",
    )


def _refuse_unbuilt(recipe: Recipe, where: str) -> None:
    unbuilt = {
        "training.engine": recipe.training.engine == "vectorised",
        "strategy.weighting": recipe.strategy.weighting == "clipped",
    }
    for key, asked in unbuilt.items():
        if asked:
            raise InputError(
                f"{key} asks for a feature that this version does not have",
                where=where,
                right="leave it out; nothing is ever silently ignored",
            )
