"""A port for a server that has to be told one: nobody else gets it as long as this process lives."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST = 20_000
HANDED_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port of the loopback that nobody listens on.

    It is none of those that the system hands out by itself: anybody's connection could get such a one before the server
    listens, or while it is started again. Tests that run side by side keep out of each other's way by locks.
    """
    folder = Path(tempfile.gettempdir()) / f"tacit-tests-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    ports = range(FIRST, _first_handed_out())
    for port in random.SystemRandom().sample(ports, len(ports)):
        lock = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)  # held until this process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as free:
                free.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            continue
        return port
    raise OSError(f"no port from {FIRST} to {ports.stop - 1} is free")


def _first_handed_out() -> int:
    """Return the first port that the system hands out by itself, where it says so and leaves any below."""
    try:
        first = int(HANDED_OUT.read_text().split()[0])
    except OSError:
        first = 0
    return first if first > FIRST else 32_768
