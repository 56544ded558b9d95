"""The resident agent: one process that waits for its coordinator's messages and answers them, round after round.

While nothing is to be done, one request is open that the coordinator holds until there is a message; nothing is asked
in between. What a lost connection, a coordinator that starts again or a message that cannot be read do to an agent is
decided here, and none of them ends it.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol

from flwr.app import Array, Error, Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from tacit.client.app import instruction_from, reply_records
from tacit.client.connection import LARGEST_MESSAGE, Connection, TurnedAway, Unreachable, is_news
from tacit.models.messages import Instruction, Reply

_LOG = logging.getLogger(__name__)

CANNOT_BE_READ = 1  # of Flower's codes: the app could not be loaded


class Handler(Protocol):
    """Whoever answers instructions; an `Agent`."""

    def handle(self, instruction: Instruction) -> Reply:
        """Return the answer to an instruction."""
        ...


@dataclass(frozen=True)
class Pace:
    """How often an agent asks, in seconds; each time is drawn anew, so that agents do not fall into step.

    Attributes:
        wait: how long one request for a message waits at most.
        first_pause: after a request without an answer; doubled after each further one.
        longest_pause: what it grows to.
        turned_away_pause: after a refusal.
        pulse: how often an agent that computes says that it is there.
    """

    wait: float = 20.0
    first_pause: float = 0.2
    longest_pause: float = 30.0
    turned_away_pause: float = 15.0
    pulse: float = 12.0


@dataclass(frozen=True)
class Standing:
    """How an agent's loop stands.

    Attributes:
        trouble: why the coordinator is not reached, or turns the agent away; empty if it does neither.
        busy: whether a message is in hand.
        answered: how many messages were answered since the loop began.
    """

    trouble: str = ""
    busy: bool = False
    answered: int = 0


class Resident:
    """The loop of one agent.

    Args:
        connect: makes a connection to the coordinator.
        agent: answers the instructions.
        pace: how often to ask.
        draw: returns a number between two others, for the jitter.
        able: says whether the agent can answer anything more; asked after each answer, and the loop ends where it
            cannot.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        agent: Handler,
        *,
        pace: Pace | None = None,
        draw: Callable[[float, float], float] | None = None,
        able: Callable[[], bool] = lambda: True,
    ) -> None:
        """Ask for nothing yet."""
        self._connect = connect
        self._agent = agent
        self._pace = pace or Pace()
        self._able = able
        self._draw = draw or random.SystemRandom().uniform
        self._stopped = threading.Event()
        self._connection = connect()
        self._standing = Standing()
        self._failures = 0

    @property
    def standing(self) -> Standing:
        """Return how the loop stands; from any thread."""
        return self._standing

    def run(self) -> None:
        """Answer messages until `stop` is called, or the agent can answer no more."""
        try:
            while not self._stopped.is_set():
                self._turn()
        finally:
            self._connection.close()

    def stop(self) -> None:
        """Let `run` return as soon as it has nothing in hand; from another thread or a signal's handler."""
        self._stopped.set()
        self._connection.interrupt()

    def _turn(self) -> None:
        """Ask for a message, and answer it if there is one."""
        wait = self._pace.wait * self._draw(0.7, 1.0)
        try:
            payloads = self._connection.pull(wait)
        except Unreachable as error:
            self._pause(f"the coordinator cannot be reached: {error}")
            self._connection = self._connect()  # where it is, and whom to trust for it, may have changed
            return
        except TurnedAway as error:
            self._pause(f"the coordinator turned the agent away: {error}", self._pace.turned_away_pause)
            return
        self._reached()
        if payloads:
            self._answer(payloads)
            if not self._able():
                self._stopped.set()

    def _answer(self, payloads: Sequence[bytes]) -> None:
        self._standing = replace(self._standing, busy=True)
        try:
            self._take(payloads)
        finally:
            self._standing = replace(self._standing, busy=False)

    def _take(self, payloads: Sequence[bytes]) -> None:
        with self._pulse():
            try:
                message = received(payloads, self._connection.largest_message)
            except Exception as error:  # noqa: BLE001 - whatever came must not end the loop
                _LOG.warning("a message came that cannot be read (%s)", type(error).__name__)
                self._stopped.wait(self._pace.first_pause)
                return
            answer = sent(self._reply_to(message))
            del message, payloads  # a whole model; the answer may wait for its coordinator
            self._deliver(answer)

    def _reply_to(self, message: Message) -> Message:
        if message.has_error():
            return Message(Error(CANNOT_BE_READ), reply_to=message)
        try:
            return Message(reply_records(self._agent.handle(instruction_from(message))), reply_to=message)
        except Exception as error:  # noqa: BLE001 - one message must not end the loop
            # The kind alone: an exception's text may hold a row of data.
            _LOG.warning("a message could not be answered (%s)", type(error).__name__)
            return Message(Error(CANNOT_BE_READ, type(error).__name__), reply_to=message)

    def _deliver(self, answer: Sequence[bytes]) -> None:
        """Bring an answer, again and again until somebody says whether it is wanted; once if the loop was stopped."""
        while True:
            try:
                self._connection.push(answer)
            except Unreachable as error:
                if self._stopped.is_set():
                    return
                self._pause(f"the coordinator cannot be reached: {error}")
            except TurnedAway as error:
                _LOG.info("the coordinator did not take an answer: %s", error)
                return
            else:
                self._reached()
                self._standing = replace(self._standing, answered=self._standing.answered + 1)
                return

    @contextmanager
    def _pulse(self) -> Iterator[None]:
        """Say now and then that the agent is there, while it computes."""
        done = threading.Event()

        def beat() -> None:
            connection = None
            while not done.wait(self._pace.pulse * self._draw(0.8, 1.0)):
                connection = connection or self._connect()
                try:
                    connection.alive()
                except (Unreachable, TurnedAway):
                    continue
            if connection is not None:
                connection.close()

        thread = threading.Thread(target=beat, name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _pause(self, why: str, least: float = 0.0) -> None:
        if is_news(why, self._standing.trouble) and not self._stopped.is_set():
            _LOG.warning("%s; trying again", why)
        self._standing = replace(self._standing, trouble=why)
        longest = min(self._pace.first_pause * 2**self._failures, self._pace.longest_pause)
        self._failures = min(self._failures + 1, 30)
        self._stopped.wait(self._draw(0.3, 1.0) * max(longest, least))

    def _reached(self) -> None:
        if self._standing.trouble:
            _LOG.warning("the coordinator is there again")
            self._standing = replace(self._standing, trouble="")
        self._failures = 0


def received(payloads: Sequence[bytes], largest: int = LARGEST_MESSAGE) -> Message:
    """Return a message from its head and its objects.

    Every object is named by its digest, and the message by that of everything it holds: nothing can be exchanged.

    Args:
        payloads: the head and the objects.
        largest: bytes of all arrays, which may name one chunk many times.

    Raises:
        Exception: it cannot be read.
    """
    head = message_from_proto(MessageProto.FromString(payloads[0]))
    identifier = head.metadata.message_id
    contents = {sha256(content).hexdigest(): content for content in payloads[1:]}
    if _bytes_of_arrays(contents) > largest:
        raise ValueError("the arrays are too large")
    message = inflate_object_from_contents(identifier, contents)
    if not isinstance(message, Message):
        raise TypeError("not a message")
    message.metadata.__dict__["_message_id"] = identifier
    return message


def _bytes_of_arrays(contents: Mapping[str, bytes]) -> int:
    size = 0
    for content in contents.values():
        kind, chunks, _ = get_object_head_values_from_object_content(content)
        if kind == Array.__name__:
            places = Counter(json.loads(content.partition(HEAD_BODY_DIVIDER)[2])["arraychunk_ids"])
            size += sum(times * len(contents[chunks[place]]) for place, times in places.items())
    return size


def sent(message: Message) -> list[bytes]:
    """Return a message as its head and its objects, descendants first."""
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = get_all_nested_objects(message)
        request = PushMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(message))],
            message_object_trees=[get_object_tree(message)],
        )
        return [request.SerializeToString(), *(found.deflate() for found in objects.values())]
