"""`idx:DIR`: images and labels in the file format of MNIST, compressed with gzip or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.assemble import Part, assemble
from tacit.models.data.options import check_options, check_task, listed
from tacit.models.data.rows import Column, Source
from tacit.models.errors import InputError

_UNSIGNED_BYTES = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


def open_idx(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Open a folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and, if it has a test part, t10k-*.

    Option `classes=a,b` fixes the labels that may occur, which are whole numbers written as text, and their order.

    Raises:
        InputError: a file is missing, truncated or not in the format, or images and labels do not match.
    """
    check_options("idx", options, ("classes",))
    check_task("idx", task, ("image-classification",))
    folder = Path(location)
    if not folder.is_dir():
        raise InputError("there is no such folder", where=location, right="a folder with train-images-idx3-ubyte")
    train = _read_part(folder, "train")
    test = _read_part(folder, "t10k") if _find(folder, "t10k", "images", 3) else None
    shape = train.columns["image"].shape[1:]
    if test and test.columns["image"].shape[1:] != shape:
        raise InputError("training and test images differ in size", where=location, right="one size")
    columns = (Column("image", "image", shape),)
    return assemble(columns, train, test, task=task, label=label, where=location, classes=listed(options, "classes"))


def _find(folder: Path, part: str, content: str, dimensions: int) -> Path | None:
    names = (f"{part}-{content}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_part(folder: Path, part: str) -> Part:
    paths = {}
    for content, dimensions in (("images", 3), ("labels", 1)):
        path = _find(folder, part, content, dimensions)
        if path is None:
            name = f"{part}-{content}-idx{dimensions}-ubyte"
            raise InputError(f"{name} is missing", where=str(folder), right=f"{name} or {name}.gz")
        paths[content] = path
    images, labels = read_idx(paths["images"], dimensions=3), read_idx(paths["labels"], dimensions=1)
    if len(images) != len(labels):
        raise InputError(
            f"holds {len(labels)} labels for {len(images)} images",
            where=str(paths["labels"]),
            right="one label an image",
        )
    if not images.size:
        raise InputError("holds no pixels", where=str(paths["images"]), right="at least one image")
    return Part({"image": images[:, np.newaxis]}, labels, place=lambda row: f"{paths['labels']}: row {row}")


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Read one file of unsigned bytes.

    The format: two zero bytes, the type, the number of dimensions, each size as a big-endian 32-bit number, the values.

    Raises:
        InputError: the file is not in the format, or its length is not what its header says.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError("cannot be read, or is truncated", where=str(path), right="a whole idx file") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)):
        raise InputError(
            "has no header of the idx format", where=str(path), right=f"unsigned bytes in {dimensions} dimensions"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    expected = math.prod(shape)
    if len(content) - start != expected:
        problem = "is truncated" if len(content) - start < expected else "is longer than its header says"
        raise InputError(problem, where=str(path), right=f"{expected} values, not {len(content) - start}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
