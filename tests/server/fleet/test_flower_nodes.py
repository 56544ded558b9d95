"""A node that speaks Flower alone takes part over the same port, if its key was admitted."""

import time

import numpy as np
import pytest
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, push_objects
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_connection import http_request_response

from tacit.client.app import instruction_from, reply_records
from tacit.models.messages import Instruction, Reply
from tacit.server.rounds import Request


def test_a_flower_node_gets_a_message_and_its_answer_comes_back(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.server.fleet_grid.LOOK_SECONDS", 0.1)
    private, public = generate_key_pairs()
    node = fleet.link.admit(public_key_to_bytes(public), "flower")
    vector = np.arange(100, dtype=np.float32)
    with http_request_response(
        f"127.0.0.1:{fleet.port}", insecure=True, authentication_keys=(private, public), max_retries=0
    ) as (own, receive, send, get_run, _, pull_object, push_object, confirm):
        assert own == node
        fleet.wait_for("flower")
        asked = Instruction("train", "run", 4, 0, b"plan", {}, {"vector": vector}, b"hello")
        fleet.transport.send([Request("flower", asked)])
        head, tree = receive()
        run = head.metadata.run_id
        assert get_run(run).run_id == fleet.grid.run.run_id
        message = pull_and_inflate_object_from_tree(
            tree, lambda name: pull_object(run, name), lambda name: confirm(run, name), return_type=Message
        )
        message.metadata.__dict__["_message_id"] = tree.object_id
        seen = instruction_from(message)
        assert (seen.round, seen.message) == (4, b"hello")
        answer = Message(reply_records(Reply(message=b"back", arrays=dict(seen.arrays))), reply_to=message)
        answer.metadata.__dict__["_message_id"] = answer.object_id
        missing, session = send(answer, get_object_tree(answer), 0.1)
        objects = get_all_nested_objects(answer)
        time.sleep(0.3)  # the grid looks meanwhile, and finds an answer whose objects are not there
        assert list(fleet.transport.arrivals(fleet.transport.now() + 0.3)) == []
        push_objects(
            objects, lambda name, content: push_object(run, session, name, content), object_ids_to_push=missing
        )
        arrival = fleet.collect(1)["flower"]
    assert arrival.reply.message == b"back"
    np.testing.assert_array_equal(arrival.reply.arrays["vector"], vector)


def test_a_flower_node_that_leaves_is_a_lost_client(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.server.fleet_grid.LOOK_SECONDS", 0.1)
    private, public = generate_key_pairs()
    fleet.link.admit(public_key_to_bytes(public), "flower")
    with http_request_response(
        f"127.0.0.1:{fleet.port}", insecure=True, authentication_keys=(private, public), max_retries=0
    ):
        fleet.wait_for("flower")
        fleet.transport.send([Request("flower", Instruction("train", "run", 4, 0, b"plan"))])
    arrival = fleet.collect(1)["flower"]
    assert arrival.reply is None and arrival.reason == f"the node failed (code {ErrorCode.NODE_UNAVAILABLE})"
