"""A new certificate authority for TLS, in two steps, so that no agent is left behind: announce it, then switch to it.

Between the steps agents hear of the new authority over connections that the old one vouches for, and from then on
trust both. The next authority and its server certificate wait in the directory `next`; a file `switch` in it says that
they are to take the place of the present ones, which whoever opens the coordinator's directory then completes. So a
crash leaves the old ones, or the new ones, and never some of each.

This is for keys that get old. Whoever has stolen the old authority's key can announce an authority too: then invite
every member again, from a new coordinator's directory.
"""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

from cryptography import x509

from tacit.models.durable import flush_directory, write_directory, write_file
from tacit.models.errors import InputError
from tacit.server.tls_authority import der, new_authority, new_server

NEXT = "next"
SWITCH = "switch"
FILES = ("ca.pem", "ca.key", "server.pem", "server.key")


def announce(path: Path, federation: str, now: datetime) -> bytes:
    """Make the next authority, and return its certificate (DER).

    Args:
        path: the coordinator's directory.
        federation: its name.
        now: the time, for the certificates.

    Raises:
        InputError: one is announced already, or it cannot be written.
    """
    if (path / NEXT / FILES[0]).exists():
        raise InputError(
            "a new authority is announced already", where=str(path), right="switch to it once every agent was there"
        )
    authority = new_authority(federation, now)
    server = new_server(authority, _names((path / "server.pem").read_bytes()), now)
    files = dict(zip(FILES, (authority.certificate, authority.key, server.certificate, server.key), strict=True))
    try:
        write_directory(path / NEXT, files, private=True)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path / NEXT)) from None
    return der(authority.certificate)


def switch(path: Path) -> None:
    """Put the authority that was announced in the place of the present one.

    Raises:
        InputError: none was announced, or the disk refuses; the present one stays.
    """
    if not (path / NEXT / FILES[0]).exists():
        raise InputError("no new authority is announced", where=str(path), right="`tacit coordinator rotate-ca` first")
    try:
        write_file(path / NEXT / SWITCH, b"", private=True)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path / NEXT)) from None
    complete(path)


def complete(path: Path) -> None:
    """Complete a switch that was begun; without one nothing happens, and a second time neither.

    Raises:
        InputError: the disk refuses; opening the directory again goes on with it.
    """
    waiting = path / NEXT
    if not (waiting / SWITCH).exists():
        return
    try:
        for name in FILES:
            try:
                os.replace(waiting / name, path / name)
            except FileNotFoundError:
                continue  # it has moved already
        flush_directory(path)
        shutil.rmtree(waiting, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot be replaced ({error.strerror})", where=str(path)) from None


def announced(path: Path) -> bytes | None:
    """Return the certificate (DER) of the authority that is announced, None if none is."""
    try:
        return der((path / NEXT / FILES[0]).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _names(server_pem: bytes) -> list[str]:
    """Return the host names and addresses of a server certificate."""
    certificate = x509.load_pem_x509_certificate(server_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]
