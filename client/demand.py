"""What a step of a round asks of the owner's data, worked out from its plan and offer alone."""

from __future__ import annotations

from tacit.client.asked import Asked
from tacit.client.own_code import code_digest
from tacit.models import broadcast
from tacit.models.contributions import asks_for_statistics
from tacit.models.messages import Instruction
from tacit.models.noise import DEFAULT_DELTA, NoisePlan, place_of
from tacit.models.plan import Plan
from tacit.privacy.records import Entry
from tacit.privacy.secagg.graph import REGULAR
from tacit.privacy.secagg.offer import Offer
from tacit.privacy.terms import Place


def asked_of(
    plan: Plan,
    instruction: Instruction,
    offer: Offer | None,
    noise: NoisePlan | None,
    reserved: Entry | None,
) -> Asked:
    """Return all that a round asks for, as a policy judges it.

    Args:
        plan: what the instruction brings.
        instruction: the step.
        offer: the masked round's; None for a step without masks.
        noise: the promise; None where there is none, or before its cost is worked out.
        reserved: what the ledger would reserve for it.
    """
    recipe, training = plan.recipe, plan.recipe.training
    privacy, settings, statistics = recipe.privacy, recipe.secure_aggregation, statistics_of(plan, instruction)
    trains = not statistics and not recipe.evaluation.only
    return Asked(
        run=instruction.run,
        recipe=recipe.digest,
        model="" if recipe.model.factory else recipe.model.name,
        factory=recipe.model.factory,
        code=code_digest(recipe.model.factory) if recipe.model.factory else None,
        updates=not statistics,
        unit=privacy.unit,
        place=noise.terms.place if noise is not None else _place(plan),
        noise_multiplier=noise.noise_multiplier if noise is not None else None,
        delta=(privacy.delta or DEFAULT_DELTA) if privacy.unit != "none" else None,
        entries=() if reserved is None else (reserved,),
        mode="none" if offer is None else "real" if offer.mode == "real" else "elided",
        min_cohort=settings.min_cohort if offer is None else offer.min_cohort,
        colluders=0 if offer is None else offer.colluders,
        regular_graph=offer is not None and offer.graph == REGULAR,
        # Without a promise and without masks an update comes with the number of rows.
        statistics=statistics or frozenset({"examples"} if privacy.unit == "none" and offer is None else ()),
        metrics=frozenset({"loss"}) if privacy.unit == "none" and trains else frozenset(),
        evaluates=recipe.evaluation.rows if recipe.evaluation.only else None,
        rounds=training.rounds,
        parameters=broadcast.size_of(instruction.arrays) or 0,
        local_epochs=training.local_epochs,
        local_steps=training.local_steps,
        device=training.device,
    )


def statistics_of(plan: Plan, instruction: Instruction) -> frozenset[str]:
    """Return which exact statistics of the rows a step asks for: what the agent would give, whatever the plan says."""
    asked = asks_for_statistics(plan) and not plan.recipe.evaluation.only
    if instruction.action == "train" or (instruction.action != "prepare" and not asked):
        return frozenset()
    if instruction.action != "prepare" and plan.features is not None:
        return frozenset({"examples"})
    numeric = any(column.kind != "categorical" for column in plan.schema.columns) or not plan.schema.classes
    return frozenset({"examples", "counts"} | ({"moments"} if numeric else set()))


def _place(plan: Plan) -> Place | None:
    return None if plan.recipe.privacy.unit == "none" else place_of(plan.recipe.privacy)
