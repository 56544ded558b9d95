"""The tables of a policy; what each key means stands beside it, and from there goes into the default file."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from tacit.models.sections import Section
from tacit.privacy.terms import Place

Weekday: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
Statistic: TypeAlias = Literal["examples", "counts", "moments"]
Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Epsilon: TypeAlias = Annotated[float, Field(gt=0)]

WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class ApprovedClause(Section):
    """What may run here, and what may be asked for beside an update; nothing unless it is listed."""

    recipes: tuple[Digest, ...] = Field(
        default=(), strict=False, description="Recipes by their SHA-256 in hex; `tacit agent policy check` shows it."
    )
    models: tuple[str, ...] = Field(
        default=(), strict=False, description='Models of the zoo that any recipe may train, such as "logistic".'
    )
    statistics: tuple[Statistic, ...] = Field(
        default=(),
        strict=False,
        description="Exact sums over all members, which no noise covers: examples (how many rows), counts (how many "
        "rows have each label or category), moments (sums and squares of numeric columns).",
    )
    metrics: tuple[str, ...] = Field(
        default=(), strict=False, description='Metrics whose sum over all members may leave, such as "loss".'
    )
    evaluations: tuple[Literal["held-out", "all"], ...] = Field(
        default=(),
        strict=False,
        description="Rows on which a registered model may be evaluated without being trained: held-out (those that are "
        "never trained on here), all. Of a recipe that promises nothing, exact counts over all members leave: rows by "
        "class and by the model's answer, histograms of its scores.",
    )
    code: dict[str, Digest] = Field(
        default={},
        description="Own code: for each package.module:function the SHA-256 of the module's file, after the "
        "__init__.py of each package around it.",
    )


class PrivacyClause(Section):
    """What must be promised about one client or one example, and how much may be spent in all."""

    required_unit: Literal["client", "example", "either"] = Field(
        default="either", description="Who must be protected: the whole client, each example, or either of the two."
    )
    accept_unprotected: bool = Field(
        default=False, description='Take part in runs of unit "none", which promise nothing about anybody.'
    )
    noise_places: tuple[Place, ...] = Field(
        default=("distributed", "local"),
        strict=False,
        description="Where noise may be made; central noise is worth nothing against the coordinator.",
    )
    min_noise_multiplier: float = Field(
        default=0.0, ge=0, description="Least standard deviation of the noise that counts, over the sensitivity."
    )
    delta: float = Field(
        default=1e-5, gt=0, lt=1, description="The delta of all epsilons here, and the largest accepted."
    )
    epsilon_total: Epsilon | None = Field(
        default=None,
        examples=[8.0],
        description="What a data set may spend in all, over all runs and coordinators; absent: nothing.",
    )
    epsilon_per_run: Epsilon | None = Field(
        default=None, examples=[2.0], description="What one run may spend of it; absent: all of it."
    )
    accept_promised_noise: bool = Field(
        default=False,
        description="Count noise that only others promise: the coordinator, or members whose organisation is not "
        "pinned. It is kept apart and has its own budget.",
    )
    promised_epsilon_total: Epsilon | None = Field(
        default=None,
        examples=[4.0],
        description="What a data set may spend in all under noise that is merely promised.",
    )
    promised_epsilon_per_run: Epsilon | None = Field(
        default=None, examples=[1.0], description="What one run may spend of that; absent: all of it."
    )


class SecureAggregationClause(Section):
    """Who must stand around an update before it leaves."""

    required: bool = Field(default=True, description="Let updates leave masked only.")
    min_cohort: int = Field(default=5, ge=2, description="The fewest members that count in a round.")
    max_colluders: int = Field(
        default=0,
        ge=0,
        description="How many members may collude with the coordinator; a round must withstand as many.",
    )
    accept_regular_graph: bool = Field(
        default=False, description="Share with some members only, which withstands a semi-malicious server at most."
    )
    pinned_organisations: tuple[Digest, ...] = Field(
        default=(),
        strict=False,
        description="Public keys, in hex, of organisations known out of band; with any, only their members count.",
    )
    members_per_organisation: int = Field(
        default=1, ge=1, description="The most members of one pinned organisation that count."
    )


class ScheduleClause(Section):
    """When the agent takes part, in UTC; with hours over midnight, the weekday is that of the evening."""

    weekdays: tuple[Weekday, ...] = Field(default=WEEKDAYS, strict=False, description="The days it takes part on.")
    from_hour_utc: int = Field(default=0, ge=0, le=23, description="The hour it begins at.")
    until_hour_utc: int = Field(default=24, ge=1, le=24, description="The hour it ends at, possibly of the next day.")

    @field_validator("until_hour_utc")
    @classmethod
    def _not_empty(cls, until: int, info: ValidationInfo) -> int:
        if info.data.get("from_hour_utc") == until:
            raise PydanticCustomError("hours", "it ends at the hour that it begins at")
        return until


class LimitsClause(Section):
    """How much work a run may be."""

    max_rounds: int = Field(default=1000, ge=1, description="Rounds of a run.")
    max_participations: int = Field(default=1000, ge=1, description="Rounds of a run that this agent takes part in.")
    max_parameters: int = Field(default=10_000_000, ge=1, description="Size of a model's vector.")
    max_local_epochs: int = Field(default=10, ge=1, description="Passes over the data in a round.")
    max_local_steps: int = Field(default=10_000, ge=1, description="Batches in a round, where a recipe counts batches.")
    devices: tuple[Device, ...] = Field(
        default=("auto", "cpu"), strict=False, description="What it may work on; auto is whatever this machine has."
    )
