"""The registry: models as immutable files under their digest, and the store's rows that give them names."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from tacit.models.artifact_files import CARD, CONFIG, WEIGHTS, digest_of
from tacit.models.durable import flush_directory
from tacit.models.errors import InputError, Unwritable
from tacit.server.store import ModelVersion, NewModelVersion, RunRecord, Store

FILES = (WEIGHTS, CONFIG, CARD)
_INCOMING = ".incoming-"
_INCOMING_LIFETIME_SECONDS = 24 * 3600
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def parse_reference(text: str) -> tuple[str, str | None]:
    """Split `NAME@ALIAS`, `NAME@VERSION` or `NAME` into the name and the selector, None for the last form."""
    name, at, selector = text.partition("@")
    if not name or (at and not selector):
        raise InputError("names no model", where=repr(text), right="NAME, NAME@VERSION or NAME@ALIAS")
    return name, selector if at else None


class Registry:
    """Models in a directory `ROOT/sha256/<first two digits>/<digest>/`, named by the versions in a store.

    A version's files are written under a temporary name, flushed to the disk, checked and renamed before its row is
    committed, so a row never names files that are not there. What a crash leaves between the two is found again by
    the next registration of the same files.
    """

    def __init__(
        self,
        store: Store,
        root: Path = Path("models-store"),
        *,
        digest_of: Callable[[Path], str] = digest_of,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Use `root`, which is made at the first registration.

        Args:
            store: where versions and aliases are kept.
            root: the directory of the files.
            digest_of: the digest of a directory.
            now: the clock, in seconds since the epoch, by which abandoned temporary directories are recognised.
        """
        self.store = store
        self.root = Path(root)
        self._digest_of = digest_of
        self._now = now

    def register(
        self,
        directory: Path,
        name: str,
        run: str | None,
        round: int | None,
        metrics: Mapping[str, float],
        details: Mapping[str, Any],
    ) -> ModelVersion:
        """Copy a model's files into the registry and give them a version; the same files get the same version.

        Raises:
            InputError: a file is missing or is no plain file, the name cannot be used, or the store knows no such run.
        """
        new = self.add_files(directory, name, run, round, metrics, details)
        return self.store.get_model_version(name, self.store.add_model_version(new))

    def add_files(
        self,
        directory: Path,
        name: str,
        run: str | None,
        round: int | None,
        metrics: Mapping[str, float],
        details: Mapping[str, Any],
    ) -> NewModelVersion:
        """Do the first half of `register`; the rest is `Store.add_model_version`, or `commit_round(..., model=)`."""
        _check_source(directory)
        self._sweep()
        incoming = self.root / "sha256" / f"{_INCOMING}{uuid4().hex}"
        try:
            incoming.mkdir(parents=True)
            files = _copy(directory, incoming)
            # Of the copy, not of the source, which may change meanwhile.
            digest = self._digest_of(incoming)
            new = NewModelVersion(name, digest, run, round, metrics, details, files)
            self._place(incoming, new)
        except OSError as error:
            raise Unwritable(f"cannot be stored ({error.strerror})", where=f"{directory} in {self.root}") from None
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return new

    def resolve(self, name: str, selector: int | str | None = None) -> ModelVersion:
        """Return the version that a number, an alias or "latest" selects.

        Without a selector it is the champion, or the latest version of a model that has none.

        Raises:
            InputError: there is no such model, version or alias.
        """
        versions = self.store.list_versions(name)
        if selector is None:
            selector = "latest" if (champion := self.store.alias(name, "champion")) is None else champion
        text = str(selector)
        if text == "latest":
            if not versions:
                raise InputError("has no version", where=f"model {name}")
            return versions[-1]
        if _NUMBER.fullmatch(text):
            return self.store.get_model_version(name, int(text))
        version = self.store.alias(name, text)
        if version is None:
            known = ", ".join(sorted({change.alias for change in self.store.alias_history(name)})) or "none yet"
            raise InputError(
                f"has no version or alias {text!r}",
                where=f"model {name}",
                right=f"versions 1 to {len(versions)}, latest; aliases: {known}",
            )
        return self.store.get_model_version(name, version)

    def find(self, reference: str) -> ModelVersion:
        """Return the version that `NAME`, `NAME@VERSION` or `NAME@ALIAS` means."""
        return self.resolve(*parse_reference(reference))

    def path(self, version: ModelVersion) -> Path:
        """Return the directory of a version's files, whether or not it is there."""
        return self._directory(version.digest)

    def verify(self, version: ModelVersion) -> None:
        """Read all files of a version again and compare them with what was registered.

        Raises:
            InputError: a file is missing, was added or is not what it was; the text names it.
        """
        self._check(version, self.path(version), f"model {version.name} version {version.version}")

    def promote(self, name: str, version: int | str, alias: str, *, actor: str = "registry") -> ModelVersion:
        """Point an alias at a version whose files are intact; a new champion makes the old one `previous`.

        Raises:
            InputError: there is no such version, its files are not intact, or its noise protects nobody.
        """
        found = self.resolve(name, version)
        _check_promise(found)
        self.verify(found)
        displaced = "previous" if alias == "champion" else None
        self.store.set_alias(name, alias, found.version, actor, displaced=displaced)
        return found

    def export(self, name: str, version: int | str | None, destination: Path) -> Path:
        """Copy a version's files to `destination`, which must not exist, and return it.

        Raises:
            InputError: the destination exists or cannot be written, or the files are not intact.
        """
        found = self.resolve(name, version)
        self.verify(found)
        destination = Path(destination)
        if destination.exists():
            raise InputError("exists already", where=str(destination), right="name a directory that does not exist yet")
        incoming = destination.parent / f"{_INCOMING}{uuid4().hex}"
        try:
            incoming.mkdir(parents=True)
            _copy(self.path(found), incoming)
            self._check(found, incoming, f"model {name} version {found.version}")
            incoming.rename(destination)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", where=str(destination)) from None
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return destination

    def evaluations(self, version: ModelVersion) -> list[RunRecord]:
        """Return the finished runs that evaluated a version, or another one of the same files, newest first."""
        found = []
        for run in self.store.list_runs(None, "finished"):
            summary = run.summary or {}
            if "evaluation" in summary and summary["model"]["sha256"] == version.digest:
                found.append(run)
        return found

    def _directory(self, digest: str) -> Path:
        # A database that came out of somebody's backup may say anything, and this leads to where files are.
        if not _DIGEST.fullmatch(digest):
            raise InputError("is no digest of a model's files", where=repr(digest[:64]))
        return self.root / "sha256" / digest[:2] / digest

    def _place(self, incoming: Path, new: NewModelVersion) -> None:
        final = self._directory(new.digest)
        final.parent.mkdir(exist_ok=True)
        flush_directory(incoming)
        if not final.exists():
            try:
                incoming.rename(final)
            except OSError:
                if not final.exists():
                    raise
                # Another process placed the same files in this moment.
            for directory in (final.parent, final.parent.parent, self.root):
                flush_directory(directory)
        self._check(new, final, f"model {new.name}")

    def _check(self, version: ModelVersion | NewModelVersion, directory: Path, what: str) -> None:
        restore = "restore the directory from a copy, or remove it and register the model again"
        for name, expected in version.files.items():
            path = directory / name
            try:
                found = _sha256(path)
            except OSError as error:
                raise InputError(f"{what}: cannot be read ({error.strerror})", where=str(path), right=restore) from None
            if found != expected:
                raise InputError(f"{what}: is not the file that was registered", where=str(path), right=restore)
        for path in sorted(directory.iterdir()):
            if path.name not in version.files:
                raise InputError(f"{what}: was not registered", where=str(path), right="remove it")
        if self._digest_of(directory) != version.digest:
            raise InputError(f"{what}: has another digest", where=str(directory), right=restore)

    def _sweep(self) -> None:
        """Remove what killed registrations left behind long ago."""
        for path in self.root.glob(f"sha256/{_INCOMING}*"):
            try:
                old = self._now() - path.stat().st_mtime > _INCOMING_LIFETIME_SECONDS
            except FileNotFoundError:
                continue
            if old:
                shutil.rmtree(path, ignore_errors=True)


