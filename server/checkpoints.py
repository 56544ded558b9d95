"""Checkpoints of a run: the whole state after a round in one safetensors file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tacit.models.durable import flush_directory
from tacit.models.errors import InputError, Unwritable
from tacit.models.spending import Spent
from tacit.server.store.records import CheckpointRef

_VECTOR = "vector"
_MOMENT = "moment/"
_SUM = "sum/"
_CARRY = "carry"


@dataclass
class RunState:
    """All that a run needs to go on after a round.

    Attributes:
        round: the last round that counts; 0 after the preparation.
        plan: the plan's bytes.
        vector: the global vector, shape `(parameters,)`.
        moments: the strategy's vectors by name.
        carry: what the vectors that travelled have lost so far, shape `(parameters,)`; None where they lose nothing, or
            before the first round.
        best_round, best_value: the round whose model is best on the validation share, and how good it is.
        stopped: why no further round is to run, or empty.
        spent: the rounds whose noised inputs left, in order; empty without a privacy mechanism.
        taken: how often each client's noised input left, by name.
        l2_clip: what an adaptive clip has come to; None where there is none, or before the first round.
        has_result: whether any round had a result: otherwise the vector is the one that the run began with.
        sums: what an evaluation added up, by block; empty in a run that trains.
    """

    round: int
    plan: bytes
    vector: NDArray[np.float32]
    moments: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    best_round: int = 0
    best_value: float | None = None
    stopped: str = ""
    spent: tuple[Spent, ...] = ()
    taken: Mapping[str, int] = field(default_factory=dict)
    l2_clip: float | None = None
    has_result: bool = False
    sums: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    carry: NDArray[np.float32] | None = None


class Checkpoints:
    """The checkpoint files of one run.

    Only the newest two and the best one are kept. A file is written under a temporary name, flushed to the disk and
    renamed, so that a crash or a full disk leaves the earlier ones as they were.
    """

    def __init__(self, directory: Path) -> None:
        """Keep the files in `directory`, which is made at the first write."""
        self.directory = directory

    def write(self, state: RunState) -> CheckpointRef:
        """Write the state of a round and return what finds it again.

        Raises:
            Unwritable: the disk is full or cannot be written to; the earlier files are as they were.
        """
        path = self._path(state.round)
        temporary = path.with_suffix(".tmp")
        # One text, because safetensors writes several in any order and the same state should be the same bytes.
        values: dict[str, Any] = {
            "round": state.round,
            "plan": state.plan.decode(),
            "best_round": state.best_round,
            "best_value": state.best_value,
            "stopped": state.stopped,
            "spent": [[one.cohort, one.survivors] for one in state.spent],
            "taken": dict(state.taken),
            "l2_clip": state.l2_clip,
            "has_result": state.has_result,
        }
        tensors: dict[str, NDArray[Any]] = {_VECTOR: state.vector}
        tensors |= {_MOMENT + name: moment for name, moment in state.moments.items()}
        tensors |= {_SUM + name: values for name, values in state.sums.items()}
        if state.carry is not None:
            tensors[_CARRY] = state.carry
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, metadata={"state": json.dumps(values)})
            digest = _flush(temporary)
            os.replace(temporary, path)
            flush_directory(self.directory)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError | SafetensorError):
                raise Unwritable(f"cannot be written ({_cause(error)})", where=str(path)) from None
            raise
        return CheckpointRef(path.name, digest)

    def read(self, reference: CheckpointRef) -> RunState:
        """Return the state that a reference names.

        Raises:
            InputError: the file is missing, or is not the one that was written.
        """
        path = self.directory / Path(reference.path).name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
        if digest != reference.sha256:
            raise InputError("is not the checkpoint that was written", where=str(path), right="restore it from a copy")
        return _read(path)

    def best_round(self, reference: CheckpointRef) -> int:
        """Return the best round that a state knows of, 0 if none, without reading the state.

        Raises:
            InputError: the file is missing, or is no checkpoint.
        """
        path = self.directory / Path(reference.path).name
        try:
            with safe_open(path, framework="numpy") as file:
                return int(json.loads(file.metadata()["state"])["best_round"])
        except FileNotFoundError:
            raise InputError("is missing", where=str(path)) from None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"is no checkpoint ({type(error).__name__})", where=str(path)) from None

    def prune(self, keep: set[int]) -> None:
        """Remove the files of all rounds but these."""
        names = {self._path(number).name for number in keep}
        for path in self.directory.glob("round-*.safetensors"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.directory / f"round-{number:06d}.safetensors"


def _read(path: Path) -> RunState:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values = json.loads(metadata["state"])
        sums = {name.removeprefix(_SUM): tensors.pop(name) for name in list(tensors) if name.startswith(_SUM)}
        return RunState(
            round=int(values["round"]),
            plan=values["plan"].encode(),
            vector=tensors.pop(_VECTOR),
            carry=tensors.pop(_CARRY, None),
            moments={name.removeprefix(_MOMENT): tensor for name, tensor in tensors.items()},
            best_round=int(values["best_round"]),
            best_value=values["best_value"],
            stopped=str(values["stopped"]),
            spent=tuple(Spent(int(cohort), int(survivors)) for cohort, survivors in values["spent"]),
            taken={str(client): int(times) for client, times in values["taken"].items()},
            l2_clip=None if values["l2_clip"] is None else float(values["l2_clip"]),
            # Earlier versions did not say so; nearly every round has a result.
            has_result=bool(values.get("has_result", values["round"])),
            sums=sums,
        )
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError, struct.error) as error:
        raise InputError(f"is no checkpoint ({type(error).__name__})", where=str(path)) from None


def _cause(error: OSError | SafetensorError) -> str:
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).splitlines()[0]


def _flush(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
