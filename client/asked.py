"""What a round asks of an agent, what the agent knows already, and the two answers that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from dp_accounting import dp_event

from tacit.privacy.ledger import Ledger
from tacit.privacy.records import Column, Entry
from tacit.privacy.terms import Place, Unit

Mode: TypeAlias = Literal["real", "elided", "none"]
EvaluatedRows: TypeAlias = Literal["held-out", "all"]

CODES: Final[Mapping[str, str]] = {
    "paused": "the owner has paused the agent",
    "schedule": "the agent does not work at this hour or on this day",
    "not-masked": "updates would not leave masked",
    "cohort-floor": "too few members hide an update",
    "colluders-floor": "too few members may collude",
    "graph": "the sharing graph withstands less than the owner asks for",
    "recipe-not-approved": "neither the recipe nor its model is approved",
    "code-not-approved": "the recipe runs code that is not approved, or that has changed since",
    "statistic-not-allowed": "exact statistics of the data are asked for that the owner does not give",
    "metric-not-allowed": "metrics are asked for that the owner does not give",
    "evaluation-not-allowed": "a model would be evaluated on rows that the owner does not give for it",
    "unit-none": "nothing is promised about any client or example",
    "unit-other": "another unit is protected than the owner asks for",
    "noise-place": "the noise is made where the owner does not accept it",
    "noise-floor": "there is less noise than the owner asks for",
    "delta-ceiling": "the promise holds at a larger delta than the owner accepts",
    "unaccountable": "the round says it protects, and not at which cost",
    "promised-noise": "the noise is merely promised by others",
    "no-budget": "nothing was ever granted for this",
    "epsilon-run": "the run would use more than one run may",
    "epsilon-total": "the data set would stand above what the policy grants in all",
    "budget-spent": "the data set would stand above what its ledger was opened with",
    "rounds-limit": "the run has too many rounds",
    "parameters-limit": "the model is too large",
    "memory-limit": "the model does not fit into the memory that the owner lends",
    "local-work-limit": "a round is too much work",
    "device": "the work is for a device that the owner does not lend",
    "participations-limit": "the agent took part in this run often enough",
}
"""Every reason for which an agent says no: stable words for machines, and what each means."""


@dataclass(frozen=True)
class Asked:
    """Everything that an offer and its plan ask of an agent in one round.

    Attributes:
        run: the run's name.
        recipe: SHA-256 of the recipe, in hex.
        model: the model's name in the zoo; empty for own code.
        factory: `package.module:function` of own code; empty for a model of the zoo.
        code: the hash of that code as it is installed here, of `own_code.code_digest`; None if it is not.
        updates: whether a model update is asked for; a preparation round asks for statistics alone.
        unit: who is protected, or "none".
        place: where the noise is made; None without noise.
        noise_multiplier: standard deviation of the noise that counts, over the sensitivity; None if not known yet.
        delta: what the promise is stated at; None without one.
        entries: what would be reserved in the ledger.
        mode: "real" for masks, "elided" for a simulation's arithmetic without them, "none" for a plain round.
        min_cohort: the fewest members that a round starts with.
        colluders: how many members may collude.
        regular_graph: whether shares go to some members only, which withstands a semi-malicious server at most.
        statistics: the exact statistics of the data that would be summed.
        metrics: the names of the metrics that would be summed.
        evaluates: of which rows an evaluation would count exactly how a model does on them: "held-out" or "all"; None
            where something is trained.
        rounds: the rounds of the run.
        parameters: the size of the model's vector; 0 before there is a model.
        local_epochs: passes over the data in a round, unless `local_steps` is given.
        local_steps: batches in a round; None where epochs are counted.
        device: what the work is for: auto, cpu, cuda, cuda:1, mps.
    """

    run: str
    recipe: str
    model: str
    updates: bool
    unit: Unit | Literal["none"]
    mode: Mode
    min_cohort: int
    colluders: int
    rounds: int
    parameters: int
    factory: str = ""
    code: str | None = None
    place: Place | None = None
    noise_multiplier: float | None = None
    delta: float | None = None
    entries: tuple[Entry, ...] = ()
    regular_graph: bool = False
    statistics: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    evaluates: EvaluatedRows | None = None
    local_epochs: int = 1
    local_steps: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Used:
    """What the agent's ledgers and counters say before the round.

    Attributes:
        ledger: the ledger of the data set and unit, `DatasetLedger.state`; None if there is none yet.
        run_events: what this run has used of it by column, `DatasetLedger.events_of(run)`.
        participations: the training rounds of this run that the agent took part in, `AgentJournal.participations(run)`.
    """

    ledger: Ledger | None = None
    run_events: Mapping[Column, Sequence[dp_event.DpEvent]] = field(default_factory=dict)
    participations: int = 0


@dataclass(frozen=True)
class Accept:
    """The agent takes part."""


@dataclass(frozen=True)
class Refuse:
    """The agent does not take part.

    Attributes:
        code: one of `CODES`.
        reason: one line for people, without a word about the data.
    """

    code: str
    reason: str

    def __post_init__(self) -> None:
        """Refuse a code that no coordinator could know."""
        if self.code not in CODES:
            raise ValueError(f"{self.code!r} is no code of a refusal")

    def __str__(self) -> str:
        """Return code and reason in one line."""
        return f"{self.code}: {self.reason}"


Answer: TypeAlias = Accept | Refuse
