"""Serving's view of the store, the registry and the model files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tacit.models.checkpoint import Predictor, read_artifact
from tacit.models.errors import InputError
from tacit.server.registry import Registry
from tacit.server.serving.source import UnknownModel, Unservable
from tacit.server.store import KeyRecord, ModelSummary, ModelVersion

_CARD = "README.md"


class RegisteredModels:
    """The `ModelSource` of a real server.

    Args:
        registry: the models; its store has the keys.
    """

    def __init__(self, registry: Registry) -> None:
        """Keep the registry."""
        self._registry = registry

    def models(self) -> Sequence[ModelSummary]:
        """Return all models that have a version, by name."""
        return [model for model in self._registry.store.list_models() if model.versions]

    def versions(self, name: str) -> Sequence[ModelVersion]:
        """Return a model's versions, oldest first, or raise `UnknownModel`."""
        try:
            return self._registry.store.list_versions(name)
        except InputError:
            raise UnknownModel("there is no such model") from None

    def resolve(self, name: str, selector: str | None) -> ModelVersion:
        """Return the version that a number or an alias names, or raise `UnknownModel`."""
        try:
            return self._registry.resolve(name, selector)
        except InputError:
            known = len(self.versions(name))
            raise UnknownModel(f"the model has no such version or alias; its versions are 1 to {known}") from None

    def card(self, version: ModelVersion) -> str:
        """Return the card, compared with what was registered, or raise `Unservable`."""
        try:
            content = (self._registry.path(version) / _CARD).read_bytes()
        except OSError as error:
            raise Unservable(f"its card cannot be read ({error.strerror})") from None
        if hashlib.sha256(content).hexdigest() != version.files.get(_CARD):
            raise Unservable("its card is not the one that was registered")
        return content.decode("utf-8", "replace")

    def load(self, version: ModelVersion) -> Predictor:
        """Read the files, compare what was read with the version's digest, build the model; or raise `Unservable`."""
        try:
            return Predictor(read_artifact(self._registry.path(version), version.digest))
        except InputError as error:
            # Without its place, which would tell the caller a path of this machine.
            raise Unservable(f"the files of this version cannot be used: {error.what}") from None

    def check_key(self, secret: str) -> KeyRecord | None:
        """Return the key that a secret belongs to, or None."""
        return self._registry.store.check_key(secret)
