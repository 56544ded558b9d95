"""Rows that are no client's and that the coordinator may see: they say which columns and classes there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tacit.models.data import open_source
from tacit.models.data.rows import Rows, Schema
from tacit.models.data.splits import split
from tacit.models.errors import InputError
from tacit.models.recipe import Recipe

QUICK = frozenset({"csv", "idx", "jsonl", "npz", "parquet"})
SELF_MADE = frozenset({"sklearn", "synthetic"})


@dataclass(frozen=True, repr=False)
class PublicSample:
    """What a coordinator knows of the data without asking a client.

    Attributes:
        schema: the dictionary that every client reads its own rows with.
        validation: rows for selection and early stopping; None without a share.
        test: rows for the end.
    """

    schema: Schema
    validation: Rows | None
    test: Rows

    def described(self) -> dict[str, Any]:
        """Return how many rows and columns there are, and which classes."""
        return {
            "rows": len(self.test) + (len(self.validation) if self.validation is not None else 0),
            "columns": len(self.schema.columns),
            "classes": list(self.schema.classes),
        }


def check_public_sample(recipe: Recipe) -> None:
    """Refuse a public sample that cannot be used, where that can be told at once and by anybody.

    It is opened where it is a table or an array in a file with an absolute path, or no file at all. What a relative
    path or a variable means depends on the process that trains, and folders and databases take long to read.

    Raises:
        InputError: what `open_public_sample` raises.
    """
    if recipe.evaluation.only:
        return
    _refuse_words(recipe.data.test)
    source = recipe.data.test or recipe.data.source
    scheme, _, place = source.partition(":")
    if "${" not in source and (scheme in SELF_MADE or (scheme in QUICK and place.startswith("/"))):
        open_public_sample(recipe, {})


def open_public_sample(recipe: Recipe, environ: Mapping[str, str]) -> PublicSample:
    """Open the public sample of a recipe: the source that `data.test` names, else the own test part of `data.source`.

    Rows that clients might train on are never taken instead: the figures would flatter the model.

    Raises:
        InputError: the recipe names no such rows, or they cannot be used.
    """
    wanted = recipe.data.test
    _refuse_words(wanted)
    opened = open_source(wanted or recipe.data.source, task=recipe.task.kind, label=recipe.data.label, environ=environ)
    rows = opened.train if wanted else opened.test
    if rows is None:
        raise InputError(
            "has no test part, so the coordinator has no public sample",
            where="data.source",
            right="in data.test, a source of rows that no client trains on",
        )
    validation, test = split(len(rows), recipe.evaluation.validation, np.random.default_rng([recipe.seed, 1]))
    if not len(test) or (recipe.evaluation.validation and not len(validation)):
        raise InputError(
            f"{len(rows)} public rows are too few to select a model on some and test it on the others",
            where="evaluation.validation",
            right="more rows, or another share",
        )
    return PublicSample(opened.schema, rows.take(validation) if len(validation) else None, rows.take(test))


def _refuse_words(wanted: str) -> None:
    if wanted in ("split", "per-client"):
        raise InputError(
            f"{wanted!r} leaves the coordinator without a public sample",
            where="data.test",
            right="a source of rows that no client trains on",
        )
