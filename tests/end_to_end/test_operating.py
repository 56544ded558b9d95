"""An operator starts, watches and stops a coordinator that is a process of its own, and kills it, too."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tacit.client.directory import init
from tacit.client.register import new_data_set
from tacit.server.cli.status import status
from tacit.server.up_file import UP_FILE


class Hub:
    """A coordinator's directory, and commands about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.run("init", "hub", "--port", str(self.port))
        settings = path / "hub/coordinator.toml"
        settings.write_text(settings.read_text().replace('"127.0.0.1:9464"', '"127.0.0.1:0"'))
        self.running: list[subprocess.Popen[str]] = []

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(self._command(*words), cwd=self.path, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done
        return done.stdout + done.stderr

    def up(self, *words: str) -> "subprocess.Popen[str]":
        with (self.path / "up.log").open("a") as log:
            process = subprocess.Popen(self._command("up", *words), cwd=self.path, stdout=log, stderr=log, text=True)
        self.running.append(process)
        until(lambda: self.status()["up"] is not None or process.poll() is not None)
        assert process.poll() is None, self.log
        return process

    def status(self) -> Any:
        # Within this process, as it is asked again and again and a process takes seconds to start.
        return json.loads(CliRunner().invoke(status, ["--dir", str(self.path / "hub"), "--format", "json"]).output)

    def agent(self, *words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "tacit", "agent", *words, "--dir", "north"]
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done
        return done.stdout + done.stderr

    @property
    def log(self) -> str:
        return (self.path / "up.log").read_text()

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tacit", "coordinator", *words]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=30)


def until(what: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_coordinator_is_started_watched_killed_started_again_and_stopped(hub: Hub) -> None:
    assert hub.status()["up"] is None
    first = hub.up("hub")
    found = hub.status()
    assert found["up"]["pid"] == first.pid and not found["up"]["insecure"]
    assert found["url"] == f"https://127.0.0.1:{hub.port}"
    assert f"up in it already (pid {first.pid})" in hub.run("up", "--dir", "hub", code=2)
    with urllib.request.urlopen(found["up"]["metrics"], timeout=30) as answer:
        figures = answer.read().decode()
    assert "tacit_clients_enrolled 0.0\n" in figures and 'tacit_runs{status="finished"} 0.0\n' in figures

    first.kill()
    first.wait(timeout=30)
    assert (hub.path / "hub" / UP_FILE).exists()
    assert hub.status()["up"] is None and "not up" in hub.run("status", "--dir", "hub")

    second = hub.up("--dir", "hub")
    assert hub.status()["up"]["pid"] == second.pid != first.pid
    assert hub.run("stop", "--dir", "hub") == f"the coordinator (pid {second.pid}) has ended\n"
    assert second.wait(timeout=30) == 0
    assert hub.status()["up"] is None and not (hub.path / "hub" / UP_FILE).exists()
    assert hub.run("stop", "--dir", "hub") == "no coordinator is up\n"


@pytest.mark.slow
def test_without_tls_an_agent_enrols_and_takes_part_over_the_loopback_and_both_sides_say_so(hub: Hub) -> None:
    hub.up("hub", "--insecure")
    assert "INSECURE" in hub.log and hub.status()["up"]["insecure"]
    assert hub.status()["url"] == f"http://127.0.0.1:{hub.port}"
    token = hub.run("invite", "--name", "north", "--dir", "hub").splitlines()[0]
    directory = init(hub.path / "north", "north")
    rows = hub.path / "rows.csv"
    rows.write_text("a,y\n" + "1,yes\n2,no\n" * 20)
    directory.add_data("patients", new_data_set(f"csv:{rows}", label="y"), os.environ)
    # An agent that was not told to do without TLS does not.
    assert hub.agent("enrol", "--token", token, code=1)
    assert "INSECURE" in hub.agent("enrol", "--insecure", "--token", token)
    with (hub.path / "north.log").open("w") as log:
        command = [sys.executable, "-m", "tacit", "agent", "start", "--insecure", "--dir", "north"]
        hub.running.append(subprocess.Popen(command, cwd=hub.path, stdout=log, stderr=log, text=True))
    until(lambda: hub.status()["clients"] == {"enrolled": 1, "online": 1})
    assert "INSECURE" in (hub.path / "north.log").read_text() and "INSECURE" in hub.run("status", "--dir", "hub")


@pytest.mark.slow
def test_watching_shows_it_again_and_again_until_it_is_interrupted(hub: Hub) -> None:
    master, follower = os.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "tacit", "coordinator", "status", "--dir", "hub", "--watch"],
        cwd=hub.path, stdin=follower, stdout=follower, stderr=follower, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while seen.count(b"not up") < 2:
        seen += os.read(master, 1 << 16)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(timeout=30) == 0
    os.close(master)
