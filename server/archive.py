"""Files in one file, with a list of their digests; taken out again whole and as they were, or not at all.

An archive is a ZIP file without compression, so that any tool can list it. Its last member, `MANIFEST.sha256`, is the
list, in the form that `sha256sum --check` reads. It shows damage, not forgery: whoever can write the archive can write
the list.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zipfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Self

from tacit.models.durable import flush_directory
from tacit.models.errors import InputError

MANIFEST = "MANIFEST.sha256"
LONGEST_MANIFEST = 1 << 28  # bytes
PIECE = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_ALWAYS = (1980, 1, 1, 0, 0, 0)  # when a file was last written is nobody's business


class ArchiveWriter:
    """An archive that is being written: a new file for its owner alone, on the disk when the block ends."""

    def __init__(self, path: Path) -> None:
        """Make the file, which does not exist."""
        self._file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "w+b")
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self._digests: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Add the list of digests and flush everything to the disk; after an error, only close."""
        with self._file:
            try:
                if error is None:
                    lines = "".join(f"{digest}  {name}\n" for name, digest in self._digests.items())
                    with self._member(MANIFEST) as member:
                        member.write(lines.encode())
                    self._zip.close()
                    self._file.flush()
                    os.fsync(self._file.fileno())
            finally:
                with suppress(OSError):  # it is worth nothing then, and a full disk takes no end of it
                    self._zip.close()

    def __len__(self) -> int:
        """Return how many files it holds."""
        return len(self._digests)

    def __contains__(self, name: str) -> bool:
        """Return whether a file of this name is in it."""
        return name in self._digests

    def add(self, name: str, source: IO[bytes]) -> str:
        """Copy a file from where it stands to its end, and return the hex SHA-256 of what was copied.

        Raises:
            InputError: the name is taken, or none that an archive can hold.
            OSError: it cannot be read or written.
        """
        if not _is_name(name) or name in self._digests:
            raise InputError("is no name that a backup can hold", where=repr(name), right="rename it or move it away")
        digest = hashlib.sha256()
        with self._member(name) as member:
            while piece := source.read(PIECE):
                digest.update(piece)
                member.write(piece)
        self._digests[name] = digest.hexdigest()
        return self._digests[name]

    def _member(self, name: str) -> IO[bytes]:
        return self._zip.open(zipfile.ZipInfo(name, _ALWAYS), "w", force_zip64=True)


def extract(archive: Path, folder: Path) -> None:
    """Take all files out of an archive, private, each compared with its digest and on the disk.

    Args:
        archive: what `ArchiveWriter` wrote.
        folder: an empty directory; whatever stands in it after an error is worth nothing.

    Raises:
        InputError: the archive cannot be read, a file of it is missing or was added, or is not what it was.
    """
    try:
        with zipfile.ZipFile(archive) as found:
            digests = _listed(found, archive)
            for name, digest in digests.items():
                if _extract(found, name, folder / name) != digest:
                    raise InputError("is not what was written", where=f"{archive}: {name}", right="use another backup")
            for path in sorted({(folder / name).parent for name in digests} | {folder}):
                flush_directory(path)
    except OSError as error:
        raise InputError(
            f"cannot be taken out ({error.strerror or type(error).__name__})", where=str(archive)
        ) from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("is no backup, or a damaged one", where=str(archive), right="use another backup") from None


def _listed(found: zipfile.ZipFile, archive: Path) -> dict[str, str]:
    """Return the digest of every file by its name, checked against what is there."""
    damaged = InputError("is no backup, or a damaged one", where=str(archive), right="use another backup")
    members = found.infolist()
    names = [member.filename for member in members]
    if len(set(names)) != len(names) or MANIFEST not in names or not all(map(_is_name, names)):
        raise damaged
    if any(one.compress_type != zipfile.ZIP_STORED or one.flag_bits & 1 for one in members):
        raise damaged
    if found.getinfo(MANIFEST).file_size > LONGEST_MANIFEST:
        raise damaged
    lines = [_LINE.fullmatch(line) for line in found.read(MANIFEST).decode().split("\n")[:-1]]
    digests = {line[2]: line[1] for line in lines if line is not None}
    if None in lines or len(digests) != len(lines) or digests.keys() != set(names) - {MANIFEST}:
        raise damaged
    return digests


def _extract(found: zipfile.ZipFile, name: str, path: Path) -> str:
    make_private(path.parent)
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, stat.S_IRUSR | stat.S_IWUSR)
    with found.open(name) as member, os.fdopen(descriptor, "wb") as file:
        while piece := member.read(PIECE):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(descriptor)
    return digest.hexdigest()


def _is_name(name: str) -> bool:
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and "\\" not in name and "/".join(parts) == name
    return plain and bool(parts) and not {"..", "/"} & set(parts)


def make_private(directory: Path) -> None:
    """Make a directory and what leads to it, where they are not there yet, for their owner alone."""
    if not directory.is_dir():
        make_private(directory.parent)
        directory.mkdir(mode=0o700)
