"""Requests and answers over a Flower Grid."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from numpy.typing import NDArray

from tacit.models.messages import ELIDED_ACTIONS, MASKED_ACTIONS, RECEIPT_ACTION, Instruction, Reply
from tacit.server.rounds import Request
from tacit.server.transport import Arrival

MESSAGE_TYPES = {
    "prepare": "query.prepare",
    "train": "train.plain",
    RECEIPT_ACTION: f"query.{RECEIPT_ACTION}",
} | {action: f"train.{action}" for action in (*MASKED_ACTIONS, *ELIDED_ACTIONS)}
DTYPES = frozenset({"float32", "float64", "uint8", "int32"})  # of the vectors that agents send
LONGEST_REASON = 500  # characters


def _failed(code: int) -> str:
    return f"the node failed (code {code})"


UNSENT = "the message could not be sent"
VANISHED = frozenset({UNSENT, _failed(ErrorCode.NODE_UNAVAILABLE)})
"""The reasons why there is no answer of nodes that were not there any more."""


class GridTransport:
    """A transport over a Grid; the agents' names are those of `names`, else their node ids.

    Args:
        grid: Flower's way to the nodes.
        names: node id to the agent's name; a node without one is never asked. None: the node ids are the names.
        now: the clock of the deadlines.
        pause: called with seconds while nothing has arrived.
        forget: called when the open messages are given up.
        expect: called before messages are pushed, with the bytes that the vectors of an answer have at most; None if
            nobody knows.
        share_memory: hand vectors over without copying, for a grid within the process only.
        by_name: list the agents by name. Ids that are drawn at random are no order that anybody could repeat.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        names: Mapping[int, str] | None = None,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        forget: Callable[[], None] = lambda: None,
        expect: Callable[[int | None], None] = lambda vector_bytes: None,
        share_memory: bool = False,
        by_name: bool = False,
    ) -> None:
        """Ask for nothing yet."""
        self._grid = grid
        self._names = names
        self._now = now
        self._pause = pause
        self._forget = forget
        self._expect = expect
        self._share_memory = share_memory
        self._by_name = by_name
        self._open: dict[str, str] = {}
        self._unsent: list[str] = []
        self._nodes: dict[str, int] = {}

    def clients(self) -> tuple[str, ...]:
        """Return the names of the nodes that are there, in the order of their ids, or of the names."""
        ids = sorted(self._grid.get_node_ids())
        if self._names is None:
            self._nodes = {str(node): node for node in ids}
        else:
            self._nodes = {self._names[node]: node for node in ids if node in self._names}
        return tuple(sorted(self._nodes) if self._by_name else self._nodes)

    def now(self) -> float:
        """Return the time of the deadlines."""
        return self._now()

    def send(self, requests: Sequence[Request]) -> None:
        """Push messages; one that Flower refuses, or to a node that has gone, shows as a lost client later."""
        packed = _Packer(self._share_memory)
        clients, messages = [], []
        for request in requests:
            node = self._nodes.get(request.client)
            if node is None:
                self._unsent.append(request.client)
                continue
            at = request.instruction
            clients.append(request.client)
            messages.append(
                self._grid.create_message(
                    packed.records(at), MESSAGE_TYPES[at.action], node, f"{at.round}.{at.attempt}"
                )
            )
        sizes = {request.vector_bytes for request in requests}
        self._expect(None if None in sizes else max((size for size in sizes if size is not None), default=0))
        # Flower returns nothing at all when the messages together are too large for it.
        identifiers = list(self._grid.push_messages(messages)) or [""] * len(messages)
        for client, identifier in zip(clients, identifiers, strict=True):
            if identifier:
                self._open[identifier] = client
            else:
                self._unsent.append(client)

    def arrivals(self, deadline: float) -> Iterator[Arrival]:
        """Pull replies; ask again a little later while there are none."""
        while self._unsent:
            yield Arrival(self._unsent.pop(0), None, UNSENT)
        delay = 0.02
        while self._open and self._now() < deadline:
            pulled = False
            for identifier in tuple(self._open):
                # A whole model may be in it: whoever asked for it is the only one to hold it.
                arrived = self._pull(identifier)
                if arrived:
                    pulled = True
                    yield arrived.pop()
            if pulled:
                return
            self._pause(min(delay, max(0.0, deadline - self._now())))
            delay = min(2 * delay, 1.0)

    def abandon(self) -> None:
        """Stop waiting for the open messages."""
        self._open.clear()
        self._unsent.clear()
        self._forget()

    def _pull(self, identifier: str) -> list[Arrival]:
        """Return the answer to a message, or nothing while there is none."""
        # One at a time: a grid holds everything in memory that it is asked for at once.
        for message in self._grid.pull_messages([identifier]):
            client = self._open.pop(identifier, None)
            if client is not None:
                return [_arrival(client, message)]
        return []


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
        config = ConfigRecord(
            {
                "header": header.encode(),
                "plan": instruction.plan,
                "message": instruction.message,
                "receipt": instruction.receipt,
            }
        )
        return RecordDict({"instruction": config, "arrays": self._arrays[key]})

    def _pack(self, vector: NDArray[Any]) -> Array:
        data = b"" if self._share_memory else vector.tobytes()
        array = Array(str(vector.dtype), tuple(vector.shape), "tacit.raw", data)
        if self._share_memory:
            array.data = vector.data.cast("B")  # type: ignore[assignment]
        return array


def _arrival(client: str, message: Message) -> Arrival:
    if message.has_error():
        # The code alone: Flower puts an exception's text beside it, which may hold a row of data.
        return Arrival(client, None, _failed(message.error.code))
    try:
        # Not through `config_records` and `array_records`: these make cycles of references that hold the whole message
        # until the garbage collector comes by, which it decides by the number of objects and not by their size.
        config, vectors = message.content["reply"], message.content["arrays"]
        if not isinstance(config, ConfigRecord) or not isinstance(vectors, ArrayRecord):
            raise TypeError("records of another kind")
        header = json.loads(config["header"])  # type: ignore[arg-type]
        arrays = {name: _vector(array) for name, array in vectors.items()}
        own = config["message"]
        if not isinstance(own, bytes):
            raise TypeError("not bytes")
        outcome = header["outcome"]
        if outcome not in ("ok", "refused", "failed"):
            raise ValueError("unknown outcome")
        return Arrival(client, Reply(outcome, _one_line(str(header["reason"])), dict(header["body"]), arrays, own))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        return Arrival(client, None, f"the reply cannot be read ({type(error).__name__})")


def _vector(array: Array) -> NDArray[Any]:
    if array.dtype not in DTYPES:
        raise ValueError("unknown type")
    vector: NDArray[Any] = np.frombuffer(array.data, dtype=array.dtype)
    if array.shape != vector.shape:
        raise ValueError("not a vector of the bytes that came")
    return vector


def _one_line(text: str) -> str:
    """Return a stranger's words as one line that a terminal and a database can take."""
    return "".join(character if character.isprintable() else " " for character in text[:LONGEST_REASON])
