"""Messages reach resident agents and answers come back, whatever gets lost, restarts or is nonsense on the way."""

import http.client
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, HEARTBEAT_PATIENCE, Status
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.date import now

from tacit.client.connection import Connection, TurnedAway, Unreachable
from tacit.client.fleet import Standing, received, sent
from tacit.models.messages import Instruction, Reply
from tacit.models.wire import ALIVE, PUSH, framed, sealed_headers
from tacit.server.fleet_routes import PULSE_SECONDS
from tacit.server.gate import Limits
from tacit.server.mailbox import MOST_DELIVERIES
from tacit.server.rounds import Request

from ...settle import HANGS_SECONDS, settle  # noqa: TID252 - tests are no package that could be named

NODES = "flwr.server.superlink.linkstate.in_memory_linkstate"
RUNS = "flwr.supercore.corestate.in_memory_corestate"


def instruction(number: int = 1, action: str = "train", message: bytes = b"", **arrays: np.ndarray) -> Instruction:
    return Instruction(action, "run", number, 0, b"plan", {}, arrays, message)


def flowers_clock(monkeypatch: pytest.MonkeyPatch, module: str) -> Callable[[float], None]:
    """Return what puts Flower's clock for its nodes or its runs forward, by seconds."""
    ahead = timedelta()

    def late() -> datetime:
        return now() + ahead

    def forward(seconds: float) -> None:
        nonlocal ahead
        ahead += timedelta(seconds=seconds)

    monkeypatch.setattr(f"{module}.now", late)
    return forward


def test_stages_follow_each_other_and_every_agent_answers_each_once(fleet) -> None:
    members = [fleet.join(name) for name in ("a", "b", "c")]
    fleet.wait_for("a", "b", "c")
    for number in range(5):
        arrivals = fleet.ask(instruction(number, message=b"ab"), "a", "b", "c")
        assert {name: arrival.reply.body["round"] for name, arrival in arrivals.items()} == dict.fromkeys("abc", number)
        assert all(arrival.reply.message == b"ba" for arrival in arrivals.values())
    for member in members:
        assert [seen.round for seen in member.handler.seen] == [0, 1, 2, 3, 4]
        settle(lambda: member.resident.standing == Standing(answered=5))  # noqa: B023 - called at once


def test_a_stage_waits_for_its_answers_and_for_nothing_else(refleet) -> None:
    """Both sides are woken: neither looks again before the stage would be over without an answer."""
    never = 2 * HANGS_SECONDS
    fleet = refleet(Limits(longest_wait_seconds=never))
    fleet.transport = fleet.link.transport(fleet.grid, pause=lambda seconds: fleet.grid.wait(never))
    try:
        fleet.join("a"), fleet.join("b")
        fleet.wait_for("a", "b")
        for number in range(9):
            settle(lambda: len(fleet.link._mailbox._waiting) == 2)
            assert len(fleet.ask(instruction(number), "a", "b")) == 2
    finally:
        fleet.close()


@pytest.mark.parametrize("size", [0, 1, 1000, 6_000_000])
def test_vectors_cross_unchanged_both_ways(fleet, size: int) -> None:
    member = fleet.join("a")
    fleet.wait_for("a")
    vector = np.arange(size, dtype=np.float32)
    (arrival,) = fleet.ask(instruction(vector=vector), "a").values()
    np.testing.assert_array_equal(member.handler.seen[0].arrays["vector"], vector)
    np.testing.assert_array_equal(arrival.reply.arrays["vector"], vector)


def test_nothing_of_a_message_stays_behind(fleet) -> None:
    fleet.join("a"), fleet.join("b")
    fleet.wait_for("a", "b")
    store = fleet.grid._state.object_store
    for number in range(3):
        fleet.ask(instruction(number, vector=np.arange(2_000_000, dtype=np.float32)), "a", "b")
    assert len(store) == 0
    assert fleet.grid._state.num_message_ins() == fleet.grid._state.num_message_res() == 0


def test_a_message_that_is_given_up_is_forgotten_and_its_late_answer_refused(fleet, echo) -> None:
    go_on = threading.Event()

    def slow(asked: Instruction) -> Reply:
        go_on.wait(HANGS_SECONDS)
        return Reply(body={"round": asked.round})

    member = fleet.join("a", echo(act=slow))
    fleet.wait_for("a")
    assert fleet.ask(instruction(1), "a", seconds=0.1) == {}
    settle(lambda: member.handler.seen)
    fleet.transport.abandon()
    assert len(fleet.grid._state.object_store) == 0
    fleet.transport.send([Request("a", instruction(2))])
    go_on.set()
    arrivals = fleet.collect(1)
    assert arrivals["a"].reply.body == {"round": 2}
    assert [seen.round for seen in member.handler.seen] == [1, 2]


