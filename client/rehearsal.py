"""What a recipe would ask of an agent and what it would give, tried on the owner's rows: nothing leaves.

The steps are those that a coordinator would send, made here as it makes them, for data of which the owner's rows are
all there is: a federation's own have more categories, and so a somewhat larger model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tacit.client.agent import step as plain_step
from tacit.client.consent import Consent, PolicyRefusal
from tacit.client.contribution import masked_contribution, offered_noise
from tacit.client.own_code import code_digest
from tacit.client.policy import Policy
from tacit.client.training import AgentState, Workbench, train
from tacit.models import broadcast
from tacit.models.contributions import UPDATE, preparation_layout, training_layout
from tacit.models.data.rows import Rows, Source
from tacit.models.errors import InputError
from tacit.models.evaluation_sums import evaluation_layout
from tacit.models.messages import Instruction
from tacit.models.noise import NoisePlan, noise_plan
from tacit.models.plan import Plan
from tacit.models.preparation import has_public_features, preparation_sums, prepared_plan, public_plan
from tacit.models.recipe import Recipe
from tacit.models.tasks import task_named
from tacit.models.thresholds import colluders_in
from tacit.models.vector import read_vector
from tacit.privacy.clipping import clip_l2
from tacit.privacy.codec import NO_DIGEST, sha256
from tacit.privacy.errors import PrivacyError
from tacit.privacy.identity import VerifiedSignatures
from tacit.privacy.randomness import Keystream, Randomness, SystemRandomness
from tacit.privacy.secagg.client import ClientRound
from tacit.privacy.secagg.encoding import packed_bytes
from tacit.privacy.secagg.graph import graph_of
from tacit.privacy.secagg.keys import SharedAgreements
from tacit.privacy.secagg.layout import Block, Infeasible, Layout
from tacit.privacy.secagg.loopback import Loopback
from tacit.privacy.secagg.offer import Offer
from tacit.privacy.secagg.policy import MemoryJournal
from tacit.privacy.terms import RecordNoise

RUN = "rehearsal"
DEFAULT_PROXIMAL_MU = 0.01  # of fedprox, where the recipe gives none
MOST_MEASURED = 60  # members of a cohort whose messages are made to see how long they are
_SYSTEM = SystemRandomness()


@dataclass(frozen=True, repr=False)
class Step:
    """One step that a coordinator would ask for.

    Attributes:
        name: "preparation", "training" or "evaluation".
        plan: what the step is part of.
        instruction: what would come.
        offer: the masked round's, unsigned; None for a step without masks.
    """

    name: str
    plan: Plan
    instruction: Instruction
    offer: Offer | None


@dataclass(frozen=True)
class Arriving:
    """One field that would come in, once for each attempt at a round.

    Attributes:
        step: the step.
        field: its name.
        shape: of its values; empty for a text or a message.
        kind: the type of its values, such as "float32"; empty for a text or a message.
        bytes: how long it is on the wire, before the transport's own envelope.
    """

    step: str
    field: str
    shape: tuple[int, ...]
    kind: str
    bytes: int


@dataclass(frozen=True)
class Leaving:
    """One field that would leave.

    Attributes:
        step: the step.
        field: its name.
        shape: of its values; empty for one value, or for a message of the protocol.
        bytes: how long it is on the wire, before the transport's own envelope.
        masked: whether only a sum over the cohort can be read.
        norm: the L2 norm as computed; None where that means nothing.
        norm_clipped: after clipping; None where nothing is clipped.
        noise_deviation: standard deviation of the noise that is added here to each value; 0 for none.
        norm_left: the L2 norm of what leaves, or of what stands under the mask.
        protection: the same in words.
    """

    step: str
    field: str
    shape: tuple[int, ...]
    bytes: int
    masked: bool
    norm: float | None = None
    norm_clipped: float | None = None
    noise_deviation: float = 0.0
    norm_left: float | None = None
    protection: str = ""


class Held:
    """The rows of an opened source, as an agent holds them."""

    def __init__(self, source: Source) -> None:
        """Keep the source."""
        self._source = source

    def training(self, plan: Plan) -> Rows:
        """Return the training rows."""
        return self._source.train

    def test(self, plan: Plan) -> Rows | None:
        """Return the source's own test part, if it has one."""
        return self._source.test


