"""Lines that break at any byte cost time and nothing else."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tacit.models.messages import Instruction


class BadLine:
    """A way to a port whose connections break, each after a number of bytes drawn for it in one direction."""

    def __init__(self, port: int, seed: int, longest: int) -> None:
        self.broken = 0
        self._to = port
        self._drawn = random.Random(seed)
        self._longest = longest
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._start(self._accept)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            reset(connection)
        for thread in self._threads:
            thread.join(5)

    def _start(self, target, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listening.accept()
                outer = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._open += [inner, outer]
            budgets = [self._drawn.randrange(1, self._longest), 1 << 40]
            self._drawn.shuffle(budgets)
            self._start(self._carry, inner, outer, budgets[0])
            self._start(self._carry, outer, inner, budgets[1])

    def _carry(self, source: socket.socket, to: socket.socket, budget: int) -> None:
        try:
            while piece := source.recv(min(65536, budget)):
                to.sendall(piece)
                budget -= len(piece)
                if budget == 0:
                    self.broken += 1
                    break
        except OSError:
            pass
        reset(source), reset(to)


def reset(connection: socket.socket) -> None:
    """Close a connection as a cut line does: without a farewell."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


@pytest.fixture
def lines() -> Iterator[list[BadLine]]:
    made: list[BadLine] = []
    yield made
    for line in made:
        line.close()


@pytest.mark.parametrize(("size", "longest"), [(0, 12_000), (400_000, 12_000_000)])
def test_every_answer_arrives_whole_over_lines_that_keep_breaking(
    fleet, lines: list[BadLine], size: int, longest: int
) -> None:
    for seed, name in enumerate(("a", "b", "c")):
        lines.append(BadLine(fleet.port, seed, longest))
        fleet.join(name, port=lines[-1].port)
    vector = np.arange(size, dtype=np.float32)
    for number in range(20):
        fleet.wait_for("a", "b", "c")
        asked = Instruction("train", "run", number, 0, b"plan", {}, {"vector": vector}, bytes(300))
        arrivals = fleet.ask(asked, "a", "b", "c", seconds=15)
        # A node is taken as gone while it is on its way back; who is asked then is asked again by the round engine.
        answered = {name: arrival.reply for name, arrival in arrivals.items() if arrival.reply is not None}
        for reply in answered.values():
            assert reply.body == {"round": number}
            np.testing.assert_array_equal(reply.arrays["vector"], vector)
        assert set(answered) == {"a", "b", "c"}, {name: arrival.reason for name, arrival in arrivals.items()}
    assert sum(line.broken for line in lines) > 5
    assert len(fleet.grid._state.object_store) == 0


def test_an_agent_behind_a_line_that_swallows_everything_gives_up_waiting(fleet) -> None:
    """The other side is there and says nothing: the request ends by time, and the next one goes another way."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        fleet.enrol("a")
        connection = fleet.connection("a", port=deaf.getsockname()[1])
        connection._seconds = 0.3
        began = time.monotonic()
        with pytest.raises(Exception, match="no answer in time"):
            connection.alive()
        assert 0.2 < time.monotonic() - began < 2
