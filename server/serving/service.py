"""What one serving process does: find a version, load it once, compute in threads, within limits."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from tacit.server.serving.memo import Memo
from tacit.server.serving.problem import Refusal
from tacit.server.serving.settings import ServingSettings
from tacit.server.serving.source import ModelSource, Servable, UnknownModel, Unservable
from tacit.server.store.records import KeyRecord, ModelSummary, ModelVersion

Result = TypeVar("Result")
_log = logging.getLogger("tacit.serving")
_REMEMBERED = 1024
_NAME_CHARACTERS = 200


class Service:
    """The models of one source, ready to answer.

    Args:
        source: where versions, their files and the API keys come from.
        settings: the limits.
    """

    def __init__(self, source: ModelSource, settings: ServingSettings) -> None:
        """Start the threads; nothing is loaded yet."""
        self.settings = settings
        self.draining = False
        self._source = source
        self._in_flight = 0
        # Three pools, so that neither a large model being loaded nor a queue of predictions delays a key check.
        self._asking = ThreadPoolExecutor(4, thread_name_prefix="tacit-store")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="tacit-load")
        self._computing = ThreadPoolExecutor(settings.threads, thread_name_prefix="tacit-predict")
        fresh = settings.refresh_seconds
        self._versions: Memo[ModelVersion] = Memo(self._asking, limit=_REMEMBERED, seconds=fresh)
        self._keys: Memo[KeyRecord | None] = Memo(self._asking, limit=_REMEMBERED, seconds=fresh)
        self._answers_store: Memo[bool] = Memo(self._asking, limit=1, seconds=fresh)
        self._loaded: Memo[Servable] = Memo(
            self._loading, limit=settings.loaded_versions, failure_seconds=settings.failure_seconds
        )

    async def ready(self) -> bool:
        """Tell whether new requests should come here: not draining, and the store answers."""
        return not self.draining and await self._answers_store.get("store", self._store_answers)

    async def check_key(self, secret: str) -> KeyRecord | None:
        """Return the key that a secret belongs to, or None; a revoked key may pass for `refresh_seconds`."""
        # The memory is searched by digest, so that it holds no secrets.
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        return await self._keys.get(digest, lambda: self._source.check_key(secret))

    async def models(self) -> Sequence[ModelSummary]:
        """Return all models."""
        return await self._ask(self._source.models)

    async def versions(self, name: str) -> Sequence[ModelVersion]:
        """Return a model's versions, oldest first, or raise `UnknownModel`."""
        _require_a_name(name)
        return await self._ask(lambda: self._source.versions(name))

    async def resolve(self, name: str, selector: str | None) -> ModelVersion:
        """Return the version meant, at most `refresh_seconds` old, or raise `UnknownModel`."""
        _require_a_name(name)
        _require_a_name(selector or "")
        return await self._versions.get((name, selector), lambda: self._source.resolve(name, selector))

    async def card(self, version: ModelVersion) -> str:
        """Return a version's card as Markdown, or raise `Unservable`."""
        return await self._ask(lambda: self._source.card(version))

    async def load(self, version: ModelVersion) -> Servable:
        """Return the loaded version, loading it if needed, or raise `Unservable`."""
        key = (version.name, version.version, version.digest)
        return await self._loaded.get(key, lambda: self._verify_and_load(version))

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Run the work of a prediction in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._computing, work)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold one of the places for predictions in progress, or refuse with 503."""
        if self._in_flight >= self.settings.in_flight:
            raise Refusal(503, "as many predictions as this server takes are in progress", {"Retry-After": "1"})
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def close(self) -> None:
        """Let the threads finish what they do, then end them."""
        for pool in (self._computing, self._loading, self._asking):
            pool.shutdown(wait=True, cancel_futures=True)

    async def _ask(self, question: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._asking, question)

    def _store_answers(self) -> bool:
        try:
            self._source.models()
        except Exception as error:  # noqa: BLE001, whatever it is, the answer is no
            _log.warning("the store does not answer: %s", type(error).__name__)
            return False
        return True

    def _verify_and_load(self, version: ModelVersion) -> Servable:
        try:
            return self._source.load(version)
        except Unservable as error:
            _log.error("model %s version %d is not served: %s", version.name, version.version, error)
            raise
        except Exception as error:
            _log.error("model %s version %d fails to load: %s", version.name, version.version, type(error).__name__)
            raise Unservable("it fails to load; the server's log says more") from error


def _require_a_name(text: str) -> None:
    """Refuse what no model is called before it is remembered or reaches the database."""
    if len(text) > _NAME_CHARACTERS or not text.isprintable():
        raise UnknownModel("there is no such model or version")
