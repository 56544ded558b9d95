"""A source of models in memory, whose answers a test can derive."""

from __future__ import annotations

import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.features import Features, OneHot, Standardise
from tacit.models.statistics import category_buckets
from tacit.models.tasks import ClassPrediction, Prediction, ValuePrediction
from tacit.server.registry import Registry
from tacit.server.serving.app import create_app
from tacit.server.serving.settings import ServingSettings
from tacit.server.serving.source import UnknownModel, Unservable
from tacit.server.store import open_store
from tacit.server.store.records import KeyRecord, ModelSummary, ModelVersion, Scope

with warnings.catch_warnings():
    # It asks for a successor of httpx; once imported, it does not ask again.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

DAY = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STATEMENT = {"unit": "client", "epsilon": 4.0, "delta": 1e-5, "hypothetical": False}

NUMBERS = Schema((Column("a", "numeric"), Column("b", "numeric")), "sign", ("negative", "positive"))
MIXED = Schema((Column("age", "numeric"), Column("job", "categorical")), "income", ("low", "high"))
PICTURES = Schema((Column("image", "image", (1, 2, 3)),), "shade", ("dark", "light"))
PRICES = Schema((Column("rooms", "numeric"),), "price")


@dataclass(frozen=True)
class FakeModel:
    """The probability of the second class is half the sum of a row, cut to [0, 1]; a value is the sum itself."""

    schema: Schema
    offset: float = 0.0
    entered: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def scores(self, rows: Rows) -> NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(60)
        total = np.full(len(rows), self.offset)
        for column in self.schema.columns:
            values = rows.columns[column.name]
            if column.kind == "numeric":
                total += np.nan_to_num(values)
            elif column.kind == "categorical":
                total += np.array([len(text) for text in values])
            else:
                scale = 255.0 if values.dtype == np.uint8 else 1.0
                total += values.mean(axis=(1, 2, 3)) / scale * 2
        if not self.schema.classes:
            return total.astype(np.float32)
        second = np.clip(total / 2, 0, 1)
        return np.stack([1 - second, second], axis=1).astype(np.float32)

    def predict(self, rows: Rows) -> Sequence[Prediction]:
        scores = self.scores(rows)
        if not self.schema.classes:
            return [ValuePrediction(float(value)) for value in scores]
        classes = self.schema.classes
        return [
            ClassPrediction(classes[row.argmax()], float(row.max()), dict(zip(classes, map(float, row), strict=True)))
            for row in scores
        ]


@dataclass
class FakeSource:
    """Models, aliases and keys in dictionaries, and counters of what was asked."""

    registered: dict[str, list[ModelVersion]] = field(default_factory=dict)
    loaded: dict[str, FakeModel] = field(default_factory=dict)
    aliases: dict[str, dict[str, int]] = field(default_factory=dict)
    keys: dict[str, KeyRecord] = field(default_factory=dict)
    tampered: set[str] = field(default_factory=set)
    loads: list[str] = field(default_factory=list)
    resolved: int = 0

    def add(self, name: str, model: FakeModel, **details: object) -> ModelVersion:
        number = len(self.registered.get(name, [])) + 1
        digest = f"{len(self.loaded) + 1:064x}"
        version = ModelVersion(
            name, number, digest, "run-1", 3, {"accuracy": 0.5, "auroc": float("nan")}, details, {}, DAY
        )
        self.registered.setdefault(name, []).append(version)
        self.loaded[digest] = model
        return version

    def add_key(self, secret: str, *scopes: Scope) -> None:
        self.keys[secret] = KeyRecord(f"id-{secret}", "test", frozenset(scopes), DAY, None)

    def models(self) -> list[ModelSummary]:
        return [
            ModelSummary(name, len(versions), self.aliases.get(name, {}), DAY)
            for name, versions in sorted(self.registered.items())
        ]

    def versions(self, name: str) -> list[ModelVersion]:
        if name not in self.registered:
            raise UnknownModel("there is no such model")
        return self.registered[name]

    def resolve(self, name: str, selector: str | None) -> ModelVersion:
        self.resolved += 1
        versions = self.versions(name)
        aliases = self.aliases.get(name, {})
        if selector is None:
            number = aliases.get("champion", len(versions))
        else:
            number = aliases.get(selector) or (int(selector) if selector.isdecimal() else 0)
        if not 1 <= number <= len(versions):
            raise UnknownModel("the model has no such version")
        return versions[number - 1]

    def card(self, version: ModelVersion) -> str:
        if version.digest in self.tampered:
            raise Unservable("the card is not the one that was registered")
        return f"# {version.name}\n"

    def load(self, version: ModelVersion) -> FakeModel:
        self.loads.append(version.digest)
        if version.digest in self.tampered:
            raise Unservable("its files are not those that were registered")
        return self.loaded[version.digest]

    def check_key(self, secret: str) -> KeyRecord | None:
        return self.keys.get(secret)


