"""An operator starts, watches and stops a coordinator that is a process of its own, and kills it, too."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tacit.server.cli.status import status
from tacit.server.up_file import UP_FILE

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .federation import NAMES, PATIENCE_SECONDS, POLICY, RECIPE, agent_directory, until, write_rows


class Hub:
    """A coordinator's directory, and commands about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = free_port()
        self.run("init", "hub", "--port", str(self.port))
        settings = path / "hub/coordinator.toml"
        settings.write_text(settings.read_text().replace('"127.0.0.1:9464"', '"127.0.0.1:0"'))
        self.running: list[subprocess.Popen[str]] = []

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            self._command(*words), cwd=self.path, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
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

    def figures(self) -> str:
        with urllib.request.urlopen(self.status()["up"]["metrics"], timeout=PATIENCE_SECONDS) as answer:
            text: str = answer.read().decode()
        return text

    def start_agent(self, name: str, *words: str) -> None:
        with (self.path / f"{name}.log").open("w") as log:
            command = [sys.executable, "-m", "tacit", "agent", "start", *words, "--dir", name]
            self.running.append(subprocess.Popen(command, cwd=self.path, stdout=log, stderr=log, text=True))

    def agent(self, *words: str, name: str = "north", code: int = 0) -> str:
        command = [sys.executable, "-m", "tacit", "agent", *words, "--dir", name]
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
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
            process.wait(timeout=PATIENCE_SECONDS)


@pytest.mark.slow
def test_a_coordinator_is_started_watched_killed_started_again_and_stopped(hub: Hub) -> None:
    assert hub.status()["up"] is None
    first = hub.up("hub")
    found = hub.status()
    assert found["up"]["pid"] == first.pid and not found["up"]["insecure"]
    assert found["url"] == f"https://127.0.0.1:{hub.port}"
    assert f"up in it already (pid {first.pid})" in hub.run("up", "--dir", "hub", code=2)
    figures = hub.figures()
    assert "tacit_clients_enrolled 0.0\n" in figures and 'tacit_runs{status="finished"} 0.0\n' in figures

    first.kill()
    first.wait(timeout=PATIENCE_SECONDS)
    assert (hub.path / "hub" / UP_FILE).exists()
    assert hub.status()["up"] is None and "not up" in hub.run("status", "--dir", "hub")

    second = hub.up("--dir", "hub")
    assert hub.status()["up"]["pid"] == second.pid != first.pid
    assert hub.run("stop", "--dir", "hub") == f"the coordinator (pid {second.pid}) has ended\n"
    assert second.wait(timeout=PATIENCE_SECONDS) == 0
    assert hub.status()["up"] is None and not (hub.path / "hub" / UP_FILE).exists()
    assert hub.run("stop", "--dir", "hub") == "no coordinator is up\n"


@pytest.mark.slow
def test_without_tls_an_agent_enrols_and_takes_part_over_the_loopback_and_both_sides_say_so(hub: Hub) -> None:
    hub.up("hub", "--insecure")
    assert "INSECURE" in hub.log and hub.status()["up"]["insecure"]
    assert hub.status()["url"] == f"http://127.0.0.1:{hub.port}"
    token = hub.run("invite", "--name", "north", "--dir", "hub").splitlines()[0]
    agent_directory(hub.path / "north", POLICY)
    # An agent that was not told to do without TLS does not.
    assert hub.agent("enrol", "--token", token, code=1)
    assert "INSECURE" in hub.agent("enrol", "--insecure", "--token", token)
    hub.start_agent("north", "--insecure")
    until(lambda: hub.status()["clients"] == {"enrolled": 1, "online": 1})
    assert "INSECURE" in (hub.path / "north.log").read_text() and "INSECURE" in hub.run("status", "--dir", "hub")


@pytest.mark.slow
def test_a_run_is_watched_and_ended_by_hand_and_one_that_waits_never_begins(hub: Hub) -> None:
    for name in NAMES:
        agent_directory(hub.path / name, POLICY)
    write_rows(hub.path / "public.csv", 60, seed=99)
    recipe = RECIPE.format(public=hub.path / "public.csv")
    for setting, longer in (("rounds = 3", "rounds = 500"), ("= 1.5", "= 60.0")):
        recipe = recipe.replace(setting, longer)
    (hub.path / "ward.toml").write_text(recipe)
    hub.up("hub")

    # Nobody is there yet: the first run waits for its clients, and is stopped while it does.
    first, second, third = (hub.run("start", "ward.toml", "--dir", "hub").split()[-1] for _ in range(3))
    assert [one["run"] for one in hub.status()["waiting"]] == [first, second, third]
    assert hub.run("stop", first, "--dir", "hub") == f"{first} does not wait any more\n"
    until(lambda: f"{first} was ended before anything was trained: stopped by hand" in hub.log)

    for name in NAMES:
        token = hub.run("invite", "--name", name, "--dir", "hub").splitlines()[0]
        hub.agent("enrol", "--token", token, name=name)
        hub.start_agent(name)
    until(lambda: (run := hub.status()["run"]) is not None and run["rounds_committed"] >= 2)
    found = hub.status()
    run = found["run"]
    assert run["run"] == second and run["rounds"] == 500 and "validation_accuracy" in run["metrics"]
    assert [one["run"] for one in found["waiting"]] == [third]
    assert found["clients"] == {"enrolled": 5, "online": 5}
    assert 0 < run["privacy"]["epsilon_committed"] < run["privacy"]["epsilon_granted"]
    assert run["last"]["counts"] == {"reported": 5} and run["last"]["committed"]
    figures = hub.figures()
    assert f'tacit_run_rounds{{recipe="ward",run="{second}"}} 500.0' in figures
    assert 'tacit_client_online{client="clinic-0"} 1.0' in figures
    assert re.search(r'tacit_fleet_requests_total{path="[^"]+pull",status="200"} [1-9]', figures)

    assert hub.run("stop", third, "--dir", "hub") == f"{third} does not wait any more\n"
    assert "ends after the attempt that is going" in hub.run("stop", second, "--dir", "hub")
    until(lambda: hub.status()["run"] is None)
    ended = hub.status()["recent"]
    assert [(one["run"], one["reason"], one["model"]) for one in ended] == [(second, "stopped by hand", "ward@1")]
    assert 2 <= ended[0]["rounds_committed"] < 500
    until(lambda: not list((hub.path / "hub/queue").iterdir()))


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
    assert watching.wait(timeout=PATIENCE_SECONDS) == 0
    os.close(master)
