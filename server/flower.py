"""Requests and answers over a Flower Grid."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from tacit.models.messages import Instruction, Reply
from tacit.server.rounds import Request
from tacit.server.transport import Arrival

MESSAGE_TYPES = {"prepare": "query.prepare", "train": "train", "evaluate": "evaluate"}


class GridTransport:
    """A transport over a Grid; the agents' names are those of `names`, else their node ids.

    Args:
        grid: Flower's way to the nodes.
        names: node id to the agent's name.
        now: the clock of the deadlines.
        pause: called with seconds while nothing has arrived.
        share_memory: hand vectors over without copying, for a grid within the process only.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        names: Mapping[int, str] | None = None,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        share_memory: bool = False,
    ) -> None:
        """Ask for nothing yet."""
        self._grid = grid
        self._names = names
        self._now = now
        self._pause = pause
        self._share_memory = share_memory
        self._open: dict[str, str] = {}
        self._unsent: list[str] = []
        self._nodes: dict[str, int] = {}

    def clients(self) -> tuple[str, ...]:
        """Return the names of the nodes that are there, in the order of their ids."""
        ids = sorted(self._grid.get_node_ids())
        self._nodes = {self._names[node] if self._names else str(node): node for node in ids}
        return tuple(self._nodes)

    def now(self) -> float:
        """Return the time of the deadlines."""
        return self._now()

    def send(self, requests: Sequence[Request]) -> None:
        """Push messages; one that Flower refuses shows as a lost client later."""
        packed = _Packer(self._share_memory)
        messages = []
        for request in requests:
            at = request.instruction
            content = packed.records(at)
            messages.append(
                self._grid.create_message(
                    content, MESSAGE_TYPES[at.action], self._nodes[request.client], f"{at.round}.{at.attempt}"
                )
            )
        for request, identifier in zip(requests, self._grid.push_messages(messages), strict=True):
            if identifier:
                self._open[identifier] = request.client
            else:
                self._unsent.append(request.client)

    def arrivals(self, deadline: float) -> Iterable[Arrival]:
        """Pull replies; ask again a little later while there are none."""
        while self._unsent:
            yield Arrival(self._unsent.pop(), None, "the message could not be sent")
        delay = 0.02
        while self._open and self._now() < deadline:
            pulled = False
            for message in self._grid.pull_messages(list(self._open)):
                pulled = True
                client = self._open.pop(message.metadata.reply_to_message_id, None)
                if client is not None:
                    yield _arrival(client, message)
            if pulled:
                return
            self._pause(min(delay, max(0.0, deadline - self._now())))
            delay = min(2 * delay, 1.0)

    def abandon(self) -> None:
        """Stop waiting for the open messages."""
        self._open.clear()
        self._unsent.clear()


class _Packer:
    """Packs a vector or plan that goes to many nodes once."""

    def __init__(self, share_memory: bool) -> None:
        self._share_memory = share_memory
        self._arrays: dict[tuple[int, ...], ArrayRecord] = {}

    def records(self, instruction: Instruction) -> RecordDict:
        header = json.dumps(
            {
                "action": instruction.action,
                "run": instruction.run,
                "round": instruction.round,
                "attempt": instruction.attempt,
                "body": dict(instruction.body),
            }
        )
        key = tuple(id(array) for array in instruction.arrays.values())
        if key not in self._arrays:
            record = ArrayRecord()
            for name, vector in instruction.arrays.items():
                record[name] = self._pack(vector)
            self._arrays[key] = record
        config = ConfigRecord({"header": header.encode(), "plan": instruction.plan})
        return RecordDict({"instruction": config, "arrays": self._arrays[key]})

    def _pack(self, vector: NDArray[Any]) -> Array:
        data = b"" if self._share_memory else vector.tobytes()
        array = Array(str(vector.dtype), tuple(vector.shape), "tacit.raw", data)
        if self._share_memory:
            array.data = memoryview(vector).cast("B")  # type: ignore[assignment]
        return array


def _arrival(client: str, message: Message) -> Arrival:
    if message.has_error():
        return Arrival(client, None, f"the node failed (code {message.error.code})")
    try:
        header = json.loads(message.content.config_records["reply"]["header"])  # type: ignore[arg-type]
        arrays = {
            name: np.frombuffer(array.data, dtype=array.dtype).reshape(array.shape)
            for name, array in message.content.array_records["arrays"].items()
        }
        outcome = header["outcome"]
        if outcome not in ("ok", "refused", "failed"):
            raise ValueError("unknown outcome")
        return Arrival(client, Reply(outcome, str(header["reason"])[:500], dict(header["body"]), arrays))
    except (KeyError, TypeError, ValueError) as error:
        return Arrival(client, None, f"the reply cannot be read ({type(error).__name__})")
