"""A coordinator in one file: its keys and settings, database, queue, runs and models, as they were at one moment.

The database comes first, then the files that it points at: models are never changed or removed, and the checkpoints of
runs that go on are opened while nobody can commit a round, so that what is removed later is held. Files that nothing in
the database points at are taken as they are found.

| in the archive | what it is |
|---|---|
| `BACKUP.json` | when and of what the backup was made |
| `database.sqlite` | the database, whatever database it was kept in |
| `directory/...` | the coordinator's directory, without database and models |
| `models/DIGEST/...` | the files of every registered version |
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Annotated, Literal
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from tacit import __version__
from tacit.models.durable import flush_directory
from tacit.models.errors import InputError
from tacit.server.archive import ArchiveWriter
from tacit.server.checkpoints import Checkpoints
from tacit.server.coordinator_directory import AUTHORITY_KEY, COORDINATOR_KEY, SETTINGS, CoordinatorDirectory
from tacit.server.coordinator_lock import LOCK, kept_down
from tacit.server.registry import Registry
from tacit.server.store import Store, open_store, snapshot
from tacit.server.store.engine import parse_url, sqlite_file
from tacit.server.store.records import ModelVersion
from tacit.server.tls_rotation import FILES as TLS_FILES
from tacit.server.tls_rotation import NEXT
from tacit.server.up_file import UP_FILE

ABOUT, DATABASE, DIRECTORY, MODELS = "BACKUP.json", "database.sqlite", "directory", "models"
ARCHIVE, CHECKPOINTS = "archive", "checkpoints"
UNFINISHED = ("running", "interrupted")
TRIES = 5


class About(BaseModel):
    """What a backup says of itself.

    Attributes:
        format: the layout of the archive.
        made_at: when the database was as it is in the backup.
        tacit: the version that made it.
        federation: whose coordinator it is.
        directory: where its directory was.
        was_up: whether the coordinator was at work meanwhile, and so went on after the backup.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    made_at: AwareDatetime
    tacit: Annotated[str, Field(max_length=64)] = __version__
    federation: Annotated[str, Field(max_length=200)]
    directory: Path
    was_up: bool


@dataclass(frozen=True)
class Backup:
    """A backup that was made.

    Attributes:
        file: where.
        about: what it says of itself.
        size: in bytes.
        files, runs, versions: how many of each are in it.
    """

    file: Path
    about: About
    size: int
    files: int
    runs: int
    versions: int


class _Changed(Exception):
    """The keys were exchanged while they were read."""


def back_up(directory: CoordinatorDirectory, file: Path, now: datetime) -> Backup:
    """Write everything that a coordinator must not lose to a new file, for its owner alone, whole or not at all.

    A coordinator that is up goes on working. One that is not cannot be started before the backup is done.

    Args:
        directory: the coordinator's.
        file: does not exist; outside of the directory.
        now: the time.

    Raises:
        InputError: the file exists or cannot be written, or something in the directory is damaged or is a link.
        StoreUnavailable: the database cannot be read.
    """
    _refuse_existing(file)
    if file.resolve().is_relative_to(directory.path.resolve()):
        raise InputError("is within what is backed up", where=str(file), right="a file elsewhere")
    with beside(file) as folder, kept_down(directory.path) as is_down:
        about = About(
            made_at=now, federation=directory.settings.federation, directory=directory.path, was_up=not is_down
        )
        try:
            for attempt in range(TRIES):
                try:
                    made = _written(directory, about, folder / str(attempt))
                    break
                except _Changed:
                    shutil.rmtree(folder / str(attempt))
            else:
                raise InputError("its keys are being exchanged", where=str(directory.path), right="try again")
            _refuse_existing(file)
            os.rename(folder / str(attempt) / ARCHIVE, file)
            flush_directory(file.parent)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", where=str(file)) from None
    return Backup(file, about, file.stat().st_size, *made)


def _refuse_existing(file: Path) -> None:
    if os.path.lexists(file):
        raise InputError("exists already", where=str(file), right="a new file")