def _check_promise(version: ModelVersion) -> None:
    """Refuse a model whose privacy statement is about a federation that there was not, or about noise without secret.

    Raises:
        InputError: it is one.
    """
    statement = version.details.get("privacy", {})
    where = f"model {version.name} version {version.version}"
    if statement.get("hypothetical"):
        raise InputError(
            "is never promoted: its noise is that of a larger, hypothetical cohort",
            where=where,
            right="a model of a run without privacy.noise_cohort",
        )
    if statement.get("reproducible_noise"):
        raise InputError(
            "is never promoted: anybody can repeat its noise and subtract it",
            where=where,
            right="a model of a run without reproducible noise",
        )


def _check_source(directory: Path) -> None:
    if not directory.is_dir():
        raise InputError("is no directory", where=str(directory), right="name a directory with a model's files")
    needed = f"a model's directory holds {', '.join(FILES)}"
    for name in FILES:
        path = directory / name
        # A link could lead to a file that is not the model's, now or later.
        if path.is_symlink() or not path.is_file():
            raise InputError(f"has no plain file {name}", where=str(directory), right=needed)
    for path in sorted(directory.iterdir()):
        if path.name not in FILES:  # The digest would not cover it.
            raise InputError("is no part of a model", where=str(path), right=f"{needed} and nothing else")


def _copy(source: Path, target: Path) -> dict[str, str]:
    """Copy a model's files, each flushed to the disk, and return the SHA-256 of each copy."""
    for name in FILES:
        shutil.copyfile(source / name, target / name, follow_symlinks=False)
        with (target / name).open("rb") as file:
            os.fsync(file.fileno())
    flush_directory(target)
    return {name: _sha256(target / name) for name in FILES}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
