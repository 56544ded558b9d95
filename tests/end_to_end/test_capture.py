"""Everything that agents send is read along under the TLS: no row, count or name of theirs is in it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tacit.models.wire import PUSH, Frames
from tacit.privacy.secagg.encoding import pack, reduce

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .wards import POLICY, Commands, Wards  # noqa: TID252 - tests are no package that could be named
from .wire_proxy import Call, HttpWire  # noqa: TID252

NAMES = ("north", "east", "south", "west", "odd")
ROWS = {name: 20_011 + 1_117 * at for at, name in enumerate(NAMES)}  # of three bytes at least, however written
FILE = "kartei-8817"
DATA = "hauptregister"
COLUMNS = ("gewicht-q", "puls-w", "ort-z")
CLASSES = ("malignant-k7", "benign-v3")
ODD = "unbekannt-j5"
PLACES = ("lindenhof-x1", "ahornweg-x2")
WEIGHT, PULSE = 48_271.618_25, 0.618_033_988_749
WINDOW = 12  # bytes of a vector that would not stand in two places by chance


def write_rows(path: Path, count: int, who: int) -> None:
    """Write rows in which two numbers and some texts stand out; those of the last agent have a label of their own."""
    secret = who < len(NAMES)
    count = ROWS[NAMES[who]] if secret else 60
    rng = np.random.default_rng(who)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "y"])
        weights, pulses, places = 70 + 9 * rng.normal(size=count), rng.normal(size=count), rng.integers(0, 2, count)
        for weight, pulse, place in islice(zip(weights, pulses, places, strict=True), count - secret):
            writer.writerow([weight, pulse, PLACES[place] if secret else "ab"[place], CLASSES[int(weight > 70)]])
        if secret:
            writer.writerow([WEIGHT, PULSE, PLACES[0], ODD if NAMES[who] == "odd" else CLASSES[0]])


def numbers(value: float) -> Iterator[bytes]:
    """Yield a number as texts and in the bytes of every type that a message could hold it in."""
    yield repr(value).encode()
    yield f"{value:.4f}".encode()
    for kind in ("<f4", ">f4", "<f8", ">f8"):
        yield np.array(value, kind).tobytes()


def counts(value: int) -> Iterator[bytes]:
    """Yield a count as a number of four bytes or more."""
    for kind in ("<u4", ">u4", "<u8", ">u8", "<f4", ">f4", "<f8", ">f8"):
        yield np.array(value, kind).tobytes()


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def pieces(encoded: bytes) -> Iterator[bytes]:
    """Yield the stretches of a vector's bytes that nothing else would show by chance."""
    for at in range(0, len(encoded) - WINDOW + 1, WINDOW):
        piece = encoded[at : at + WINDOW]
        if len(set(piece)) > 4:
            yield piece


def vectors(notes: Path) -> Iterator[bytes]:
    """Yield every update and every input of every agent in all types and orders of bytes."""
    for path in notes.glob("update-*.npy"):
        update: NDArray[Any] = np.load(path)
        for kind in ("<f4", ">f4", "<f8", ">f8", "<f2", ">f2"):
            yield update.astype(kind).tobytes()
    for path in notes.glob("input-*.npz"):
        with np.load(path) as made:
            integers, bits = made["integers"], int(made["bits"])
        yield pack(reduce(integers, bits), bits).tobytes()
        for kind in ("<i4", ">i4", "<i8", ">i8", "<f4", ">f4", "<f8", ">f8"):
            yield integers.astype(kind).tobytes()
        if bits == 16:
            yield integers.astype(">i2").tobytes()


def found(needles: Iterator[bytes], capture: bytes) -> list[bytes]:
    return [needle for needle in needles if needle in capture]


@pytest.mark.slow
def test_no_update_no_count_no_label_and_no_name_of_a_file_leaves_an_agent(
    tmp_path: Path, seeded_commands: Commands
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    port, through = free_port(), free_port()
    policy = POLICY.replace('["logistic"]', '["mlp"]')
    wards = Wards(
        tmp_path, seeded_commands, 2, port, through, dict.fromkeys(NAMES, policy), NAMES,
        ["model.name=mlp", "training.batch_size=4096", "population.partition=iid", "population.clients=5"],
        write_rows, lambda name: f"{FILE}-{name}.csv", DATA, notes,
    )  # fmt: skip
    with HttpWire(port, port=through, keep=True, ends=wards.ends) as wire:
        try:
            wards.up()
            wards.enrol()
            wards.join()
            wards.begin()
            run = wards.finish()
        finally:
            wards.close()
        up, down = (b"\n".join(getattr(heard, way) for heard in wire.heard) for way in ("up", "down"))
        up = up.replace(b"Host: 127.0.0.1:%d" % through, b"")  # a port is as large as a count
        calls = list(wire.calls)
    attempts = [attempt for attempt in wards.attempts(run) if attempt.outcome == "committed"]
    outcomes = {one.client: one.outcome for attempt in attempts for one in attempt.participation}
    # The agent that has a class of its own leaves that row out, and says so to its owner alone.
    assert outcomes == dict.fromkeys(NAMES, "reported"), attempts
    assert "are left out" in wards.said("odd") and b"left out" not in up
    texts = [FILE, DATA, str(tmp_path), *COLUMNS, *CLASSES, ODD, *PLACES, "csv:"]
    assert [text for text in texts if text.encode() in up] == []
    assert ODD.encode() not in down and not any(place.encode() in down for place in PLACES)
    told = (*ROWS.values(), sum(ROWS.values()))
    needles = [*numbers(WEIGHT), *numbers(PULSE), *(needle for count in told for needle in counts(count))]
    assert found((needle for needle in needles if len(needle) > 4), up) == []
    # In what is as good as random four bytes stand by chance, in one of some hundred runs; told, they would be by all.
    assert sum(up.count(needle) for needle in needles if len(needle) == 4) <= 1
    words = plain_words(calls)
    assert sum(words.count(varint(count)) for count in told) <= 1  # as there
    for count in told:
        # Not within a key or a signature in hex, which has some five digits in a row.
        assert not re.search(rb"(?<![0-9a-f])%d(?![0-9a-f])" % count, up)
    secret = list(vectors(notes))
    assert len(secret) > 4 * 3 * 10
    assert [found(pieces(encoded), up) for encoded in secret if found(pieces(encoded), up)] == []
    # The same search finds what is there: in what went to the agents, the model and the classes; and of a vector that
    # had left as it is every stretch.
    model = np.concatenate([tensor.ravel() for tensor in wards.model(run).values()])
    assert model.size > 500
    assert CLASSES[0].encode() in down and found(iter([b'"odd"', b"odd"]), up)
    for encoded in secret:
        assert found(pieces(encoded), up + b"\x00" + encoded) == list(pieces(encoded)) != []


def plain_words(calls: list[Call]) -> bytes:
    """Return what agents said but for what is as good as random: masked vectors, keys, shares and signatures.

    In that, three bytes of a number would stand by chance now and then.
    """
    said = bytearray()
    for call in calls:
        head, _, body = call.request.partition(b"\r\n\r\n")
        said += b"\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"tacit-")) + b"\n"
        said += b"\n".join(re.findall(rb"[\x20-\x7e]{6,}", body)) + b"\n"
        if call.path == PUSH:
            said += next(Frames().feed(body))
    return bytes(said)
