"""The tables of a recipe: each one's keys, what they may be, and what they are where a recipe says nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST = 10**9  # of rounds, steps, clients or anything else that is counted: more is a slip, and overflows somewhere


class Section(BaseModel):
    """A table of a file that a person writes: strict types, no unknown keys, no change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TaskSection(Section):
    """What is predicted."""

    kind: str


class DataSection(Section):
    """Where the rows come from; `test` is a source, "split", "per-client", or empty for the source's own part."""

    source: str
    test: str = ""
    label: str = "label"
    test_share: float = Field(default=0.2, gt=0, lt=1)
    minimum_count: int = Field(default=5, ge=1)


class PopulationSection(Section):
    """Who holds which rows in a simulation, and whose privacy ledger pays for what is released about them."""

    clients: int | None = Field(default=None, ge=1, le=MOST)
    partition: Literal["iid", "dirichlet", "shards", "by-file", "by-column"] = "iid"
    alpha: float = Field(default=0.5, gt=0)
    shards_per_client: int = Field(default=2, ge=1)
    column: str = ""
    ledger: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")
    epsilon_budget: float | None = Field(default=None, gt=0)


class ModelSection(Section):
    """The architecture; the options of a zoo architecture stand beside its name."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = "logistic"
    factory: str = ""
    init: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Return the architecture's own options."""
        return dict(self.model_extra or {})


class TrainingSection(Section):
    """How a round trains and when it counts."""

    rounds: int = Field(default=20, ge=1, le=MOST)
    cohort: int | None = Field(default=None, ge=1, le=MOST)
    local_epochs: int = Field(default=1, ge=1, le=MOST)
    local_steps: int | None = Field(default=None, ge=1, le=MOST)
    batch_size: int = Field(default=32, ge=1, le=MOST)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    sampling: Literal["fixed", "poisson"] = "fixed"
    broadcast: Literal["float32", "float16", "int8"] = "float32"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    engine: Literal["auto", "plain", "vectorised"] = "auto"
    deadline_seconds: float = Field(default=600.0, gt=0, le=1e7)
    quorum: float = Field(default=0.8, gt=0, le=1)
    over_selection: float = Field(default=0.0, ge=0, le=1)


class StrategySection(Section):
    """What the server does with the mean update; options that a strategy does not have are refused by it."""

    name: str = "fedavg"
    weighting: Literal["auto", "uniform", "examples", "clipped"] = "auto"
    server_learning_rate: float | None = Field(default=None, gt=0)
    server_momentum: float | None = Field(default=None, ge=0, lt=1)
    beta_1: float | None = Field(default=None, ge=0, lt=1)
    beta_2: float | None = Field(default=None, ge=0, lt=1)
    tau: float | None = Field(default=None, gt=0)
    proximal_mu: float | None = Field(default=None, ge=0)

    @property
    def options(self) -> dict[str, float]:
        """Return the options that the recipe gives."""
        return self.model_dump(exclude={"name", "weighting"}, exclude_none=True)


class PrivacySection(Section):
    """The promise about what a released model says about one client or one example."""

    unit: Literal["client", "example", "none"] = "none"
    noise: Literal["distributed", "central", "local"] | None = None
    epsilon: float | None = Field(default=None, gt=0)
    epsilon_against: Literal["coordinator", "outsiders"] | None = None
    noise_multiplier: float | None = Field(default=None, gt=0, le=1e12)
    max_participations: int | None = Field(default=None, ge=1, le=MOST)
    delta: float | None = Field(default=None, gt=0, lt=1)
    clip: Annotated[float, Field(ge=1e-6, le=1e6)] | Literal["adaptive"] | None = None
    noise_cohort: int | None = Field(default=None, ge=0, le=MOST)
    sample_rate: float | None = Field(default=None, ge=1e-9, le=1)


class EvaluationSection(Section):
    """How often the model is measured and selected; with `only`, that a registered one is measured and none trained."""

    only: bool = False
    rows: Literal["held-out", "all"] = "held-out"
    every: int = Field(default=1, ge=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    patience: int = Field(default=0, ge=0)


class SecureAggregationSection(Section):
    """Who must be able to vanish, collude or hide in the crowd while nobody sees one update."""

    enabled: bool = True
    mode: Literal["real", "elided"] = "real"
    min_cohort: int = Field(default=5, ge=2)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    colluding: float = Field(default=0.1, ge=0, lt=1)
