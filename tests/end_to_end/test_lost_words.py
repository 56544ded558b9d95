"""Requests and answers that are lost on the way, come twice or are changed: the bytes stay the same, or are refused."""

from __future__ import annotations

import http.client
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from tacit.client.fleet import received, sent
from tacit.models.messages import MASKED_ACTIONS
from tacit.models.wire import PULL, PUSH, Frames, framed
from tacit.privacy.codec import sha256
from tacit.server.population_ledger import read_ledger
from tacit.server.store import open_store

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .exchanges import Exchanges, Step, about, content_of, headers  # noqa: TID252 - tests are no package
from .wards import NAMES, Commands, Wards, is_the_same, tensors  # noqa: TID252
from .wire_proxy import Call, HttpWire  # noqa: TID252 - tests are no package that could be named

ROUNDS = 2
WAYS = ("request", "answer", "thanks")


@pytest.fixture
def federation(tmp_path: Path, seeded_commands: Commands) -> Iterator[Callable[..., tuple[Wards, HttpWire, Exchanges]]]:
    """Bring a federation up behind a line; the recipe waits for its turn."""
    ends: list[Callable[[], None]] = []

    def brought_up(loses: Callable[[Call, Exchanges], bool], rounds: int) -> tuple[Wards, HttpWire, Exchanges]:
        port = free_port()
        through = free_port()
        wards = Wards(tmp_path, seeded_commands, rounds=rounds, port=port, through=through)
        ends.append(wards.close)
        known = Exchanges.of(wards)
        wire = HttpWire(port, lambda call: loses(call, known), port=through, ends=wards.ends)
        ends.append(wire.close)
        wards.up()
        wards.enrol()
        wards.join()
        return wards, wire, known

    yield brought_up
    for end in ends:
        end()


@pytest.mark.slow
def test_whatever_is_lost_once_in_every_exchange_changes_no_bit_and_nobody_is_missed(federation) -> None:
    lost: Counter[tuple[str, Step]] = Counter()

    def loses(call: Call, known: Exchanges) -> bool:
        step = known.step(call)
        if step is None:
            return False
        way = "request" if call.path == PULL else "answer" if call.answer is None else "thanks"
        # Each thing once: what comes again goes through.
        lost[way, step] += 1
        return lost[way, step] == 1

    wards, wire, known = federation(loses, ROUNDS)
    wards.begin()
    run = wards.finish()
    attempts = wards.attempts(run)
    assert [(one.number, one.attempt, one.outcome) for one in attempts] == [
        (at, 0, "committed") for at in range(ROUNDS + 1)
    ]
    for attempt in attempts:
        assert {one.client: one.outcome for one in attempt.participation} == dict.fromkeys(NAMES, "reported")
    steps = {
        Step(name, action, f"{number}.0") for name in NAMES for action in MASKED_ACTIONS for number in range(ROUNDS + 1)
    }
    # Every request, every answer and every acknowledgement of every exchange was lost once, and what was repeated
    # after that was the same bytes.
    assert set(lost) == {(way, step) for way in WAYS for step in steps}
    assert wire.cuts == len(WAYS) * len(steps) == sum(call.lost for call in wire.calls)
    assert {len(said) for said in known.bodies.values()} == {1}
    for name in NAMES:
        left = Counter(
            (entry["details"]["round"], entry["details"]["what"])
            for entry in wards.account(name)
            if entry["kind"] == "message-left"
        )
        assert left == {(number, action): 1 for number in range(ROUNDS + 1) for action in MASKED_ACTIONS}
        assert len(wards.owners[name].ledger("patients", "client").ledger.settled) == ROUNDS
    with open_store(wards.hub.db, create=False) as store:
        ledger = read_ledger(store, f"run/{run}", "client")
    assert ledger is not None and len(ledger.settled - ledger.voided) == ROUNDS and not ledger.waiting
    assert is_the_same(wards.model(run), tensors(wards.simulated(run).directory))


