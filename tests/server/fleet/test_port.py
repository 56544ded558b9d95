"""The fleet port shows nothing but the fleet's own paths, and nobody can be large, slow or a stranger there."""

import http.client
import os
import re
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from flwr.proto.control_pb2 import ListRunsRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.superlink.main import create_app

from tacit.client.connection import Address, Connection, TurnedAway, Unreachable
from tacit.models.errors import InputError
from tacit.models.messages import Instruction, Reply
from tacit.models.wire import ALIVE, CLOCK_TOLERANCE, PULL, PUSH, sealed_headers
from tacit.privacy.identity import Identity
from tacit.server.fleet_routes import FLOWER_PATHS
from tacit.server.gate import Limits, reply
from tacit.server.mailbox import MOST_DELIVERIES
from tacit.server.superlink import SuperLink

from ...settle import HANGS_SECONDS, settle  # noqa: TID252 - tests are no package that could be named

Say = Callable[..., tuple[bytes, float]]


def post(port: int, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANGS_SECONDS)
    try:
        connection.putrequest("POST", path, skip_accept_encoding=True)
        for name, value in ({"content-length": str(len(body))} | (headers or {})).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def paths_of_flower() -> list[str]:
    """Every path that Flower's application answers."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = create_app().openapi()
    return sorted(schema["paths"])


def test_of_all_that_flower_serves_only_the_fleet_is_there(fleet) -> None:
    everything = paths_of_flower()
    hidden = [path for path in everything if path not in FLOWER_PATHS]
    assert len([path for path in hidden if path.startswith("/v1/control/")]) > 20
    assert len([path for path in hidden if path.startswith("/v1/runtime/")]) > 20
    assert set(everything) - set(hidden) == FLOWER_PATHS
    protobuf = {"content-type": "application/x-protobuf"}
    for path in [*hidden, "/", "/docs", "/metrics", "/openapi.json", "/v1/fleet", "/v1/fleet/", "/v1/fleet/tacit"]:
        assert post(fleet.port, path, headers=protobuf) == (404, b""), path
    assert {path for path, status in fleet.link.traffic.requests if status == 404} == {"other"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/pull-messages/../../control/list-runs",
        "/v1//fleet/pull-messages",
        "/v1/control%2Flist-runs",
        "//v1/control/list-runs",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages/",
        "/V1/FLEET/PULL-MESSAGES",
        "/enrol/../v1/control/list-runs",
        "/enrol/%2e%2e/v1/control/list-runs",
        "http://127.0.0.1/v1/control/list-runs",
    ],
)
def test_no_spelling_of_a_path_leads_around_the_gate(fleet, path: str) -> None:
    request = ListRunsRequest().SerializeToString()
    assert post(fleet.port, path, request, {"content-type": "application/x-protobuf"})[0] == 404


def test_a_task_cannot_be_taken_from_outside(fleet) -> None:
    asked = (
        AcquireTaskRequest(task_types=["flwr-serverapp"])
        if "task_types" in AcquireTaskRequest.DESCRIPTOR.fields_by_name
        else AcquireTaskRequest()
    )
    headers = {"content-type": "application/x-protobuf"}
    assert post(fleet.port, "/v1/runtime/acquire-task", asked.SerializeToString(), headers) == (404, b"")


def test_only_post_is_taken(fleet) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=HANGS_SECONDS)
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE"):
        connection.request(method, PULL)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 405


def test_enrolment_has_one_prefix_and_everything_else_of_it_is_not_there(refleet) -> None:
    seen: list[str] = []

    async def enrolment(scope, receive, send) -> None:
        seen.append(scope["path"])
        assert (await receive())["body"] == b"token"
        await reply(send, 200, b"welcome")

    fleet = refleet(enrolment=enrolment)
    try:
        assert post(fleet.port, "/enrol/new", b"token") == (200, b"welcome")
        for path in ("/enrol", "/enrol/../enrol/new", "/enrol/%6eew", "/enrol//new", "/enrolment/new"):
            assert post(fleet.port, path, b"token")[0] == 404
    finally:
        fleet.close()
    assert seen == ["/enrol/new"]


# Who asks


def test_a_stranger_is_told_that_its_key_is_not_enrolled(fleet) -> None:
    with Connection(Address("127.0.0.1", fleet.port), Identity(os.urandom(32))) as connection:
        with pytest.raises(TurnedAway, match="this key is not enrolled") as refused:
            connection.pull(0)
    assert refused.value.status == 401


def test_a_stranger_is_sent_away_before_its_body_is_read(fleet, say: Say) -> None:
    """Of the body nothing comes: whoever waited for it would say after a while that it comes too slowly."""
    for path in sorted({PUSH, PULL, *FLOWER_PATHS}):
        kind = "content-type: application/x-protobuf"
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{kind}\r\ncontent-length: 1000000\r\n\r\n"
        answer, _ = say(fleet.port, head.encode())
        assert answer.split(b" ", 2)[1] in (b"401", b"426"), path


def test_a_revoked_agent_is_sent_away_at_its_next_request_and_never_comes_back(fleet) -> None:
    fleet.enrol("clinic")
    connection = fleet.connection("clinic")
    connection.alive()
    fleet.link.revoke(fleet.identities["clinic"].public_key)
    with pytest.raises(TurnedAway, match="revoked"):
        connection.alive()
    with pytest.raises(InputError, match="revoked"):
        fleet.enrol("clinic")
    assert fleet.transport.clients() == ()


def test_an_agent_that_has_left_is_sent_away_until_it_is_admitted_again(fleet) -> None:
    node = fleet.enrol("clinic")
    connection = fleet.connection("clinic")
    connection.alive()
    fleet.link.dismiss(fleet.identities["clinic"].public_key)
    with pytest.raises(TurnedAway, match="has left"):
        connection.alive()
    assert fleet.transport.clients() == () and dict(fleet.link.names) == {}
    assert fleet.enrol("clinic") == node
    connection.alive()
    assert fleet.transport.clients() == ("clinic",)


def test_what_the_store_says_holds_from_the_very_next_request(refleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.server.fleet_grid.LOOK_SECONDS", 0.1)
    reasons: dict[bytes, str] = {}
    fleet = refleet(refusal=reasons.get)
    try:
        fleet.join("clinic"), fleet.join("bank")
        fleet.wait_for("clinic", "bank")
        key = fleet.identities["clinic"].public_key

        def revoked(instruction: Instruction) -> Reply:
            reasons[key] = "this key was revoked"
            return Reply(message=b"too late")

        fleet.members["clinic"].handler.act = revoked
        arrivals = fleet.ask(Instruction("train", "run", 1, 0, b""), "clinic", "bank")
        assert arrivals["bank"].reply is not None
        assert arrivals["clinic"].reply is None, "its answer came after it was revoked"
        settle(lambda: "revoked" in fleet.members["clinic"].resident.standing.trouble)
        assert fleet.members["clinic"].resident.standing.trouble.endswith("this key was revoked")
        assert fleet.transport.clients() == ("bank",)
    finally:
        fleet.close()


def test_a_message_is_not_handed_to_an_agent_that_was_revoked_while_it_waited(refleet) -> None:
    reasons: dict[bytes, str] = {}
    fleet = refleet(refusal=reasons.get)
    try:
        member = fleet.join("clinic")
        fleet.wait_for("clinic")
        settle(lambda: fleet.link._mailbox._waiting)
        reasons[member.identity.public_key] = "this key was revoked"
        fleet.ask(Instruction("train", "run", 1, 0, b""), "clinic", seconds=1.0)
        assert member.handler.seen == []
    finally:
        fleet.close()


def test_an_agent_that_waits_when_it_is_revoked_is_sent_away_at_once(fleet) -> None:
    member = fleet.join("clinic")
    fleet.wait_for("clinic")
    fleet.link.revoke(member.identity.public_key)
    settle(lambda: "turned" in member.resident.standing.trouble)
    assert member.resident.standing.trouble == "the coordinator turned the agent away: this key was revoked"


@pytest.mark.parametrize(("skew", "words"), [(-1, "behind"), (1, "ahead of")])
def test_a_wrong_clock_is_named(fleet, skew: int, words: str) -> None:
    fleet.enrol("clinic")
    apart = CLOCK_TOLERANCE + 100
    address, began = Address("127.0.0.1", fleet.port), time.time()
    with Connection(address, fleet.identities["clinic"], clock=lambda: time.time() + skew * apart) as connection:
        with pytest.raises(TurnedAway) as refused:
            connection.alive()
    said = re.search(f"clock is ([0-9]+) s {words} the coordinator's", str(refused.value))
    # The way there makes every clock seem behind by as long as it takes.
    seconds, taken = int(said[1]), time.time() - began
    assert -1 <= (seconds - apart) * -skew <= taken + 1


def test_a_wrong_clock_is_said_at_the_coordinator_too_once_until_it_is_right(
    fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.enrol("clinic")
    apart = [CLOCK_TOLERANCE + 100.0]
    address = Address("127.0.0.1", fleet.port)
    with Connection(address, fleet.identities["clinic"], clock=lambda: time.time() + apart[0]) as connection:
        for _ in range(3):
            with pytest.raises(TurnedAway, match="ahead of"):
                connection.alive()
        apart[0] = 0.0
        connection.alive()
        apart[0] = -CLOCK_TOLERANCE - 100.0
        with pytest.raises(TurnedAway, match="behind"):
            connection.alive()
    said = [record.getMessage() for record in caplog.records if record.name == "tacit.server.fleet_routes"]
    assert len(said) == 2 and all(line.startswith("clinic is turned away: its clock is ") for line in said)
    assert "ahead of" in said[0] and "behind" in said[1]


def test_an_agent_of_another_version_is_told_which_ones_meet_and_the_coordinator_once(
    fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.enrol("clinic")
    right = sealed_headers(fleet.identities["clinic"], ALIVE, time.time())
    for _ in range(3):
        status, text = post(fleet.port, ALIVE, headers=right | {"tacit-protocol": "7"})
        assert (status, text) == (426, b"this coordinator speaks version 1 of the protocol, the agent version 7")
    for stranger in ("", "no hex", "ab" * 32):
        assert post(fleet.port, ALIVE, headers=right | {"tacit-protocol": "7", "tacit-key": stranger})[0] == 426
    assert post(fleet.port, ALIVE, headers=right)[0] == 204  # it was brought up to date
    assert post(fleet.port, ALIVE, headers=right | {"tacit-protocol": "8\u00b2"})[0] == 426
    assert [record.getMessage() for record in caplog.records if record.name == "tacit.server.fleet_routes"] == [
        "clinic is turned away: it speaks version 7 of the protocol, not version 1",
        "clinic is turned away: it speaks no version of the protocol, not version 1",
    ]


@pytest.mark.parametrize("part", ["tacit-key", "tacit-time", "tacit-wait", "tacit-signature"])
def test_a_request_with_a_changed_header_is_not_the_agents(fleet, part: str) -> None:
    fleet.enrol("clinic")
    headers = sealed_headers(fleet.identities["clinic"], PULL, time.time(), 1.0)
    assert post(fleet.port, PULL, headers=headers | {"tacit-wait": "1000"})[0] == 204
    first = headers[part][0]
    headers[part] = ("1" if first != "1" else "2") + headers[part][1:]
    assert post(fleet.port, PULL, headers=headers)[0] == 401


def test_a_signature_for_one_path_is_none_for_another(fleet) -> None:
    fleet.enrol("clinic")
    headers = sealed_headers(fleet.identities["clinic"], ALIVE, time.time())
    assert post(fleet.port, ALIVE, headers=headers)[0] == 204
    assert post(fleet.port, PULL, headers=headers)[0] == 401


def test_a_key_keeps_its_node_and_two_keys_never_share_a_name(fleet) -> None:
    first = fleet.enrol("clinic")
    assert fleet.enrol("clinic") == first
    assert fleet.enrol("bank") != first
    with pytest.raises(InputError, match="another key has this name"):
        fleet.link.admit(Identity(os.urandom(32)).public_key, "bank")


@pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # of Flower's own migrations
def test_with_a_database_a_key_keeps_its_node_over_restarts(refleet, tmp_path) -> None:
    nodes = []
    identity = Identity(os.urandom(32))
    for _ in range(2):
        fleet = refleet(database=tmp_path / "superlink.db")
        fleet.identities["clinic"] = identity
        nodes.append(fleet.enrol("clinic"))
        fleet.join("clinic")
        fleet.wait_for("clinic")
        fleet.close()
    assert nodes[0] == nodes[1]


def test_who_is_there_and_when_it_last_asked_can_be_seen(fleet) -> None:
    began = time.time()
    fleet.enrol("away")
    fleet.join("there")
    fleet.wait_for("there")
    present = fleet.link.presence()
    assert (present["away"].online, present["away"].seen) == (False, None)
    assert present["there"].online and began <= present["there"].seen <= time.time()


# Size and speed


def test_a_huge_body_is_refused_by_its_length_before_it_is_read(fleet, say: Say) -> None:
    fleet.enrol("clinic")
    for path, size in ((PUSH, 2 << 30), ("/v1/fleet/push-object", 7 << 20)):
        signed = sealed_headers(fleet.identities["clinic"], path, time.time())
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{lines}content-length: {size}\r\n\r\n"
        answer, _ = say(fleet.port, head.encode())
        assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_grows_beyond_the_limit_without_saying_so_is_cut_off(refleet, say: Say) -> None:
    async def enrolment(scope, receive, send) -> None:
        raise AssertionError("reached")

    fleet = refleet(Limits(largest_enrolment=1 << 16), enrolment=enrolment)
    try:
        head = b"POST /enrol/new HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        piece = b"%x\r\n" % (1 << 15) + bytes(1 << 15) + b"\r\n"
        answer, _ = say(fleet.port, head, *[piece] * 5)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 413 ")
    finally:
        fleet.close()


def test_a_request_for_enrolment_is_small(refleet) -> None:
    async def enrolment(scope, receive, send) -> None:
        await reply(send, 200, str(len((await receive())["body"])).encode())

    fleet = refleet(enrolment=enrolment)
    try:
        assert post(fleet.port, "/enrol/new", bytes(64 << 10)) == (200, b"65536")
        assert post(fleet.port, "/enrol/new", bytes((64 << 10) + 1)) == (413, b"the body is too large")
    finally:
        fleet.close()


def test_whoever_takes_nothing_of_a_large_message_is_cut_off_and_may_ask_again(refleet) -> None:
    fleet = refleet(Limits(silence_seconds=1.0))
    vector = np.arange(5_000_000, dtype=np.float32)
    large = Instruction("train", "run", 1, 0, b"", arrays={"vector": vector})
    try:
        with fleet.asked("clinic", large) as connection:
            signed = sealed_headers(fleet.identities["clinic"], PULL, time.time())
            lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
            with socket.create_connection(("127.0.0.1", fleet.port), timeout=HANGS_SECONDS) as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.sendall(f"POST {PULL} HTTP/1.1\r\nhost: x\r\n{lines}content-length: 0\r\n\r\n".encode())
                hung_up = select.poll()
                hung_up.register(deaf, 0)
                assert hung_up.poll(HANGS_SECONDS * 1000), "it was waited for"
                with pytest.raises(ConnectionResetError):
                    while deaf.recv(1 << 20):
                        continue
            payloads = taken_whole(connection)
            assert sum(map(len, payloads)) > vector.nbytes
    finally:
        fleet.close()


def taken_whole(connection: Connection) -> list[bytes]:
    """Pull a message as an agent does: one that was too slow for this test's limits asks again."""
    for _ in range(MOST_DELIVERIES - 1):
        with suppress(Unreachable):
            return connection.pull(0) or []
    return []