def _written(directory: CoordinatorDirectory, about: About, folder: Path) -> tuple[int, int, int]:
    """Write an archive, and return how many files, runs and versions are in it.

    Raises:
        _Changed: the keys were exchanged meanwhile; try again.
    """
    folder.mkdir(mode=0o700)
    database, keys = folder / DATABASE, _keys(directory.path)
    with ExitStack() as held:
        checkpoints: dict[Path, tuple[IO[bytes], str]] = {}
        with open_store(directory.db, create=False) as store:
            snapshot.save(directory.db, database, lambda: checkpoints.update(_needed(store, directory.path, held)))
        with open_store(str(database), create=False) as store:
            versions = [version for model in store.list_models() for version in store.list_versions(model.name)]
            runs, files = store.list_runs(None), Registry(store, directory.models)
        with ArchiveWriter(folder / ARCHIVE) as archive:
            archive.add(ABOUT, BytesIO(about.model_dump_json(indent=2).encode()))
            _add_file(archive, DATABASE, database)
            for version in versions:
                _add_version(archive, version, files.path(version))
            for path, (source, digest) in checkpoints.items():
                if archive.add(_name(path, directory.path), source) != digest:
                    raise InputError("is not the checkpoint that was written", where=str(path))
            for path in _plain_files(directory):
                if path not in checkpoints:
                    with suppress(FileNotFoundError):  # it has had its time
                        _add_file(archive, _name(path, directory.path), path)
    if _keys(directory.path) != keys:
        raise _Changed
    return len(archive), len(runs), len(versions)


def _needed(store: Store, directory: Path, held: ExitStack) -> Iterator[tuple[Path, tuple[IO[bytes], str]]]:
    """Open the checkpoints without which an unfinished run has no state: its newest one, and its best."""
    for run in store.list_runs(None):
        if run.status not in UNFINISHED or not Path(run.directory).is_relative_to(directory):
            continue
        last = store.last_committed_round(run.run)
        if last is None or last.checkpoint is None:
            continue
        kept = Checkpoints(Path(run.directory) / CHECKPOINTS)
        best = kept.best_round(last.checkpoint)
        found = [last, *(one for one in store.rounds(run.run) if best and one.number == best != last.number)]
        for reference in (one.checkpoint for one in found if one.checkpoint is not None):
            path = kept.directory / Path(reference.path).name
            try:
                yield path, (held.enter_context(path.open("rb")), reference.sha256)
            except OSError as error:
                raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None


def _add_version(archive: ArchiveWriter, version: ModelVersion, directory: Path) -> None:
    where = f"model {version.name} version {version.version}"
    for name, digest in version.files.items():
        stored = f"{MODELS}/{version.digest}/{name}"
        if stored not in archive and _add_file(archive, stored, directory / name) != digest:
            raise InputError(f"{where}: is not the file that was registered", where=str(directory / name))


def _plain_files(directory: CoordinatorDirectory) -> Iterator[Path]:
    """Yield the files of the directory but the database, models, and what is only there for a moment."""
    database = sqlite_file(parse_url(directory.db))
    left_out = {directory.path / LOCK, directory.path / UP_FILE, directory.models}
    if database is not None:
        left_out |= {Path(database + ending) for ending in ("", "-wal", "-shm", "-journal")}
    for folder, folders, files in os.walk(directory.path):
        folders[:] = sorted(name for name in folders if Path(folder, name) not in left_out)
        for path in (Path(folder, name) for name in (*folders, *sorted(files))):
            if path in left_out or path.name.endswith(".tmp"):
                continue
            if path.is_symlink():
                raise InputError("is a link, which a backup does not follow", where=str(path), right="remove it")
            if path.is_file():  # and no socket
                yield path


def _keys(directory: Path) -> dict[str, bytes]:
    """Return the files that belong together, so that no half of them is ever in a backup."""
    found = {}
    for name in (SETTINGS, COORDINATOR_KEY, AUTHORITY_KEY, *TLS_FILES, *(f"{NEXT}/{name}" for name in TLS_FILES)):
        with suppress(FileNotFoundError):
            found[name] = (directory / name).read_bytes()
    return found


def _name(path: Path, directory: Path) -> str:
    return f"{DIRECTORY}/{path.relative_to(directory).as_posix()}"


def _add_file(archive: ArchiveWriter, name: str, path: Path) -> str:
    with path.open("rb") as source:
        return archive.add(name, source)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Make a private directory on the disk that a path is on; it is gone when the block ends.

    Raises:
        InputError: it cannot be made.
    """
    folder = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise InputError(f"cannot be written to ({error.strerror})", where=str(path.parent)) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