@pytest.mark.slow
def test_a_second_answer_and_a_second_request_that_differ_are_refused_and_written_down(federation) -> None:
    """Every agent gets a changed request after each that it answered; one agent answers each message once more."""
    liar = NAMES[0]
    last: dict[str, bytes] = {}  # agent to what its last pull brought
    changed: dict[str, list[str]] = defaultdict(list)  # agent to the exchanges of which it got a changed request
    refusals: dict[Step, tuple[int, int]] = {}  # what the same answer gets that comes again, and another one

    def loses(call: Call, known: Exchanges) -> bool:
        step = known.step(call)
        if call.path == PULL and call.answer is not None and call.status == 200:
            agent = known.agent(call)
            if step is not None and agent in last and (before := about(last[agent])[0]) not in changed[agent]:
                # Instead of the next request, the last one again, with one bit changed.
                changed[agent].append(before)
                call.answer = with_content(call.answer, altered_request(last[agent]))
            else:
                last[agent] = content_of(call.answer)
        if step is not None and step.agent == liar and call.path == PUSH and call.answer and call.status == 200:
            again = wards_ask(wards, call.request, content_of(call.request))
            refusals[step] = again, wards_ask(wards, call.request, altered_answer(content_of(call.request)))
        return False

    wards, _, _ = federation(loses, 1)
    wards.begin()
    run = wards.finish()
    twice = (http.client.OK, http.client.CONFLICT)
    assert refusals == {Step(liar, action, f"{number}.0"): twice for action in MASKED_ACTIONS for number in (0, 1)}
    assert (
        wards.log.count("answered one message twice, differently; the second answer is refused") == len(refusals) == 10
    )
    for attempt in wards.attempts(run):
        assert attempt.attempt == 0 and attempt.outcome == "committed"
        assert {one.client: one.outcome for one in attempt.participation} == dict.fromkeys(NAMES, "reported")
    for name in NAMES:
        assert changed[name] == list(MASKED_ACTIONS)
        refused = [entry["details"] for entry in wards.account(name) if entry["kind"] == "round-failed"]
        assert [details["what"] for details in refused] == changed[name]
        assert all(details["code"] in ("unexpected-message", "unknown-attempt") for details in refused), refused
        assert len(wards.owners[name].ledger("patients", "client").ledger.settled) == 1
    assert is_the_same(wards.model(run), tensors(wards.simulated(run).directory))


def wards_ask(wards: Wards, request: bytes, body: bytes) -> int:
    """Send another body under an agent's own headers, as only the agent and whoever ends its TLS can."""
    connection = http.client.HTTPSConnection("127.0.0.1", wards.port, timeout=60, context=wards.ends.client())
    try:
        own = {name: value for name, value in headers(request).items() if name.startswith("tacit-")}
        connection.request("POST", PUSH, body, own)
        return connection.getresponse().status
    finally:
        connection.close()


def with_content(answer: bytes, content: bytes) -> bytes:
    head = answer.partition(b"\r\n\r\n")[0]
    head = re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % len(content), head)
    return head + b"\r\n\r\n" + content


def altered_request(body: bytes) -> bytes:
    """Return a message to an agent of which one bit of the protocol's own bytes differs, and every name fits."""
    payloads = list(Frames().feed(body))
    message = received(payloads)
    other = make_message(message.metadata, flipped(message.content, "instruction"))
    return b"".join(framed([head_of(other), *contents_of(other)]))


def altered_answer(body: bytes) -> bytes:
    """Return an agent's answer of which one bit differs."""
    payloads = list(Frames().feed(body))
    request = PushMessagesRequest.FromString(payloads[0])
    head = message_from_proto(request.messages_list[0])
    contents = {sha256(content).hex(): content for content in payloads[1:]}
    message = inflate_object_from_contents(head.metadata.message_id, contents)
    assert isinstance(message, Message)
    return b"".join(framed(sent(make_message(head.metadata, flipped(message.content, "reply")))))


def flipped(content: RecordDict, name: str) -> RecordDict:
    config = content[name]
    assert isinstance(config, ConfigRecord) and isinstance(config["message"], bytes)
    message = config["message"]
    other = ConfigRecord(dict(config) | {"message": message[:-1] + bytes([message[-1] ^ 1])})
    return RecordDict({**content, name: other})


def head_of(message: Message) -> bytes:
    message.metadata.__dict__["_message_id"] = message.object_id
    return message_to_proto(remove_content_from_message(message)).SerializeToString()


def contents_of(message: Message) -> list[bytes]:
    return [found.deflate() for found in get_all_nested_objects(message).values()]
