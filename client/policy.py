"""The owner's policy: what an agent does for a coordinator, in a file; whatever the file does not say is no."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import get_args

from dp_accounting import NeighboringRelation, dp_event

from tacit.client.asked import Accept, Answer, Asked, Refuse, Used
from tacit.client.clauses import (
    WEEKDAYS,
    ApprovedClause,
    LimitsClause,
    PrivacyClause,
    ScheduleClause,
    SecureAggregationClause,
)
from tacit.models.sections import Section
from tacit.privacy.errors import PrivacyError
from tacit.privacy.filters import RenyiFilter, Spending, renyi_filter
from tacit.privacy.identity import Pins
from tacit.privacy.records import COLUMN_OF, Column
from tacit.privacy.terms import Unit


class Policy(Section):
    """A whole policy. One without a key, `Policy()`, refuses everything: nothing is approved and nothing granted.

    What a data set may spend is fixed when its ledger is opened: `budgets` becomes the ledger's first record, and no
    later policy changes that. A later policy that grants less is obeyed all the same, because `judge` compares with
    what the ledger stands at. One that grants more changes nothing by itself: the ledger goes on refusing, with the
    code `budget-spent`. An owner who wants to grant more has to put the ledger and its anchors away by hand, keep them,
    and know that from then on the promise is what the old ledger spent and the new one grants, added up.
    """

    approved: ApprovedClause = ApprovedClause()
    privacy: PrivacyClause = PrivacyClause()
    secure_aggregation: SecureAggregationClause = SecureAggregationClause()
    schedule: ScheduleClause = ScheduleClause()
    limits: LimitsClause = LimitsClause()

    def judge(self, asked: Asked, used: Used, now: float) -> Answer:
        """Return whether the agent takes part in a round, and if not the first reason why.

        Args:
            asked: what the round asks.
            used: what the agent's ledger and counters say.
            now: seconds since 1970.
        """
        return next(self.refusals(asked, used, now), Accept())

    def judge_before_cost(self, asked: Asked, used: Used, now: float) -> Answer:
        """Return the first reason that needs no noise to be computed, so that a stranger's recipe costs no time."""
        refusals = (
            *self._schedule_refusals(now),
            *self._aggregation_refusals(asked),
            *self._approval_refusals(asked),
            *self._limit_refusals(asked, used),
        )
        return next(iter(refusals), Accept())

    def budgets(self, unit: Unit) -> dict[Column, RenyiFilter]:
        """Return what a new ledger is opened with; a column that is granted nothing is left out."""
        adjacency = _adjacency(unit)
        return {
            column: renyi_filter(total, self.privacy.delta, adjacency)
            for column in get_args(Column)
            if (total := self._epsilon_total(column)) is not None
        }

    def explain(self) -> list[str]:
        """Return what the policy says, in sentences."""
        privacy, hide, limits = self.privacy, self.secure_aggregation, self.limits
        keys = len(hide.pinned_organisations)
        pinned = "one pinned organisation" if keys == 1 else f"{keys} pinned organisations"
        return [
            self._explain_schedule(),
            *self._explain_approved(),
            ("Updates leave masked only" if hide.required else "Updates may leave without masks; masked they leave")
            + f" among at least {hide.min_cohort} members, of whom {hide.max_colluders} may collude.",
            f"Members of {pinned} count, {hide.members_per_organisation} of each at most."
            if hide.pinned_organisations
            else "Every member counts whom the coordinator's authority certifies.",
            f"A run protects {_UNITS[privacy.required_unit]}, with {_listed(privacy.noise_places, 'or', 'no')} noise "
            f"of a multiplier of at least {privacy.min_noise_multiplier:g}.",
            *(["It also takes part in runs that promise nothing about anybody."] if privacy.accept_unprotected else []),
            f"A data set may spend {self._explain_budget('assured')}.",
            f"Under noise that others merely promise it may spend {self._explain_budget('promised')}, kept apart."
            if privacy.accept_promised_noise
            else "Noise that others merely promise does not count.",
            f"A run has at most {limits.max_rounds} rounds, and the agent takes part in at most "
            f"{limits.max_participations} of them.",
            f"A model has at most {limits.max_parameters} parameters, and a round at most {limits.max_local_epochs} "
            f"epochs, or {limits.max_local_steps} steps, on {_listed(limits.devices, 'or', 'no device')}.",
        ]

    @property
    def pins(self) -> Pins | None:
        """Return the organisations that are known out of band, if there are any."""
        keys = frozenset(bytes.fromhex(key) for key in self.secure_aggregation.pinned_organisations)
        return Pins(keys, self.secure_aggregation.members_per_organisation) if keys else None

    def refusals(self, asked: Asked, used: Used, now: float) -> Iterator[Refuse]:
        """Yield every reason why the agent does not take part in a round; see `judge`."""
        yield from self._schedule_refusals(now)
        yield from self._aggregation_refusals(asked)
        yield from self._approval_refusals(asked)
        yield from self._limit_refusals(asked, used)
        yield from self._promise_refusals(asked)
        if asked.updates and asked.unit != "none":
            yield from self._budget_refusals(asked, asked.unit, used)

    def _schedule_refusals(self, now: float) -> Iterator[Refuse]:
        schedule, moment = self.schedule, datetime.fromtimestamp(now, UTC)
        begin, end, day = schedule.from_hour_utc, schedule.until_hour_utc, moment
        if begin < end:
            within = begin <= moment.hour < end
        else:
            within = moment.hour >= begin or moment.hour < end
            day = moment - timedelta(days=1) if moment.hour < end else moment
        if not within:
            yield Refuse("schedule", f"it takes part from {begin} to {end} UTC, not at {moment:%H:%M}")
        elif WEEKDAYS[day.weekday()] not in schedule.weekdays:
            yield Refuse("schedule", f"it takes part on {_listed(schedule.weekdays)}, not on {WEEKDAYS[day.weekday()]}")

    def _aggregation_refusals(self, asked: Asked) -> Iterator[Refuse]:
        ours = self.secure_aggregation
        if asked.mode != "real":
            if ours.required:
                yield Refuse("not-masked", "updates leave masked or not at all")
            if asked.mode == "none":
                return  # nobody else is in it: there is no cohort to speak of
        if asked.min_cohort < ours.min_cohort:
            yield Refuse("cohort-floor", f"min_cohort {asked.min_cohort} is below our {ours.min_cohort}")
        if asked.colluders < ours.max_colluders:
            yield Refuse(
                "colluders-floor", f"it withstands {asked.colluders} colluders, we ask for {ours.max_colluders}"
            )
        if asked.regular_graph and not ours.accept_regular_graph:
            yield Refuse("graph", "a regular graph holds against a semi-malicious server only")

    def _approval_refusals(self, asked: Asked) -> Iterator[Refuse]:
        approved = self.approved
        if asked.factory:
            if asked.code is None or approved.code.get(asked.factory) != asked.code:
                yield Refuse("code-not-approved", f"{shown(asked.factory)} is not approved as it is installed here")
        elif asked.recipe not in approved.recipes and asked.model not in approved.models:
            yield Refuse("recipe-not-approved", f"neither this recipe nor the model {shown(asked.model)} is approved")
        for statistic in sorted(asked.statistics.difference(approved.statistics)):
            yield Refuse("statistic-not-allowed", f"exact {shown(statistic)} of the data are not given")
        for metric in sorted(asked.metrics.difference(approved.metrics)):
            yield Refuse("metric-not-allowed", f"the metric {shown(metric)} is not given")
        if asked.evaluates is not None and asked.evaluates not in approved.evaluations:
            yield Refuse("evaluation-not-allowed", f"no model is evaluated on its {asked.evaluates} rows")

    def _limit_refusals(self, asked: Asked, used: Used) -> Iterator[Refuse]:
        limits = self.limits
        if asked.rounds > limits.max_rounds:
            yield Refuse("rounds-limit", f"{asked.rounds} rounds are more than our {limits.max_rounds}")
        if asked.updates and used.participations >= limits.max_participations:
            yield Refuse("participations-limit", f"it took part in {used.participations} rounds of this run")
        if asked.parameters > limits.max_parameters:
            yield Refuse("parameters-limit", f"{asked.parameters} parameters are more than our {limits.max_parameters}")
        if asked.local_steps is not None and asked.local_steps > limits.max_local_steps:
            yield Refuse("local-work-limit", f"{asked.local_steps} steps are more than our {limits.max_local_steps}")
        if asked.local_steps is None and asked.local_epochs > limits.max_local_epochs:
            yield Refuse("local-work-limit", f"{asked.local_epochs} epochs are more than our {limits.max_local_epochs}")
        if asked.device.partition(":")[0] not in limits.devices:
            yield Refuse("device", f"{shown(asked.device)} is not lent, only {_listed(limits.devices)}")

    def _promise_refusals(self, asked: Asked) -> Iterator[Refuse]:
        ours = self.privacy
        if asked.unit == "none":
            if not ours.accept_unprotected:
                yield Refuse("unit-none", "the run promises nothing about any client or example")
            return
        if ours.required_unit not in ("either", asked.unit):
            yield Refuse("unit-other", f"it protects the {asked.unit}, we ask for the {ours.required_unit}")
        if asked.place not in ours.noise_places:
            yield Refuse("noise-place", f"{asked.place or 'no'} noise is not accepted")
        if asked.noise_multiplier is None:
            if asked.updates:
                yield Refuse("noise-floor", "the noise multiplier is not known")
        elif not asked.noise_multiplier >= ours.min_noise_multiplier:  # in this form NaN is refused too
            yield Refuse(
                "noise-floor", f"noise multiplier {asked.noise_multiplier:g} is below our {ours.min_noise_multiplier:g}"
            )
        if asked.delta is None or not asked.delta <= ours.delta:
            yield Refuse("delta-ceiling", f"delta {asked.delta} is above our {ours.delta:g}")

    def _budget_refusals(self, asked: Asked, unit: Unit, used: Used) -> Iterator[Refuse]:
        events: dict[Column, list[dp_event.DpEvent]] = {}
        for entry in asked.entries:
            events.setdefault(COLUMN_OF[entry.noise_by], []).append(entry.event)
        if not events:
            yield Refuse("unaccountable", "the round protects at no stated cost")
        if "promised" in events and not self.privacy.accept_promised_noise:
            yield Refuse("promised-noise", "noise that others merely promise does not count here")
        for column, costs in events.items():
            try:
                yield from self._column_refusals(column, costs, unit, used)
            except PrivacyError:  # an event that nobody knows how to account
                yield Refuse("unaccountable", "the cost of the round cannot be accounted")

    def _column_refusals(
        self, column: Column, costs: Sequence[dp_event.DpEvent], unit: Unit, used: Used
    ) -> Iterator[Refuse]:
        total, delta = self._epsilon_total(column), self.privacy.delta
        per_run = self._epsilon_per_run(column)
        granted = self.budgets(unit) if used.ledger is None else used.ledger.opening.budgets
        budget = granted.get(column)
        if total is None or per_run is None or budget is None:
            yield Refuse("no-budget", f"nothing is granted to {column} noise")
            return
        if used.ledger is not None and used.ledger.opening.unit != unit:
            yield Refuse("no-budget", f"the ledger counts the unit {used.ledger.opening.unit}")
            return
        spending = _spent(budget, costs)
        if used.ledger is not None:
            spending += used.ledger.committed(column)
        # At the order that the ledger has, whatever the policy says today: no other one was counted.
        if not _allows(budget, total, delta, spending):
            yield Refuse("epsilon-total", f"the data would stand above epsilon {total:g} in all ({column} noise)")
        if not budget.allows(spending):
            yield Refuse("budget-spent", f"the data would stand above what was granted at first ({column} noise)")
        limit = renyi_filter(per_run, delta, _adjacency(unit))
        if not limit.allows(_spent(limit, [*used.run_events.get(column, ()), *costs])):
            yield Refuse("epsilon-run", f"the run would use more than epsilon {per_run:g} ({column} noise)")

    def _epsilon_total(self, column: Column) -> float | None:
        ours = self.privacy
        if column == "assured":
            return ours.epsilon_total
        return ours.promised_epsilon_total if ours.accept_promised_noise else None

    def _epsilon_per_run(self, column: Column) -> float | None:
        ours = self.privacy
        own = ours.epsilon_per_run if column == "assured" else ours.promised_epsilon_per_run
        return own if own is not None else self._epsilon_total(column)

    def _explain_schedule(self) -> str:
        schedule = self.schedule
        every_day = set(schedule.weekdays) == set(WEEKDAYS)
        days = "every day" if every_day else f"on {_listed(schedule.weekdays, 'and', 'no day')}"
        return f"It takes part {days} from {schedule.from_hour_utc} to {schedule.until_hour_utc} o'clock UTC."

    def _explain_approved(self) -> list[str]:
        approved = self.approved
        listed = len(approved.recipes)
        runs = ["one recipe by its digest" if listed == 1 else f"{listed} recipes by their digests"] if listed else []
        runs += [f"any recipe for the model {model}" for model in approved.models]
        runs += [f"{factory} as it was approved" for factory in approved.code]
        return [
            f"It runs {_listed(runs, 'and', 'nothing: no recipe, model or code is approved')}.",
            f"Exact sums of the data that may leave: {_listed(approved.statistics, 'and', 'none')}.",
            f"Metrics whose sums may leave: {_listed(approved.metrics, 'and', 'none')}.",
            f"Rows on which models may be evaluated: {_listed(approved.evaluations, 'and', 'none')}.",
        ]

    def _explain_budget(self, column: Column) -> str:
        total, per_run = self._epsilon_total(column), self._epsilon_per_run(column)
        if total is None or per_run is None:
            return "nothing"
        return f"epsilon {total:g} in all and {per_run:g} in one run, at delta {self.privacy.delta:g}"