@pytest.fixture
def source() -> FakeSource:
    source = FakeSource()
    source.add("numbers", FakeModel(NUMBERS), privacy=STATEMENT)
    source.add("mixed", FakeModel(MIXED))
    source.add("pictures", FakeModel(PICTURES))
    source.add("prices", FakeModel(PRICES))
    return source


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(source: FakeSource) -> Iterator[Serve]:
    """Start an application over `source`; without keys unless `require_key=True` is given."""
    with ExitStack() as stack:

        def start(**settings: object) -> TestClient:
            defaults = ServingSettings(require_key=False, threads=2, refresh_seconds=0.0, failure_seconds=0.0)
            app = create_app(source, replace(defaults, **settings))  # type: ignore[arg-type]
            return stack.enter_context(TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=True))

        yield start


@pytest.fixture
def client(serve: Serve) -> TestClient:
    return serve()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A store at `tacit.db` and the files of three real models at `models`, with weights that a test can follow.

    `income`: the log-odds of `high` are `(age - 40) / 10`, and 2 more for the job `clerk`. `price`: `100 * rooms`.
    `shade`: the log-odds of `light` are 12 times the mean brightness, less 6.
    """
    with open_store(str(tmp_path / "tacit.db")) as store:
        registry = Registry(store, tmp_path / "models")
        clerk = int(category_buckets("job", np.array(["clerk"], dtype=object))[0])
        ages, clerks = Standardise((40.0,), (10.0,)), OneHot((clerk,))
        register_model(registry, "income", MIXED, (ages, clerks), [[0, 0, 0], [1, 2, 0]], [0, 0], privacy=STATEMENT)
        register_model(registry, "price", PRICES, (Standardise((0.0,), (1.0,)),), [[100]], [0])
        pixels = Standardise((0.0,), (1.0,))
        register_model(registry, "shade", PICTURES, (pixels,), [[0] * 6, [2] * 6], [0, -6])
        yield registry


def register_model(
    registry: Registry,
    name: str,
    schema: Schema,
    encoders: tuple[Standardise | OneHot, ...],
    weight: list[list[float]],
    bias: list[float],
    **details: object,
) -> ModelVersion:
    """Register a linear model of `weight`, shape `(outputs, features)`, and `bias`, shape `(outputs,)`."""
    import torch

    from tacit.models.checkpoint import Artifact, write_artifact
    from tacit.models.vector import layout_of
    from tacit.models.zoo.architecture import Architecture

    features = Features(schema, encoders)
    architecture = Architecture("logistic", "", features.input_shape, len(bias))
    vector = torch.tensor([*np.ravel(weight), *bias], dtype=torch.float32)
    kind = "image-classification" if schema.columns[0].kind == "image" else "tabular-classification"
    artifact = Artifact(
        architecture,
        layout_of(architecture.build(0)),
        vector,
        features,
        kind if schema.classes else "tabular-regression",
    )
    with tempfile.TemporaryDirectory() as folder:
        write_artifact(Path(folder) / "artifact", artifact, f"# {name}\n\nWeights of a test.\n")
        return registry.register(Path(folder) / "artifact", name, None, None, {"accuracy": 0.75}, details)
