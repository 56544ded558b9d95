"""The head of an answer, as a stranger may have written it: refused before it costs the coordinator anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from tacit.models.wire import MOST_FRAMES
from tacit.server.answers import LARGEST_HEAD, read_answer
from tacit.server.gate import Refusal


def head_of(objects: int, name: str = "") -> bytes:
    """Return a head that announces so many objects of one name."""
    tree = ObjectTree(children=[ObjectTree(object_id=name) for _ in range(objects - 1)])
    return PushMessagesRequest(messages_list=[Message()], message_object_trees=[tree]).SerializeToString()


def test_as_many_objects_as_an_answer_may_have_can_be_announced() -> None:
    head = head_of(MOST_FRAMES, name="0" * 64)
    assert len(head) < LARGEST_HEAD / 3
    assert len(read_answer(head).message_object_trees[0].children) == MOST_FRAMES - 1


def test_of_a_tree_without_end_no_more_is_looked_at_than_an_answer_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes announce one: in a head that may come there are half a million, and everybody waits meanwhile."""
    looked = 0

    def counted(tree: ObjectTree) -> Iterator[ObjectTree]:
        nonlocal looked
        for node in iterate_object_tree(tree):
            looked += 1
            yield node

    monkeypatch.setattr("tacit.server.answers.iterate_object_tree", counted)
    with pytest.raises(Refusal, match="there are too many objects") as refused:
        read_answer(head_of(100_000))
    assert refused.value.status == 400 and looked == MOST_FRAMES + 1


def test_a_head_that_is_too_large_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("tacit.server.answers.PushMessagesRequest")
    with pytest.raises(Refusal, match="the head of the answer is too large") as refused:
        read_answer(bytes(LARGEST_HEAD + 1))
    assert refused.value.status == 413
