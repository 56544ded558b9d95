"""Answers as large as a model: on the disk until they are taken, once each, and refused where there is no room."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import threading
import time
import tracemalloc
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from tacit.client.app import reply_records
from tacit.client.connection import TurnedAway, Unreachable
from tacit.client.fleet import received, sent
from tacit.models.errors import InputError
from tacit.models.messages import Instruction, Reply
from tacit.models.wire import PUSH, Part, framed, framed_size, sealed_headers
from tacit.server.fleet_routes import LARGEST_PART, FleetRoutes
from tacit.server.rounds import Request
from tacit.server.spool import BESIDE_VECTORS, Spool

from ...settle import HANGS_SECONDS, settle  # noqa: TID252 - tests are no package that could be named

VECTOR = np.arange(3_000_000, dtype=np.float32)


def answer_to(payloads: list[bytes], **arrays: np.ndarray) -> list[bytes]:
    return sent(Message(reply_records(Reply(arrays=arrays)), reply_to=received(payloads)))


def pushing(fleet, length: int) -> socket.socket:
    """Return a line over which a member has announced an answer of so many bytes, and brought none of it yet."""
    headers = sealed_headers(fleet.identities["a"], PUSH, time.time())
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    line = socket.create_connection(("127.0.0.1", fleet.port), timeout=HANGS_SECONDS)
    line.sendall(f"POST {PUSH} HTTP/1.1\r\nhost: x\r\n{lines}content-length: {length}\r\n\r\n".encode())
    return line


def bringing(fleet) -> Spool | None:
    """Return what the only member's newest answer is written to as it comes."""
    (node,) = fleet.link.names
    return fleet.link._routes._bringing.get(node)


def asked(fleet, connection, vector_bytes: int | None = None) -> list[bytes]:
    connection.alive()
    fleet.wait_for("a")
    fleet.transport.send([Request("a", Instruction("train", "run", 1, 0, b"plan"), vector_bytes)])
    return connection.pull(0)


def test_an_answer_that_waits_is_not_in_memory_and_leaves_no_file(refleet, tmp_path: Path) -> None:
    place = tmp_path / "answers"
    fleet = refleet(spools=place)
    try:
        assert place.stat().st_mode & 0o777 == 0o700
        fleet.enrol("a")
        with fleet.connection("a") as connection:
            connection.push(answer_to(asked(fleet, connection), vector=VECTOR, few=VECTOR[:5]))
            held = fleet.grid._state.object_store
            assert sum(len(entry.content) for entry in held.store.values()) < VECTOR.nbytes / 100
            arrays = fleet.collect(1)["a"].reply.arrays
        np.testing.assert_array_equal(arrays["vector"], VECTOR)
        np.testing.assert_array_equal(arrays["few"], VECTOR[:5])
        assert not arrays["vector"].flags.owndata and not arrays["vector"].flags.writeable
        assert list(place.iterdir()) == [] and len(held) == 0
    finally:
        fleet.close()


def test_where_there_is_no_room_the_answer_is_brought_again_later(
    fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(spool: Spool, part: Part) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    fleet.enrol("a")
    with fleet.connection("a") as connection:
        answer = answer_to(asked(fleet, connection), vector=VECTOR)
        with monkeypatch.context() as patched:
            patched.setattr(Spool, "write", full)
            with pytest.raises(Unreachable, match="507"):
                connection.push(answer)
        assert "an answer cannot be taken in (No space left on device)" in caplog.text
        assert fleet.collect(1, seconds=0.1) == {}
        connection.push(answer)
        np.testing.assert_array_equal(fleet.collect(1)["a"].reply.arrays["vector"], VECTOR)


def test_an_answer_of_as_many_bytes_as_the_round_expects_is_taken(fleet) -> None:
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        connection.push(answer_to(asked(fleet, connection, VECTOR.nbytes), vector=VECTOR))
        np.testing.assert_array_equal(fleet.collect(1)["a"].reply.arrays["vector"], VECTOR)


@pytest.mark.parametrize("arrays", [{"vector": VECTOR}, {}], ids=["a vector", "the protocol's own bytes"])
def test_an_answer_that_is_larger_than_the_round_expects_is_cut_off(
    fleet, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray]
) -> None:
    written: list[int] = []
    write = Spool.write
    monkeypatch.setattr(Spool, "write", lambda spool, part: [written.append(len(part.content)), write(spool, part)][1])
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        reply = Reply(arrays=arrays, message=b"" if arrays else bytes(BESIDE_VECTORS))
        answer = sent(Message(reply_records(reply), reply_to=received(asked(fleet, connection, vector_bytes=0))))
        with pytest.raises(TurnedAway, match="the answer is too large") as refused:
            connection.push(answer)
        assert refused.value.status == 413
        assert sum(written) <= BESIDE_VECTORS and fleet.collect(1, seconds=0.1) == {}


