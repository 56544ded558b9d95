"""A coordinator's directory: its keys, certificates and settings, for its owner alone; made once, whole or not at all.

| file | holds |
|---|---|
| `coordinator.toml` | the settings |
| `coordinator.key` | the secret of the identity that signs offers and ledgers |
| `authority.key` | the secret of the enrolment authority, which signs members' certificates |
| `ca.pem`, `ca.key` | the private certificate authority for TLS |
| `server.pem`, `server.key` | what the server shows to agents |
| `next` | the same four for the next authority, between announcing it and switching to it |
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tacit.models.durable import write_directory
from tacit.models.errors import InputError
from tacit.models.invitation import coordinator_address
from tacit.models.spelling import suggestion
from tacit.privacy.identity import Identity, check_name
from tacit.privacy.randomness import Randomness, SystemRandomness
from tacit.server import tls_rotation
from tacit.server.enrolment import Registrar
from tacit.server.local_identity import read_identity
from tacit.server.store.engine import parse_url, sqlite_file
from tacit.server.store.opening import check_database
from tacit.server.tls_authority import KeyPair, check, der, general_name, new_authority, new_server

SETTINGS = "coordinator.toml"
COORDINATOR_KEY = "coordinator.key"
AUTHORITY_KEY = "authority.key"
DEFAULT_PORT = 9092
DEFAULT_METRICS = "127.0.0.1:9464"
DAY_SECONDS = 86_400


def _is_name(text: str) -> str:
    check_name(text)
    return text


def _is_url(text: str) -> str:
    coordinator_address(text)
    return text


def _is_database(text: str) -> str:
    url = parse_url(text)
    if url.get_backend_name() == "sqlite" and sqlite_file(url) is None:
        raise InputError("a database in memory ends with its process", right="the path of a file")
    return text


def metrics_address(text: str) -> tuple[str, int]:
    """Return host and port of an address like 127.0.0.1:9464 or [::1]:9464; port 0 is any free one.

    Raises:
        ValueError: it is none.
    """
    host, _, port = text.rpartition(":")
    try:
        found = ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else -1
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 16 or (found.version == 6) != host.startswith("["):
        raise ValueError("write ADDRESS:PORT, as in 127.0.0.1:9464, or leave it empty")
    return str(found), number


def _is_metrics(text: str) -> str:
    if text:
        metrics_address(text)
    return text


class Settings(BaseModel):
    """What an operator may change in `coordinator.toml`.

    Attributes:
        federation: its name.
        url: where agents find the coordinator, as their invitations say.
        host: the address to listen on.
        port: the fleet port.
        db: the database: a path from this directory, or an SQLAlchemy URL.
        models: the directory of the registered models' files, as a path from this directory.
        certificate_days: the longest life of a member's certificate.
        metrics: the address and port of the figures for Prometheus; empty for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    federation: Annotated[str, AfterValidator(_is_name)]
    url: Annotated[str, AfterValidator(_is_url)]
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    db: Annotated[str, Field(repr=False), AfterValidator(_is_database)] = "tacit.db"
    models: Annotated[str, Field(min_length=1)] = "models-store"
    certificate_days: Annotated[int, Field(ge=1, le=3650)] = 365
    metrics: Annotated[str, AfterValidator(_is_metrics)] = DEFAULT_METRICS


@dataclass(frozen=True)
class CoordinatorDirectory:
    """What is in a coordinator's directory, checked.

    Attributes:
        path: the directory.
        settings: what `coordinator.toml` says.
        coordinator: signs offers and ledgers.
        authority: signs members' certificates.
        ca_der: the certificate of the authority for TLS, which invitations name the SHA-256 of.
    """

    path: Path
    settings: Settings
    coordinator: Identity = field(repr=False)
    authority: Identity = field(repr=False)
    ca_der: bytes = field(repr=False)

    @property
    def server_certificate(self) -> Path:
        """The file of the server's certificate."""
        return self.path / "server.pem"

    @property
    def server_key(self) -> Path:
        """The file of the server's key."""
        return self.path / "server.key"

    @property
    def db(self) -> str:
        """The database, whatever the working directory is."""
        file = sqlite_file(parse_url(self.settings.db))
        return self.settings.db if file is None else str(self.path / file)

    @property
    def models(self) -> Path:
        """The directory of the registered models' files, whatever the working directory is."""
        return self.path / self.settings.models

    def authorities(self) -> tuple[bytes, ...]:
        """Return the TLS authorities (DER) that agents are to trust: the present one first, and what comes next.

        Read from the disk each time: another process announces, and switches.
        """
        present = der(_read_private(self.path / "ca.pem"))
        coming = tls_rotation.announced(self.path)
        return tuple(dict.fromkeys([self.ca_der, present, *([coming] if coming else [])]))

    @property
    def registrar(self) -> Registrar:
        """Who signs the members' certificates."""
        return Registrar(
            self.settings.federation,
            self.authority,
            self.coordinator.public_key,
            self.settings.certificate_days * DAY_SECONDS,
        )