def approves_code(policy: Policy, recipe: Recipe) -> bool:
    """Say whether the owner has approved the recipe's own code as it is installed here."""
    digest = code_digest(recipe.model.factory) if recipe.model.factory else None
    return digest is not None and policy.approved.code.get(recipe.model.factory) == digest


def steps(
    recipe: Recipe, source: Source, cohort: int, bench: Workbench, *, run_code: bool, run: str = RUN
) -> list[Step]:
    """Return the preparation, where there is one, and the first training round of a recipe; or the evaluation.

    Args:
        recipe: the recipe.
        source: the owner's rows, read for its task and label.
        cohort: how many clients a round is offered to.
        bench: where the network is built.
        run_code: build a network from code that the recipe names; without, its training step comes without a vector.
        run: the run's name, one that the agent's journal does not know.

    Raises:
        InputError: the data do not fit the task, or no round of so many clients can be safe.
    """
    task = task_named(recipe.task.kind)
    task.check(source.schema)
    private = recipe.privacy.unit != "none"
    mu = recipe.strategy.proximal_mu or DEFAULT_PROXIMAL_MU if recipe.strategy.name == "fedprox" else 0.0
    plan, outputs, found = Plan(recipe, source.schema, proximal_mu=mu), task.outputs(source.schema), []
    try:
        if recipe.evaluation.only:  # the model and its features are the coordinator's to send; its sums look the same
            plan = prepared_plan(plan, preparation_sums(source.train, source.schema), 1, outputs, mu)
        elif private and has_public_features(source.schema):
            plan = public_plan(plan, outputs, mu)
        else:
            found.append(_step(run, "preparation", plan, None, recipe.population.clients or cohort))
            plan = prepared_plan(plan, preparation_sums(source.train, source.schema), 1, outputs, mu)
        vector = None
        if run_code or not recipe.model.factory:
            model, layout, _, _ = bench.network(plan.encode(), plan)
            vector = read_vector(model, layout).cpu().numpy()
        name = "evaluation" if recipe.evaluation.only else "training"
        found.append(_step(run, name, plan, vector, cohort))
    except Infeasible as error:
        raise InputError(error.what, where=f"secure_aggregation, {cohort} clients", right=error.change) from None
    except PrivacyError as error:
        right = "a larger epsilon, fewer rounds, or more clients"
        raise InputError(str(error), where=f"privacy, {cohort} clients", right=right) from None
    return found


def refusal(step: Step, consent: Consent) -> str:
    """Return why the owner's policy or ledger would refuse a step, code first; empty if they would not."""
    try:
        consent.judge(step.instruction, step.offer)
    except PolicyRefusal as error:
        return str(error.refusal)
    except PrivacyError as error:
        return f"refused: {error}"
    return ""


def refusals(step: Step, consent: Consent) -> list[str]:
    """Return every reason for which the policy would refuse a step, the one that a coordinator would hear first.

    What the ledger says against it is among them only where the policy says nothing.
    """
    first = refusal(step, consent)
    if not first:
        return []
    return list(dict.fromkeys([first, *map(str, consent.objections(step.instruction, step.offer))]))


def arriving(step: Step) -> Iterator[Arriving]:
    """Yield each field that would come with what opens a step: the plan, the offer, and the model to train from."""
    asked = step.instruction
    yield Arriving(step.name, "plan", (), "", len(asked.plan))
    if asked.message:
        yield Arriving(step.name, "offer", (), "", len(asked.message))
    for name, values in asked.arrays.items():
        yield Arriving(step.name, name, values.shape, str(values.dtype), values.nbytes)


