"""The ClientApp carries instructions and replies, unchanged, and reads what comes as a stranger's."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from tacit.client.app import instruction_from, reply_records
from tacit.models.messages import Reply
from tacit.simulations.engine import task_identity


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    with task_identity():
        yield


def header(**changes: Any) -> bytes:
    values = {"action": "train", "run": "r", "round": 2, "attempt": 1, "body": {"x": [1]}} | changes
    return json.dumps(values).encode()


def message(config: Any = None, arrays: dict[str, Array] | None = None, **changes: Any) -> Message:
    packed = ArrayRecord()
    for name, array in (arrays or {}).items():
        packed[name] = array
    values = {"header": header(), "plan": b"plan", "message": b"m", "receipt": b"r"} | changes
    records = {"instruction": config or ConfigRecord(values), "arrays": packed}
    return Message(RecordDict(records), 5, "train.plain")


def array(dtype: str = "float32", shape: tuple = (2,), data: bytes = bytes(8)) -> dict[str, Array]:
    return {"vector": Array(dtype, shape, "tacit.raw", data)}


def test_an_instruction_is_read_as_it_was_written() -> None:
    vector = np.array([1.5, -2.0], np.float32)
    instruction = instruction_from(message(arrays=array(data=vector.tobytes())))
    assert (instruction.action, instruction.run, instruction.round, instruction.attempt) == ("train", "r", 2, 1)
    assert (instruction.plan, instruction.message, instruction.receipt) == (b"plan", b"m", b"r")
    assert instruction.body == {"x": [1]}
    np.testing.assert_array_equal(instruction.arrays["vector"], vector)


def test_a_reply_is_written_with_all_its_parts() -> None:
    vector = np.array([1.5, -2.0], np.float32)
    records = reply_records(Reply("failed", "why", {"loss": 0.5}, {"update": vector}, b"bytes"))
    config, vectors = records["reply"], records["arrays"]
    assert isinstance(config, ConfigRecord) and isinstance(vectors, ArrayRecord)
    assert json.loads(config["header"]) == {"outcome": "failed", "reason": "why", "body": {"loss": 0.5}}  # type: ignore[arg-type]
    assert config["message"] == b"bytes"
    packed = vectors["update"]
    assert (packed.dtype, packed.shape, packed.data) == ("float32", (2,), vector.tobytes())


UNREADABLE = {
    "no header": {"config": ConfigRecord({"plan": b""})},
    "metrics for values": {"config": MetricRecord({"x": 1.0})},
    "a header that is text": {"header": "{}"},
    "a header that is no JSON": {"header": b"{"},
    "a header that is a list": {"header": b"[]"},
    "a header nested beyond reason": {"header": b"[" * 100_000},
    "an infinite round": {"header": header().replace(b"2", b"Infinity")},
    "a round that is a word": {"header": header(round="two")},
    "a body that is a number": {"header": header(body=5)},
    "a plan that is text": {"plan": "plan"},
    "a message that is a number": {"message": 5},
    "a receipt that is text": {"receipt": ""},
    "Python objects": {"arrays": array("O")},
    "an unknown type": {"arrays": array("float33")},
    "a type that is an expression": {"arrays": array("(2,)f4,(")},
    "a shape of more numbers": {"arrays": array(shape=(2**70,))},
    "bytes that are no whole numbers": {"arrays": array(data=bytes(7))},
}


@pytest.mark.parametrize("changes", UNREADABLE.values(), ids=UNREADABLE)
def test_an_instruction_that_cannot_be_read_says_no_more_than_the_kind_of_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^the instruction cannot be read \(\w+\)$"):
        instruction_from(message(**changes))


@given(st.binary(max_size=60))
def test_any_header_is_read_or_refused(text: bytes) -> None:
    with task_identity(), pytest.raises(ValueError, match="^the instruction cannot be read"):
        instruction_from(message(header=text))
