"""A federation, a simulation and a service within a network that has a loopback and nothing else: `MODULE DIRECTORY`.

The loopback is raised here, as a new network namespace has it down. Exits with 0 if everything worked.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import warnings
from pathlib import Path

from tacit.__main__ import run as tacit

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .wards import SEED, Commands, Wards, until  # noqa: TID252 - tests are no package that could be named

SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def main() -> None:
    """Train, simulate, serve, predict."""
    directory = Path(sys.argv[1])
    raise_loopback()
    os.chdir(directory)
    commands = Commands()
    wards = Wards(directory, commands, rounds=2)
    try:
        wards.up()
        wards.enrol()
        wards.join()
        wards.begin()
        run = wards.finish()
        wards.simulated(run)
        port = str(free_port())
        log = directory / "serve.log"
        hub = wards.hub
        words = ("--db", hub.db, "--models", str(hub.models), "--port", port, "--insecure-no-auth")
        wards.running.append(commands.start(SEED, log, "serve", *words))
        until(lambda: log.exists() and "listening on" in log.read_text(), why=log.read_text)
        rows = str(directory / "public.csv")
        code = tacit(["predict", "--url", f"http://127.0.0.1:{port}", "--model", "ward", "--input", rows])
    finally:
        wards.close()
        commands.close()
    sys.exit(code)


if __name__ == "__main__":
    warnings.simplefilter("error", ResourceWarning)
    main()
