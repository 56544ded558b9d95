"""Requests and answers cross Flower unchanged, one answer at a time, and no answer can end a run."""

import json
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.messages import Instruction, Reply
from tacit.server.exchanges import Occasion, Training
from tacit.server.flower import LONGEST_REASON, MESSAGE_TYPES, GridTransport
from tacit.server.rounds import Request, Round, RoundState
from tacit.server.transport import Arrival, drive
from tacit.simulations.engine import FIRST_NODE, InProcessGrid, task_identity

Answer = Any  # (Message, Context) -> Message


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    with task_identity():
        yield


def app_that(answers: Answer) -> ClientApp:
    app = ClientApp()
    for kind in MESSAGE_TYPES.values():
        category, _, action = kind.partition(".")
        (getattr(app, category)(action) if action else getattr(app, category)())(answers)
    return app


def records(header: bytes | str | float, arrays: dict[str, Array] | None = None) -> RecordDict:
    packed = ArrayRecord()
    for name, array in (arrays or {}).items():
        packed[name] = array
    return RecordDict({"reply": ConfigRecord({"header": header, "message": b""}), "arrays": packed})


def header(**changes: Any) -> bytes:
    return json.dumps({"outcome": "ok", "reason": "", "body": {}} | changes).encode()


def transport_over(answers: Answer, nodes: int = 1, **options: Any) -> GridTransport:
    grid = InProcessGrid(app_that(answers), nodes)
    return GridTransport(grid, now=grid.now, pause=grid.pause, forget=grid.discard, share_memory=True, **options)


def instruction(action: str = "train", **arrays: np.ndarray) -> Instruction:
    return Instruction(action, "run", 3, 1, b"plan", {"x": [1, "two", None]}, arrays)


def arrival_of(content: RecordDict) -> Arrival:
    transport = transport_over(lambda message, context: Message(content, reply_to=message))
    (client,) = transport.clients()
    transport.send([Request(client, instruction())])
    (arrival,) = transport.arrivals(10.0)
    return arrival


# Requests


@pytest.mark.parametrize("share", [True, False])
def test_a_request_arrives_as_it_was_sent(share: bool) -> None:
    seen: list[Message] = []

    def answers(message: Message, context: Context) -> Message:
        seen.append(message)
        return Message(records(header()), reply_to=message)

    grid = InProcessGrid(app_that(answers), 3)
    transport = GridTransport(grid, now=grid.now, pause=grid.pause, share_memory=share)
    vector = np.arange(5, dtype=np.float32)
    for action in MESSAGE_TYPES:
        transport.send([Request(client, instruction(action, vector=vector)) for client in transport.clients()])
        list(transport.arrivals(10.0))
    nodes = [FIRST_NODE, FIRST_NODE + 1, FIRST_NODE + 2]
    assert [message.metadata.dst_node_id for message in seen] == len(MESSAGE_TYPES) * nodes
    assert {message.metadata.message_type for message in seen} == set(MESSAGE_TYPES.values())
    for message in seen:
        config, array = message.content.config_records["instruction"], message.content.array_records["arrays"]["vector"]
        assert json.loads(config["header"])["body"] == {"x": [1, "two", None]}
        assert config["plan"] == b"plan"
        assert message.metadata.group_id == "3.1"
        np.testing.assert_array_equal(np.frombuffer(array.data, array.dtype), vector)
        assert np.shares_memory(np.frombuffer(array.data, array.dtype), vector) == share


def test_a_vector_for_everybody_is_packed_once() -> None:
    seen: list[int] = []

    def answers(message: Message, context: Context) -> Message:
        seen.append(id(message.content.array_records["arrays"]))
        return Message(records(header()), reply_to=message)

    transport = transport_over(answers, 4)
    vector = np.arange(5, dtype=np.float32)
    transport.send([Request(client, instruction(vector=vector)) for client in transport.clients()])
    list(transport.arrivals(10.0))
    assert len(seen) == 4 and len(set(seen)) == 1


