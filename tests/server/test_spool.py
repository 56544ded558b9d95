"""What is large in an answer lies on the disk until it is used, and comes back as it was."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.wire import Part
from tacit.server.spool import Spool

PART = 1 << 16
SMALL = 1000  # bytes that are not worth a file


def parts_of(content: bytes, longest: int = PART) -> Iterator[Part]:
    for at in range(0, len(content), longest):
        yield Part(content[at : at + longest], at + longest >= len(content))


def array_of(values: np.ndarray) -> Array:
    return Array(str(values.dtype), values.shape, "tacit.raw", values.tobytes())


def through(spool: Spool, records: RecordDict) -> RecordDict:
    """Deflate records as Flower does, spool what is large in the order of the tree, and put them together again."""
    contents: dict[str, bytes] = {}
    objects = get_all_nested_objects(records)
    for name in dict.fromkeys(node.object_id for node in iterate_object_tree(get_object_tree(records))):
        content = objects[name].deflate()
        first = next(parts_of(content))
        if len(content) > SMALL and spool.wants(first):
            assert [spool.write(part) for part in parts_of(content)][-1] == name
            assert name in spool
        else:
            contents[name] = content
    found = inflate_object_from_contents(records.object_id, contents, objects=spool.objects(contents))
    assert isinstance(found, RecordDict)
    spool.fill(found)
    return found


@pytest.mark.parametrize("size", [500, 300_000, 4_000_000])
def test_a_vector_comes_back_and_is_read_where_it_lies(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    spool = Spool()
    records = RecordDict({"arrays": ArrayRecord({"vector": array_of(values)}), "reply": ConfigRecord({"a": b"b"})})
    found = through(spool, records)
    (array,) = found["arrays"].values()
    assert isinstance(array.data, memoryview) and array.data.readonly
    np.testing.assert_array_equal(np.frombuffer(array.data, np.float32), values)
    assert found["reply"]["a"] == b"b"


def test_vectors_side_by_side_do_not_run_into_each_other() -> None:
    vectors = {
        name: np.full(size, at, np.uint8) for at, (name, size) in enumerate((("a", 5), ("b", 70_000), ("c", 9**6)))
    }
    found = through(Spool(), RecordDict({"arrays": ArrayRecord({n: array_of(v) for n, v in vectors.items()})}))
    for name, values in vectors.items():
        np.testing.assert_array_equal(np.frombuffer(found["arrays"][name].data, np.uint8), values)


def test_a_vector_whose_chunks_are_equal_is_whole_all_the_same() -> None:
    values = np.zeros(3_000_000, np.float32)  # two chunks and a piece: the two are one object
    (array,) = through(Spool(), RecordDict({"arrays": ArrayRecord({"v": array_of(values)})}))["arrays"].values()
    np.testing.assert_array_equal(np.frombuffer(array.data, np.float32), values)


def test_a_vector_whose_chunks_come_in_another_order_is_whole_all_the_same() -> None:
    values = np.random.default_rng(1).normal(size=3_000_000).astype(np.float32)
    record = ArrayRecord({"v": array_of(values)})
    spool, contents = Spool(), dict[str, bytes]()
    for name, inflatable in sorted(get_all_nested_objects(record).items()):
        content = inflatable.deflate()
        if spool.wants(Part(content, True)):
            spool.write(Part(content, True))
        else:
            contents[name] = content
    found = inflate_object_from_contents(record.object_id, contents, objects=spool.objects(contents))
    spool.fill(RecordDict({"arrays": found}))
    np.testing.assert_array_equal(np.frombuffer(found["v"].data, np.float32), values)


@given(st.binary(min_size=1, max_size=300), st.integers(70, 200))
def test_a_chunk_may_come_in_parts_of_any_length(body: bytes, longest: int) -> None:
    spool = Spool()
    content = b"ArrayChunk  %d\x00%s" % (len(body), body)
    *earlier, name = [spool.write(part) for part in parts_of(content, longest)]
    assert not any(earlier) and bytes(spool.objects({})[name].data) == body


@pytest.mark.parametrize(
    "content",
    [
        b"ArrayChunk  5\x00four",
        b"ArrayChunk  3\x00four",
        b"ArrayChunk " + b"0" * 64 + b" 4\x00four",
        b"ArrayChunk  x\x00four",
        b"ArrayChunk 4\x00four",
        b"ArrayChunk  4" + b" " * 90 + b"\x00four",
        b"ArrayChunk  4",
        b"ArrayChunk  \xff\x00four",
    ],
)
def test_an_object_that_is_not_what_its_head_says_is_refused(content: bytes) -> None:
    spool = Spool()
    assert spool.wants(Part(content, True))
    with pytest.raises(ValueError, match=r"."):
        spool.write(Part(content, True))


def test_other_objects_are_not_wanted() -> None:
    for content in (b"ConfigRecord  4\x00four", b"ArrayRecord  4\x00four", b"", b"ArrayChunks", os.urandom(70)):
        assert not Spool().wants(Part(content, True))


def test_the_file_has_no_name_and_goes_with_the_spool(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    before = open_files()
    spool = Spool(tmp_path)
    assert open_files() == before  # no file before there is something in it
    name = spool.write(Part(b"ArrayChunk  4\x00four", True))
    view = spool.objects({})[name].data
    assert list(tmp_path.iterdir()) == [] and open_files() > before
    del spool
    assert bytes(view) == b"four"  # whoever uses it keeps it
    del view
    assert open_files() == before


def test_a_directory_that_is_gone_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Spool(tmp_path / "gone").write(Part(b"ArrayChunk  4\x00four", False))
