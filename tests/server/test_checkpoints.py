"""A checkpoint is the whole state, written whole or not at all, and believed only if it is the one that was written."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import SafetensorError
from safetensors.numpy import save_file

from tacit.models.errors import InputError
from tacit.server import checkpoints as module
from tacit.server.checkpoints import Checkpoints, RunState
from tacit.server.store.records import CheckpointRef

VECTORS = arrays.arrays(np.float32, st.integers(1, 9), elements=st.floats(width=32, allow_nan=False))


def state(number: int = 3, **changes: Any) -> RunState:
    values: dict[str, Any] = {
        "plan": b'{"plan": "\xc3\xa9"}',
        "vector": np.arange(5, dtype=np.float32) + number,
        "moments": {"first": np.full(5, 0.1, np.float32), "second": np.full(5, 0.2, np.float32)},
        "best_round": 2,
        "best_value": 0.1 + 0.2,
        "stopped": "",
    }
    return RunState(number, **(values | changes))


def assert_same(one: RunState, other: RunState) -> None:
    assert (one.round, one.plan, one.best_round, one.best_value, one.stopped) == (
        other.round, other.plan, other.best_round, other.best_value, other.stopped
    )  # fmt: skip
    assert one.moments.keys() == other.moments.keys() and (one.carry is None) == (other.carry is None)
    pairs = [(one.vector, other.vector), *((one.moments[name], other.moments[name]) for name in one.moments)]
    if one.carry is not None and other.carry is not None:
        pairs.append((one.carry, other.carry))
    for first, second in pairs:
        assert first.dtype == second.dtype == np.float32
        assert first.tobytes() == second.tobytes()


def listing(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@given(
    number=st.integers(0, 999_999),
    vector=VECTORS,
    moments=st.dictionaries(st.text("abc/_", min_size=1, max_size=5), VECTORS, max_size=3),
    carry=st.none() | VECTORS,
    best=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    stopped=st.text(max_size=20),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_written(
    tmp_path: Path,
    number: int,
    vector: np.ndarray,
    moments: dict,
    carry: np.ndarray | None,
    best: float | None,
    stopped: str,
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    written = state(number, vector=vector, moments=moments, carry=carry, best_value=best, stopped=stopped)
    try:
        stopped.encode()
    except UnicodeEncodeError:
        return
    assert_same(checkpoints.read(checkpoints.write(written)), written)


def test_the_reference_names_the_file_and_its_digest(tmp_path: Path) -> None:
    reference = Checkpoints(tmp_path).write(state(12))
    assert reference.path == "round-000012.safetensors"
    assert reference.sha256 == hashlib.sha256((tmp_path / reference.path).read_bytes()).hexdigest()


def test_the_same_state_has_the_same_bytes(tmp_path: Path) -> None:
    one, other = Checkpoints(tmp_path / "a"), Checkpoints(tmp_path / "b")
    assert one.write(state()) == other.write(state())


def test_what_is_read_can_be_trained_on(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    read = checkpoints.read(checkpoints.write(state()))
    read.vector += 1
    read.moments["first"] *= 2
    np.testing.assert_array_equal(read.vector, state().vector + 1)


def test_writing_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    kept = state()
    Checkpoints(tmp_path).write(kept)
    assert_same(kept, state())


# What is not the file that was written


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    reference = checkpoints.write(state())
    path = tmp_path / reference.path
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not the checkpoint that was written; restore it from a copy"):
            checkpoints.read(reference)


def test_one_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    reference = checkpoints.write(state())
    path = tmp_path / reference.path
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(InputError, match="is not the checkpoint that was written"):
            checkpoints.read(reference)


def test_another_rounds_file_in_its_place_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    reference, other = checkpoints.write(state(3)), checkpoints.write(state(4))
    (tmp_path / reference.path).write_bytes((tmp_path / other.path).read_bytes())
    with pytest.raises(InputError, match="is not the checkpoint"):
        checkpoints.read(reference)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"round-000001.safetensors: cannot be read \(No such file or directory\)"):
        Checkpoints(tmp_path).read(CheckpointRef("round-000001.safetensors", "0" * 64))


def test_a_reference_cannot_lead_out_of_the_directory(tmp_path: Path) -> None:
    outside = Checkpoints(tmp_path / "outside")
    reference = outside.write(state())
    inside = Checkpoints(tmp_path / "inside")
    inside.write(state(9))
    with pytest.raises(InputError, match="inside/round-000003.safetensors: cannot be read"):
        inside.read(CheckpointRef(f"../outside/{reference.path}", reference.sha256))


FORGED = {
    "not safetensors": b"junk",
    "no metadata": {"vector": np.zeros(2, np.float32)},
    "a state that is no JSON": ({"vector": np.zeros(2, np.float32)}, {"state": "{"}),
    "a state that is a list": ({"vector": np.zeros(2, np.float32)}, {"state": "[]"}),
    "a state without a round": ({"vector": np.zeros(2, np.float32)}, {"state": '{"plan": "{}"}'}),
    "a plan that is a number": ({"vector": np.zeros(2, np.float32)}, {"state": '{"round": 1, "plan": 5}'}),
    "no vector": ({"moment/first": np.zeros(2, np.float32)}, {"state": json.dumps({"round": 1, "plan": "{}"})}),
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_a_file_that_is_no_checkpoint_is_refused_even_with_the_right_digest(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "round-000001.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, tuple):
        save_file(content[0], path, metadata=content[1])
    else:
        save_file(content, path)
    reference = CheckpointRef(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="is no checkpoint"):
        Checkpoints(tmp_path).read(reference)


# What can go wrong while writing


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(tensors: Any, path: Path, metadata: Any = None) -> None:
    Path(path).write_bytes(b"half a file")
    raise SafetensorError("I/O error: No space left on device (os error 28)")


FAILURES = {
    "half of it fits": ("save_file", half_written, "No space left on device"),
    "the disk says so at the flush": ("_flush", no_space, "No space left on device"),
    "the rename fails": ("os.replace", no_space, "No space left on device"),
    "the directory cannot be flushed": ("flush_directory", no_space, "No space left on device"),
}


@pytest.mark.parametrize(("step", "failure", "text"), FAILURES.values(), ids=FAILURES)
def test_a_full_disk_leaves_the_earlier_checkpoints_and_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: Any, text: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    reference = checkpoints.write(state(3))
    before = listing(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(f"{module.__name__}.{step}", failure)
        with pytest.raises(InputError, match=f"round-000004.safetensors: cannot be written .*{text}") as caught:
            checkpoints.write(state(4))
    assert "\n" not in str(caught.value)
    after = listing(tmp_path)
    after.pop("round-000004.safetensors", None)  # whole, if only the flush of the directory failed
    assert after == before
    assert_same(checkpoints.read(reference), state(3))
    assert_same(checkpoints.read(checkpoints.write(state(4))), state(4))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("step", ["save_file", "_flush", "os.replace"])
def test_an_interruption_leaves_nothing_half_written_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, interruption: type[BaseException]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(state(3))
    before = listing(tmp_path)

    def interrupt(*_: Any, **__: Any) -> None:
        raise interruption

    monkeypatch.setattr(f"{module.__name__}.{step}", interrupt)
    with pytest.raises(interruption):
        checkpoints.write(state(4))
    assert listing(tmp_path) == before


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "checkpoints").write(state())


def test_the_file_and_then_the_name_are_flushed_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("flush " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        events.append(f"rename to {Path(target).name}")
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name what is flushed")
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    Checkpoints(tmp_path / "kept").write(state(1))
    assert events == ["flush round-000001.tmp", "rename to round-000001.safetensors", "flush kept"]


# What lies about


def test_what_a_killed_process_left_is_neither_read_nor_in_the_way(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    reference = checkpoints.write(state(3))
    (tmp_path / "round-000004.tmp").write_bytes(b"half a file")
    (tmp_path / "round-000003.tmp").write_bytes(b"half a file")
    assert_same(checkpoints.read(reference), state(3))
    assert_same(checkpoints.read(checkpoints.write(state(4))), state(4))
    assert not (tmp_path / "round-000004.tmp").exists()


def test_a_round_that_is_run_again_replaces_the_file_that_nothing_pointed_at(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(state(4, stopped="the process died before the transaction"))
    assert_same(checkpoints.read(checkpoints.write(state(4))), state(4))


def test_pruning_keeps_what_it_is_told_and_everything_that_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in range(5):
        checkpoints.write(state(number))
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.prune({4, 2, 77})
    assert sorted(listing(tmp_path)) == ["notes.txt", "round-000002.safetensors", "round-000004.safetensors"]
    checkpoints.prune(set())
    assert sorted(listing(tmp_path)) == ["notes.txt"]


def test_pruning_before_the_first_write_is_no_error(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "never made").prune({1})