def test_agents_have_their_own_names_and_a_node_without_one_is_never_asked() -> None:
    names = {FIRST_NODE: "clinic", FIRST_NODE + 2: "bank"}
    transport = transport_over(lambda m, c: Message(records(header()), reply_to=m), 4, names=names)
    assert transport.clients() == ("clinic", "bank")
    assert transport_over(lambda m, c: m, 2, names={}).clients() == ()
    assert transport_over(lambda m, c: m, 2).clients() == (str(FIRST_NODE), str(FIRST_NODE + 1))


def test_a_client_that_is_not_there_is_lost_and_the_others_are_asked() -> None:
    transport = transport_over(lambda m, c: Message(records(header()), reply_to=m), 1)
    (client,) = transport.clients()
    transport.send([Request("gone", instruction()), Request(client, instruction())])
    first, second = transport.arrivals(10.0)
    assert first == Arrival("gone", None, "the message could not be sent")
    assert (second.client, second.reply is None) == (client, False)


class StallingGrid:
    """A grid whose nodes answer at given times, and which refuses some messages as Flower does."""

    def __init__(self, answers_at: dict[int, float], refuses: str = "") -> None:
        self.answers_at, self.refuses, self.time, self.pauses = answers_at, refuses, 0.0, []
        self.sent: dict[str, Message] = {}
        self.pulled: list[list[str]] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.answers_at)[::-1]

    def create_message(self, content: RecordDict, message_type: str, node: int, group: str) -> Message:
        return Message(content, node, message_type, group_id=group)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str | None]:
        if self.refuses == "all":
            return []
        identifiers: list[str | None] = []
        for message in messages:
            identifier = f"m{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = identifier
            self.sent[identifier] = message
            identifiers.append(None if identifier == self.refuses else identifier)
        return identifiers

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        self.pulled.append(list(identifiers))
        ready = [self.sent[i] for i in self.pulled[-1] if self.answers_at[int(i[1:])] <= self.time]
        return [Message(records(header(body={"from": m.metadata.dst_node_id})), reply_to=m) for m in ready]

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds

    def transport(self) -> GridTransport:
        return GridTransport(self, now=lambda: self.time, pause=self.pause)  # type: ignore[arg-type]


def test_no_more_than_one_answer_is_asked_for_at_a_time() -> None:
    grid = StallingGrid(dict.fromkeys(range(5), 0.0))
    transport = grid.transport()
    transport.send([Request(client, instruction()) for client in transport.clients()])
    assert [arrival.client for arrival in transport.arrivals(10.0)] == ["0", "1", "2", "3", "4"]
    assert grid.pulled == [["m0"], ["m1"], ["m2"], ["m3"], ["m4"]]


def test_waiting_backs_off_to_a_second_and_stops_at_the_deadline() -> None:
    grid = StallingGrid({0: 1e9})
    transport = grid.transport()
    transport.send([Request(client, instruction()) for client in transport.clients()])
    assert list(transport.arrivals(4.0)) == []
    assert grid.time == pytest.approx(4.0)
    assert grid.pauses[:6] == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
    assert max(grid.pauses) <= 1.0


def test_slow_answers_are_returned_when_they_come() -> None:
    grid = StallingGrid({0: 0.3, 1: 5.0})
    transport = grid.transport()
    transport.send([Request(client, instruction()) for client in transport.clients()])
    assert [arrival.client for arrival in transport.arrivals(10.0)] == ["0"]
    assert grid.time < 1
    assert [arrival.client for arrival in transport.arrivals(10.0)] == ["1"]
    assert 5.0 <= grid.time < 6.5


@pytest.mark.parametrize(("refuses", "lost"), [("m0", ["0"]), ("all", ["0", "1"])])
def test_a_message_that_flower_refuses_is_a_lost_client(refuses: str, lost: list[str]) -> None:
    grid = StallingGrid({0: 0.0, 1: 0.0}, refuses)
    transport = grid.transport()
    transport.send([Request(client, instruction()) for client in transport.clients()])
    arrivals = list(transport.arrivals(10.0))
    assert [arrival.client for arrival in arrivals if arrival.reply is None] == lost
    assert len(arrivals) == 2 or refuses == "all"


