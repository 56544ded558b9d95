"""Where an agent keeps what it must not lose: lines that are only ever added, and on disk when `append` returns."""

from __future__ import annotations

import fcntl
import os
import stat
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from tacit.models.durable import flush_directory
from tacit.models.errors import InputError, Unavailable

_CHUNK_BYTES = 1 << 20
_TRIES, _PAUSE_SECONDS = 5, 0.05  # whoever only looks has the lock for a moment


class StorageError(Unavailable):
    """A line could not be made durable; the text is one line and names the file.

    Not an `InputError`, whose text a coordinator gets to read: the file is named after the owner's data set.
    """


class InUse(InputError):
    """Another process, such as the agent's own, has the lines open for writing."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        super().__init__("is in use", where=str(path), right="stop the agent that is running")


class Lines(Protocol):
    """An append-only sequence of lines.

    An `append` that raises has either left the lines as they were, or every later one raises too. In the second case
    the line may turn up once they are opened again.
    """

    @property
    def usable(self) -> bool:
        """Say whether an `append` may succeed; once it is not so, the lines have to be opened again."""
        ...

    def read(self) -> list[bytes]:
        """Return all lines from the first, without line ends."""
        ...

    def append(self, line: bytes) -> None:
        """Add a line, which has no line end in it; it would survive a crash when this returns."""
        ...

    def close(self) -> None:
        """Give the lines back to whoever opens them next; nothing is added any more."""
        ...


class MemoryLines:
    """Lines that end with the process; for simulations, whose members end with it too.

    Args:
        lines: what is there already; none unless told otherwise.
    """

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        """Start with these."""
        self._lines = list(lines)
        self.usable = True

    def read(self) -> list[bytes]:
        """Return all lines."""
        return list(self._lines)

    def append(self, line: bytes) -> None:
        """Add a line."""
        check_line(line)
        self._lines.append(line)

    def close(self) -> None:
        """Do nothing: nobody else can open them."""


class FileLines:
    """The lines of one file, which this object alone may write for as long as it lives.

    The file has mode 0600 in a directory of mode 0700, and every line is flushed to the disk. At opening, a last line
    without a line end is cut off: the process died while it was written, so nobody was told that it is there. Nothing
    else is ever removed.

    After a flush that failed nothing more is written: the system may have dropped the bytes, and say so only once.

    Args:
        path: the file; it and its directory are made if they are missing.

    Raises:
        InUse: another process or object has the file open.
        InputError: others may read it, or it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        """Lock the file and cut off what a crash left half-written."""
        self._path = path
        private_directory(path.parent)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputError(f"cannot be opened ({error.strerror})", where=str(path)) from None
        self._close = weakref.finalize(self, os.close, self._file)
        self._process = os.getpid()
        self._usable = False
        if not _locked(self._file):
            self._close()
            raise InUse(path)
        try:
            check_private(os.fstat(self._file), path, stat.S_ISREG, "file", "600")
            content = _read_all(self._file)
            self._size = content.rfind(b"\n") + 1
            if self._size < len(content):
                os.ftruncate(self._file, self._size)
                os.fsync(self._file)
            # The file may be new, or the crash came before its name was on disk.
            flush_directory(path.parent)
        except OSError as error:
            self._close()
            raise InputError(f"cannot be used ({error.strerror})", where=str(path)) from None
        except BaseException:
            self._close()
            raise
        self._usable = True

    @property
    def usable(self) -> bool:
        """Say whether nothing has come between this object and its file."""
        return self._usable

    def read(self) -> list[bytes]:
        """Return all lines."""
        self._check_usable()
        try:
            return _read_all(self._file)[: self._size].split(b"\n")[:-1]
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be read ({error.strerror})") from None

    def append(self, line: bytes) -> None:
        """Add a line and flush it to the disk.

        Raises:
            StorageError: it could not be written, for instance because the disk is full, and the lines are as before;
                or it could not be flushed, or somebody else changed the file, and nothing is written ever after.
        """
        check_line(line)
        self._check_usable()
        data = line + b"\n"
        self._usable = False  # until it is known what the file holds, whatever interrupts
        self._check_untouched()
        try:
            _write_all(self._file, data)
        except OSError as error:
            self._take_back(error)
            raise StorageError(f"{self._path}: cannot be written ({error.strerror}); nothing was") from None
        try:
            os.fsync(self._file)
        except OSError as error:
            raise StorageError(
                f"{self._path}: cannot be flushed to the disk ({error.strerror}); open it again once the disk is sound"
            ) from None
        self._size += len(data)
        self._usable = True

    def close(self) -> None:
        """Give the file back to whoever wants to write next."""
        self._usable = False
        self._close()

    def _take_back(self, error: OSError) -> None:
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            raise StorageError(f"{self._path}: holds half a line ({error.strerror}); open it again") from None
        self._usable = True

    def _check_usable(self) -> None:
        if not self._usable:
            raise StorageError(f"{self._path}: is closed, or an earlier line could not be written; open it again")
        if self._process != os.getpid():  # a fork shares the lock, so the lock would not keep it out
            raise StorageError(f"{self._path}: belongs to the process that opened it")

    def _check_untouched(self) -> None:
        now = os.fstat(self._file)
        if now.st_size != self._size or now.st_nlink == 0:
            raise StorageError(f"{self._path}: was changed or removed by somebody else; nothing is written to it")


