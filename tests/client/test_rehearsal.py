"""A recipe tried at home: what is shown is what an agent would send, and the offers are a coordinator's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tacit.client.agent import step as plain_step
from tacit.client.consent import Consent
from tacit.client.journal import AgentJournal
from tacit.client.own_code import code_digest
from tacit.client.policy import Policy
from tacit.client.rehearsal import RUN, Held, Leaving, Step, approves_code, arriving, leaving, refusal, steps
from tacit.client.training import AgentState, Workbench
from tacit.models.broadcast import size_of
from tacit.models.data import open_source
from tacit.models.data.rows import Source
from tacit.models.errors import InputError
from tacit.models.noise import noise_plan
from tacit.models.recipe import Recipe, parse_recipe
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg.encoding import packed_bytes
from tacit.server.exchanges import Occasion
from tacit.server.masking import Masking

RECIPE = """
name = "r"
[task]
kind = "tabular-classification"
[data]
source = "sklearn:wine"
[population]
clients = 8
[training]
rounds = 2
local_steps = 2
device = "cpu"
"""
CLIENT = ("privacy.unit=client", "privacy.epsilon=8")
LOCAL = (*CLIENT, "privacy.noise=local")
ADAPTIVE = (*CLIENT, "privacy.clip=adaptive")
EXAMPLE = ("privacy.unit=example", "privacy.noise_multiplier=1", "privacy.sample_rate=0.1")
PLAIN = ("secure_aggregation.enabled=false",)
ROUNDED = (*CLIENT, "training.broadcast=int8")
DRAWS = SeededRandomness(b"r" * 32)


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, overrides)


def wine() -> Source:
    return open_source("sklearn:wine", task="tabular-classification", environ={})


def tried(*overrides: str, cohort: int = 8) -> tuple[list[Step], Callable[[Step], list[Leaving]]]:
    source, bench = wine(), Workbench()
    made = steps(recipe(*overrides), source, cohort, bench, run_code=False)
    return made, lambda step: list(leaving(step, Held(source), bench, DRAWS))


def fields(*overrides: str) -> dict[str, Leaving]:
    made, take = tried(*overrides)
    return {field.field: field for field in take(made[-1])}


@pytest.mark.parametrize("overrides", [(), CLIENT, LOCAL, ADAPTIVE, EXAMPLE, ROUNDED])
def test_the_offers_are_those_that_a_coordinator_makes(overrides: tuple[str, ...]) -> None:
    made, _ = tried(*overrides)
    parsed = recipe(*overrides)
    masking = Masking(Identity(bytes(32)), frozenset(), parsed.secure_aggregation, DRAWS)
    for step in made:
        assert step.offer is not None
        size = size_of(step.instruction.arrays)
        noise = None if size is None or parsed.privacy.unit == "none" else noise_plan(parsed, size, 8, 8)
        at = Occasion(RUN, step.offer.round, 0, step.instruction.plan)
        theirs = masking.offer(at, step.instruction.arrays, step.offer.layout, 8, noise)
        ours = vars(step.offer)
        different = {name for name, value in vars(theirs).items() if ours[name] != value}
        assert different == {"rotation_seed"}  # drawn anew for each offer


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        ((), [("vector", "float32", 168)]),
        (("training.broadcast=float16",), [("codes", "float16", 84), ("scales", "float32", 4)]),
        (("training.broadcast=int8",), [("codes", "int8", 42), ("scales", "float32", 4)]),
    ],
)
@pytest.mark.parametrize("masks", [(), PLAIN])
def test_what_would_come_in_is_the_plan_the_offer_and_the_model_as_it_travels(
    overrides: tuple[str, ...], model: list[tuple[str, str, int]], masks: tuple[str, ...]
) -> None:
    made, _ = tried(*overrides, *masks)
    preparation, training = ([(field.field, field.kind, field.bytes) for field in arriving(step)] for step in made)
    heads = [("plan", ""), ("offer", "")][: 1 if masks else 2]
    assert [field[:2] for field in preparation] == heads
    assert [field[:2] for field in training[: len(heads)]] == heads
    assert training[len(heads) :] == model  # of 13 columns and 3 classes
    assert training[0][2] == len(made[-1].instruction.plan)


@pytest.mark.parametrize("overrides", [(), CLIENT, LOCAL, ADAPTIVE, EXAMPLE, ROUNDED])
def test_masked_fields_are_as_long_as_the_packed_vector(overrides: tuple[str, ...]) -> None:
    made, take = tried(*overrides)
    for step in made:
        assert step.offer is not None
        masked = [field for field in take(step) if field.masked]
        assert sum(field.bytes for field in masked) == packed_bytes(step.offer.dimension, step.offer.bits)
        assert [field.field for field in masked] == [block.name for block in step.offer.layout.blocks]


def test_a_promise_to_a_client_shows_the_norm_before_and_after_clipping_and_the_noise() -> None:
    update = fields(*CLIENT, "privacy.clip=0.01")["update"]
    assert update.norm is not None and update.norm > 0.01
    assert update.norm_clipped == pytest.approx(0.01)
    assert update.norm_left is not None
    # The noise of each value is independent, so the length of what leaves is near its deviation times sqrt(values).
    assert update.norm_left == pytest.approx(update.noise_deviation * math.sqrt(math.prod(update.shape)), rel=0.5)


def test_an_update_shorter_than_its_clip_is_left_as_it_is() -> None:
    update = fields(*CLIENT, "privacy.clip=100.0")["update"]
    assert update.norm is not None and update.norm_clipped == pytest.approx(update.norm, rel=1e-6)


def test_more_noise_is_made_where_one_client_has_to_make_all_of_it() -> None:
    distributed, local = fields(*CLIENT)["update"], fields(*LOCAL)["update"]
    assert local.noise_deviation > 1.5 * distributed.noise_deviation > 0


def test_an_adaptive_clip_tells_one_bit_more_and_noises_it() -> None:
    bit = fields(*ADAPTIVE)["clip-bit"]
    assert bit.shape == (1,) and bit.masked and bit.noise_deviation > 0 and bit.protection.startswith("one of two")


def test_a_promise_to_examples_says_how_each_gradient_is_protected_and_shows_no_norm_of_an_unnoised_update() -> None:
    found = fields(*EXAMPLE)
    assert "weight" not in found and "metrics" not in found
    assert found["update"].norm is None
    assert found["update"].protection == "each example's gradient clipped to 1, noise of 1 of that in each step"


def test_without_a_promise_the_weight_and_the_loss_are_among_what_leaves() -> None:
    found = fields()
    assert {"update", "weight", "metrics"} < found.keys()
    assert all(field.noise_deviation == 0 for field in found.values())
    assert found["update"].protection == "no noise"


def test_what_leaves_without_masks_is_the_agents_own_reply() -> None:
    made, take = tried(*PLAIN)
    assert [step.name for step in made] == ["preparation", "training"]
    for step in made:
        _, reply = plain_step(AgentState(RUN), step.instruction, Held(wine()), Workbench())
        shown = take(step)
        assert not any(field.masked for field in shown)
        assert [field.field for field in shown] == [*reply.body, *reply.arrays]
        for name, values in reply.arrays.items():
            (field,) = (one for one in shown if one.field == name)
            assert (field.shape, field.bytes) == (values.shape, values.nbytes)
            assert field.norm_left == pytest.approx(float(np.linalg.norm(values.astype(np.float64))))


def test_the_messages_of_the_protocol_are_shown_too_and_grow_with_the_cohort() -> None:
    small, large = (
        {field.field: field.bytes for field in take(made[-1]) if field.field.endswith("message")}
        for made, take in (tried(*CLIENT, cohort=6), tried(*CLIENT, cohort=8))
    )
    assert list(small) == [f"{action} message" for action in ("advertise", "share", "mask", "sign", "unmask")]
    assert large["share message"] > small["share message"] and large["sign message"] == small["sign message"]


def test_a_private_recipe_for_pictures_prepares_nothing() -> None:
    pictures = parse_recipe(RECIPE.replace("tabular", "image").replace("wine", "digits"), CLIENT)
    source = open_source("sklearn:digits", task="image-classification", environ={})
    assert [step.name for step in steps(pictures, source, 8, Workbench(), run_code=False)] == ["training"]


@pytest.mark.parametrize(
    ("overrides", "cohort", "why"),
    [
        ((), 3, "secure_aggregation, 3 clients: min_cohort is 5, the cohort 3; raise cohort or lower min_cohort"),
        (("privacy.unit=client", "privacy.epsilon=1e-9"), 8, "privacy, 8 clients: "),
        (("secure_aggregation.dropout=0.9",), 8, "secure_aggregation, 8 clients: "),
    ],
)
def test_a_recipe_that_no_round_can_serve_is_refused_with_the_number_to_change(
    overrides: tuple[str, ...], cohort: int, why: str
) -> None:
    with pytest.raises(InputError) as caught:
        tried(*overrides, cohort=cohort)
    assert str(caught.value).startswith(why)


def test_data_that_the_task_cannot_use_are_refused() -> None:
    with pytest.raises(InputError, match="use tabular-classification"):
        steps(parse_recipe(RECIPE.replace("classification", "regression")), wine(), 8, Workbench(), run_code=False)


# What the owner says to it


def consenting(**policy: object) -> Consent:
    owner = Policy.model_validate(policy)
    journal = AgentJournal.in_memory(Identity(bytes(32)), now=lambda: 0.0)
    return Consent(journal, "wine", Workbench(), owner, lambda noise: owner.budgets(noise.terms.unit), now=lambda: 0.0)


def test_the_answer_is_that_of_the_agent_itself() -> None:
    open_to_it = {"approved": {"models": ["logistic"], "statistics": ["examples", "counts", "moments"]}}
    granted = {"privacy": {"accept_promised_noise": True, "promised_epsilon_total": 20.0}}
    made, _ = tried(*CLIENT)
    assert [refusal(step, consenting(**open_to_it, **granted)) for step in made] == ["", ""]
    assert refusal(made[0], consenting(**granted)).startswith("recipe-not-approved: ")
    closed = {"approved": {"models": ["logistic"]}}
    assert refusal(made[0], consenting(**closed, **granted)).startswith("statistic-not-allowed: ")
    assert refusal(made[1], consenting(**open_to_it)).startswith("promised-noise: ")


def test_noise_of_a_hypothetical_cohort_is_refused_as_an_agent_refuses_it() -> None:
    made, _ = tried(*CLIENT, "privacy.noise_cohort=1000")
    assert "hypothetical" in refusal(made[-1], consenting())


def test_own_code_is_run_only_where_its_digest_is_approved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(f"open({str(ran)!r}, 'w')\ndef build(*given): raise SystemExit\n")
    named = recipe("model.factory=stranger:build")
    assert not approves_code(Policy(), named)
    made = steps(named, wine(), 8, Workbench(), run_code=approves_code(Policy(), named))
    assert not ran.exists()
    assert refusal(made[-1], consenting()).startswith("code-not-approved: ")
    approved = Policy.model_validate({"approved": {"code": {"stranger:build": code_digest("stranger:build")}}})
    assert approves_code(approved, named)


def test_an_evaluation_under_a_promise_shows_two_values_and_their_noise() -> None:
    only = ("evaluation.only=true", "evaluation.rows=all", "model.init=registry:m@champion", "training.rounds=1")
    parsed = parse_recipe(RECIPE.replace("local_steps = 2\n", ""), (*only, *CLIENT))
    source, bench = wine(), Workbench()
    (step,) = steps(parsed, source, 8, bench, run_code=False)
    masked = [field for field in leaving(step, Held(source), bench, DRAWS) if field.masked]
    assert [(field.field, field.shape) for field in masked] == [("update", (2,))]
    assert masked[0].noise_deviation > 0 and "distributed noise" in masked[0].protection


def test_an_evaluation_shows_its_counts_all_masked_and_trains_nothing() -> None:
    only = ("evaluation.only=true", "evaluation.rows=all", "model.init=registry:m@champion", "training.rounds=1")
    source, bench = wine(), Workbench()
    parsed = parse_recipe(RECIPE.replace("local_steps = 2\n", ""), only)
    (step,) = steps(parsed, source, 8, bench, run_code=False)
    assert step.name == "evaluation" and step.offer is not None
    shown = list(leaving(step, Held(source), bench, DRAWS))
    masked = {field.field: field for field in shown if field.masked}
    assert masked["confusion"].shape == (9,) and masked["score-histograms"].shape == (1200,)
    assert sum(field.bytes for field in masked.values()) == packed_bytes(step.offer.dimension, step.offer.bits)
    assert {field.protection for field in masked.values()} == {"exact, but for rounding"}
    # Every row of the source is in one cell; the untrained model calls all of them the first class.
    counts = [len(source.train.take(np.flatnonzero(source.train.labels == label))) for label in range(3)]
    assert masked["confusion"].norm_left == pytest.approx(math.hypot(*counts))
