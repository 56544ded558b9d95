"""The vectors of an answer that waits to be added up: on the disk, in a file without a name, instead of in memory.

As many answers as there are members can be on their way at a time, each as large as the model. Flower's object store
holds what a message is made of in memory. So what is large stays out of it: the chunks of arrays, whose bodies are
written one after the other as they come, so that a whole array can be read where it lies.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import tempfile
import weakref
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from flwr.app import Array, ArrayRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_object_head_values_from_object_content

from tacit.models.wire import Part

LARGEST: Final = 1 << 30  # bytes of all arrays, as many as an answer may have
BESIDE_VECTORS: Final = 4 << 20  # bytes of all else, which is in memory; ten thousand shares are half of it
LONGEST_HEAD: Final = 64  # bytes of a chunk's: its kind, no children, its length


class Spool:
    """The large objects of one answer; what was written is gone when nobody holds the spool any more.

    Args:
        directory: where the file lies; None for the system's place for temporary files.

    Attributes:
        room: bytes that the answer may have, also if its arrays name one chunk again and again.
        discarded: whether it was given up.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Make no file yet."""
        self.room = LARGEST
        self.discarded = False
        self._directory = directory
        self._file: Any = None
        self._size = 0
        self._spans: dict[str, tuple[int, int]] = {}  # of chunks, by id
        self._arrays: dict[bytes, tuple[int, int]] = {}
        self._begun: _Begun | None = None
        self._whole: memoryview | None = None

    def discard(self) -> None:
        """Give the room back at once; nothing is written from now on."""
        self.discarded = True
        if self._file is not None:
            self._file.close()

    def wants(self, part: Part) -> bool:
        """Return whether a part of an object is to be written: of a chunk of an array."""
        return self._begun is not None or part.content.startswith(f"{ArrayChunk.__name__} ".encode())

    def write(self, part: Part) -> str:
        """Take the next part, and return the id of the object that it completes; empty if there is more to come.

        Raises:
            ValueError: the object is not what its head says.
            OSError: there is no room for it.
        """
        body = part.content
        if self._begun is None:
            head, found, _ = body[:LONGEST_HEAD].partition(HEAD_BODY_DIVIDER)
            kind, children, length = get_object_head_values_from_object_content(head + HEAD_BODY_DIVIDER)
            if not found or kind != ArrayChunk.__name__ or children:
                raise ValueError("an object is not what its head says")
            self._begun = _Begun(self._size, length)
            body = body[len(head) + len(found) :]
            self._begun.digest.update(head + found)
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - it lives as long as the spool
            weakref.finalize(self, self._file.close)
        self._begun.digest.update(body)
        self._file.write(body)
        self._size += len(body)
        if not part.last:
            return ""
        begun, self._begun = self._begun, None
        if self._size - begun.start != begun.length:
            raise ValueError("an object is not what its head says")
        identifier = begun.digest.hexdigest()
        self._spans[identifier] = (begun.start, self._size)
        self._file.flush()
        return identifier

    def __contains__(self, identifier: object) -> bool:
        """Return whether an object is here."""
        return identifier in self._spans

    def objects(self, contents: Mapping[str, bytes]) -> dict[str, InflatableObject]:
        """Return what is here as Flower's objects, given the contents of the others.

        An array whose chunks lie in a row holds no more than its id, because Flower copies whatever it holds; `fill`
        puts a view of the file in its place. Of any other array the chunks are returned.

        Raises:
            ValueError: arrays name chunks again and again, and would be larger than the answer may be.
        """
        found: dict[str, InflatableObject] = {name: ArrayChunk(self._view(*span)) for name, span in self._spans.items()}
        size = 0
        for name, content in contents.items():
            kind, chunks, _ = get_object_head_values_from_object_content(content)
            if kind != Array.__name__:
                continue
            described = json.loads(content.partition(HEAD_BODY_DIVIDER)[2])
            named = [chunks[place] for place in described["arraychunk_ids"]]
            size += sum(self._length(chunk, contents) for chunk in named)
            if size > self.room:
                raise ValueError("the arrays of an answer are too large")
            span = self._in_a_row(named)
            if span is not None:
                held = name.encode()
                self._arrays[held] = span
                found[name] = Array(described["dtype"], tuple(described["shape"]), described["stype"], held)
        return found

    def fill(self, content: RecordDict) -> None:
        """Give the arrays of a message what they hold, as views of the file: nothing is read before it is used."""
        for record in content.values():
            for array in record.values() if isinstance(record, ArrayRecord) else ():
                if array.data in self._arrays:
                    array.data = self._view(*self._arrays[array.data])  # type: ignore[assignment]

    def _length(self, chunk: str, contents: Mapping[str, bytes]) -> int:
        start, end = self._spans.get(chunk, (0, len(contents.get(chunk, b""))))
        return end - start

    def _in_a_row(self, chunks: list[str]) -> tuple[int, int] | None:
        """Return where chunks lie, if all are here and each begins where the one before it ends."""
        spans = [self._spans[chunk] for chunk in chunks if chunk in self._spans]
        follows = all(before[1] == after[0] for before, after in pairwise(spans))
        return (spans[0][0], spans[-1][1]) if follows and spans and len(spans) == len(chunks) else None

    def _view(self, start: int, end: int) -> memoryview:
        if self._whole is None:
            self._whole = memoryview(mmap.mmap(self._file.fileno(), self._size, access=mmap.ACCESS_READ))
        return self._whole[start:end]


class _Begun:
    """An object of which some parts have come."""

    def __init__(self, start: int, length: int) -> None:
        self.start = start
        self.length = length
        self.digest = hashlib.sha256()
