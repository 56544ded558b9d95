"""The agent's step: `(state, instruction) -> (state, reply)`, without a transport."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tacit.client.consent import Consent
from tacit.client.contribution import masked_contribution, protected_update
from tacit.client.masked import Integers, MaskedMember, Membership, Values
from tacit.client.training import AgentState, Draws, Holdings, Refused, Workbench, measure, rows_of, train
from tacit.models.errors import InputError
from tacit.models.messages import ACTIONS, PLAIN_ACTIONS, Instruction, Reply, canonical_json
from tacit.models.plan import decode_plan
from tacit.models.preparation import preparation_sums
from tacit.models.training import TrainingDiverged
from tacit.privacy.errors import PrivacyError
from tacit.privacy.identity import Certificate
from tacit.privacy.randomness import Randomness, SystemRandomness
from tacit.privacy.secagg.offer import Offer

_SYSTEM = SystemRandomness()


class Agent:
    """An agent's state, rows and part in masked rounds, for as long as a process lives.

    Args:
        client: the agent's name in the federation.
        holdings: its rows.
        bench: where its network is built.
        randomness: where noise in rounds without masks comes from.
    """

    def __init__(self, client: str, holdings: Holdings, bench: Workbench, randomness: Randomness | None = None) -> None:
        """Start an agent that has taken no step."""
        self._state = AgentState(client)
        self._holdings = holdings
        self._bench = bench
        self._randomness = randomness or _SYSTEM
        self._member: MaskedMember | None = None
        self._consent: Consent | None = None

    def governed_by(self, consent: Consent) -> None:
        """Let the owner's policy and ledger decide on steps without masks too."""
        self._consent = consent

    def draw_from(self, randomness: Randomness) -> None:
        """Take noise from another source, as a simulation does."""
        self._randomness = randomness

    def join(self, membership: Membership) -> None:
        """Become a member of a federation that masks: from now on the agent takes no plain step, before no other."""
        self._member = MaskedMember(membership, self._contribute)

    def renewed(self, certificate: Certificate) -> None:
        """Show another certificate of the same member, from the next offer on; from any thread."""
        if self._member is not None:
            self._member.membership = replace(self._member.membership, certificate=certificate)

    def handle(self, instruction: Instruction) -> Reply:
        """Take one step; whatever goes wrong with it is part of the reply, in words that hold no data."""
        if self._member is None:
            return self._step(instruction)
        # Whoever joined decided for good: the plan, which the coordinator writes, has no say in it.
        if instruction.action in PLAIN_ACTIONS:
            return Reply("refused", "what this agent computes leaves masked or not at all")
        if instruction.action not in ACTIONS:
            return Reply("refused", "the step is not known here")
        try:
            return self._member.take(instruction)
        except Exception as error:
            return excuse(error, instruction.action)

    def _step(self, instruction: Instruction) -> Reply:
        """Take a plain step, if the owner lets it; what it costs is on disk before it is even computed."""
        consent, reserved = self._consent, False
        if consent is not None:
            try:
                consent.judge(instruction, None)
                reserved = consent.reserve(instruction, None) is not None
            except Exception as error:
                return excuse(error, instruction.action)
        self._state, reply = step(self._state, instruction, self._holdings, self._bench, self._randomness)
        if consent is None:
            return reply
        key = (instruction.run, instruction.round, instruction.attempt)
        try:
            consent.check_running()  # it may have been paused in the minutes that this took
        except Exception as error:
            reply = excuse(error, instruction.action)
        if reply.outcome == "ok":
            consent.left(instruction, b"".join([canonical_json(reply.body), *map(bytes, reply.arrays.values())]))
        if reserved:
            if reply.outcome == "ok":
                consent.spend(key)
            else:
                consent.void(key)
        return reply

    @property
    def bench(self) -> Workbench:
        """Return where its network is built."""
        return self._bench

    @property
    def client(self) -> str:
        """Return the agent's name in the federation."""
        return self._state.client

    @property
    def receipts_checked(self) -> int:
        """Return how many receipts for masked rounds came and were right."""
        return self._member.receipts_checked if self._member is not None else 0

    def measure(self, encoded_plan: bytes, vector: NDArray[np.float32]) -> tuple[dict[str, float], int]:
        """Return a model's metrics on the agent's own test rows, and how many these are; nothing of it is sent.

        Raises:
            Refused: there are no test rows.
        """
        return measure(encoded_plan, vector, self._holdings, self._bench)

    def _contribute(self, instruction: Instruction, offer: Offer, draws: Draws) -> Values | Integers:
        self._state, given = masked_contribution(self._state, instruction, offer, draws, self._holdings, self._bench)
        return given


def step(
    state: AgentState,
    instruction: Instruction,
    holdings: Holdings,
    bench: Workbench,
    randomness: Randomness = _SYSTEM,
) -> tuple[AgentState, Reply]:
    """Take one plain step; whatever goes wrong with it is part of the reply, in words that hold no data.

    A plan that asks for secure aggregation has no plain steps: what they return would go to the coordinator as it is.
    Under a promise nothing but the protected update leaves: no loss, and no number of examples.
    """
    if instruction.action not in PLAIN_ACTIONS:
        return state, Reply("refused", "the step is not known here")
    try:
        plan = decode_plan(instruction.plan)
        if plan.recipe.secure_aggregation.enabled:
            return state, Reply("refused", "this run's updates leave masked or not at all")
        if instruction.action == "prepare":
            return state, Reply(arrays={"statistics": preparation_sums(rows_of(holdings, plan), plan.schema)})
        if plan.recipe.privacy.unit != "none":
            state, update = protected_update(state, instruction, plan, holdings, bench, randomness)
            return state, Reply(arrays={"update": update})
        state, result = train(state, instruction, plan, holdings, bench)
    except Exception as error:
        return state, excuse(error, instruction.action)
    return state, Reply(
        body={"examples": result.examples, "loss": result.loss}, arrays={"update": result.delta.cpu().numpy()}
    )


def excuse(error: Exception, action: str) -> Reply:
    """Return what the coordinator is told about a step that went wrong: a reason without a word of data."""
    match error:
        case Refused():
            return Reply("refused", str(error))
        case TrainingDiverged():
            return Reply("failed", "the training diverged")
        case PrivacyError():
            return Reply("refused", str(error))
        case InputError():
            return Reply("failed", str(error))
    # Anything that got past here would reach the coordinator with its text.
    return Reply("failed", f"{type(error).__name__} in the step {action}")
