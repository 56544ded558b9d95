"""Coordinator, agents, simulations and services speak to the loopback alone, and try nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .federation import PATIENCE_SECONDS  # noqa: TID252 - tests are no package that could be named

ROOT = Path(__file__).parents[2]
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
WATCH = """
import os, socket, sys

seen = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def watch(event, arguments):
    host = None
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and arguments[0].family != socket.AF_UNIX:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else address
    if host is not None:
        host = host.decode() if isinstance(host, bytes) else host
        os.write(seen, f"{{os.getpid()}} {{event}} {{host}}\\n".encode())

sys.addaudithook(watch)
"""
# Of these, what was set by whoever started the tests would hide what is tried by default.
OURS = re.compile(r"^(FLWR_|TACIT_|(HTTPS?|ALL|NO)_PROXY$|DO_NOT_TRACK|.*TELEMETRY)", re.IGNORECASE)
ADDRESS = re.compile(r"sa_family=(AF_INET6?),.*?(?:inet_addr|inet_pton)\((?:AF_INET6, )?\"([^\"]+)\"")


def alone() -> list[str]:
    """Return how to start a process in a network of its own."""
    for command in (["unshare", "-n"], ["unshare", "-r", "-n"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0
        ):
            return command
    pytest.skip("no network namespace can be made here")


def traced(log: Path) -> list[str]:
    """Return how to have the kernel tell of every connection that is tried; nothing where it does not."""
    command = ["strace", "-f", "-qq", "-e", "signal=none", "--seccomp-bpf", "-e", "trace=connect", "-o", str(log)]
    possible = (
        shutil.which("strace") and not subprocess.run([*command, "true"], check=False, capture_output=True).returncode
    )
    return command if possible else []


@pytest.mark.slow
def test_no_process_looks_for_anything_outside_the_loopback(tmp_path: Path) -> None:
    watched, told, place = tmp_path / "watched", tmp_path / "traced", tmp_path / "place"
    hook = tmp_path / "hook"
    hook.mkdir()
    place.mkdir()
    (hook / "sitecustomize.py").write_text(WATCH.format(log=str(watched)))
    environment = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    environment["PYTHONPATH"] = os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])])
    tracing = traced(told)
    done = subprocess.run(
        [*alone(), *tracing, sys.executable, "-m", "tests.end_to_end.egress_federation", str(place)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in watched.read_text().splitlines()]
    assert {line[-1] for line in lines} <= LOOPBACK
    # The agents, and what enrolled them and asked for a prediction.
    assert len({line[0] for line in lines if line[1] == "socket.connect"}) >= 6
    if tracing:
        tried = {address for _, address in ADDRESS.findall(told.read_text())}
        assert tried and tried <= LOOPBACK


def test_the_watch_sees_what_would_leave(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(log=str(watched)))
    tries = """
import socket
for look in (lambda: socket.getaddrinfo("telemetry.invalid", 443), lambda: socket.gethostbyname("home.invalid")):
    try:
        look()
    except OSError:
        pass
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as some:
    some.settimeout(0.1)
    for address in ("192.0.2.1", "192.0.2.2"):
        try:
            some.sendto(b"x", (address, 9)) if address[-1] == "1" else some.connect((address, 9))
        except OSError:
            pass
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", tries], env=environment, check=True, timeout=PATIENCE_SECONDS)
    hosts = {line.split()[-1] for line in watched.read_text().splitlines()}
    assert hosts == {"telemetry.invalid", "home.invalid", "192.0.2.1", "192.0.2.2"}
