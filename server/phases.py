"""Announces the phases of a run's rounds: on the disk before anybody is asked, so that a new process goes on there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tacit.models.durable import write_pieces
from tacit.models.errors import InputError, Unwritable
from tacit.server.rounds import Participant, RoundProgress
from tacit.server.store import Store
from tacit.server.store.records import CheckpointRef, PhaseRecord

Pieces: TypeAlias = Iterable[bytes | memoryview]


@dataclass(frozen=True)
class BrokenOff:
    """An attempt that another process was in the middle of.

    Attributes:
        number: the round.
        attempt: the attempt at it.
        progress: how far it had come.
        snapshot: where its exchanges stood.
    """

    number: int
    attempt: int
    progress: RoundProgress
    snapshot: bytes


class Phases:
    """The phases of one run.

    The state of the exchanges goes into a file of its own first; then one transaction points at it. What the
    transaction before it pointed at is removed only afterwards.

    Args:
        store: keeps them.
        run: the run's name.
        directory: for the files; made at the first announcement.
        memory: what the coordinator owes and knows.
    """

    def __init__(self, store: Store, run: str, directory: Path, memory: Callable[[], Mapping[str, Any]]) -> None:
        """Announce nothing yet."""
        self._store = store
        self._run = run
        self._directory = directory
        self._memory = memory

    def announce(self, number: int, attempt: int, exchange: str, progress: RoundProgress, snapshot: Pieces) -> None:
        """Keep that an exchange is about to be asked for; `snapshot` is where the exchanges stand, in pieces.

        Raises:
            Unwritable: the disk is full, or cannot be written to.
            StoreUnavailable: the database cannot be reached.
        """
        path, digest = self._directory / f"{number:06d}-{attempt:03d}-{progress.exchange}.bin", hashlib.sha256()
        try:
            self._directory.mkdir(exist_ok=True)
            write_pieces(path, _hashed(snapshot, digest), private=True)
        except OSError as error:
            raise Unwritable(f"cannot be written ({error.strerror})", where=str(path)) from None
        kept = CheckpointRef(path.name, digest.hexdigest())
        self._store.announce_phase(
            self._run, PhaseRecord(number, attempt, exchange, _plain(progress), kept, self._memory())
        )
        for earlier in self._directory.iterdir():
            if earlier != path:
                earlier.unlink(missing_ok=True)

    def broken_off(self, number: int) -> BrokenOff | None:
        """Return the attempt at a round that was announced and has not ended; None if there is none.

        Raises:
            InputError: its file is not the one that was written.
        """
        phase = self._store.phase(self._run)
        if phase is None or not phase.exchange or phase.number != number or phase.snapshot is None:
            return None
        path = self._directory / Path(phase.snapshot.path).name
        try:
            snapshot = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
        if hashlib.sha256(snapshot).hexdigest() != phase.snapshot.sha256:
            raise InputError("is not what was written", where=str(path), right="restore it from a copy")
        return BrokenOff(number, phase.attempt, _progress(phase.progress), snapshot)

    def recall(self) -> Mapping[str, Any]:
        """Return what the coordinator owed and knew at the last announcement; empty before the first."""
        phase = self._store.phase(self._run)
        return phase.memory if phase is not None else {}

    def asked(self) -> tuple[str, ...]:
        """Return whom the exchange that is open asks; nobody if none is."""
        phase = self._store.phase(self._run)
        return tuple(phase.progress["asked"]) if phase is not None and phase.exchange else ()


def _hashed(pieces: Pieces, digest: hashlib._Hash) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _plain(progress: RoundProgress) -> dict[str, Any]:
    return {
        "cohort": list(progress.cohort),
        "wanted": progress.wanted,
        "exchange": progress.exchange,
        "asked": list(progress.asked),
        "answered": dict(progress.answered),
        "gone": [asdict(member) for member in progress.gone],
    }


def _progress(values: Mapping[str, Any]) -> RoundProgress:
    return RoundProgress(
        cohort=tuple(values["cohort"]),
        wanted=values["wanted"],
        exchange=values["exchange"],
        asked=tuple(values["asked"]),
        answered=dict(values["answered"]),
        gone=tuple(Participant(**member) for member in values["gone"]),
    )
