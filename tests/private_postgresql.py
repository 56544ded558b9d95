"""A PostgreSQL of the tests' own, on the loopback, which may be stopped and killed; needs nothing but Python.

`private_postgresql.py COMMAND...` runs a command with `TACIT_TEST_POSTGRES_URL` set to such a database.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

if __package__:
    from .free_port import free_port  # noqa: TID252 - tests are no package that could be named
else:  # a script, or imported by one
    from free_port import free_port

URL = "TACIT_TEST_POSTGRES_URL"
START_SECONDS = 300.0
FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/bin")


def programs() -> Path | None:
    """Return the folder of the newest PostgreSQL's `initdb` and `postgres`, None where there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = [folder for pattern in FOLDERS for folder in Path("/").glob(pattern[1:]) if (folder / "initdb").exists()]
    return max(folders, key=lambda folder: [int(number) for number in re.findall(r"\d+", str(folder))], default=None)


class PrivatePostgresql:
    """A cluster in a folder of its own, with a password, flushed to the disk like any; `close` leaves nothing of it."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = programs() if folder is None else folder
        if folder is None:
            raise FileNotFoundError("PostgreSQL's programs are not installed")
        self._programs = folder
        self._home = Path(tempfile.mkdtemp(prefix="tacit-postgresql-"))
        # PostgreSQL refuses to be run by root.
        self._as: dict[str, Any] = {"cwd": self._home}
        if os.geteuid() == 0:
            user = _somebody()
            os.chown(self._home, user.pw_uid, user.pw_gid)
            self._as |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.port = free_port()
        password = secrets.token_hex(16)
        self.url = f"postgresql+psycopg://tacit:{password}@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            secret = self._home / "password"
            secret.write_text(password)
            if os.geteuid() == 0:
                os.chown(secret, self._as["user"], self._as["group"])
            subprocess.run(
                [self._programs / "initdb", "--pgdata", self._home / "data", "--username", "tacit",
                 "--encoding", "UTF8", "--locale", "C", "--auth", "scram-sha-256", "--pwfile", secret],
                check=True, capture_output=True, **self._as,
            )  # fmt: skip
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start, and return once it answers."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with (self._home / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [self._programs / "postgres", "-D", "data", "-p", str(self.port),
                     "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
                    stdout=log, stderr=log, start_new_session=True, **self._as,
                )  # fmt: skip
            while self._process.poll() is None:
                if self._answers():
                    return
                if time.monotonic() > deadline:
                    self.kill()
                    break
                time.sleep(0.05)
            # The processes of one that was killed take a moment to go.
            if time.monotonic() > deadline:
                raise TimeoutError((self._home / "log").read_text()[-2000:])
            time.sleep(0.2)

    def stop(self) -> None:
        """Break all connections off and stop; a second call does nothing."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill it with all its processes, as a power failure does: one that is left might still answer."""
        served = []
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)  # so that none is added meanwhile
            served = _children(self._process.pid)
        self._end(signal.SIGKILL)
        for process in served:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        """Stop, and remove the folder."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._process = None

    def _answers(self) -> bool:
        ask = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ask, **self._as).returncode == 0


def _children(process: int) -> list[int]:
    """Return the children of a process, where the system tells; they are in sessions of their own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # After the name, which may hold anything: the state, then the parent.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
    return found


def _somebody() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise FileNotFoundError("there is neither a user postgres nor a user nobody")


def main(command: list[str]) -> int:
    """Run a command beside a database of its own, and return its exit status."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    database = PrivatePostgresql()
    try:
        return subprocess.run(command, env=os.environ | {URL: database.url}).returncode
    finally:
        database.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
