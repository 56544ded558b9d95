"""Flower's Grid within one process: the same apps and messages as in a deployment, without Ray and without ports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from tacit.client.agent import Agent
from tacit.client.app import build_app as client_app
from tacit.server.app import build_app as server_app
from tacit.server.flower import GridTransport

Outcome = TypeVar("Outcome")

RUN_ID = 1
SERVER_NODE = 1
FIRST_NODE = 2
CLIENT_APP_RAISED = 2
LONGER_THAN_ANY_DEADLINE = 1e9  # seconds

Vanish = Callable[[int, str, str], bool]
"""Decides whether a node drops out: `(node id, message type, group id) -> gone`."""


class Federation(Protocol):
    """The agents of a simulation."""

    @property
    def agents(self) -> Mapping[int, Agent]:
        """Return the agents by node id."""

    @property
    def names(self) -> Mapping[int, str]:
        """Return their names by node id."""


class InProcessGrid(Grid):
    """Delivers each message when its reply is pulled, one at a time, in the order they were pushed.

    Time does not pass within a grid: `now` only moves when nothing is left to deliver, and then straight past every
    deadline, so that what a deadline decides does not depend on the speed of the machine.

    Args:
        client_app: the app that every node runs.
        nodes: how many nodes there are; their ids follow on `FIRST_NODE`.
        vanish: which messages are never answered; for tests of dropping out.
    """

    def __init__(self, client_app: ClientApp, nodes: int, vanish: Vanish = lambda node, kind, group: False) -> None:
        """Make one context a node, kept for the whole run."""
        self._client_app = client_app
        self._vanish = vanish
        self._contexts = {
            node: Context(RUN_ID, node, {"partition-id": node - FIRST_NODE, "num-partitions": nodes}, RecordDict(), {})
            for node in range(FIRST_NODE, FIRST_NODE + nodes)
        }
        self._queue: dict[str, Message] = {}
        self._sent = 0
        self._now = 0.0
        self._run = Run.create_empty(RUN_ID)

    def now(self) -> float:
        """Return the grid's own time in seconds."""
        return self._now

    def pause(self, seconds: float) -> None:
        """Let time pass: by then everybody who will ever answer has answered."""
        self._now += LONGER_THAN_ANY_DEADLINE

    def set_run(self, run: Run) -> None:
        """Keep the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """Return the run's description."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return tuple(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages and return their ids."""
        identifiers = []
        for message in messages:
            self._sent += 1
            identifier = f"message-{self._sent}"
            message.metadata.__dict__["_message_id"] = identifier
            self._queue[identifier] = message
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Deliver the first of these messages that is still queued and return its reply, if there is one."""
        for identifier in message_ids:
            message = self._queue.pop(identifier, None)
            if message is None:
                continue
            metadata = message.metadata
            if self._vanish(metadata.dst_node_id, metadata.message_type, metadata.group_id):
                continue
            return [self._deliver(message)]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push messages and return all replies."""
        pending = list(self.push_messages(messages))
        replies: list[Message] = []
        while pulled := list(self.pull_messages(pending)):
            replies += pulled
        return replies

    def discard(self) -> None:
        """Drop what was pushed and never pulled."""
        self._queue.clear()

    def _deliver(self, message: Message) -> Message:
        try:
            return self._client_app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # noqa: BLE001 - one node's failure must not end the run
            # The type alone travels: an exception's text may hold a row of data.
            return Message(Error(CLIENT_APP_RAISED, type(error).__name__), reply_to=message)


@contextmanager
def task_identity() -> Iterator[None]:
    """Give messages made in this process the identity that Flower wants outside its own processes."""
    names = ("_run_id", "_task_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 1, SERVER_NODE
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def server_context(run_config: Mapping[str, str] | None = None) -> Context:
    """Return the context that a ServerApp is called with."""
    return Context(RUN_ID, SERVER_NODE, {}, RecordDict(), dict(run_config or {}))


def run_in_process(federation: Federation, drive: Callable[[GridTransport], Outcome]) -> Outcome:
    """Run Tacit's own ServerApp and ClientApp over an in-process grid and return what `drive` returns.

    Args:
        federation: the agents by node id.
        drive: what the ServerApp does with the way to the agents.
    """
    outcomes: list[Outcome] = []
    grid = InProcessGrid(client_app(lambda context: federation.agents[context.node_id]), len(federation.agents))

    def main(given: Grid, context: Context) -> None:
        transport = GridTransport(
            given, names=federation.names, now=grid.now, pause=grid.pause, forget=grid.discard, share_memory=True
        )
        outcomes.append(drive(transport))

    with task_identity():
        server_app(main)(grid, server_context())
    return outcomes[0]
