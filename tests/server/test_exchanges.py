"""What a plain round makes of replies: sums of what fits, a reason for what does not."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.models.data.rows import Column, Rows, Schema
from tacit.models.messages import Reply
from tacit.models.preparation import preparation_sums
from tacit.server.exchanges import MOST_EXAMPLES, Occasion, Preparation, Training

AT = Occasion("run", 3, 1, b"plan")
SIZE = 4
CLASSIFIED = Schema((Column("age", "numeric"), Column("job", "categorical")), "y", ("no", "yes"))
REGRESSED = Schema((Column("age", "numeric"),), "y")


def training(by_examples: bool = True) -> Training:
    return Training(AT, {"vector": np.zeros(SIZE, np.float32)}, by_examples)


def update(value: float, examples: Any = 10, loss: Any = 0.5) -> Reply:
    return Reply(body={"examples": examples, "loss": loss}, arrays={"update": np.full(SIZE, value, np.float32)})


# Training


def test_a_training_request_carries_the_global_vector_itself_and_where_it_belongs() -> None:
    exchange = training()
    instruction = exchange.request(0, "a")
    assert instruction.arrays is exchange.arrays
    assert (instruction.action, instruction.run, instruction.round, instruction.attempt) == ("train", "run", 3, 1)
    assert instruction.plan == b"plan"


def test_updates_are_weighed_by_examples() -> None:
    exchange = training()
    exchange.accept(0, "a", update(1.0, examples=30, loss=2.0))
    exchange.accept(0, "b", update(5.0, examples=10, loss=4.0))
    result = exchange.result()
    assert result.mean_loss == 2.5
    np.testing.assert_array_equal(result.mean_update, np.full(SIZE, 2.0))


def test_without_weights_every_client_counts_the_same() -> None:
    exchange = training(by_examples=False)
    exchange.accept(0, "a", update(1.0, examples=30, loss=2.0))
    exchange.accept(0, "b", update(5.0, examples=10, loss=4.0))
    result = exchange.result()
    assert result.mean_loss == 3.0
    np.testing.assert_array_equal(result.mean_update, np.full(SIZE, 3.0))


def test_a_round_without_reports_has_no_mean() -> None:
    with pytest.raises(ZeroDivisionError):
        training().result()


BAD_UPDATES = {
    "missing": {},
    "another name": {"delta": np.zeros(SIZE, np.float32)},
    "too short": {"update": np.zeros(SIZE - 1, np.float32)},
    "too long": {"update": np.zeros(SIZE + 1, np.float32)},
    "two axes": {"update": np.zeros((SIZE, 1), np.float32)},
    "double": {"update": np.zeros(SIZE)},
    "whole numbers": {"update": np.zeros(SIZE, np.int32)},
    "half": {"update": np.zeros(SIZE, np.float16)},
    "other byte order": {"update": np.zeros(SIZE, np.dtype(np.float32).newbyteorder())},
    "NaN": {"update": np.array([0, np.nan, 0, 0], np.float32)},
    "infinity": {"update": np.array([0, np.inf, 0, 0], np.float32)},
    "both infinities": {"update": np.array([np.inf, -np.inf, 0, 0], np.float32)},
    "too large to be summed": {"update": np.array([3e38, 0, 0, 0], np.float32)},
}


@pytest.mark.parametrize("vectors", BAD_UPDATES.values(), ids=BAD_UPDATES)
def test_an_update_that_is_not_one_is_refused_and_leaves_the_sum_as_it_was(vectors: dict[str, np.ndarray]) -> None:
    exchange = training()
    exchange.accept(0, "a", update(1.0))
    with pytest.raises(ValueError):
        exchange.accept(0, "b", Reply(body={"examples": 10, "loss": 0.5}, arrays=vectors))
    result = exchange.result()
    assert result.mean_loss == 0.5
    np.testing.assert_array_equal(result.mean_update, np.ones(SIZE))


@pytest.mark.parametrize(
    "examples", [None, 0, -5, 1.0, 1.5, True, "10", [10], math.nan, math.inf, MOST_EXAMPLES + 1, 10**400]
)
def test_a_number_of_examples_that_is_not_one_is_refused(examples: Any) -> None:
    exchange = training()
    with pytest.raises(ValueError, match="examples is not a number of rows"):
        exchange.accept(0, "a", update(1.0, examples=examples))
    with pytest.raises(ZeroDivisionError):
        exchange.result()


@pytest.mark.parametrize("loss", [None, "0.5", True, math.nan, math.inf, -math.inf, [0.5], 10**400])
def test_a_loss_that_is_not_a_finite_number_is_refused_before_the_update_counts(loss: Any) -> None:
    exchange = training()
    with pytest.raises(ValueError, match="loss is not a finite number"):
        exchange.accept(0, "a", update(1.0, loss=loss))
    exchange.accept(0, "b", update(3.0))
    np.testing.assert_array_equal(exchange.result().mean_update, np.full(SIZE, 3.0))


def test_the_largest_weight_still_gives_the_mean() -> None:
    exchange = training()
    exchange.accept(0, "a", update(0.25, examples=MOST_EXAMPLES))
    exchange.accept(0, "b", update(0.75, examples=MOST_EXAMPLES))
    np.testing.assert_array_equal(exchange.result().mean_update, np.full(SIZE, 0.5))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ANY_VECTOR = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
    st.sampled_from([(SIZE,), (0,), (SIZE, 1)]),
)


@given(
    st.dictionaries(st.sampled_from(["examples", "loss", "metrics", "x"]), PLAIN),
    st.dictionaries(st.sampled_from(["update", "statistics", "x"]), ANY_VECTOR),
)
def test_whatever_a_reply_holds_it_is_taken_or_refused_with_a_reason(
    body: dict[str, Any], vectors: dict[str, np.ndarray]
) -> None:
    reply = Reply(body=json.loads(json.dumps(body)), arrays=vectors)
    for exchange in (training(), Preparation(AT, CLASSIFIED)):
        try:
            exchange.accept(0, "a", reply)
        except ValueError as error:
            assert str(error)


# Preparation


def some_rows(seed: int, count: int, schema: Schema = CLASSIFIED) -> Rows:
    rng = np.random.default_rng(seed)
    columns = {
        "age": rng.integers(18, 90, count).astype(np.float64),
        "job": rng.choice(np.array(["nurse", "clerk", ""], dtype=object), count),
    }
    names = [column.name for column in schema.columns]
    labels = rng.integers(0, 2, count) if schema.classes else rng.integers(-50, 50, count).astype(np.float64)
    return Rows({name: columns[name] for name in names}, labels)


def both(first: Rows, second: Rows) -> Rows:
    columns = {name: np.concatenate([first.columns[name], second.columns[name]]) for name in first.columns}
    return Rows(columns, np.concatenate([first.labels, second.labels]))


@pytest.mark.parametrize("schema", [CLASSIFIED, REGRESSED])
@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 20))
def test_the_total_is_that_of_all_rows_together(schema: Schema, seed: int, first: int, second: int) -> None:
    exchange = Preparation(AT, schema)
    parts = some_rows(seed, first, schema), some_rows(seed + 1, second, schema)
    for client, rows in zip("ab", parts, strict=True):
        exchange.accept(0, client, Reply(arrays={"statistics": preparation_sums(rows, schema)}))
    # All values are whole numbers, so the sums are exact.
    np.testing.assert_array_equal(exchange.total(), preparation_sums(both(*parts), schema))


def spoiled(schema: Schema, position: int, value: float) -> np.ndarray:
    sums = preparation_sums(some_rows(1, 12, schema), schema)
    sums[position] = value
    return sums


BAD_STATISTICS = {
    "too short": (CLASSIFIED, preparation_sums(some_rows(1, 12), CLASSIFIED)[:-1]),
    "single precision": (CLASSIFIED, preparation_sums(some_rows(1, 12), CLASSIFIED).astype(np.float32)),
    "NaN": (CLASSIFIED, spoiled(CLASSIFIED, 1, np.nan)),
    "infinity": (CLASSIFIED, spoiled(CLASSIFIED, 2, np.inf)),
    "a negative count": (CLASSIFIED, spoiled(CLASSIFIED, 0, -1.0)),
    "more values than rows": (CLASSIFIED, spoiled(CLASSIFIED, 0, 13.0)),
    "a sum that its squares forbid": (CLASSIFIED, spoiled(CLASSIFIED, 1, 1e12)),
    "a negative category": (CLASSIFIED, spoiled(CLASSIFIED, 3 + 17, -5.0)),
    "classes that are not all rows": (CLASSIFIED, spoiled(CLASSIFIED, -1, 1e6)),
    "no rows": (CLASSIFIED, np.zeros_like(preparation_sums(some_rows(1, 12), CLASSIFIED))),
    "more targets than rows": (REGRESSED, spoiled(REGRESSED, -3, 13.0)),
    "a target sum that its squares forbid": (REGRESSED, spoiled(REGRESSED, -2, 1e9)),
    "an infinite target": (REGRESSED, spoiled(REGRESSED, -1, np.inf)),
}


@pytest.mark.parametrize(("schema", "statistics"), BAD_STATISTICS.values(), ids=BAD_STATISTICS)
def test_statistics_that_no_rows_have_are_refused_and_leave_the_total_as_it_was(
    schema: Schema, statistics: np.ndarray
) -> None:
    exchange = Preparation(AT, schema)
    good = preparation_sums(some_rows(2, 9, schema), schema)
    exchange.accept(0, "a", Reply(arrays={"statistics": good}))
    with pytest.raises(ValueError):
        exchange.accept(0, "b", Reply(arrays={"statistics": statistics}))
    np.testing.assert_array_equal(exchange.total(), good)


def test_two_clients_whose_sums_overflow_together_do_not_spoil_the_total() -> None:
    exchange = Preparation(AT, REGRESSED)
    huge = preparation_sums(some_rows(2, 9, REGRESSED), REGRESSED)
    huge[2] = 8e307  # the sum of squares of "age"
    exchange.accept(0, "a", Reply(arrays={"statistics": huge}))
    with pytest.raises(ValueError, match="too large to be summed"):
        exchange.accept(0, "b", Reply(arrays={"statistics": huge}))
    assert np.isfinite(exchange.total()).all()


def test_a_preparation_request_carries_no_vector_and_is_round_zero() -> None:
    instruction = Preparation(AT, CLASSIFIED).request(0, "a")
    assert (instruction.action, instruction.round, dict(instruction.arrays)) == ("prepare", 0, {})
