"""What serving needs from the outside: model versions, their files as something that predicts, and API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.rows import Rows, Schema
from tacit.models.tasks import Prediction
from tacit.server.store.records import KeyRecord, ModelSummary, ModelVersion


class UnknownModel(LookupError):
    """No such model, version or alias; the text is fit for the caller and does not repeat what was asked for."""


class Unservable(Exception):
    """A registered version cannot be served; the text says why in one line, without paths."""


class Servable(Protocol):
    """A loaded model version; safe to use from several threads at once."""

    @property
    def schema(self) -> Schema:
        """The columns that rows must have, and the classes (none: a regression)."""

    def predict(self, rows: Rows) -> Sequence[Prediction]:
        """Return what the model says about each row."""

    def scores(self, rows: Rows) -> NDArray[np.float32]:
        """Return a probability for each class, shape `(rows, classes)`, or for a regression the values, `(rows,)`."""


class ModelSource(Protocol):
    """The store and the registry as serving sees them; every method may block."""

    def models(self) -> Sequence[ModelSummary]:
        """Return all models by name."""

    def versions(self, name: str) -> Sequence[ModelVersion]:
        """Return a model's versions, oldest first, or raise `UnknownModel`."""

    def resolve(self, name: str, selector: str | None) -> ModelVersion:
        """Return the version that a number or an alias names, or raise `UnknownModel`.

        Without a selector: the alias `champion` if it is set, else the latest version.
        """

    def card(self, version: ModelVersion) -> str:
        """Return the version's card as Markdown, its digest verified; raise `Unservable` if it cannot be."""

    def load(self, version: ModelVersion) -> Servable:
        """Verify the files against the version's digest, then load them; raise `Unservable` if either fails."""

    def check_key(self, secret: str) -> KeyRecord | None:
        """Return the key that a secret belongs to, or None when there is none or it was revoked."""