def create(
    path: Path,
    now: datetime,
    *,
    federation: str = "federation",
    names: Sequence[str] = (),
    host: str | None = None,
    port: int = DEFAULT_PORT,
    db: str = "tacit.db",
    randomness: Randomness | None = None,
) -> CoordinatorDirectory:
    """Make a new coordinator's directory, and return what is in it.

    Args:
        path: a directory that does not exist, or is empty.
        now: the time, for the certificates.
        federation: its name.
        names: host names and addresses that agents find this machine by, the first of which goes into invitations;
            without any the coordinator is for this machine alone.
        host: the address to listen on; every one if there are names, else the loopback.
        port: the fleet port.
        db: the database: a path from the directory, or an SQLAlchemy URL.
        randomness: of the two identities.

    Raises:
        InputError: an argument cannot be used, the database is there and is none of Tacit's, or there is something at
            the path; nothing was written.
        StoreUnavailable: the database is there and locked.
    """
    for name in names:
        general_name(name)
    reached = names[0] if names else "127.0.0.1"
    values = {
        "federation": federation,
        "url": f"https://{f'[{reached}]' if ':' in reached else reached}:{port}",
        "host": host or ("0.0.0.0" if names else "127.0.0.1"),  # noqa: S104 - TLS, and the gate, are before it
        "port": port,
        "db": db,
        "models": "models-store",
        "certificate_days": 365,
        "metrics": DEFAULT_METRICS,
    }
    _settings(values, "settings")
    file = sqlite_file(parse_url(db))
    # Without its dots: until the directory is there, no way leads out of it again.
    check_database(db if file is None else os.path.normpath(path.resolve() / file))
    randomness = randomness or SystemRandomness()
    authority = new_authority(federation, now)
    server = new_server(authority, names, now)
    files = {
        SETTINGS: tomli_w.dumps(values).encode(),
        COORDINATOR_KEY: Identity.generate(randomness, "coordinator").secret_bytes(),
        AUTHORITY_KEY: Identity.generate(randomness, "authority").secret_bytes(),
        "ca.pem": authority.certificate,
        "ca.key": authority.key,
        "server.pem": server.certificate,
        "server.key": server.key,
    }
    try:
        write_directory(path, files, private=True)
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", where=str(path)) from None
    return open_directory(path, now)


def open_directory(path: Path, now: datetime) -> CoordinatorDirectory:
    """Read a coordinator's directory and check all of it.

    Raises:
        InputError: a file is missing, damaged, out of date, or others than the owner can read it.
    """
    if not path.is_dir():
        raise InputError("there is no such directory", where=str(path), right="`tacit coordinator init` makes one")
    if os.access(path, os.X_OK) and not any(os.path.lexists(path / name) for name in (SETTINGS, COORDINATOR_KEY)):
        # Before a word about permissions: it may be any directory, such as the one that the command was given in.
        raise InputError(
            f"is no coordinator's directory: it has no {SETTINGS}",
            where=str(path),
            right="name another with --dir, or make one by `tacit coordinator init`",
        )
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InputError("others can enter it", where=str(path), right=f"chmod 700 {path}")
    settings = read_settings(path / SETTINGS)
    tls_rotation.complete(path)
    authority = KeyPair(_read_private(path / "ca.pem"), _read_private(path / "ca.key"))
    server = KeyPair(_read_private(path / "server.pem"), _read_private(path / "server.key"))
    try:
        check(authority, server, now)
    except InputError as error:
        raise InputError(error.what, where=str(path / error.where), right=error.right) from None
    return CoordinatorDirectory(
        path=path,
        settings=settings,
        coordinator=_identity(path / COORDINATOR_KEY),
        authority=_identity(path / AUTHORITY_KEY),
        ca_der=der(authority.certificate),
    )


def read_settings(path: Path) -> Settings:
    """Read a `coordinator.toml`.

    Raises:
        InputError: it is missing, open to others, or a key or value of it cannot be used.
    """
    try:
        values = tomllib.loads(_read_private(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise InputError("is no TOML in UTF-8", where=str(path)) from None
    return _settings(values, str(path))


def _settings(values: dict[str, object], where: str) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        # A misspelt key is also a missing one; its nearest name says more.
        found = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
        key = ".".join(map(str, found["loc"]))
        right = ""
        if found["type"] == "extra_forbidden":
            right = suggestion(key, Settings.model_fields)
        what = found["msg"].removeprefix("Value error, ")
        raise InputError(f"{key!r}: {what}", where=where, right=right) from None


def _identity(path: Path) -> Identity:
    identity = read_identity(path)
    if identity is None:
        raise _missing(path)
    return identity


def _read_private(path: Path) -> bytes:
    """Return what a file holds that only its owner can read."""
    try:
        # A link could lead to a file whose permissions are somebody else's affair.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError("is no plain file", where=str(path))
        if found.st_mode & 0o077:
            raise InputError("others can read it", where=str(path), right=f"chmod 600 {path}")
        return file.read(1 << 16)


def _missing(path: Path) -> InputError:
    return InputError("is missing", where=str(path), right="restore it from a copy, or make a new coordinator")
