"""Lines that break at any byte cost time and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from tacit.client.connection import Unreachable
from tacit.models.messages import Instruction

from ...bad_line import BadLine  # noqa: TID252 - tests are no package that could be named
from ...settle import HANGS_SECONDS  # noqa: TID252 - tests are no package that could be named


@pytest.fixture
def lines() -> Iterator[list[BadLine]]:
    made: list[BadLine] = []
    yield made
    for line in made:
        line.close()


@pytest.mark.parametrize(("size", "longest"), [(0, 12_000), (400_000, 12_000_000)])
def test_every_answer_arrives_whole_over_lines_that_keep_breaking(
    fleet, lines: list[BadLine], size: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A node that takes longer to come back is taken as gone; who is asked then is asked again by the round engine.
    monkeypatch.setattr("tacit.server.fleet_routes.RETURN_SECONDS", HANGS_SECONDS)
    for seed, name in enumerate(("a", "b", "c")):
        lines.append(BadLine(fleet.port, seed, longest))
        fleet.join(name, port=lines[-1].port)
    vector = np.arange(size, dtype=np.float32)
    for number in range(20):
        fleet.wait_for("a", "b", "c")
        asked = Instruction("train", "run", number, 0, b"plan", {}, {"vector": vector}, bytes(300))
        arrivals = fleet.ask(asked, "a", "b", "c")
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
        with pytest.raises(Unreachable, match="no answer in time"):
            connection.alive()