class Rewritten(Exception):
    """A file is no longer the one that was read so far, only longer."""


class Tail:
    """The lines of a file that another process adds to, each given once, whole, in order and as it comes.

    Of what was given before, only the length is looked at again: a change within it shows when all is read anew.

    Args:
        path: the file; there need not be one yet.
    """

    def __init__(self, path: Path) -> None:
        """Stand at the beginning."""
        self._path = path
        self._offset = 0
        self._inode: int | None = None

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Yield each new line with the offset that it begins at; what is not taken is given the next time.

        Raises:
            Rewritten: the file has gone, is shorter than what was read, or is another one.
            InputError: it cannot be read.
        """
        try:
            with open(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                found = os.fstat(file.fileno())
                if found.st_size < self._offset or self._inode not in (None, found.st_ino):
                    raise Rewritten
                self._inode = found.st_ino
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    begin, self._offset = self._offset, self._offset + len(line)
                    yield begin, line[:-1]
        except FileNotFoundError:
            if self._inode is not None:
                raise Rewritten from None
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=str(self._path)) from None


def read_lines(path: Path) -> list[bytes]:
    """Return the complete lines of a file that another process may be writing; none if there is no file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    return content.split(b"\n")[:-1]


def is_in_use(path: Path) -> bool:
    """Say whether another process has the lines of a file open for writing."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def check_line(line: bytes) -> None:
    """Refuse what would not come back as the one line that it is.

    Raises:
        ValueError: it is empty or has a line end in it.
    """
    if not line or b"\n" in line:
        raise ValueError("a line is not empty and has no line end in it")


def private_directory(path: Path) -> None:
    """Make a directory that nobody else may enter, or check that the one that is there is such a one.

    Raises:
        InputError: it cannot be made, or others may enter it.
    """
    try:
        if not path.exists():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            flush_directory(path.parent)
        check_private(path.stat(), path, stat.S_ISDIR, "directory", "700")
    except OSError as error:
        raise InputError(f"cannot be made or read ({error.strerror})", where=str(path)) from None


def check_private(found: os.stat_result, path: Path, is_kind: Callable[[int], bool], kind: str, mode: str) -> None:
    """Refuse what is not of this kind, not one's own, or open to others.

    Args:
        found: what is known of it.
        path: where it is, for the error.
        is_kind: `stat.S_ISREG` or `stat.S_ISDIR`.
        kind: the same in words.
        mode: what to close it with, in octal.

    Raises:
        InputError: says which.
    """
    if not is_kind(found.st_mode):
        raise InputError(f"is no {kind}", where=str(path))
    if found.st_uid != os.geteuid():
        raise InputError("belongs to another user", where=str(path))
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise InputError("is open to other users", where=str(path), right=f"close it with chmod {mode}")


def _locked(file: int) -> bool:
    """Take the lock on a file for writing, and return whether nobody else has it for longer than a look takes."""
    for left in range(_TRIES, 0, -1):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if left > 1:
                time.sleep(_PAUSE_SECONDS)
    return False


def _read_all(file: int) -> bytes:
    content = bytearray()
    while piece := os.pread(file, _CHUNK_BYTES, len(content)):
        content += piece
    return bytes(content)


def _write_all(file: int, data: bytes) -> None:
    written = 0
    while written < len(data):
        written += os.write(file, data[written:])
