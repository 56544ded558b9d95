"""An agent's plain step: the same bits every time, a reply whatever comes in, and no data in any word of it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.agent import Agent, step
from tacit.client.training import AgentState, Workbench, training_seed
from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.messages import Instruction, Reply
from tacit.models.plan import Plan
from tacit.models.preparation import preparation_sums, prepared_plan
from tacit.models.recipe import parse_recipe
from tacit.models.training import LocalResult

SCHEMA = Schema((Column("age", "numeric"), Column("job", "categorical")), "y", ("no", "yes"))
SECRET = "Alice, 1956, HIV"
RECIPE = """
name = "r"
seed = 11
[task]
kind = "tabular-classification"
[data]
source = "s:"
[population]
clients = 3
[training]
local_epochs = 2
batch_size = 8
device = "cpu"
[secure_aggregation]
enabled = false
"""


def some_rows(seed: int = 1, count: int = 40) -> Rows:
    rng = np.random.default_rng(seed)
    jobs = np.array(["nurse", "clerk"], dtype=object)[rng.integers(0, 2, count)]
    return Rows({"age": rng.normal(50, 20, count), "job": jobs}, rng.integers(0, 2, count))


@dataclass
class Held:
    """Rows that were given, or an error that reading them raises; counts how often they are read."""

    rows: Rows | None = None
    error: Exception | None = None
    reads: int = 0

    def training(self, plan: Plan) -> Rows:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.rows if self.rows is not None else some_rows()

    def test(self, plan: Plan) -> Rows | None:
        return self.training(plan)


def first_plan(*overrides: str) -> Plan:
    return Plan(parse_recipe(RECIPE, overrides), SCHEMA)


def full_plan(*overrides: str) -> Plan:
    total = preparation_sums(some_rows(9, 300), SCHEMA)
    return prepared_plan(first_plan(*overrides), total, 3, outputs=2, proximal_mu=0.0)


PLAN = full_plan("model.name=mlp", "model.hidden=[6]")
LOGISTIC = (1 + 3) * 2 + 2  # of the age, two jobs and the slot for any other; two outputs with a bias each
SIZE = sum(p.numel() for p in PLAN.architecture.build(0).parameters())  # type: ignore[union-attr]


def train(plan: Plan | bytes = PLAN, *, number: int = 1, attempt: int = 0, **arrays: np.ndarray) -> Instruction:
    text = plan if isinstance(plan, bytes) else plan.encode()
    vectors = arrays or {"vector": np.linspace(-0.1, 0.1, SIZE, dtype=np.float32)}
    return Instruction("train", "run", number, attempt, text, arrays=vectors)


def reply_to(instruction: Instruction, holdings: Held | None = None, client: str = "a") -> Reply:
    state, reply = step(AgentState(client), instruction, holdings or Held(), Workbench())
    assert SECRET not in repr(reply) + repr(state) + reply.reason + json.dumps(dict(reply.body))
    return reply


# What works


def test_a_preparation_answers_with_the_sums_of_the_rows_and_nothing_else() -> None:
    reply = reply_to(Instruction("prepare", "run", 0, 0, first_plan().encode()))
    assert (reply.outcome, dict(reply.body), list(reply.arrays)) == ("ok", {}, ["statistics"])
    np.testing.assert_array_equal(reply.arrays["statistics"], preparation_sums(some_rows(), SCHEMA))


def test_training_answers_with_an_update_that_lowers_the_loss() -> None:
    start = np.zeros(LOGISTIC, np.float32)
    plan = full_plan("training.local_epochs=20")
    first = reply_to(train(plan, vector=start))
    second = reply_to(train(plan, vector=start + first.arrays["update"]))
    assert first.outcome == second.outcome == "ok"
    assert first.arrays["update"].dtype == np.float32 and first.arrays["update"].shape == start.shape
    assert first.body["examples"] == 40
    assert 0 < second.body["loss"] < first.body["loss"] <= 1.0


def test_the_body_of_a_reply_is_plain_json() -> None:
    body = reply_to(train()).body
    assert json.loads(json.dumps(dict(body))) == body


def test_training_leaves_the_global_vector_as_it_is_whether_shared_or_read_only() -> None:
    vector = np.linspace(-0.1, 0.1, SIZE, dtype=np.float32)
    before = vector.copy()
    shared = reply_to(train(vector=vector))
    np.testing.assert_array_equal(vector, before)
    frozen = np.frombuffer(vector.tobytes(), np.float32)
    assert not frozen.flags.writeable
    assert reply_to(train(vector=frozen)).arrays["update"].tobytes() == shared.arrays["update"].tobytes()


# The same bits


def update(**changes: Any) -> bytes:
    client = changes.pop("client", "a")
    return reply_to(train(**changes), client=client).arrays["update"].tobytes()


def test_the_same_step_gives_the_same_bits_whatever_happened_before() -> None:
    first = update()
    torch.manual_seed(123)
    torch.rand(17)
    np.random.seed(5)
    assert update() == first


def test_another_client_round_attempt_or_seed_shuffles_differently() -> None:
    others = {
        update(),
        update(client="b"),
        update(number=2),
        update(attempt=1),
        update(plan=full_plan("model.name=mlp", "model.hidden=[6]", "seed=12")),
    }
    assert len(others) == 5


def test_an_agent_that_has_worked_gives_the_bits_of_one_that_has_not() -> None:
    bench, old = Workbench(), Agent("a", Held(), Workbench())
    for number in range(1, 4):
        old.handle(train(number=number))
    fresh = Agent("a", Held(), bench)
    Agent("b", Held(some_rows(2)), bench).handle(train())  # somebody else was at the bench
    assert (
        old.handle(train(number=4)).arrays["update"].tobytes()
        == fresh.handle(train(number=4)).arrays["update"].tobytes()
    )


def test_seeds_for_shuffling_fit_every_generator_and_do_not_repeat() -> None:
    seeds = {
        training_seed(s, c, r, a) for s in (0, 2**63 - 1) for c in ("", "a", "1/2") for r in (1, 12) for a in (0, 2)
    }
    assert len(seeds) == 2 * 3 * 2 * 2
    assert all(0 <= seed < 2**56 for seed in seeds)


def test_training_draws_nothing_from_the_global_generators() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    reply_to(train())
    assert torch.equal(torch.rand(3), expected)


# What an agent remembers


def test_rows_are_read_and_transformed_once_for_all_rounds() -> None:
    held = Held()
    agent = Agent("a", held, Workbench())
    for number in range(1, 4):
        assert agent.handle(train(number=number)).outcome == "ok"
    assert held.reads == 1


def test_other_features_transform_the_rows_again() -> None:
    held = Held()
    agent = Agent("a", held, Workbench())
    first = agent.handle(train())
    total = preparation_sums(some_rows(77, 30), SCHEMA)
    other = prepared_plan(first_plan("model.name=mlp", "model.hidden=[6]"), total, 3, outputs=2, proximal_mu=0.0)
    second = agent.handle(train(other))
    assert held.reads == 2
    assert first.arrays["update"].tobytes() != second.arrays["update"].tobytes()


def test_a_failed_step_leaves_the_state_as_it_was() -> None:
    bench = Workbench()
    state, _ = step(AgentState("a"), train(), Held(), bench)
    for bad in (train(vector=np.zeros(1, np.float32)), train(b"{}"), Instruction("steal", "run", 1, 0, b"")):
        same, reply = step(state, bad, Held(), bench)
        assert same is state and reply.outcome != "ok"


def test_a_bench_changes_its_network_with_the_plan() -> None:
    agent = Agent("a", Held(), Workbench())
    assert agent.handle(train()).arrays["update"].shape == (SIZE,)
    assert agent.handle(train(full_plan(), vector=np.zeros(LOGISTIC, np.float32))).arrays["update"].shape == (LOGISTIC,)
    assert agent.handle(train()).arrays["update"].shape == (SIZE,)


def test_fedprox_keeps_an_update_smaller() -> None:
    sizes = []
    for mu in (0.0, 10.0):
        plan = replace(PLAN, proximal_mu=mu)
        sizes.append(np.linalg.norm(reply_to(train(plan)).arrays["update"]))
    assert sizes[1] < sizes[0]


# What does not work


@pytest.mark.parametrize("action", ["", "steal", "TRAIN", "train ", "__init__", "evaluate.all", SECRET])
def test_an_unknown_step_is_refused_without_an_echo(action: str) -> None:
    reply = reply_to(Instruction(action, "run", 1, 0, PLAN.encode()))
    assert (reply.outcome, reply.reason) == ("refused", "the step is not known here")


@pytest.mark.parametrize("action", ["prepare", "train"])
def test_an_owner_without_rows_refuses(action: str) -> None:
    empty = Held(some_rows(1, 0))
    plan = first_plan() if action == "prepare" else PLAN
    instruction = replace(train(plan), action=action)
    assert (reply_to(instruction, empty).outcome, reply_to(instruction, empty).reason) == ("refused", "no rows")


PLANS = {"nothing": b"", "no JSON": b"{", "an empty table": b"{}", "no text": b"\xff", "brackets": b"[" * 100_000}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("action", ["prepare", "train"])
def test_a_malformed_plan_is_a_failure_and_not_an_exception(action: str, plan: bytes) -> None:
    reply = reply_to(replace(train(plan), action=action))
    assert reply.outcome == "failed" and reply.reason


def test_training_before_the_preparation_is_a_failure() -> None:
    assert reply_to(train(first_plan())).reason == "ValueError in the step train"


VECTORS = {
    "missing": {"other": np.zeros(SIZE, np.float32)},
    "too short": {"vector": np.zeros(SIZE - 1, np.float32)},
    "too long": {"vector": np.zeros(SIZE + 1, np.float32)},
    "empty": {"vector": np.zeros(0, np.float32)},
    "two axes": {"vector": np.zeros((SIZE, 1), np.float32)},
    "double": {"vector": np.zeros(SIZE)},
    "NaN": {"vector": np.full(SIZE, np.nan, np.float32)},
    "infinite": {"vector": np.full(SIZE, np.inf, np.float32)},
}


@pytest.mark.parametrize("vectors", VECTORS.values(), ids=VECTORS)
def test_a_vector_that_is_not_the_models_is_a_failure_and_nothing_is_trained(vectors: dict[str, np.ndarray]) -> None:
    held = Held()
    reply = reply_to(train(**vectors), held)
    assert (reply.outcome, dict(reply.arrays), held.reads) == ("failed", {}, 0)


@pytest.mark.parametrize("rate", ["1e20", "1e30"])
def test_diverging_training_is_a_failure_without_an_update(rate: str) -> None:
    plan = full_plan("model.name=mlp", "model.hidden=[6]", f"training.learning_rate={rate}", "training.local_epochs=20")
    reply = reply_to(train(plan))
    assert (reply.outcome, reply.reason, dict(reply.arrays)) == ("failed", "the training diverged", {})


def test_a_column_that_the_owner_lacks_is_named_by_the_federations_name() -> None:
    rows = some_rows()
    reply = reply_to(train(), Held(Rows({"age": rows.columns["age"]}, rows.labels)))
    assert reply.outcome == "failed" and "column 'job'" in reply.reason


ERRORS = [
    ValueError(SECRET), KeyError(SECRET), OSError(5, SECRET, "/home/alice"), IndexError(SECRET), RuntimeError(SECRET),
    MemoryError(SECRET), AttributeError(SECRET), OverflowError(SECRET), RecursionError(SECRET),
    UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET), torch.OutOfMemoryError(SECRET),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ for error in ERRORS])
@pytest.mark.parametrize("action", ["prepare", "train"])
def test_whatever_reading_the_rows_raises_only_its_type_leaves(action: str, error: Exception) -> None:
    plan = first_plan() if action == "prepare" else PLAN
    reply = reply_to(replace(train(plan), action=action), Held(error=error))
    assert (reply.outcome, reply.reason) == ("failed", f"{type(error).__name__} in the step {action}")


def test_an_input_error_leaves_with_its_text_which_holds_no_data_by_its_contract() -> None:
    reply = reply_to(train(), Held(error=InputError("is too old", where="agent", right="update it")))
    assert (reply.outcome, reply.reason) == ("failed", "agent: is too old; update it")


def test_rows_of_the_wrong_kind_do_not_get_into_the_reply() -> None:
    rows = some_rows()
    bad = Rows({"age": np.array([SECRET] * 40, dtype=object), "job": rows.columns["job"]}, rows.labels)
    for action, plan in (("prepare", first_plan()), ("train", PLAN)):
        assert reply_to(replace(train(plan), action=action), Held(bad)).outcome == "failed"


@given(
    action=st.sampled_from(["prepare", "train", "evaluate"]) | st.text(max_size=9),
    plan=st.sampled_from([PLAN.encode(), first_plan().encode(), b"{}"]) | st.binary(max_size=20),
    number=st.integers(-5, 10**9),
    vector=st.sampled_from(list(VECTORS.values())),
)
def test_any_instruction_gets_a_reply(action: str, plan: bytes, number: int, vector: dict[str, np.ndarray]) -> None:
    reply = reply_to(Instruction(action, "run", number, 0, plan, arrays=vector))
    assert reply.outcome in ("ok", "refused", "failed")
    assert reply.outcome == "ok" or (reply.reason and not reply.arrays)


# Code that a plan names


CALLED: list[str] = []


def build_network(input_shape: tuple[int, ...], outputs: int, **options: Any) -> torch.nn.Module:
    CALLED.append("here")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(input_shape[0], outputs))


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import sys
    import types

    module = types.ModuleType("owners_machine")
    module.build_network = build_network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "owners_machine", module)
    CALLED.clear()
    yield "model.factory=owners_machine:build_network"
    CALLED.clear()


def test_code_that_a_plan_names_is_not_run(factory: str) -> None:
    plan = full_plan(factory)
    reply = reply_to(train(plan, vector=np.zeros(LOGISTIC, np.float32)))
    assert reply.outcome in ("failed", "refused")
    assert "runs code that was not approved here" in reply.reason
    assert CALLED == []


def test_whoever_wrote_the_recipe_may_run_its_code(factory: str) -> None:
    bench = Workbench(own_code=True)
    _, reply = step(AgentState("a"), train(full_plan(factory), vector=np.zeros(LOGISTIC, np.float32)), Held(), bench)
    assert (reply.outcome, CALLED[0]) == ("ok", "here")


# What is printed


def shown(make: Callable[[], object]) -> str:
    return re.sub(r"0x[0-9a-f]+", "", repr(make()))  # addresses can hold any number


def test_no_repr_of_the_agent_holds_data() -> None:
    rows = Rows({"age": np.array([41.0] * 4), "job": np.array([SECRET] * 4, dtype=object)}, np.array([0, 1, 0, 1]))
    agent = Agent("a", Held(), Workbench())
    state, reply = step(AgentState("a"), train(), Held(rows), Workbench())
    assert reply.outcome == "ok" and state.prepared is not None
    result = LocalResult(torch.tensor([41.0]), 41, 41.0)
    for thing in (agent, state, state.prepared, reply, train(), rows, result):
        text = shown(lambda thing=thing: thing)  # type: ignore[misc]
        assert SECRET not in text and "41" not in text and "tensor" not in text and "array" not in text


def test_an_owner_who_names_a_device_is_obeyed_whatever_the_recipe_says() -> None:
    plan = full_plan("training.device=cuda:99")
    assert Workbench(device="cpu").network(plan.encode(), plan)[3] == torch.device("cpu")
    with pytest.raises(InputError, match="no cuda:99"):
        Workbench().network(plan.encode(), plan)
