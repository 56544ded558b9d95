"""What one agent gives to a round, as the round's promise has it: nothing else, and nothing less protected."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tacit.client.evaluation import evaluation_values, evaluation_vector
from tacit.client.masked import Integers, Values
from tacit.client.training import AgentState, Draws, Holdings, NoRows, Workbench, rows_of, train, train_examples
from tacit.models.contributions import (
    COUNTS,
    UPDATE,
    asks_for_statistics,
    preparation_layout,
    preparation_values,
    training_layout,
    training_values,
    within_reach,
)
from tacit.models.evaluation_only import NOISED_SHARES
from tacit.models.evaluation_sums import evaluation_layout
from tacit.models.messages import Instruction
from tacit.models.noise import NoisePlan, noise_plan
from tacit.models.plan import Plan, decode_plan
from tacit.models.preparation import preparation_sums
from tacit.models.training import TrainingDiverged
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.randomness import Keystream, Randomness
from tacit.privacy.secagg.layout import Layout as MaskedLayout
from tacit.privacy.secagg.offer import Offer


def protected_update(
    state: AgentState,
    instruction: Instruction,
    plan: Plan,
    holdings: Holdings,
    bench: Workbench,
    randomness: Randomness,
) -> tuple[AgentState, NDArray[np.float32]]:
    """Return an update as it leaves without a mask: clipped and, unless the coordinator says it adds noise, noised."""
    _, layout, _, _ = bench.network(instruction.plan, plan)
    noise = noise_plan(
        plan.recipe,
        layout.size,
        plan.recipe.training.cohort or 2,
        noise_multiplier=1.0 if (plan.recipe.privacy.noise == "central") else None,
    )

    def draws(purpose: str) -> Keystream:
        at = (instruction.run, instruction.round, instruction.attempt, state.client)
        return Keystream(randomness.key("plain", *at, purpose))

    if noise.terms.unit == "example":
        return _noised_update(state, instruction, plan, noise, draws, holdings, bench, layout.size)
    state, update = _bounded_update(state, instruction, plan, holdings, bench, layout.size)
    return state, noise.release(update, draws("noise"))


def _bounded_update(
    state: AgentState, instruction: Instruction, plan: Plan, holdings: Holdings, bench: Workbench, size: int
) -> tuple[AgentState, NDArray[np.float32]]:
    """Return an update that a promise to a client bounds: nothing where training diverged, or there was no row.

    Whether that is so depends on the rows. A client that said so instead would answer a question of the coordinator's,
    who chooses weights, learning rate and classes, without noise and as often as it is asked.
    """
    try:
        state, result = train(state, instruction, plan, holdings, bench)
    except (TrainingDiverged, NoRows):
        return state, np.zeros(size, np.float32)
    return state, result.delta.cpu().numpy()


def _noised_update(
    state: AgentState,
    instruction: Instruction,
    plan: Plan,
    noise: NoisePlan,
    draws: Draws,
    holdings: Holdings,
    bench: Workbench,
    size: int,
) -> tuple[AgentState, NDArray[np.float32]]:
    """Return an update under a promise to examples; nothing where its noised parameters are no finite numbers.

    That they are not follows from what is noised. It has its price all the same, so that the step is not given back.
    """
    try:
        state, result = train_examples(state, instruction, plan, noise, draws, holdings, bench)
    except TrainingDiverged:
        return state, np.zeros(size, np.float32)
    return state, result.delta.cpu().numpy()


def masked_contribution(
    state: AgentState, instruction: Instruction, offer: Offer, draws: Draws, holdings: Holdings, bench: Workbench
) -> tuple[AgentState, Values | Integers]:
    """Compute what a masked round asks for, with noise if the plan promises any.

    Args:
        state: the agent's.
        instruction: what offered the round.
        offer: the accepted offer.
        draws: secret words of this member in this attempt, for rounding and noise.
        holdings: the agent's rows.
        bench: where the network is built.

    Raises:
        RemoteProtocolError: the offer is not what the plan says, such as one with less noise.
    """
    plan = decode_plan(instruction.plan)
    if plan.recipe.evaluation.only:
        return state, _evaluated(instruction, plan, offer, draws, holdings, bench)
    if asks_for_statistics(plan):
        _check_offer(offer, preparation_layout(plan))
        # Of a run that promises something, nobody is to see who has no row of the coordinator's classes.
        promised = plan.recipe.privacy.unit != "none"
        rows = holdings.training(plan) if promised else rows_of(holdings, plan)
        if plan.features is not None:
            return state, {COUNTS: np.array([float(len(rows))])}
        return state, preparation_values(preparation_sums(rows, plan.schema), plan.schema)
    _, layout, _, _ = bench.network(instruction.plan, plan)
    if plan.recipe.privacy.unit != "none":
        noise = offered_noise(plan, layout.size, offer)
        if noise.terms.unit == "example":
            state, update = _noised_update(state, instruction, plan, noise, draws, holdings, bench, layout.size)
            return state, {UPDATE: update if within_reach(update) else np.zeros_like(update)}
        state, update = _bounded_update(state, instruction, plan, holdings, bench, layout.size)
        return state, noise.integers(update, offer.rotation_seed, draws("grid-rounding"), draws("noise"))
    _check_offer(offer, training_layout(layout.size, offer.cohort))
    by_examples = plan.recipe.strategy.weighting in ("auto", "examples")
    state, result = train(state, instruction, plan, holdings, bench)
    update = result.delta.cpu().numpy()
    return state, training_values(update, result.loss, result.examples, plan.mean_examples, by_examples)


def _evaluated(
    instruction: Instruction, plan: Plan, offer: Offer, draws: Draws, holdings: Holdings, bench: Workbench
) -> Values | Integers:
    """Return what an evaluation asks for: exact sums, or shares with noise if the plan promises any."""
    if plan.recipe.privacy.unit == "none":
        _check_offer(offer, evaluation_layout(plan))
        return evaluation_values(instruction, plan, holdings, bench)
    noise = offered_noise(plan, NOISED_SHARES, offer)
    shares = evaluation_vector(instruction, plan, holdings, bench)
    return noise.integers(shares, offer.rotation_seed, draws("grid-rounding"), draws("noise"))


def offered_noise(plan: Plan, parameters: int, offer: Offer) -> NoisePlan:
    """Return the noise that the plan promises a round, if it is what the round was offered with.

    Raises:
        RemoteProtocolError: it is not, such as less noise.
    """
    named = dict(offer.mechanism_parameters)
    central = plan.recipe.privacy.noise == "central"
    noise = noise_plan(
        plan.recipe,
        parameters,
        offer.cohort,
        l2_clip=named.get("l2_clip"),
        noise_multiplier=named.get("noise_multiplier") if central else None,
    )
    if noise.layout is None:
        raise RemoteProtocolError("other-layout", "the plan has no masked rounds")
    _check_offer(offer, noise.layout, noise)
    return noise


def _check_offer(offer: Offer, layout: MaskedLayout, noise: NoisePlan | None = None) -> None:
    """Refuse an offer whose vector or noise is not what the plan that came with it says."""
    if offer.layout != layout:
        raise RemoteProtocolError("other-layout", "the vector is not the one that the plan has")
    promised = (noise.mechanism, noise.share_variance, noise.parameters) if noise else ("none", 0.0, ())
    if (offer.mechanism, offer.noise_variance, offer.mechanism_parameters) != promised:
        raise RemoteProtocolError("other-noise", "the noise is not what the plan promises")
    # A hypothetical cohort has other thresholds than the real one; only a simulation's members answer for it.
    counted = noise is not None and noise.noise_cohort == 0
    if noise and counted and (offer.min_survivors, offer.colluders) != (noise.min_survivors, noise.colluders):
        raise RemoteProtocolError("other-noise", "fewer shares of noise would count than the plan promises")
