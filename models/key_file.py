"""A key as a file that only its owner can read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from uuid import uuid4

from tacit.models.durable import flush_directory
from tacit.models.errors import InputError
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import KEY_BYTES, SystemRandomness


def kept_identity(path: Path, purpose: str) -> Identity:
    """Return the identity whose secret is the 32 bytes in a file; the file is made at first need.

    It appears whole, on the disk and for its owner alone, or not at all; of two processes that make it at once, both
    use the same one.

    Args:
        path: the file.
        purpose: what the key is for, such as "organisation".

    Raises:
        InputError: the file cannot be made or read, others can read it, or it holds no key.
    """
    if (present := read_identity(path)) is not None:
        return present
    try:
        _create(path, SystemRandomness().key("identity", purpose))
    except FileExistsError:
        pass  # Another process made it in this moment.
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", where=f"key file {path}") from None
    identity = read_identity(path)
    if identity is None:
        raise InputError("has gone again", where=f"key file {path}")
    return identity


def read_identity(path: Path) -> Identity | None:
    """Return the identity of a key file, or None while there is no such file.

    Raises:
        InputError: the file cannot be read, others can read it, or it holds no key.
    """
    where = f"key file {path}"
    try:
        # A link could lead to a file whose permissions are somebody else's affair.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        what = "is a link" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
        raise InputError(what, where=where) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError("is no plain file", where=where)
        if found.st_mode & 0o077:
            raise InputError("can be read by others", where=where, right=f"chmod 600 {path}")
        secret = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(secret) != KEY_BYTES:
        raise InputError("holds no key", where=where, right="restore it from a copy, or name another file")
    return Identity(secret)


def _create(path: Path, secret: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link never takes the place of a key that somebody else has just made.
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_directory(path.parent)
