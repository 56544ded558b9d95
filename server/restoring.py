"""A coordinator out of a backup: checked as a whole, then there as a whole, or not at all.

What was released after the backup was made is not in it. Whoever went on from the older state would count too little:
rounds would be asked again that the members have answered, and paid from budgets that were spent. So runs that had not
finished have failed, every privacy ledger is closed, recipes that waited are put aside and open invitations are void;
unless the coordinator was not up when the backup was made, and somebody knows that it never was since.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import cast

import tomli_w
from pydantic import ValidationError

from tacit.models.durable import flush_directory, write_file
from tacit.models.errors import InputError
from tacit.privacy.errors import PrivacyError
from tacit.privacy.terms import Unit
from tacit.server.archive import extract, make_private
from tacit.server.backup import ABOUT, CHECKPOINTS, DATABASE, DIRECTORY, MODELS, UNFINISHED, About, beside
from tacit.server.checkpoints import Checkpoints
from tacit.server.coordinator_directory import SETTINGS, Settings, open_directory, read_settings
from tacit.server.population_ledger import read_ledger
from tacit.server.registry import Registry
from tacit.server.run_queue import put_aside, queued
from tacit.server.store import open_store, snapshot
from tacit.server.store.engine import parse_url, sqlite_file


@dataclass(frozen=True)
class Restored:
    """A coordinator that is there again.

    Attributes:
        directory: where.
        about: what the backup said of itself.
        failed: the runs that had not finished and are not gone on with.
        closed: populations whose privacy ledger is closed.
        put_aside: recipes that waited and wait no more.
    """

    directory: Path
    about: About
    failed: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    put_aside: tuple[str, ...] = ()


def restore(
    file: Path, directory: Path, now: datetime, *, db: str | None = None, nothing_since: bool = False
) -> Restored:
    """Make a coordinator's directory and database out of a backup, whole or not at all.

    Args:
        file: the backup.
        directory: does not exist.
        now: the time.
        db: where the database goes: a path within the directory, or the SQLAlchemy URL of an empty one. Otherwise as
            it was.
        nothing_since: it is known that the coordinator was not up since; its runs, ledgers and recipes go on.

    Raises:
        InputError: the directory exists, the database is not empty, the backup is damaged, or was made while the
            coordinator was up and is to go on all the same.
        StoreUnavailable: the database cannot be reached, or the disk is full.
    """
    if os.path.lexists(directory):
        raise InputError("exists already", where=str(directory), right="a new directory")
    with beside(directory) as folder:
        extract(file, folder)
        about = _about(folder / ABOUT, file)
        if nothing_since and about.was_up:
            raise InputError(
                "was made while the coordinator was up, which therefore went on after it",
                where=str(file),
                right="leave out --nothing-since",
            )
        try:
            restored = _rebuilt(folder, about, directory, now, db, nothing_since)
        except (InputError, PrivacyError) as error:
            # Where it lies for the moment is of no use to anybody.
            why = str(error).replace(f"{folder}{os.sep}", "")
            raise InputError(f"cannot be restored: {why}", where=str(file)) from None
        except OSError as error:
            raise InputError(f"cannot be restored ({error.strerror})", where=str(directory)) from None
    return restored


def _rebuilt(
    folder: Path, about: About, directory: Path, now: datetime, db: str | None, nothing_since: bool
) -> Restored:
    """Build the directory beside its place, check it, fill the database, and put it in its place."""
    new, database = folder / DIRECTORY, folder / DATABASE
    settings = _settings(new / SETTINGS, db)
    own = sqlite_file(parse_url(settings.db))
    snapshot.check(database)
    failed, closed = _placed(folder, new / settings.models, about)
    snapshot.adopt(
        database, made_at=about.made_at, now=now, moved=(about.directory, directory), nothing_since=nothing_since
    )
    aside = () if nothing_since else _put_aside(new, about)
    if own is not None:
        if os.path.lexists(new / own):
            raise InputError("is another file of the backup", where="--db", right="another path")
        make_private((new / own).parent)
        database.rename(new / own)
    open_directory(new, now)
    _flush_all(new)
    if own is None:
        snapshot.fill(database, settings.db)
    try:
        if os.path.lexists(directory):
            raise InputError("exists already", where=str(directory), right="a new directory")
        os.rename(new, directory)
        flush_directory(directory.parent)
    except BaseException:
        if own is None:
            snapshot.clear(settings.db)
        raise
    return Restored(directory, about) if nothing_since else Restored(directory, about, failed, closed, aside)


def _about(path: Path, file: Path) -> About:
    try:
        return About.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise InputError("is no backup that this version can read", where=str(file), right="upgrade Tacit") from None


def _settings(path: Path, db: str | None) -> Settings:
    """Return the settings, changed where they lead out of the directory or another database was asked for."""
    settings = read_settings(path)
    changes: dict[str, str] = {} if db is None else {"db": db}
    if parse_url(db or settings.db).get_backend_name() == "sqlite":
        own = sqlite_file(parse_url(db or settings.db))
        if db is not None and (own is None or not _is_within(own)):
            raise InputError("leads out of the directory", where="--db", right="a path within it")
        if own is None or not _is_within(own):
            changes["db"] = "tacit.db"
    if not _is_within(settings.models):
        changes["models"] = "models-store"
    if changes:
        settings = settings.model_copy(update=changes)
        write_file(path, tomli_w.dumps(settings.model_dump(exclude_none=True)).encode(), private=True)
    return settings


def _is_within(path: str) -> bool:
    return not PurePath(path).is_absolute() and ".." not in PurePath(path).parts


def _placed(folder: Path, models: Path, about: About) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put every model where it belongs, and check all that the database points at.

    Returns:
        The runs that have not finished, and the populations that have a ledger.
    """
    with open_store(str(folder / DATABASE), create=False) as store:
        registry = Registry(store, models)
        for version in (one for model in store.list_models() for one in store.list_versions(model.name)):
            place = registry.path(version)
            if not place.exists():
                make_private(place.parent)
                (folder / MODELS / version.digest).rename(place)
            registry.verify(version)
        unfinished = tuple(run for run in store.list_runs(None) if run.status in UNFINISHED)
        for run in unfinished:
            last = store.last_committed_round(run.run)
            if last is not None and last.checkpoint is not None and Path(run.directory).is_relative_to(about.directory):
                inside = folder / DIRECTORY / Path(run.directory).relative_to(about.directory)
                Checkpoints(inside / CHECKPOINTS).read(last.checkpoint)
        found = snapshot.ledgers(folder / DATABASE)
        for population, unit in found:
            read_ledger(store, population, cast(Unit, unit))
    return tuple(run.run for run in unfinished), tuple(sorted({population for population, _ in found}))


def _put_aside(directory: Path, about: About) -> tuple[str, ...]:
    waiting = tuple(one.run for one in queued(directory))
    for run in waiting:
        put_aside(directory, run, f"waited when it was backed up on {about.made_at:%Y-%m-%d %H:%M} UTC")
    return waiting


def _flush_all(folder: Path) -> None:
    for path, _, files in os.walk(folder):
        for name in files:
            with Path(path, name).open("rb") as file:
                os.fsync(file.fileno())
        flush_directory(Path(path))
