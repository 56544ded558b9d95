"""A plan has one text, and no text that is not a plan's is taken for one."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.errors import InputError
from tacit.models.plan import Plan, decode_plan
from tacit.models.preparation import preparation_sums, prepared_plan
from tacit.models.recipe import parse_recipe

SCHEMA = Schema((Column("age", "numeric"), Column("job", "categorical")), "y", ("no", "yes"))
NUMBERS = Schema((Column("age", "numeric"),), "y")
RECIPE = 'name = "r"\n[task]\nkind = "{}"\n[data]\nsource = "s:"\n[population]\nclients = 9\n[model]\nhidden = [8]\n'


def first_plan(schema: Schema = SCHEMA, kind: str = "tabular-classification") -> Plan:
    return Plan(parse_recipe(RECIPE.format(kind)), schema)


def full_plan() -> Plan:
    jobs = np.array(["nurse"] * 9 + ["clerk"] * 9, dtype=object)
    rows = Rows({"age": np.arange(18.0) / 7, "job": jobs}, np.arange(18) % 2)
    return prepared_plan(first_plan(), preparation_sums(rows, SCHEMA), 3, outputs=2, proximal_mu=0.1)


PLANS = {
    "before the preparation": first_plan(),
    "after it": full_plan(),
    "a regression": replace(first_plan(NUMBERS, "tabular-regression"), target_mean=0.1 + 0.2, target_scale=1e-7),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_plan_reads_back_as_the_same_plan_with_the_same_text(plan: Plan) -> None:
    again = decode_plan(plan.encode())
    assert again == plan
    assert again.encode() == plan.encode()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_plans_text_is_canonical_json(plan: Plan) -> None:
    text = plan.encode()
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode() == text


def test_a_plan_is_read_once_for_all_messages_of_a_run() -> None:
    text = full_plan().encode()
    assert decode_plan(text) is decode_plan(bytes(bytearray(text)))


@pytest.mark.parametrize(
    "changed",
    [{"name": "", "factory": "subprocess:run"}, {"name": "mlp"}, {"options": {"hidden": [9]}}],
    ids=["code", "name", "options"],
)
def test_no_plan_brings_a_network_that_its_recipe_does_not_name(changed: dict[str, Any]) -> None:
    # Whoever approves a recipe or a model has read the recipe, not the plan.
    honest = full_plan()
    assert honest.architecture is not None
    text = replace(honest, architecture=replace(honest.architecture, **changed)).encode()
    with pytest.raises(InputError, match="another network than its recipe names"):
        decode_plan(text)


@pytest.mark.parametrize("changed", [{"outputs": 1}, {"outputs": 3}, {"input_shape": (2,)}], ids=str)
def test_no_plan_brings_a_network_that_fails_for_some_rows_alone(changed: dict[str, Any]) -> None:
    """Whose round ended would show who holds such rows, without noise and without a mask."""
    honest = full_plan()
    assert honest.architecture is not None and honest.architecture.outputs == 2
    text = replace(honest, architecture=replace(honest.architecture, **changed)).encode()
    with pytest.raises(InputError, match="a network that does not fit its data"):
        decode_plan(text)


def test_no_plan_transforms_other_columns_than_its_dictionary_has() -> None:
    honest = full_plan()
    other = Schema((Column("job", "categorical"), Column("age", "numeric")), "y", ("no", "yes"))
    with pytest.raises(InputError, match="a network that does not fit its data"):
        decode_plan(replace(honest, schema=other).encode())


def test_the_task_knows_the_scale_of_its_targets() -> None:
    plan = replace(first_plan(NUMBERS, "tabular-regression"), target_mean=5.0, target_scale=2.0)
    task: Any = plan.task()
    assert (task.target_mean, task.target_scale) == (5.0, 2.0)


def broken(**changes: Any) -> bytes:
    return json.dumps(json.loads(full_plan().encode()) | changes).encode()


def without(key: str) -> bytes:
    values = json.loads(full_plan().encode())
    del values[key]
    return json.dumps(values).encode()


KEYS = sorted(json.loads(first_plan().encode()))
BROKEN = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "a list": b"[]",
    "a number": b"5",
    "brackets without end": b"[" * 100_000,
    **{f"no {key}": without(key) for key in KEYS},
    "a recipe that is a list": broken(recipe=[1]),
    "a recipe that is text": broken(recipe="ab"),
    "a recipe that is empty": broken(recipe={}),
    "a schema that is empty": broken(schema={}),
    "features that are a number": broken(features=5),
    "an architecture that is a list": broken(architecture=[1]),
    "a scale that is text": broken(target_scale="wide"),
    "a mean beyond all numbers": broken(target_mean=10**400),
    "a proximal term that is a list": broken(proximal_mu=[]),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_text_that_is_no_plans_is_refused_in_one_line(text: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        decode_plan(text)
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_key_of_the_recipe_is_refused_by_the_client_too() -> None:
    recipe = json.loads(full_plan().encode())["recipe"] | {"surprise": 1}
    with pytest.raises(ValueError, match="plan: unknown key 'surprise'"):
        decode_plan(broken(recipe=recipe))


def test_a_recipe_that_asks_for_a_feature_that_is_not_built_is_refused_by_the_client_too() -> None:
    recipe = json.loads(full_plan().encode())["recipe"]
    recipe["training"]["engine"] = "vectorised"
    with pytest.raises(ValueError, match="asks for a feature"):
        decode_plan(broken(recipe=recipe))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_plan_or_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode_plan(text)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.none(), max_size=2)


@given(st.sampled_from(KEYS), LEAVES)
def test_a_plan_with_one_part_replaced_is_a_plan_or_a_value_error(key: str, value: Any) -> None:
    try:
        decode_plan(broken(**{key: value}))
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