def test_an_agent_that_computes_for_long_stays_there(fleet, echo, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, done = flowers_clock(monkeypatch, NODES), threading.Event()

    def slow(asked: Instruction) -> Reply:
        assert done.wait(HANGS_SECONDS)
        return Reply(message=b"done")

    fleet.join("a", echo(act=slow))
    fleet.wait_for("a")
    fleet.transport.send([Request("a", instruction())])
    said = fleet.link.traffic.requests
    for _ in range(5):
        forward(PULSE_SECONDS)  # twice this is Flower's patience
        before = said[ALIVE, 204]
        settle(lambda: said[ALIVE, 204] >= before + 2)  # noqa: B023 - called at once; the first may have been under way
        assert fleet.transport.clients() == ("a",)
    done.set()
    assert fleet.collect(1)["a"].reply.message == b"done"


def test_an_agent_that_has_gone_is_known_as_lost_before_the_deadline(fleet, monkeypatch) -> None:
    monkeypatch.setattr("tacit.server.fleet_grid.LOOK_SECONDS", 0.1)
    forward = flowers_clock(monkeypatch, NODES)
    with fleet.asked("a", instruction()):
        pass
    forward(2 * PULSE_SECONDS + 1)
    arrival = fleet.collect(1)["a"]
    assert arrival.reply is None and arrival.reason == "the node failed (code 5)"


def test_an_agent_that_hangs_up_and_comes_back_soon_was_never_away(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.server.fleet_routes.RETURN_SECONDS", HANGS_SECONDS)
    fleet.enrol("a")
    waiting = fleet.link._mailbox._waiting
    with fleet.connection("a") as connection:

        def hang_up() -> None:
            settle(lambda: waiting)
            connection.interrupt()

        for _ in range(5):
            connection._interrupted = False
            hanging_up = threading.Thread(target=hang_up)
            hanging_up.start()
            with pytest.raises(Unreachable):
                connection.pull(HANGS_SECONDS)
            hanging_up.join()
            connection.close()
            settle(lambda: not waiting)
            assert fleet.transport.clients() == ("a",)


def test_an_agent_that_hangs_up_for_good_is_not_there_until_it_asks_again(fleet, monkeypatch) -> None:
    monkeypatch.setattr("tacit.server.fleet_routes.RETURN_SECONDS", 0.1)
    member = fleet.join("a")
    fleet.wait_for("a")
    settle(lambda: fleet.link._mailbox._waiting)  # what it hangs up is a request for a message
    member.stop()
    settle(lambda: fleet.transport.clients() == ())
    fleet.join("a")
    fleet.wait_for("a")


# Lost on the way


def test_a_message_lost_on_its_way_is_handed_out_again(fleet) -> None:
    with fleet.asked("a", instruction(7, message=b"x")) as connection:
        first = connection.pull(0)
        connection.close()
        assert connection.pull(0) == first
    member = fleet.join("a")
    assert fleet.collect(1)["a"].reply.message == b"x"
    assert [seen.round for seen in member.handler.seen] == [7]


def test_a_message_that_is_never_answered_is_not_handed_out_for_ever(fleet) -> None:
    with fleet.asked("a", instruction()) as connection:
        assert [connection.pull(0) is not None for _ in range(MOST_DELIVERIES + 2)] == [True] * MOST_DELIVERIES + [
            False,
            False,
        ]


def test_an_answer_whose_receipt_was_lost_is_taken_once(fleet) -> None:
    with fleet.asked("a", instruction()) as connection:
        answer = answer_to(connection.pull(0), b"one")
        connection.push(answer)
        connection.push(answer)  # nothing of the first came back
        assert fleet.collect(1)["a"].reply.message == b"one"
        connection.push(answer)  # still nothing
        assert fleet.collect(1, 0.1) == {} and connection.pull(0) is None


def test_a_second_answer_that_differs_is_refused(fleet) -> None:
    with fleet.asked("a", instruction()) as connection:
        payloads = connection.pull(0)
        connection.push(answer_to(payloads, b"one"))
        with pytest.raises(TurnedAway, match="differently") as refused:
            connection.push(answer_to(payloads, b"two"))
        assert refused.value.status == 409
        assert fleet.collect(1)["a"].reply.message == b"one"
        with pytest.raises(TurnedAway, match="differently") as refused:
            connection.push(answer_to(payloads, b"two"))
        assert refused.value.status == 409


def test_an_answer_that_broke_off_is_brought_again_whole(fleet) -> None:
    with fleet.asked("a", instruction()) as connection:
        answer = answer_to(connection.pull(0), b"x", np.arange(3_000_000, dtype=np.float32))
        body = b"".join(framed(answer))
        headers = sealed_headers(fleet.identities["a"], PUSH, time.time())
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection(("127.0.0.1", fleet.port)) as broken:
            broken.sendall(f"POST {PUSH} HTTP/1.1\r\nhost: x\r\n{lines}content-length: {len(body)}\r\n\r\n".encode())
            broken.sendall(body[: len(body) // 2])
        assert fleet.collect(1, seconds=0.3) == {}
        connection.push(answer)
        assert fleet.collect(1)["a"].reply.arrays["vector"].size == 3_000_000


def test_an_agent_joins_a_superlink_that_starts_again_without_being_touched(refleet) -> None:
    first = refleet()
    port = first.port
    member = first.join("a", port=port)
    first.wait_for("a")
    assert len(first.ask(instruction(1), "a")) == 1
    first.grid.close()
    first.link.stop()
    settle(lambda: member.resident.standing.trouble)
    second = refleet(port=port)
    try:
        second.link.admit(member.identity.public_key, "a")
        second.wait_for("a")
        assert second.ask(instruction(2), "a")["a"].reply.body == {"round": 2}
        assert [seen.round for seen in member.handler.seen] == [1, 2]
    finally:
        member.resident.stop()
        second.close()
        first.close()


def test_an_answer_that_is_ready_when_the_superlink_is_down_does_not_stop_the_agent(refleet, echo) -> None:
    first = refleet()
    port = first.port
    working, down = threading.Event(), threading.Event()

    def slow(asked: Instruction) -> Reply:
        working.set()
        down.wait(HANGS_SECONDS)
        return Reply(body={"round": asked.round})

    member = first.join("a", echo(act=slow), port=port)
    first.wait_for("a")
    first.transport.send([Request("a", instruction(1))])
    assert working.wait(HANGS_SECONDS)
    first.grid.close()
    first.link.stop()
    down.set()
    settle(lambda: member.resident.standing.trouble)
    second = refleet(port=port)
    try:
        second.link.admit(member.identity.public_key, "a")
        second.wait_for("a")
        assert second.ask(instruction(2), "a")["a"].reply.body == {"round": 2}
    finally:
        member.resident.stop()
        second.close()
        first.close()


def test_an_answer_under_the_same_name_may_not_bring_other_objects(fleet) -> None:
    """Else a peer could fill the store with what hangs on nothing, each time under the name of one answer."""
    with fleet.asked("a", instruction()) as connection:
        answer = answer_to(connection.pull(0), b"whole")
        with pytest.raises(TurnedAway):
            connection.push(answer[:-1])
        stored = len(fleet.grid._state.object_store)

        def other_children(request: PushMessagesRequest) -> None:
            del request.message_object_trees[0].children[:]
            for number in range(9):
                request.message_object_trees[0].children.add(object_id=f"{number:064x}")

        with pytest.raises(TurnedAway, match="differently"):
            connection.push(changed(answer, other_children))
        assert len(fleet.grid._state.object_store) == stored
        connection.push(answer)
        assert fleet.collect(1)["a"].reply.message == b"whole"
    assert len(fleet.grid._state.object_store) == 0


def test_what_hangs_on_nothing_is_forgotten_with_its_answer(fleet) -> None:
    with fleet.asked("a", instruction()) as connection:
        answer = answer_to(connection.pull(0), b"whole")

        def twice_with_other_children(request: PushMessagesRequest) -> None:
            tree = request.message_object_trees[0]
            again = tree.children.add(object_id=tree.children[0].object_id)
            for number in range(9):
                again.children.add(object_id=f"{number:064x}")

        with pytest.raises(TurnedAway):
            connection.push(changed(answer, twice_with_other_children))
    assert len(fleet.grid._state.object_store) > 9
    fleet.transport.abandon()
    assert len(fleet.grid._state.object_store) == 0


def test_two_runs_at_a_time_do_not_touch_each_others_messages(fleet) -> None:
    fleet.join("a")
    fleet.enrol("b")
    fleet.wait_for("a")
    with fleet.link.grid() as other:
        second = fleet.link.transport(other)
        with fleet.connection("b") as connection:
            connection.alive()
            assert second.clients() == ("a", "b") or second.clients() == ("b", "a")
            second.send([Request("b", instruction(9))])
            assert len(fleet.ask(instruction(1), "a")) == 1
            fleet.transport.abandon()
            connection.push(answer_to(connection.pull(0), b"still"))
            (arrival,) = second.arrivals(second.now() + HANGS_SECONDS)
            assert arrival.reply.message == b"still"


# Nonsense


def answer_to(payloads: list[bytes], message: bytes, vector: np.ndarray | None = None) -> list[bytes]:
    from flwr.app import Message

    from tacit.client.app import reply_records

    arrays = {} if vector is None else {"vector": vector}
    return sent(Message(reply_records(Reply(message=message, arrays=arrays)), reply_to=received(payloads)))


def changed(payloads: list[bytes], change: Callable[[PushMessagesRequest], None]) -> list[bytes]:
    request = PushMessagesRequest.FromString(payloads[0])
    change(request)
    return [request.SerializeToString(), *payloads[1:]]


def no_message(request: PushMessagesRequest) -> None:
    del request.messages_list[:]


def two_messages(request: PushMessagesRequest) -> None:
    request.messages_list.add().CopyFrom(request.messages_list[0])


def other_tree(request: PushMessagesRequest) -> None:
    request.message_object_trees[0].object_id = "0" * 64


def no_digests(request: PushMessagesRequest) -> None:
    request.message_object_trees[0].children[0].object_id = "../../etc/passwd"


def endless(request: PushMessagesRequest) -> None:
    for _ in range(5000):
        request.message_object_trees[0].children.add(object_id="0" * 64)


def other_run(request: PushMessagesRequest) -> None:
    request.messages_list[0].metadata.run_id = 12345


def other_node(request: PushMessagesRequest) -> None:
    request.messages_list[0].metadata.src_node_id = 12345


def expired(request: PushMessagesRequest) -> None:
    request.messages_list[0].metadata.created_at = 1.8e9
    request.messages_list[0].metadata.ttl = -1.0


BROKEN = {
    "no message": lambda answer: changed(answer, no_message),
    "two messages": lambda answer: changed(answer, two_messages),
    "another message's objects": lambda answer: changed(answer, other_tree),
    "names that are no digests": lambda answer: changed(answer, no_digests),
    "too many objects": lambda answer: changed(answer, endless),
    "another run": lambda answer: changed(answer, other_run),
    "another node": lambda answer: changed(answer, other_node),
    "an expired message": lambda answer: changed(answer, expired),
    "an object too few": lambda answer: answer[:-1],
    "an object too many": lambda answer: [*answer, b"more"],
    "objects in another order": lambda answer: [answer[0], *answer[:0:-1]],
    "another object": lambda answer: [*answer[:-1], answer[-1][:-1] + b"!"],
    "no objects": lambda answer: answer[:1],
    "no head": lambda answer: [],
    "a head that is noise": lambda answer: [os.urandom(200), *answer[1:]],
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_refused_and_a_whole_one_taken_after_it(fleet, broken) -> None:
    with fleet.asked("a", instruction()) as connection:
        answer = answer_to(connection.pull(0), b"whole")
        with pytest.raises(TurnedAway) as refused:
            connection.push(broken(answer))
        assert refused.value.status in (400, 403, 410)
        connection.push(answer)
        assert fleet.collect(1)["a"].reply.message == b"whole"


def test_nobody_answers_for_somebody_else(fleet) -> None:
    fleet.enrol("a"), fleet.enrol("b")
    with fleet.connection("a") as one, fleet.connection("b") as other:
        one.alive(), other.alive()
        fleet.wait_for("a", "b")
        fleet.transport.send([Request("a", instruction())])
        answer = answer_to(one.pull(0), b"whole")
        assert other.pull(0) is None
        with pytest.raises(TurnedAway, match="somebody else's"):
            other.push(answer)
        node = next(node for node, name in fleet.link.names.items() if name == "b")

        def as_the_other(request: PushMessagesRequest) -> None:
            request.messages_list[0].metadata.src_node_id = node

        with pytest.raises(TurnedAway, match="not waited for"):
            other.push(changed(answer, as_the_other))


def objects_of_nonsense(payloads: list[bytes]) -> list[bytes]:
    """A proper Flower message whose content is no reply of Tacit's."""
    from flwr.app import Message

    return sent(Message(RecordDict({"a": ConfigRecord({"b": [1.0] * 5})}), reply_to=received(payloads)))


def test_an_answer_that_is_not_tacits_is_a_lost_agent(fleet) -> None:
    with fleet.asked("a", instruction()) as connection:
        connection.push(objects_of_nonsense(connection.pull(0)))
        arrival = fleet.collect(1)["a"]
    assert arrival.reply is None and arrival.reason.startswith("the reply cannot be read (")


def test_an_answer_whose_objects_are_no_message_is_a_lost_agent(fleet) -> None:
    with fleet.asked("a", instruction()) as connection:
        answer = answer_to(connection.pull(0), b"x")
        config = next(payload for payload in answer[1:] if payload.startswith(b"ConfigRecord"))
        name = sha256(config).hexdigest()

        def only_a_record(request: PushMessagesRequest) -> None:
            request.messages_list[0].metadata.message_id = name
            del request.message_object_trees[0].children[:]
            request.message_object_trees[0].object_id = name

        connection.push([changed(answer, only_a_record)[0], config])
        arrival = fleet.collect(1)["a"]
    assert arrival.reply is None and arrival.reason == "the node failed (code 4)"


def test_a_message_that_no_agent_can_read_is_answered_with_an_error_and_the_loop_goes_on(fleet) -> None:
    member = fleet.join("a")
    fleet.wait_for("a")
    grid = fleet.grid
    node = next(iter(fleet.link.names))
    (identifier,) = grid.push_messages(
        [grid.create_message(RecordDict({"x": ConfigRecord({"y": 1})}), "train.plain", node, "1")]
    )
    found: list = []
    settle(lambda: found.extend(grid.pull_messages([identifier])) or found)
    assert found[0].has_error() and found[0].error.reason == "ValueError"
    assert len(fleet.ask(instruction(), "a")) == 1
    assert len(member.handler.seen) == 1


def test_what_an_agent_raises_reaches_nobody_but_by_its_kind(fleet, echo, caplog: pytest.LogCaptureFixture) -> None:
    def fail(asked: Instruction) -> Reply:
        raise KeyError("patient 4711 has row 12")

    fleet.join("a", echo(act=fail))
    fleet.wait_for("a")
    arrival = fleet.ask(instruction(), "a")["a"]
    assert arrival.reply is None and "4711" not in arrival.reason
    assert "4711" not in caplog.text and "KeyError" in caplog.text


# The run


def test_a_run_is_under_way_until_it_is_closed(fleet) -> None:
    state, run = fleet.grid._state, fleet.grid.run.run_id
    assert state.get_run_status({run})[run].status == Status.RUNNING
    fleet.grid.close()
    fleet.grid.close()
    assert state.get_run_status({run})[run].status == Status.FINISHED


def test_a_run_outlives_flowers_patience(refleet, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, heard = flowers_clock(monkeypatch, RUNS), []
    monkeypatch.setattr("tacit.server.fleet_grid.HEARTBEAT_SECONDS", 0.01)
    fleet = refleet()
    state, run = fleet.grid._state, fleet.grid.run.run_id
    acknowledge = state.acknowledge_task_heartbeat
    monkeypatch.setattr(state, "acknowledge_task_heartbeat", lambda task: heard.append(acknowledge(task)))
    try:
        for _ in range(5):
            forward(0.7 * HEARTBEAT_PATIENCE * HEARTBEAT_DEFAULT_INTERVAL)
            before = len(heard)
            settle(lambda: len(heard) >= before + 2)  # noqa: B023 - called at once; the first may have been under way
            assert state.get_run_status({run})[run].status == Status.RUNNING
        assert all(heard)
    finally:
        fleet.close()


def test_runs_follow_each_other_over_one_superlink(fleet) -> None:
    fleet.join("a")
    fleet.wait_for("a")
    fleet.ask(instruction(1), "a")
    fleet.grid.close()
    with fleet.link.grid() as grid:
        fleet.transport = fleet.link.transport(grid)
        fleet.wait_for("a")
        assert fleet.ask(instruction(2), "a")["a"].reply.body == {"round": 2}


def test_an_idle_agent_asks_once_in_many_seconds(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    pull = Connection.pull
    monkeypatch.setattr(Connection, "pull", lambda self, wait: (asked.append(wait), pull(self, wait))[1])
    fleet.join("a")
    fleet.wait_for("a")
    settle(lambda: fleet.link._mailbox._waiting)
    time.sleep(1.0)
    assert len(asked) == 1 and 84.0 <= asked[0] <= 120.0  # jitter on the seconds of these tests' pace


def test_a_flower_client_without_tacits_routes_is_refused_when_it_registers_itself(fleet) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=HANGS_SECONDS)
    connection.request("POST", "/v1/fleet/register-node", b"", {"content-type": "application/x-protobuf"})
    answer = connection.getresponse()
    assert answer.status == 401 and answer.read() == b"not signed by a node of this federation"
    connection.close()
