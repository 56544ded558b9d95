"""Flower's Grid within the SuperLink's own process: messages go into LinkState and the object store without HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, cast

from flwr.app import DEFAULT_TTL, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID, ErrorCode, SubStatus
from flwr.common.serde import message_to_proto
from flwr.server.superlink.linkstate import LinkState
from flwr.serverapp import Grid
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.run import Run

from tacit.server.mailbox import Letter, Mailbox
from tacit.server.spool import BESIDE_VECTORS, LARGEST, Spool

HEARTBEAT_SECONDS = 15.0  # Flower gives up a run that says nothing for 60
LOOK_SECONDS = 5.0


class FleetGrid(Grid):
    """A Grid for one run of a federation.

    An answer that came through Tacit's own routes is found at once. Answers of nodes that speak Flower alone, and
    nodes that have gone, are looked for every few seconds, as nobody says when they come.

    Args:
        state: the SuperLink's LinkState.
        mailbox: the open letters.
        clock: seconds, for what is looked for again and again.
    """

    def __init__(self, state: LinkState, mailbox: Mailbox, clock: Callable[[], float] = time.monotonic) -> None:
        """Register a run that is under way from now on, and keep it so."""
        self._state = state
        self._mailbox = mailbox
        self._clock = clock
        self._run_id = state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        self._run = state.get_run_info(run_ids=[self._run_id])[0]
        self._task = cast(int, self._run.primary_task_id)
        if state.claim_task(self._task) is None or not state.activate_task(self._task):
            raise RuntimeError("the SuperLink did not start the run")
        self._open: set[str] = set()
        self._room = LARGEST
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="run-heartbeat", daemon=True)
        self._heart.start()

    @property
    def run(self) -> Run:
        """Return the run's description."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Refuse: a grid is made with its run."""
        raise RuntimeError("the grid of a fleet has its run already")

    def __enter__(self) -> Self:
        """Return the grid."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run."""
        self.close()

    def close(self) -> None:
        """End the run and forget what belongs to it; a second call does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._heart.join()
        self.discard()
        self._state.finish_task(self._task, SubStatus.COMPLETED, "")
        self._state.cleanup_run(self._run_id)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message of this run."""
        metadata = Metadata(
            run_id=self._run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=dst_node_id,
            reply_to_message_id="",
            group_id=group_id,
            created_at=time.time(),
            ttl=ttl or DEFAULT_TTL,
            message_type=message_type,
            src_task_id=self._task,
        )
        metadata.delivered_at = ""
        return make_message(metadata, content)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are there."""
        return self._state.get_nodes(self._run_id)

    def expect(self, vector_bytes: int | None) -> None:
        """Refuse answers to what is pushed from now on whose vectors have more bytes; None for as much as any may."""
        self._room = LARGEST if vector_bytes is None else min(vector_bytes + BESIDE_VECTORS, LARGEST)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Store messages with all they hold, and only then tell the nodes; the id of one that is refused is empty."""
        identifiers, letters = [], []
        with no_object_id_recompute():  # what goes to everybody is hashed once
            for message in messages:
                letter = self._store(message)
                identifiers.append(letter.message if letter else "")
                if letter:
                    letters.append(letter)
        self._open.update(letter.message for letter in letters)
        self._mailbox.post(letters)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers that are there, or errors for those that will not come."""
        found = []
        for identifier in message_ids:
            letter = self._mailbox.get(identifier)
            if letter is None:
                continue
            now = self._clock()
            if not letter.answered and now - letter.looked < LOOK_SECONDS:
                continue
            letter.looked = now
            reply = self._answer_to(letter)
            if reply is not None:
                self._forget([identifier])
                found.append(reply)
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the answers that come in time."""
        pending = {identifier for identifier in self.push_messages(messages) if identifier}
        until = None if timeout is None else self._clock() + timeout
        replies: list[Message] = []
        while pending and (until is None or self._clock() < until):
            replies += self.pull_messages(pending)
            pending -= {reply.metadata.reply_to_message_id for reply in replies}
            if pending:
                self.wait(0.5)
        return replies

    def wait(self, seconds: float) -> None:
        """Return when there is an answer, or after some seconds."""
        self._mailbox.wait(self._open, seconds)

    def discard(self) -> None:
        """Forget every message that was not answered."""
        self._forget(tuple(self._open))

    def _store(self, message: Message) -> Letter | None:
        session = self._state.start_session(self._run_id)
        metadata = message.metadata
        metadata.__dict__["_message_id"] = message.object_id
        objects = get_all_nested_objects(message)
        tree = get_object_tree(message)
        bare = remove_content_from_message(message)
        head = message_to_proto(bare).SerializeToString()
        stored, missing = self._state.store_message_and_object_tree(bare, tree, session)
        if not stored:
            return None
        for identifier in dict.fromkeys(missing):
            if not self._state.store_object(self._run_id, session, identifier, objects[identifier].deflate()):
                self._state.delete_messages({metadata.message_id})
                return None
        names = dict.fromkeys(node.object_id for node in iterate_object_tree(tree))
        looked = self._clock()
        return Letter(metadata.message_id, metadata.dst_node_id, head, tuple(names), self._room, looked=looked)

    def _answer_to(self, letter: Letter) -> Message | None:
        """Return the answer to a letter if all of it is there, an error if there will be none, and None otherwise."""
        try:
            if not letter.reply:
                arrived = self._state.get_message_res({letter.message}, self._run_id)
                if not arrived or arrived[0].has_error():
                    return arrived[0] if arrived else None
                letter.reply = arrived[0].metadata.message_id
            spool = letter.spool or Spool()
            contents = self._contents(letter, spool)
            if contents is None:
                return None if not letter.answered else self._lost(letter)
            inflated = inflate_object_from_contents(letter.reply, contents, objects=spool.objects(contents))
            if isinstance(inflated, Message) and inflated.has_content():
                spool.fill(inflated.content)
        except Exception:  # noqa: BLE001 - the objects are a stranger's, and Flower says nowhere what it raises
            return self._lost(letter)
        if not isinstance(inflated, Message):
            return self._lost(letter)
        inflated.metadata.__dict__["_reply_to_message_id"] = letter.message  # whatever its sender wrote there
        return inflated

    def _contents(self, letter: Letter, spool: Spool) -> dict[str, bytes] | None:
        """Return what an answer is made of but for what is in the spool; None if something is missing."""
        names = [name for name in letter.brought or self._tree_of(letter.reply) if name not in spool]
        found = {name: self._state.object_store.get(name) for name in names}
        contents = {name: content for name, content in found.items() if content}
        return contents if len(contents) == len(found) else None

    def _tree_of(self, reply: str) -> list[str]:
        """Return the names of all that the answer of a node holds that speaks Flower alone; its id if none is known.

        Of nobody else: the store writes a whole tree out, and one whose branches are named twice doubles at each level.
        """
        try:
            tree = self._state.object_store.get_object_tree(reply)
        except NoObjectInStoreError:
            return [reply]
        return [node.object_id for node in iterate_object_tree(tree)]

    def _lost(self, letter: Letter) -> Message:
        metadata = Metadata(
            run_id=self._run_id,
            message_id="",
            src_node_id=letter.node,
            dst_node_id=SUPERLINK_NODE_ID,
            reply_to_message_id=letter.message,
            group_id="",
            created_at=time.time(),
            ttl=1.0,
            message_type="system",
        )
        return make_message(metadata, error=Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE))

    def _forget(self, messages: Sequence[str]) -> None:
        gone = self._mailbox.withdraw(messages)
        self._open.difference_update(messages)
        self._state.delete_messages({letter.message for letter in gone})
        for letter in gone:
            self._state.object_store.delete(letter.message)
            # One by one, as a stranger's tree may be no tree: what hangs on nothing would stay for ever.
            for name in (letter.reply, *reversed(letter.brought)):
                self._state.object_store.delete(name)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            self._state.acknowledge_task_heartbeat(self._task)
