"""What agents bring to the fleet port, read as strangers' words, and one answer told from another."""

from __future__ import annotations

import logging
from itertools import islice

from flwr.app import Message
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from tacit.models.wire import MOST_FRAMES
from tacit.server.gate import Refusal
from tacit.server.mailbox import Taken, digest_of

LARGEST_HEAD = 1 << 20  # bytes; as many names as there may be have a third of it
NOT_WAITED_FOR = "the answer is not waited for any more"
_LOG = logging.getLogger(__name__)


def read_answer(head: bytes) -> PushMessagesRequest:
    """Read the head of an answer.

    Raises:
        Refusal: it is not one message with its tree of objects.
    """
    if len(head) > LARGEST_HEAD:
        raise Refusal(413, "the head of the answer is too large")
    request = PushMessagesRequest()
    try:
        request.ParseFromString(head)
    except Exception:  # noqa: BLE001 - what the parser raises has no place in Flower's own interface
        raise Refusal(400, "the message cannot be read") from None
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise Refusal(400, "there is not exactly one message")
    message, tree = request.messages_list[0], request.message_object_trees[0]
    if tree.object_id != message.metadata.message_id:
        raise Refusal(400, "the objects are another message's")
    if next(islice(iterate_object_tree(tree), MOST_FRAMES, None), None) is not None:  # of millions the rest unseen
        raise Refusal(400, "there are too many objects")
    if not message.HasField("error"):
        # What a message holds comes as objects; anything here would stay in memory beside them.
        message.content.Clear()
        message.content.SetInParent()
    return request


def check_same(node: int, known: bytes | None, request: PushMessagesRequest) -> tuple[str, ...]:
    """Return the names of all that an answer holds.

    Raises:
        Refusal: 409, as another answer came before.
    """
    names = tuple(dict.fromkeys(tree.object_id for tree in iterate_object_tree(request.message_object_trees[0])))
    if known not in (None, digest_of(request.messages_list[0].metadata.message_id, names)):
        _LOG.warning("node %d answered one message twice, differently; the second answer is refused", node)
        raise Refusal(409, "the message was answered already, and differently")
    return names


def check_taken(taken: Taken | None, node: int, request: PushMessagesRequest) -> None:
    """Let pass an answer that was taken already, as whoever gave it may not have heard so.

    Raises:
        Refusal: 409 or 410.
    """
    if taken is None or taken.node != node:
        raise Refusal(410, NOT_WAITED_FOR)
    check_same(node, taken.answer, request)


def message_of(request: PushMessagesRequest) -> Message:
    """Return the message of an answer, without what it holds; `Refusal` if it cannot be read."""
    try:
        return message_from_proto(request.messages_list[0])
    except Exception:  # noqa: BLE001 - a stranger's words, and Flower says nowhere what it raises
        raise Refusal(400, "the message cannot be read") from None