def test_an_abandoned_message_is_waited_for_no_longer() -> None:
    forgotten: list[bool] = []
    grid = StallingGrid({0: 1e9})
    transport = GridTransport(grid, now=lambda: grid.time, pause=grid.pause, forget=lambda: forgotten.append(True))  # type: ignore[arg-type]
    transport.send([Request(client, instruction()) for client in transport.clients()])
    transport.abandon()
    assert list(transport.arrivals(10.0)) == [] and forgotten == [True] and grid.time == 0.0


# Replies


def test_a_reply_arrives_as_it_was_sent() -> None:
    vector = np.linspace(-1, 1, 7, dtype=np.float32)
    packed = Array("float32", (7,), "tacit.raw", vector.tobytes())
    arrival = arrival_of(records(header(reason="why", body={"loss": 0.5}), {"update": packed}))
    assert arrival.reply is not None
    assert (arrival.reply.outcome, arrival.reply.reason, arrival.reply.body) == ("ok", "why", {"loss": 0.5})
    np.testing.assert_array_equal(arrival.reply.arrays["update"], vector)


def array(dtype: str = "float32", shape: tuple = (2,), data: bytes = bytes(8)) -> dict[str, Array]:
    return {"update": Array(dtype, shape, "tacit.raw", data)}


DEEP = b'{"outcome": "ok", "reason": "", "body": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
UNREADABLE = {
    "no records": RecordDict(),
    "no header": RecordDict({"reply": ConfigRecord({}), "arrays": ArrayRecord()}),
    "no arrays": RecordDict({"reply": ConfigRecord({"header": header(), "message": b""})}),
    "a header that is a number": records(0.5),
    "a header that is no JSON": records(b"\xff{"),
    "a header that is a list": records(b"[]"),
    "a header nested beyond reason": records(DEEP),
    "an unknown outcome": records(header(outcome="committed")),
    "an outcome that is a list": records(header(outcome=[])),
    "no reason": records(b'{"outcome": "ok", "body": {}}'),
    "a body that is a number": records(header(body=5)),
    "a body that is text": records(header(body="xy")),
    "an unknown type": records(header(), array("object")),
    "a type that is no type": records(header(), array("float33")),
    "a type that is an expression": records(header(), array("(2,)f4,(")),
    "Python objects": records(header(), array("O")),
    "bytes that are no whole numbers": records(header(), array(data=bytes(7))),
    "a shape of fewer numbers": records(header(), array(shape=(1,))),
    "a shape of more numbers": records(header(), array(shape=(2**70,))),
    "a negative shape": records(header(), array(shape=(-1,))),
    "a shape of two axes": records(header(), array(shape=(1, 2))),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_reply_that_cannot_be_read_is_a_lost_client_and_says_no_more_than_the_kind_of_error(
    content: RecordDict,
) -> None:
    arrival = arrival_of(content)
    assert arrival.reply is None
    assert arrival.reason.startswith("the reply cannot be read (") and len(arrival.reason) < 60


@given(st.binary(max_size=60) | st.from_regex(rb'\{"outcome": ?"ok", ?"reason": ?.{0,9}, ?"body": ?.{0,9}\}'))
def test_any_header_is_read_or_makes_a_lost_client(text: bytes) -> None:
    arrival = arrival_of(records(text))
    assert arrival.reply is not None or arrival.reason.startswith("the reply cannot be read (")


@given(st.text(max_size=800))
def test_a_reason_is_one_line_that_a_database_and_a_terminal_can_take(reason: str) -> None:
    arrival = arrival_of(records(header(reason=reason)))
    assert arrival.reply is not None
    assert arrival.reply.reason == "" or arrival.reply.reason.isprintable()
    assert len(arrival.reply.reason) == min(len(reason), LONGEST_REASON)
    arrival.reply.reason.encode()


def test_half_a_surrogate_pair_and_terminal_commands_do_not_get_into_a_reason() -> None:
    arrival = arrival_of(records(b'{"outcome": "refused", "reason": "\\ud800 \\u001b[2Jx\\ny", "body": {}}'))
    assert arrival.reply is not None and arrival.reply.reason == "   [2Jx y"


def test_a_failed_node_is_a_lost_client_whose_error_text_is_not_taken_along() -> None:
    def answers(message: Message, context: Context) -> Message:
        return Message(Error(7, "row 5: Alice, HIV positive"), reply_to=message)

    transport = transport_over(answers)
    transport.send([Request(client, instruction()) for client in transport.clients()])
    (arrival,) = transport.arrivals(10.0)
    assert (arrival.reply, arrival.reason) == (None, "the node failed (code 7)")


# Memory


@pytest.mark.parametrize("clients", [3, 24])
def test_a_round_holds_the_global_vector_one_sum_and_one_reply_whatever_the_cohort(clients: int) -> None:
    size = 1_500_000

    def answers(message: Message, context: Context) -> Message:
        packed = Array("float32", (size,), "tacit.raw", bytes(4 * size))
        return Message(records(header(body={"examples": 5, "loss": 0.5}), {"update": packed}), reply_to=message)

    transport = transport_over(answers, clients)
    tracemalloc.start()
    try:
        exchange = Training(Occasion("run", 1, 0, b"plan"), {"vector": np.zeros(size, np.float32)}, by_examples=True)
        current = Round(transport.clients(), clients, exchange, deadline_seconds=10, quorum=1)
        drive(current, transport)
        assert current.state is RoundState.COMPLETE
        exchange.result()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(current.reported) == clients
    assert peak < 3.2 * 4 * size


def test_requests_that_a_finished_round_leaves_behind_are_forgotten() -> None:
    answered: list[int] = []

    def answers(message: Message, context: Context) -> Message:
        answered.append(context.node_id)
        packed = Array("float32", (2,), "tacit.raw", bytes(8))
        return Message(records(header(body={"examples": 5, "loss": 0.5}), {"update": packed}), reply_to=message)

    grid = InProcessGrid(app_that(answers), 10)
    transport = GridTransport(grid, now=grid.now, pause=grid.pause, forget=grid.discard, share_memory=True)
    for number in range(3):
        exchange = Training(Occasion("run", number, 0, b"plan"), {"vector": np.zeros(2, np.float32)}, by_examples=True)
        drive(Round(transport.clients(), 4, exchange, deadline_seconds=10, quorum=1), transport)
    assert answered == 3 * [FIRST_NODE + index for index in range(4)]
    assert not grid._queue


def test_what_is_open_is_abandoned_even_when_a_round_breaks_off() -> None:
    def answers(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    transport = transport_over(answers, 3)
    exchange = Training(Occasion("run", 1, 0, b"plan"), {"vector": np.zeros(2, np.float32)}, by_examples=True)
    with pytest.raises(KeyboardInterrupt):
        drive(Round(transport.clients(), 3, exchange, deadline_seconds=10, quorum=1), transport)
    assert not transport._open


def test_a_reply_of_the_wrong_kind_is_dropped_by_the_round_and_the_others_count() -> None:
    def answers(message: Message, context: Context) -> Message:
        width = 3 if context.node_id == FIRST_NODE else 2
        packed = Array("float32", (width,), "tacit.raw", np.ones(width, np.float32).tobytes())
        return Message(records(header(body={"examples": 5, "loss": 0.5}), {"update": packed}), reply_to=message)

    transport = transport_over(answers, 3)
    exchange = Training(Occasion("run", 1, 0, b"plan"), {"vector": np.zeros(2, np.float32)}, by_examples=True)
    current = Round(transport.clients(), 3, exchange, deadline_seconds=10, quorum=0.5)
    drive(current, transport)
    assert current.state is RoundState.COMPLETE
    assert [participant.outcome for participant in current.participation()] == ["dropped", "reported", "reported"]
    np.testing.assert_array_equal(exchange.result().mean_update, [1, 1])


def test_a_reply_names_its_outcome_and_never_its_contents() -> None:
    reply = Reply("failed", "out of memory", {"secret": 41}, {"update": np.full(3, 41.0)})
    assert repr(reply) == "Reply(failed, out of memory)"
    assert "41" not in repr(instruction(vector=np.full(3, 41.0)))