_UNITS = {"client": "the whole client", "example": "each example", "either": "the whole client or each example"}


def _adjacency(unit: Unit) -> NeighboringRelation:
    """Return what a budget of a unit is against: see `Terms.adjacency`."""
    return NeighboringRelation.REPLACE_SPECIAL if unit == "client" else NeighboringRelation.ADD_OR_REMOVE_ONE


def _allows(budget: RenyiFilter, epsilon: float, delta: float, spending: Spending) -> bool:
    """Say whether spending stays within another epsilon and delta than those of the budget, at the budget's order."""
    try:
        return replace(budget, epsilon=epsilon, delta=delta).allows(spending)
    except PrivacyError:  # that order leaves nothing of so small an epsilon
        return False


def _spent(budget: RenyiFilter, events: Iterable[dp_event.DpEvent]) -> Spending:
    """Return what events add up to, most of which were met before: the rounds of a run are much alike."""
    return sum((_cost(budget, event) for event in events), Spending())


def _cost(budget: RenyiFilter, event: dp_event.DpEvent) -> Spending:
    try:
        return _known_cost(budget, event)
    except TypeError:  # an event that holds a list cannot be looked up
        return budget.spent([event])


@lru_cache(maxsize=4096)
def _known_cost(budget: RenyiFilter, event: dp_event.DpEvent) -> Spending:
    return budget.spent([event])


def _listed(words: Sequence[str], last: str = "and", none: str = "none") -> str:
    *most, final = words or (none,)
    return f"{', '.join(most)} {last} {final}" if most else final


def shown(name: str) -> str:
    """Return a name that comes from outside on one line, and no longer than a line."""
    return repr(name[:64])