def leaving(step: Step, holdings: Held, bench: Workbench, randomness: Randomness = _SYSTEM) -> Iterator[Leaving]:
    """Take a step and yield each field that it would send; nothing is sent.

    Raises:
        Refused: there are no rows.
        InputError, TrainingDiverged, PrivacyError: what an agent's step raises.
    """
    if step.offer is None:
        yield from _plain(step, holdings, bench, randomness)
        return

    def draws(purpose: str) -> Keystream:
        return Keystream(randomness.key(RUN, step.name, purpose))

    _, given = masked_contribution(AgentState(RUN), step.instruction, step.offer, draws, holdings, bench)
    noise = _noise(step)
    norms = _update_norm(step, noise, holdings, bench)
    for block, span in step.offer.layout.spans():
        if isinstance(given, Mapping):
            values = np.asarray(given[block.name], dtype=np.float64)
        else:
            values = np.asarray(given[span], dtype=np.float64) / (block.scale if isinstance(block, Block) else 1.0)
        size, left = packed_bytes(block.coordinates, step.offer.bits), float(np.linalg.norm(values))
        field = Leaving(step.name, block.name, (block.size,), size, True, norm_left=left)
        yield _described(field, noise, norms, block.scale if isinstance(block, Block) else 1.0)
    yield from _messages(step.name, step.offer, randomness)


def _step(run: str, name: str, plan: Plan, vector: NDArray[np.float32] | None, cohort: int) -> Step:
    number = 0 if name == "preparation" else 1
    encoded, recipe = plan.encode(), plan.recipe
    arrays = {} if vector is None else broadcast.encode(vector, None, recipe.training.broadcast)[0]
    if not recipe.secure_aggregation.enabled:
        action = "prepare" if name == "preparation" else "train"
        return Step(name, plan, Instruction(action, run, number, 0, encoded, arrays=arrays), None)
    noise = None
    if name == "preparation":
        layout = preparation_layout(plan)
    elif name == "evaluation" and recipe.privacy.unit == "none":
        layout = evaluation_layout(plan)
    elif recipe.privacy.unit == "none" or vector is None:
        layout = training_layout(1 if vector is None else vector.size, cohort)
    else:
        noise = noise_plan(recipe, vector.size, cohort)
        layout = noise.layout or training_layout(vector.size, cohort)
    settings = recipe.secure_aggregation
    offer = Offer.plan(
        run=run,
        round=number,
        attempt=0,
        model_digest=broadcast.digest(arrays),
        recipe_digest=sha256(encoded),
        layout=layout,
        rotation_seed=bytes(32),
        cohort=cohort,
        min_cohort=settings.min_cohort,
        colluders=colluders_in(settings, cohort),
        dropout=settings.dropout,
        mechanism=noise.mechanism if noise else "none",
        mechanism_parameters=noise.parameters if noise else (),
        noise_variance=noise.share_variance if noise else 0.0,
        graph=graph_of(cohort),
        mode=settings.mode,
    )
    instruction = Instruction("advertise", run, number, 0, encoded, arrays=arrays, message=offer.encode())
    return Step(name, plan, instruction, offer)


def _noise(step: Step) -> NoisePlan | None:
    """Return the promise of a training step that makes one."""
    parameters, privacy = broadcast.size_of(step.instruction.arrays), step.plan.recipe.privacy
    if privacy.unit == "none" or parameters is None:
        return None
    if step.offer is not None:
        return offered_noise(step.plan, parameters, step.offer)
    central = 1.0 if privacy.noise == "central" else None
    cohort = step.plan.recipe.training.cohort or 2
    return noise_plan(step.plan.recipe, parameters, cohort, noise_multiplier=central)


def _update_norm(
    step: Step, noise: NoisePlan | None, holdings: Held, bench: Workbench
) -> tuple[float, float | None] | None:
    """Return the L2 norm of the update as it is computed, and clipped; None where no such vector is ever there."""
    if step.name != "training" or (noise is not None and noise.terms.unit == "example"):
        return None
    _, result = train(AgentState(RUN), step.instruction, step.plan, holdings, bench)
    update = result.delta.cpu().numpy()
    clipped = None if noise is None else float(np.linalg.norm(clip_l2(update, noise.l2_clip)[0]))
    return float(np.linalg.norm(update.astype(np.float64))), clipped


