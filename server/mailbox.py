"""Letters to agents and whether they were answered: what wakes a waiting pull, and a waiting round engine.

Flower's LinkState holds the messages themselves but tells nobody that something has changed; whoever waits has to ask
again and again. Here the coordinator's thread and the event loop of its web server wake each other.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from tacit.privacy.codec import sha256
from tacit.server.spool import LARGEST, Spool

MOST_DELIVERIES = 5
MOST_TAKEN = 2048  # letters whose answer was taken, and may come once more


@dataclass
class Letter:
    """A message to one node, and what has become of it.

    Attributes:
        message: the message's id.
        node: whom it is for.
        head: the message without its content, as it travels.
        objects: the ids of everything it holds, descendants first, itself last.
        room: bytes that an answer may have.
        deliveries: how often it was handed out. An agent that asks again has lost it on the way.
        reply: the id of the answer that is on its way or has come; empty before.
        brought: the ids of all that the answer holds, itself last.
        spool: what of the answer is too large for the object store, once all of it is there.
        answered: whether the whole answer is there.
        looked: when it was last looked for an answer that nobody announced.
    """

    message: str
    node: int
    head: bytes
    objects: tuple[str, ...]
    room: int = LARGEST
    deliveries: int = 0
    reply: str = ""
    brought: tuple[str, ...] = ()
    spool: Spool | None = None
    answered: bool = False
    looked: float = 0.0


@dataclass(frozen=True)
class Taken:
    """What is left of a letter whose answer was taken: who gave it, and a digest of the names of all it held."""

    node: int
    answer: bytes


@dataclass
class Mailbox:
    """All open letters; every method may be called from any thread, `collect` from the event loop alone."""

    _letters: dict[str, Letter] = field(default_factory=dict)
    _waiting: dict[int, set[asyncio.Future[None]]] = field(default_factory=dict)
    _dismissed: set[int] = field(default_factory=set)
    _answered: set[str] = field(default_factory=set)
    _taken: OrderedDict[str, Taken] = field(default_factory=OrderedDict)
    _closed: bool = False
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def post(self, letters: Sequence[Letter]) -> None:
        """Take letters and wake those whom they are for."""
        with self._lock:
            for letter in letters:
                self._letters[letter.message] = letter
            for letter in letters:
                self._wake(letter.node)

    def get(self, message: str) -> Letter | None:
        """Return an open letter."""
        return self._letters.get(message)

    def withdraw(self, messages: Iterable[str]) -> list[Letter]:
        """Forget letters and return those that were open; of those with an answer, its names are known for a while."""
        with self._lock:
            gone = [self._letters.pop(message) for message in messages if message in self._letters]
            self._answered.difference_update(letter.message for letter in gone)
            for letter in gone:
                if letter.answered:
                    self._taken[letter.message] = Taken(letter.node, digest_of(letter.reply, letter.brought))
            while len(self._taken) > MOST_TAKEN:
                self._taken.popitem(last=False)
            return gone

    def taken(self, message: str) -> Taken | None:
        """Return what is left of a letter whose answer was taken: whoever gave it may not know, and give it again."""
        with self._lock:
            return self._taken.get(message)

    def answer(self, letter: Letter) -> None:
        """Note that the whole answer is there, and wake whoever waits for answers."""
        with self._lock:
            if letter.message in self._letters and not letter.answered:
                letter.answered = True
                self._answered.add(letter.message)
                self._lock.notify_all()

    def wait(self, messages: Set[str], seconds: float) -> None:
        """Return when one of these letters has its answer, or after some seconds."""
        with self._lock:
            self._lock.wait_for(lambda: self._closed or not self._answered.isdisjoint(messages), seconds)

    def next_for(self, node: int) -> Letter | None:
        """Return the oldest letter to a node that has no answer, counting the delivery.

        An agent asks only when it has nothing to do. A letter that it was handed and did not answer was lost, and is
        handed out again, but not for ever: one that its agent cannot take would come back at once each time.
        """
        with self._lock:
            for letter in self._letters.values():
                if letter.node == node and not letter.answered and letter.deliveries < MOST_DELIVERIES:
                    letter.deliveries += 1
                    return letter
        return None

    async def collect(self, node: int, seconds: float) -> Letter | None:
        """Return the next letter to a node, waiting for one if there is none."""
        letter = self.next_for(node)
        if letter is not None or seconds <= 0:
            return letter
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._closed or node in self._dismissed:
                return None
            self._waiting.setdefault(node, set()).add(waiting)
        try:
            letter = self.next_for(node)  # posted between the look and the wait
            if letter is None:
                await asyncio.wait((waiting,), timeout=seconds)
                letter = self.next_for(node)
        finally:
            with self._lock:
                remaining = self._waiting.get(node, set())
                remaining.discard(waiting)
                if not remaining:
                    self._waiting.pop(node, None)
        return letter

    def dismiss(self, node: int) -> None:
        """Let the pulls of a node return with nothing, now and from now on."""
        with self._lock:
            self._dismissed.add(node)
            self._wake(node)

    def readmit(self, node: int) -> None:
        """Let the pulls of a node wait again."""
        with self._lock:
            self._dismissed.discard(node)

    def close(self) -> None:
        """Let everybody who waits return, now and from now on."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            for node in tuple(self._waiting):
                self._wake(node)

    def _wake(self, node: int) -> None:
        for waiting in self._waiting.get(node, ()):
            waiting.get_loop().call_soon_threadsafe(_finish, waiting)


def digest_of(reply: str, brought: Iterable[str]) -> bytes:
    """Return what tells an answer from any other one, given its id and those of all that it holds."""
    return sha256("\n".join((reply, *brought)).encode())


def _finish(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
