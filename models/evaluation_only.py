"""What a recipe may say that measures a registered model and trains none: `evaluation.only`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EVALUATION_ROUND = 1
NOISED_SHARES = 2  # values of one client, where an evaluation promises something; see `evaluation_shares`

# What says how a model is trained, and nothing to a run that trains none.
_TRAINS: Mapping[str, tuple[str, ...]] = {
    "training": (
        *("local_epochs", "local_steps", "batch_size", "optimizer", "learning_rate", "momentum", "weight_decay"),
        *("sampling", "broadcast"),
    ),
    "strategy": (),
    "evaluation": ("every", "patience"),
}


def with_one_round(values: Any) -> Any:
    """Return a recipe's plain values with the one round that an evaluation is, where they do not say how many."""
    if not isinstance(values, Mapping):
        return values
    evaluation, training = values.get("evaluation"), values.get("training", {})
    only = isinstance(evaluation, Mapping) and evaluation.get("only") is True
    if not only or not isinstance(training, Mapping) or "rounds" in training:
        return values
    return {**values, "training": {**training, "rounds": 1}}


def refusals(
    recipe: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[bool, str, str]]:
    """Yield what contradicts an evaluation, or means nothing without one: whether it is so, what, what would be right.

    Args:
        recipe: the plain values of its sections.
        defaults: those of `training`, `strategy` and `evaluation` where a recipe says nothing.
    """
    evaluation, training, privacy = recipe["evaluation"], recipe["training"], recipe["privacy"]
    if not evaluation["only"]:
        meant = evaluation["rows"] == defaults["evaluation"]["rows"]
        yield not meant, "evaluation.rows means nothing without evaluation.only", "leave it out, or set only = true"
        return
    yield (
        not recipe["model"]["init"],
        "evaluation.only needs model.init, which names the model to evaluate",
        'init = "registry:NAME@ALIAS"',
    )
    yield (
        training["rounds"] != 1,
        f"training.rounds = {training['rounds']} contradicts evaluation.only, which is one round",
        "leave it out",
    )
    yield (
        not recipe["secure_aggregation"]["enabled"],
        "secure_aggregation.enabled = false contradicts evaluation.only: counts leave masked or not at all",
        "enabled = true",
    )
    yield (
        privacy["unit"] == "example",
        "privacy.unit = 'example' is not offered for evaluation.only, which has no steps to noise",
        "unit = 'client', or 'none'",
    )
    yield (
        privacy["noise"] not in (None, "distributed"),
        f"privacy.noise = {privacy['noise']!r} is not offered for evaluation.only",
        "noise = 'distributed', or leave it out",
    )
    for key in ("clip", "noise_cohort"):
        yield (
            privacy["unit"] != "none" and privacy[key] is not None,
            f"privacy.{key} means nothing to evaluation.only, whose shares have a length of at most 1",
            "leave it out",
        )
    for section, keys in _TRAINS.items():
        for key in keys or defaults[section]:
            yield (
                recipe[section][key] != defaults[section][key],
                f"{section}.{key} means nothing to evaluation.only, which trains nothing",
                "leave it out",
            )
