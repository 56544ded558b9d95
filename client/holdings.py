"""Rows that come from a source of the owner's, fitted to the dictionary that a federation agreed on."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from tacit.models.data import open_source
from tacit.models.data.classes import label_texts
from tacit.models.data.rows import Rows, Schema, Source
from tacit.models.errors import InputError
from tacit.models.plan import Plan

_LOG = logging.getLogger(__name__)


class SourceHoldings:
    """The rows of one source address, read at first need and kept for as long as the dictionary stays the same."""

    def __init__(self, source: str, environ: Mapping[str, str]) -> None:
        """Remember the address; nothing is read yet."""
        self._address = source
        self._environ = environ
        self._source: tuple[tuple[str, Schema], Source] | None = None

    def training(self, plan: Plan) -> Rows:
        """Return the source's training rows."""
        source = self._open(plan)
        return conform(source.train, source.schema, plan.schema)

    def test(self, plan: Plan) -> Rows | None:
        """Return the source's own test part, if it has one."""
        source = self._open(plan)
        return conform(source.test, source.schema, plan.schema) if source.test is not None else None

    def _open(self, plan: Plan) -> Source:
        read_as = plan.recipe.task.kind, plan.schema
        if self._source is None or self._source[0] != read_as:
            kind, schema = read_as
            try:
                source = open_source(self._address, task=kind, label=schema.label, environ=self._environ, agreed=schema)
            except InputError as error:
                # The reason names the owner's files and columns, so it stays here and a coordinator learns the fact.
                _LOG.error("the data source cannot be used: %s", error)
                raise InputError("the agent's data source cannot be used", right="its own log says why") from None
            for why, count in source.findings.dropped.items():
                _LOG.warning("%d rows %s are left out", count, why)
            self._source = read_as, source
        return self._source[1]


def conform(rows: Rows, own: Schema, agreed: Schema) -> Rows:
    """Return rows that were read under one dictionary as another one names them.

    Columns and classes that the agreed dictionary does not have are left out; labels are renumbered by name. A numeric
    column may serve as a categorical one (small files often look numeric by accident), never the other way round.

    Raises:
        InputError: a column is missing or of another kind or shape, or the labels are no classes, or numbers.
    """
    kinds = {column.name: column for column in own.columns}
    columns = {}
    for column in agreed.columns:
        held = kinds.get(column.name)
        if held is None:
            raise InputError(f"the data has no column {column.name!r}", where="data")
        values = rows.columns[column.name]
        if held.kind == "numeric" and column.kind == "categorical":
            values = label_texts(values)
        elif held.kind != column.kind or held.shape != column.shape:
            raise InputError(f"is {held.kind}, the federation's is {column.kind}", where=f"column {column.name!r}")
        columns[column.name] = values
    if not agreed.classes:
        if own.classes:
            raise InputError("the labels are classes, the federation's are numbers", where=f"label {agreed.label!r}")
        return Rows(columns, rows.labels)
    if not own.classes:
        raise InputError("the labels are numbers, the federation's are classes", where=f"label {agreed.label!r}")
    numbers = {name: index for index, name in enumerate(agreed.classes)}
    labels = np.array([numbers.get(name, -1) for name in own.classes], dtype=np.int64)[rows.labels]
    if (labels >= 0).all():
        return Rows(columns, labels)
    kept = np.flatnonzero(labels >= 0)
    return Rows({name: values[kept] for name, values in columns.items()}, labels[kept])