@pytest.mark.parametrize("pieces", [2, 300], ids=["large objects", "chunks too small for the disk"])
def test_what_an_answer_holds_beside_its_vectors_does_not_fill_the_memory_in_their_stead(fleet, pieces: int) -> None:
    room = 16 << 20
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        records = reply_records(Reply())
        for at in range(pieces):
            content = at.to_bytes(2, "big") * (room // pieces // 4)
            if len(content) > LARGEST_PART:
                records[f"more-{at}"] = ConfigRecord({"bytes": content})
            else:
                records["arrays"][f"more-{at}"] = Array("uint8", (len(content),), "tacit.raw", content)
        answer = sent(Message(records, reply_to=received(asked(fleet, connection, room))))
        assert BESIDE_VECTORS < framed_size(answer) < room
        with pytest.raises(TurnedAway, match="the answer is too large") as refused:
            connection.push(answer)
        assert refused.value.status == 413
        held = fleet.grid._state.object_store
        assert sum(len(entry.content) for entry in held.store.values()) <= BESIDE_VECTORS


def test_an_answer_that_was_taken_is_not_written_when_it_comes_once_more(fleet, monkeypatch) -> None:
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        answer = answer_to(asked(fleet, connection), vector=VECTOR)
        connection.push(answer)
        assert len(fleet.collect(1)) == 1

        def never(spool: Spool, part: Part) -> str:
            raise AssertionError("nobody waits for it")

        monkeypatch.setattr(Spool, "write", never)
        connection.push(answer)


def test_a_member_brings_one_answer_at_a_time_and_the_latest_counts(fleet) -> None:
    """A line that broke looks whole to the coordinator for a while: what came over it must not fill the disk."""
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        answer = answer_to(asked(fleet, connection), vector=VECTOR)
        body = b"".join(framed(answer))
        with pushing(fleet, len(body)) as earlier:
            earlier.sendall(body[: len(body) // 2])
            settle(lambda: bringing(fleet))
            connection.push(answer)
            said = b""
            with suppress(OSError):  # refused while it was sending
                earlier.sendall(body[len(body) // 2 :])
                said = earlier.recv(4096)
        assert said.startswith(b"HTTP/1.1 503") or said == b""
        np.testing.assert_array_equal(fleet.collect(1)["a"].reply.arrays["vector"], VECTOR)


def test_an_answer_that_a_broken_line_gets_in_the_way_of_is_asked_for_again_and_not_lost(
    fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came over a line that has broken since can be looked at last, when the same answer comes over the next."""
    reached, late = threading.Event(), threading.Event()
    greet, order = FleetRoutes._greet, count()

    def in_turn(*arguments: Any) -> None:
        if next(order) == 0:
            reached.set()
            late.wait(HANGS_SECONDS)
        greet(*arguments)

    fleet.enrol("a")
    with fleet.connection("a") as connection:
        answer = answer_to(asked(fleet, connection), vector=VECTOR)
        body = b"".join(framed(answer))
        monkeypatch.setattr(FleetRoutes, "_greet", in_turn)
        with pushing(fleet, len(body)) as broken:
            assert reached.wait(HANGS_SECONDS)
            with pushing(fleet, len(body)) as whole:
                whole.sendall(body[:LARGEST_PART])
                settle(lambda: bringing(fleet))
                taken_for_newest = bringing(fleet)
                late.set()
                settle(lambda: bringing(fleet) != taken_for_newest)
                whole.sendall(body[LARGEST_PART : LARGEST_PART + 1])
                assert whole.recv(4096).startswith(b"HTTP/1.1 503")
            broken.close()
        connection.push(answer)
        np.testing.assert_array_equal(fleet.collect(1)["a"].reply.arrays["vector"], VECTOR)


def test_a_line_that_has_not_yet_said_what_it_answers_is_given_up_for_the_next_one(fleet) -> None:
    """Or one member could fill the memory with the beginnings of answers, over as many lines as there may be."""
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        answer = answer_to(asked(fleet, connection), vector=VECTOR)
        with pushing(fleet, BESIDE_VECTORS) as earlier:
            earlier.sendall((BESIDE_VECTORS // 2).to_bytes(4, "big") + bytes(1000))
            settle(lambda: bringing(fleet))
            connection.push(answer)
            earlier.sendall(bytes(1000))
            assert earlier.recv(4096).startswith(b"HTTP/1.1 503")
        np.testing.assert_array_equal(fleet.collect(1)["a"].reply.arrays["vector"], VECTOR)


def test_a_line_that_broke_and_is_registered_late_does_not_take_the_answer_from_the_next_one(
    fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registration that comes last is the only one that may store objects, and threads run in any order."""
    called, newer, over = [], threading.Event(), threading.Event()
    routes = fleet.link._routes
    register = routes._register

    def in_the_other_order(*arguments: object) -> object:
        called.append(arguments)
        first = len(called) == 1
        assert not first or newer.wait(HANGS_SECONDS)
        try:
            return register(*arguments)
        finally:
            (over if first else newer).set()
            assert over.wait(HANGS_SECONDS)

    monkeypatch.setattr(routes, "_register", in_the_other_order)
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        answer = answer_to(asked(fleet, connection), vector=VECTOR)
        with pushing(fleet, framed_size(answer)) as earlier:
            earlier.sendall(b"".join(framed(answer[:1])))
            settle(lambda: called)
            connection.push(answer)
        np.testing.assert_array_equal(fleet.collect(1)["a"].reply.arrays["vector"], VECTOR)


def test_lines_that_drip_do_not_keep_what_came_over_them_while_another_brings_it_again(refleet, tmp_path: Path) -> None:
    """Each could stay open for hours, as fast on the whole as it must be, with a whole answer on the disk."""
    fleet = refleet(spools=tmp_path / "answers")

    def on_disk() -> int:
        return sum(spool_bytes(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))

    def spool_bytes(name: str) -> int:
        try:
            return os.stat(name).st_size if os.readlink(name).startswith(str(tmp_path / "answers")) else 0
        except OSError:  # closed meanwhile
            return 0

    lines = []
    try:
        fleet.enrol("a")
        with fleet.connection("a") as connection:
            answer = answer_to(asked(fleet, connection), vector=VECTOR)
            body = b"".join(framed(answer))
            for _ in range(8):
                before = bringing(fleet)
                line = pushing(fleet, len(body))
                lines.append(line)
                line.sendall(body[: len(body) * 9 // 10])
                settle(lambda: bringing(fleet) not in (None, before))  # noqa: B023 - called at once
            settle(lambda: VECTOR.nbytes / 2 < on_disk() < VECTOR.nbytes)
            connection.push(answer)
            np.testing.assert_array_equal(fleet.collect(1)["a"].reply.arrays["vector"], VECTOR)
    finally:
        for line in lines:
            line.close()
        fleet.close()


@pytest.mark.parametrize(
    ("spoilt", "status"),
    [
        (lambda chunk: chunk[:-1] + bytes([chunk[-1] ^ 1]), 400),
        (lambda chunk: chunk[:-1], 400),
        (lambda chunk: chunk.replace(b"ArrayChunk  ", b"ArrayChunk x ", 1), 400),
        (lambda chunk: b"ConfigRecord" + chunk[10:], 413),  # of nothing but chunks there may be so much
    ],
)
def test_a_chunk_that_is_not_the_one_that_was_announced_is_refused(fleet, spoilt, status: int) -> None:
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        answer = answer_to(asked(fleet, connection), vector=VECTOR)
        place = next(at for at, payload in enumerate(answer) if payload.startswith(b"ArrayChunk"))
        with pytest.raises(TurnedAway) as refused:
            connection.push([*answer[:place], spoilt(answer[place]), *answer[place + 1 :]])
        assert refused.value.status == status
        connection.push(answer)
        np.testing.assert_array_equal(fleet.collect(1)["a"].reply.arrays["vector"], VECTOR)


def test_an_answer_that_is_given_up_while_it_comes_is_told_so(fleet) -> None:
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        answer = answer_to(asked(fleet, connection), vector=VECTOR)
        place = next(at for at, payload in enumerate(answer) if payload.startswith(b"ArrayChunk"))
        chunk = b"".join(framed(answer[: place + 1]))  # the answer up to the end of its first chunk
        with pushing(fleet, framed_size(answer)) as line:
            line.sendall(chunk[: len(chunk) // 2])
            settle(lambda: fleet.link.traffic.received >= len(chunk) // 2)  # what comes before the chunk is stored
            fleet.transport.abandon()
            line.sendall(chunk[len(chunk) // 2 :])
            said = b""
            while piece := line.recv(4096):
                said += piece
    assert said.startswith(b"HTTP/1.1 410") and said.endswith(b"the answer is not waited for any more")


class Endless(Array):
    """An array that is its only chunk again and again, and longer than any answer if there is another one like it."""

    def deflate(self) -> bytes:
        described = json.loads(super().deflate().partition(b"\0")[2])
        (chunk,), size = self.children, len(self.data)
        body = json.dumps(described | {"arraychunk_ids": [0] * (2**29 // size + 1)}).encode()
        return f"Array {chunk} {len(body)}\0".encode() + body


@pytest.mark.parametrize("size", [1000, 400_000])
def test_an_array_that_names_one_chunk_again_and_again_does_not_fill_the_memory(fleet, size: int) -> None:
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        payloads = asked(fleet, connection)
        records = reply_records(Reply())
        for name in ("a", "b"):
            records["arrays"][name] = Endless("uint8", (size,), "tacit.raw", name.encode() * size)
        answer = sent(Message(records, reply_to=received(payloads)))
        tracemalloc.start()
        try:
            connection.push(answer)
            assert fleet.collect(1)["a"].reply is None
            assert tracemalloc.get_traced_memory()[1] < 2**28
        finally:
            tracemalloc.stop()


def test_a_tree_that_doubles_at_each_level_is_never_written_out(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """In four kilobytes it can have forty levels, and the store has no other way to say what hangs on what."""
    looked: list[str] = []
    look = InMemoryObjectStore.get_object_tree
    monkeypatch.setattr(
        InMemoryObjectStore, "get_object_tree", lambda store, name: [looked.append(name), look(store, name)][1]
    )
    fleet.enrol("a")
    with fleet.connection("a") as connection:
        head, *objects = answer_to(asked(fleet, connection))
        knots = [ConfigRecord({"level": level}).deflate() for level in range(12)]
        names = [hashlib.sha256(knot).hexdigest() for knot in knots]
        knotted = ObjectTree(object_id=names[0])
        for below, name in pairwise(names):
            knotted = ObjectTree(object_id=name, children=[knotted, ObjectTree(object_id=below)])
        request = PushMessagesRequest.FromString(head)
        request.message_object_trees[0].children.insert(0, knotted)
        connection.push([request.SerializeToString(), *knots, *objects])
        assert fleet.collect(1)["a"].reply is not None
    assert len(looked) < 100 and len(fleet.grid._state.object_store) == 0


def test_a_message_that_names_one_chunk_again_and_again_does_not_fill_an_agents_memory(
    fleet, caplog: pytest.LogCaptureFixture
) -> None:
    member = fleet.join("a")
    fleet.wait_for("a")
    grid, (node,) = fleet.grid, fleet.link.names
    arrays = ArrayRecord()
    for name in ("a", "b", "c"):
        arrays[name] = Endless("uint8", (400_000,), "tacit.raw", name.encode() * 400_000)
    tracemalloc.start()
    try:
        list(grid.push_messages([grid.create_message(RecordDict({"x": arrays}), "train.plain", node, "1")]))
        settle(lambda: "a message came that cannot be read (ValueError)" in caplog.text)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    grid.discard()
    assert len(fleet.ask(Instruction("train", "run", 1, 0, b"plan"), "a")) == 1
    assert len(member.handler.seen) == 1


def test_a_place_for_answers_that_cannot_be_made_is_named(refleet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone/answers: cannot be made \(No such file or directory\)"):
        refleet(spools=tmp_path / "gone" / "answers")
