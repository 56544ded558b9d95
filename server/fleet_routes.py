"""The fleet's requests in the web server's event loop: who asks, pulls that wait, answers taken in as they come.

Flower's own fleet interface takes a request for every object of a message and has nothing that waits. Here a message
comes with all it holds in the answer to one request, and goes back in another; both end in the same LinkState and
object store. Flower's routes stay beside it, for nodes that speak Flower alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.server.superlink.linkstate import LinkState

from tacit.models.wire import (
    ALIVE,
    CLOCK_TOLERANCE,
    KEY_HEADER,
    LABEL,
    PATHS,
    PROTOCOL,
    PROTOCOL_HEADER,
    PULL,
    PUSH,
    Frames,
    Part,
    framed,
    framed_size,
    read_envelope,
)
from tacit.privacy.identity import verify
from tacit.server.answers import NOT_WAITED_FOR, check_same, check_taken, message_of, read_answer
from tacit.server.flower_signature import check_flower_signature
from tacit.server.gate import Application, Limits, Receive, Refusal, Scope, Send, body, reply
from tacit.server.mailbox import Letter, Mailbox, digest_of
from tacit.server.spool import BESIDE_VECTORS, Spool

_LOG = logging.getLogger(__name__)

FLOWER_PATHS = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "register-node",
        "activate-node",
        "deactivate-node",
        "unregister-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
PULSE_SECONDS = 20.0  # Flower takes a node as gone that said nothing for twice as long
RETURN_SECONDS = 2.0  # in which an agent that has only lost its line is back
AGAIN = "the answer is being brought once more"  # a line that has broken looks whole from here for a while
TOO_LARGE = "the answer is too large"
LARGEST_PART = 1 << 16  # bytes of an answer that are held before they go to the disk
Result = TypeVar("Result")
NODE, KEY = "tacit.node", "tacit.key"  # where a scope keeps who asks


class FleetRoutes:
    """Answers Tacit's three paths, and hands the others to Flower.

    Args:
        flower: Flower's application.
        state: its LinkState.
        mailbox: the open letters.
        revoked: says whether a public key was taken back, as far as this process has been told.
        refusal: says why the holder of a public key may not take part, None if it may; it may take a moment.
        limits: what one request may take.
        names: of the nodes, for the log.
        spools: the directory for what is large in answers; None for the system's place for temporary files.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        flower: Application,
        state: LinkState,
        mailbox: Mailbox,
        *,
        revoked: Callable[[bytes], bool],
        refusal: Callable[[bytes], str | None],
        limits: Limits,
        names: Mapping[int, str],
        spools: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start threads for what would hold the event loop up."""
        self._flower = flower
        self._state = state
        self._mailbox = mailbox
        self._revoked = revoked
        self._refusal = refusal
        self._limits = limits
        self._clock = clock
        self.seen: dict[int, float] = {}  # when a node last asked for anything, in seconds since 1970
        self._asked: Counter[int] = Counter()
        self._spools = spools
        self._bringing: dict[int, Spool] = {}  # what a node's newest answer is written to as it comes
        self._registering = threading.Lock()
        self._names = names
        self._apart: set[bytes] = set()  # whose clocks are far from this one
        self._other_versions: set[bytes] = set()  # who speaks another version of the protocol
        self._closed = False
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="fleet")

    def close(self) -> None:
        """End the threads."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def admit(self, scope: Scope) -> None:
        """Find out who asks.

        Raises:
            Refusal: 401, 403 or 426; the text says why.
        """
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] not in PATHS:
            scope[KEY] = check_flower_signature(headers, self._state)
            return
        if (spoken := headers.get(PROTOCOL_HEADER, "")) != PROTOCOL:
            # Said in full, as the other side is of another version and may not know what a number means.
            known = spoken.isascii() and spoken.isalnum() and len(spoken) < 9
            said = f"version {spoken}" if known else "no version"
            self._tell_version(headers.get(KEY_HEADER, ""), said)
            raise Refusal(426, f"this coordinator speaks version {PROTOCOL} of the protocol, the agent {said}")
        try:
            envelope = read_envelope(headers)
        except ValueError as error:
            raise Refusal(401, str(error)) from None
        # What costs least comes first: of keys that nobody knows no signature is looked at.
        node, revoked = self._state.get_node_id_by_public_key(envelope.public_key), self._revoked(envelope.public_key)
        if node is None and not revoked:
            raise Refusal(401, "this key is not enrolled")
        if not verify(envelope.public_key, LABEL, envelope.statement(scope["path"]), envelope.signature):
            raise Refusal(401, "the signature is wrong")
        self._other_versions.discard(envelope.public_key)
        self._check_clock(envelope.time - self._clock(), envelope.public_key, node)
        if revoked:
            raise Refusal(403, "this key was revoked")
        scope[NODE], scope[KEY] = (node, envelope), envelope.public_key

    def _tell_version(self, key: str, said: str) -> None:
        """Say here too that a member's version is another one, once; whether it is that member nobody can know."""
        try:
            public_key = bytes.fromhex(key)
        except ValueError:
            return
        if public_key in self._other_versions or (node := self._state.get_node_id_by_public_key(public_key)) is None:
            return
        self._other_versions.add(public_key)
        name = self._names.get(node, public_key.hex()[:12])
        _LOG.warning("%s is turned away: it speaks %s of the protocol, not version %s", name, said, PROTOCOL)

    def _check_clock(self, apart: float, public_key: bytes, node: int | None) -> None:
        """Refuse a clock that is far from this one, and say so here too: once, until it is right again."""
        if abs(apart) <= CLOCK_TOLERANCE:
            self._apart.discard(public_key)
            return
        told = f"{abs(apart):.0f} s {'behind' if apart < 0 else 'ahead of'} the coordinator's"
        if public_key not in self._apart:
            self._apart.add(public_key)
            name = self._names.get(node or 0, public_key.hex()[:12])
            _LOG.warning("%s is turned away: its clock is %s", name, told)
        raise Refusal(401, f"the agent's clock is {told}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of somebody who was admitted."""
        path = scope.get("path")  # none when the server starts or stops
        if path not in PATHS:
            if KEY in scope:
                await self._aside(self._require_standing, scope[KEY])
            await self._flower(scope, receive, send)
            return
        node, envelope = scope[NODE]
        self._asked[node] += 1
        await self._aside(self._greet, node, scope[KEY])
        if path == PULL:
            wait = min(envelope.wait / 1000, self._limits.longest_wait_seconds)
            await self._pull(node, scope[KEY], wait, receive, send)
        elif path == PUSH:
            await self._push(node, receive, send)
        elif path == ALIVE:
            await reply(send, 204)

    def _greet(self, node: int, public_key: bytes) -> None:
        """Take note that somebody who may take part is there; whoever may not is gone from now on."""
        try:
            self._require_standing(public_key)
        except Refusal:
            with suppress(ValueError):  # it may be known no more
                self._state.deactivate_node(node)
            raise
        self.seen[node] = self._clock()
        self._state.acknowledge_node_heartbeat(node, PULSE_SECONDS)

    def _require_standing(self, public_key: bytes) -> None:
        if (why := self._refusal(public_key)) is not None:
            raise Refusal(403, why)

    async def _pull(self, node: int, public_key: bytes, wait: float, receive: Receive, send: Send) -> None:
        letter = await self._wait(node, wait, receive)
        if letter is None:
            await reply(send, 204)
            return
        objects = await self._aside(self._contents, letter, public_key)
        if objects is None:
            self._mailbox.withdraw([letter.message])
            await reply(send, 204)
            return
        payloads = [letter.head, *objects]
        headers = [
            (b"content-length", str(framed_size(payloads)).encode()),
            (b"content-type", b"application/octet-stream"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in framed(payloads):
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _wait(self, node: int, seconds: float, receive: Receive) -> Letter | None:
        """Return the next letter.

        A node that hangs up has most often died. Unless it asks again soon, it is not there any more; and nothing is
        delivered to it meanwhile.
        """
        asked = self._asked[node]
        async for _ in body(receive, self._limits, 0):
            pass
        left = asyncio.ensure_future(receive())
        collected = asyncio.ensure_future(self._mailbox.collect(node, seconds))
        try:
            await asyncio.wait((left, collected), return_when=asyncio.FIRST_COMPLETED)
            if collected.done():
                return collected.result()
            asyncio.get_running_loop().call_later(RETURN_SECONDS, self._miss, node, asked)
            return None
        finally:
            for task in (left, collected):
                task.cancel()

    def _miss(self, node: int, asked: int) -> None:
        if self._asked[node] == asked and not self._closed:
            self._threads.submit(self._state.deactivate_node, node)

    def _contents(self, letter: Letter, public_key: bytes) -> list[bytes] | None:
        self._require_standing(public_key)  # much may have happened since it asked
        found = [self._state.object_store.get(identifier) for identifier in letter.objects]
        return [content for content in found if content] if all(found) else None

    async def _push(self, node: int, receive: Receive, send: Send) -> None:
        spool = Spool(self._spools)
        # What came over an earlier line takes no more room: it may stay open for hours, and be one of many. Which of
        # two is the earlier one is a guess, as they are served side by side. So whoever is cut off is told to come
        # again; an agent that is told that its answer is not wanted throws it away.
        if (earlier := self._bringing.get(node)) is not None:
            earlier.discard()
        self._bringing[node] = spool
        try:
            await self._bring(node, spool, receive)
        finally:
            self._brought(node, spool)
        await reply(send, 200)

    async def _bring(self, node: int, spool: Spool, receive: Receive) -> None:
        """Take an answer in as it comes."""
        pieces = body(receive, self._limits, self._limits.largest_answer)
        payloads = self._payloads(pieces, spool)
        head = await anext(payloads, None)
        if not isinstance(head, bytes):
            raise Refusal(400, "there is no message")
        request = read_answer(head)
        if request.messages_list[0].metadata.src_node_id != node:
            raise Refusal(403, "the answer is somebody else's")
        message = request.messages_list[0].metadata.reply_to_message_id
        letter = self._mailbox.get(message)
        if letter is not None:
            spool.room = letter.room
        own = letter is not None and letter.node == node
        registered = await self._aside(self._register, letter, request, spool) if own else None
        if letter is None or registered is None:
            check_taken(self._mailbox.taken(message), node, request)
            async for _ in pieces:
                pass
            return
        await self._take_in(letter, registered, request.messages_list[0].metadata.run_id, payloads, spool)
        if spool.discarded:
            raise Refusal(503, AGAIN)
        if not letter.answered:
            letter.spool = spool
        self._brought(node, spool)  # before anything is waited for: a line that comes now must not discard it
        self._mailbox.answer(letter)

    def _brought(self, node: int, spool: Spool) -> None:
        if self._bringing.get(node) is spool:
            del self._bringing[node]

    async def _take_in(
        self,
        letter: Letter,
        registered: tuple[str, frozenset[str]],
        run: int,
        payloads: AsyncIterator[bytes | str],
        spool: Spool,
    ) -> None:
        """Store the objects of an answer that the spool does not take."""
        session, missing = registered
        expected = iter(letter.brought)
        async for payload in payloads:
            identifier = next(expected, None)
            if identifier is None:
                raise Refusal(400, "there are more objects than were announced")
            if isinstance(payload, str):
                right = payload == identifier
            else:
                right = identifier not in missing or await self._aside(
                    self._state.store_object, run, session, identifier, payload
                )
            if self._mailbox.get(letter.message) is None:  # given up while it came
                raise Refusal(410, NOT_WAITED_FOR)
            if not right:  # or it is, and another line that has registered the answer stores it
                wrong = Refusal(400, "an object is not the one that was announced")
                raise Refusal(503, AGAIN) if spool.discarded else wrong
        if next(expected, None) is not None:
            raise Refusal(400, "there are fewer objects than were announced")

    async def _payloads(self, pieces: AsyncIterator[bytes], spool: Spool) -> AsyncIterator[bytes | str]:
        """Yield the payloads of a body; of those that the spool takes, what names them."""
        frames, whole, size, held = Frames(), bytearray(), 0, 0
        try:
            async for piece in pieces:
                size += len(piece)
                if spool.discarded:
                    raise Refusal(503, AGAIN)
                if size > spool.room:
                    raise Refusal(413, TOO_LARGE)
                for payload in frames.feed_in_parts(piece, LARGEST_PART):
                    if isinstance(payload, Part) and not whole and spool.wants(payload):
                        if identifier := await self._aside(spool.write, payload):
                            yield identifier
                        continue
                    part = payload if isinstance(payload, Part) else Part(payload, last=True)
                    held += len(part.content)
                    if held > BESIDE_VECTORS:
                        raise Refusal(413, TOO_LARGE)
                    whole += part.content
                    if part.last:
                        yield bytes(whole)
                        whole.clear()
            frames.finish()
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        except OSError as error:
            _LOG.warning("an answer cannot be taken in (%s)", error.strerror)
            raise Refusal(507, "there is no room for the answer") from None

    def _register(
        self, letter: Letter, request: PushMessagesRequest, spool: Spool
    ) -> tuple[str, frozenset[str]] | None:
        """Store an answer without its content, and return the session that takes the objects, and which are missing.

        Returns:
            None if nobody waits for the answer any more.
        """
        message, state = message_of(request), self._state
        with self._registering:
            if spool.discarded:  # whoever registers last is the only one who may store objects: not an earlier line
                raise Refusal(503, AGAIN)
            known = digest_of(letter.reply, letter.brought) if letter.reply else None
            names = check_same(letter.node, known, request)
            session = state.start_session(message.metadata.run_id)
            try:
                stored, missing = state.store_message_and_object_tree(message, request.message_object_trees[0], session)
            except ValueError:
                raise Refusal(400, "the objects have no proper names") from None
            if not stored:
                return None
            # In this order: whoever sees the one has the other.
            letter.brought, letter.reply = names, message.metadata.message_id
            return session, frozenset(missing)

    async def _aside(self, call: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