def test_a_frame_that_claims_to_be_huge_is_refused(fleet) -> None:
    fleet.enrol("clinic")
    headers = sealed_headers(fleet.identities["clinic"], PUSH, time.time())
    assert post(fleet.port, PUSH, b"\xff\xff\xff\xff" + bytes(100), headers) == (400, b"a frame is too large")


@pytest.mark.parametrize("pieces", [(), (b"POST / HT",), (b"POST / HTTP/1.1\r\n", *[b"x: y\r\n"] * 9)])
def test_whoever_sends_no_whole_head_is_cut_off(hasty, say: Say, pieces: tuple[bytes, ...]) -> None:
    answer, seconds = say(hasty.port, *pieces, pause=0.1)
    assert answer == b"" and seconds > 0.4


def test_a_second_request_on_a_connection_has_no_more_time_than_the_first(refleet) -> None:
    fleet = refleet(Limits(header_seconds=2.0))
    try:
        fleet.enrol("clinic")
        signed = sealed_headers(fleet.identities["clinic"], ALIVE, time.time())
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        whole = f"POST {ALIVE} HTTP/1.1\r\nhost: x\r\n{lines}content-length: 0\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", fleet.port), timeout=HANGS_SECONDS) as connection:
            for _ in range(2):
                connection.sendall(whole)
                assert connection.recv(65536).startswith(b"HTTP/1.1 204")
            connection.sendall(b"POST /no")
            assert connection.recv(65536) == b""
    finally:
        fleet.close()


