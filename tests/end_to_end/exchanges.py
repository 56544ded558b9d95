"""Which exchange of a round a message belongs to, and what was said in it, as a line between the two sees it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Self

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as MessageProto

from tacit.models.messages import MASKED_ACTIONS
from tacit.models.wire import KEY_HEADER, PULL, PUSH, Frames
from tacit.privacy.codec import sha256

from .wards import Wards  # noqa: TID252 - tests are no package that could be named
from .wire_proxy import Call  # noqa: TID252


@dataclass(frozen=True)
class Step:
    """What a message is about: an exchange of an attempt at a round, with one agent."""

    agent: str
    action: str
    attempt: str


@dataclass
class Exchanges:
    """Tells from what a line carries which exchange a message belongs to, and keeps digests of all that was said.

    Attributes:
        agents: public key in hex to name.
        bodies: path and step to the whole messages.
        words: the same, without what names the process that they come from.
    """

    agents: dict[str, str]
    bodies: dict[tuple[str, Step], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    words: dict[tuple[str, Step], set[bytes]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def of(cls, wards: Wards) -> Self:
        return cls({owner.identity.public_key.hex(): name for name, owner in wards.owners.items()})

    def agent(self, call: Call) -> str:
        return self.agents[headers(call.request)[KEY_HEADER]]

    def step(self, call: Call) -> Step | None:
        """Return what a pull brought, or a push brings; None for what is about nothing."""
        carried = call.answer if call.path == PULL else call.request
        if carried is None or call.path not in (PULL, PUSH) or (call.path == PULL and call.status != 200):
            return None
        action, attempt = about(content_of(carried), pushed=call.path == PUSH)
        if action not in MASKED_ACTIONS:
            return None  # the receipts at the end
        step = Step(self.agent(call), action, attempt)
        body = content_of(carried)
        self.bodies[call.path, step].add(sha256(body))
        # The first is the head and the last the message itself, both with ids of the coordinator's process.
        self.words[call.path, step].add(sha256(b"".join(list(Frames().feed(body))[1:-1])))
        return step


def about(body: bytes, *, pushed: bool = False) -> tuple[str, str]:
    """Return the step that a message asks for or answers, and round and attempt."""
    head = next(Frames().feed(body))
    message = PushMessagesRequest.FromString(head).messages_list[0] if pushed else MessageProto.FromString(head)
    return message.metadata.message_type.partition(".")[2], message.metadata.group_id


def headers(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def content_of(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[2]