def _described(
    field: Leaving, noise: NoisePlan | None, norms: tuple[float, float | None] | None, scale: float
) -> Leaving:
    """Return a field with what protects it beside its mask; `scale` is that of its grid, in steps a unit."""
    if norms is not None and field.field == UPDATE:
        field = replace(field, norm=norms[0], norm_clipped=norms[1])
    if noise is None:
        exact = "exact, but for rounding" if field.field != UPDATE else "no noise"
        return replace(field, protection=exact)
    if isinstance(noise.terms.noise, RecordNoise):
        made = f"noise of {noise.terms.noise.noise_multiplier:.3g} of that in each step"
        return replace(field, protection=f"each example's gradient clipped to {noise.l2_clip:g}, {made}")
    if noise.share_variance:
        deviation = math.sqrt(noise.share_variance) / scale
    else:
        deviation = noise.noise_multiplier * noise.l2_clip if noise.terms.place == "local" else 0.0
    words = f"clipped to {noise.l2_clip:g}" if field.field == UPDATE else "one of two values"
    made = f"{noise.terms.place} noise" if deviation else "noise by the coordinator only"
    return replace(field, noise_deviation=deviation, protection=f"{words}, {made}")


def _plain(step: Step, holdings: Held, bench: Workbench, randomness: Randomness) -> Iterator[Leaving]:
    _, reply = plain_step(AgentState(RUN), step.instruction, holdings, bench, randomness)
    if reply.outcome != "ok":
        raise InputError(reply.reason, where=step.name)
    noise = _noise(step)
    norms = _update_norm(step, noise, holdings, bench)
    for name, value in reply.body.items():
        yield Leaving(step.name, name, (), len(str(value)), False, protection="exact")
    for name, values in reply.arrays.items():
        left = float(np.linalg.norm(values.astype(np.float64)))
        field = Leaving(step.name, name, values.shape, values.nbytes, False, norm_left=left)
        yield _described(field, noise, norms, 1.0)


def _messages(name: str, offer: Offer, randomness: Randomness) -> Iterator[Leaving]:
    """Yield the messages of the protocol itself, whose length a cohort of as many made-up members shows.

    How long they are depends on the cohort and not on the vector, so that one coordinate will do.
    """
    if offer.cohort > MOST_MEASURED:
        return
    layout = Layout((Block("one", 1, 1.0, 1.0),))
    small = Offer.plan(
        run=RUN, round=offer.round, attempt=0, model_digest=NO_DIGEST, recipe_digest=offer.recipe_digest, layout=layout,
        rotation_seed=bytes(32), cohort=offer.cohort, min_cohort=offer.min_cohort, colluders=offer.colluders,
        dropout=offer.dropout_ppm / 1e6, graph=offer.graph,
    )  # fmt: skip
    names = [f"member-{at:03}" for at in range(offer.cohort)]
    parties = Loopback.generate(names, randomness, verify=VerifiedSignatures())
    server, agree = parties.server(small), SharedAgreements()
    clients = {
        member: ClientRound(
            identity, parties.certificates[member], parties.policy(), MemoryJournal(), randomness,
            model_digest=NO_DIGEST, now=0, verify=parties.verify, agree=agree,
        )
        for member, identity in parties.members.items()
    }  # fmt: skip
    watched = min(clients)
    for exchange, what in _CONTENTS.items():
        if exchange == "mask":
            for client in clients.values():
                client.contribute_integers(np.zeros(1, dtype=np.int64), ledger_head=NO_DIGEST, ledger_counter=0)
        for member in sorted(server.waiting):
            reply = clients[member].receive(server.request(member))
            server.receive(member, reply.message, reply.vector)
            if member == watched:
                yield Leaving(name, f"{exchange} message", (), len(reply.message), False, protection=what)
        server.close_phase()


_CONTENTS = {
    "advertise": "public keys, the certificate",
    "share": "shares of this round's keys, encrypted for other members",
    "mask": "digest of the masked input, head of the ledger; signed",
    "sign": "signature of who is summed",
    "unmask": "shares for who dropped out, or of who is summed: never both of one",
}