def test_endless_headers_are_cut_off(refleet, say: Say) -> None:
    fleet = refleet(Limits(header_seconds=2 * HANGS_SECONDS))
    try:
        answer, _ = say(fleet.port, b"POST / HTTP/1.1\r\n", *[b"x: " + b"y" * 2000 + b"\r\n"] * 20)
        assert answer == b""
    finally:
        fleet.close()


def test_a_body_that_stops_is_given_up(hasty, say: Say) -> None:
    hasty.enrol("clinic")
    signed = sealed_headers(hasty.identities["clinic"], PUSH, time.time())
    lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
    head = f"POST {PUSH} HTTP/1.1\r\nhost: x\r\n{lines}content-length: 1000\r\n\r\n"
    answer, seconds = say(hasty.port, head.encode(), b"\0")
    assert answer.startswith(b"HTTP/1.1 408 ") and seconds > 0.4


def test_a_body_that_drips_is_given_up(refleet, say: Say) -> None:
    fleet = refleet(Limits(patience_seconds=0.5, silence_seconds=2 * HANGS_SECONDS))
    try:
        fleet.enrol("clinic")
        signed = sealed_headers(fleet.identities["clinic"], PUSH, time.time())
        lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        head = f"POST {PUSH} HTTP/1.1\r\nhost: x\r\n{lines}content-length: 1000000\r\n\r\n"
        answer, _ = say(fleet.port, head.encode(), *[b"\0"] * 30, pause=0.1)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
    finally:
        fleet.close()


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\0" * 3000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_garbage_does_not_disturb_the_others(refleet, say: Say, garbage: bytes) -> None:
    fleet = refleet(Limits(header_seconds=2.0))
    try:
        say(fleet.port, garbage)
        fleet.enrol("clinic")
        fleet.connection("clinic").alive()
    finally:
        fleet.close()


def test_a_port_that_is_taken_is_named(fleet) -> None:
    with pytest.raises(InputError, match=f"127.0.0.1:{fleet.port}: cannot listen \\(Address already in use\\); "):
        SuperLink(port=fleet.port).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "clinic.example"])
def test_without_tls_nothing_outside_the_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(InputError, match="reachable from outside.*use TLS"):
        SuperLink(host)


def test_a_coordinator_that_is_not_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match="refused"):
        Connection(Address("127.0.0.1", port), Identity(os.urandom(32))).alive()
