"""A federation as people run one: a coordinator and five agents, each a command in a process of its own, over TLS."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tacit.client.directory import AgentDirectory, init
from tacit.client.register import new_data_set
from tacit.server.population_ledger import read_ledger
from tacit.server.store import open_store

NAMES = [f"clinic-{at}" for at in range(5)]
POLICY = """
[approved]
models = ["logistic"]
statistics = ["examples", "counts", "moments"]
[privacy]
epsilon_total = 8.0
accept_promised_noise = true
promised_epsilon_total = 20.0
min_noise_multiplier = 1.0
[secure_aggregation]
min_cohort = 4
"""
RECIPE = """
name = "ward"
[task]
kind = "tabular-classification"
[data]
source = "csv:public.csv"
test = "csv:{public}"
label = "y"
[population]
clients = 5
[training]
rounds = 3
learning_rate = 0.1
deadline_seconds = 60
[evaluation]
validation = 0.3
[privacy]
unit = "client"
noise_multiplier = 1.5
[secure_aggregation]
min_cohort = 4
colluding = 0.0
"""
Command = Callable[..., "subprocess.Popen[str]"]


def write_rows(path: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "y"])
        for a, b in rng.normal(size=(count, 2)):
            writer.writerow([a, b, "yes" if a > b else "no"])


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    running: list[subprocess.Popen[str]] = []

    def started(*words: str) -> subprocess.Popen[str]:
        with (tmp_path / f"{len(running)}-{words[0]}-{words[1]}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tacit", *words],
                cwd=tmp_path, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        running.append(process)
        return process

    yield started
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        process.wait(timeout=60)
        if process.stdin is not None:
            process.stdin.close()


def finished(process: subprocess.Popen[str], words: str = "") -> None:
    process.communicate(words, timeout=120)
    assert process.returncode == 0


def until(what: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def agent_directory(path: Path, policy: str) -> AgentDirectory:
    rows = path.parent / f"{path.name}.csv"
    write_rows(rows, 60, seed=len(path.name) + ord(path.name[-1]))
    directory = init(path, path.name)
    directory = directory.add_data("patients", new_data_set(f"csv:{rows}", label="y"), os.environ)
    return directory.write_policy(policy)


@pytest.mark.slow
def test_five_owners_and_a_coordinator_train_over_a_network_and_everybody_has_written_down_what_it_cost(
    tmp_path: Path, command: Command
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    hub = tmp_path / "hub"
    finished(command("coordinator", "init", "hub", "--federation", "wards", "--port", port))
    stricter = POLICY.replace("min_noise_multiplier = 1.0", "min_noise_multiplier = 9.0")
    owners = {name: agent_directory(tmp_path / name, stricter if name == NAMES[4] else POLICY) for name in NAMES}
    write_rows(tmp_path / "public.csv", 60, seed=99)
    (tmp_path / "ward.toml").write_text(RECIPE.format(public=tmp_path / "public.csv"))
    up = command("coordinator", "up", "--dir", "hub")
    log = next(tmp_path.glob("*-coordinator-up.log"))
    until(lambda: "listening on" in log.read_text())
    for name in NAMES:
        shown = subprocess.run(
            [sys.executable, "-m", "tacit", "coordinator", "invite", "--name", name, "--dir", str(hub)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        finished(command("agent", "enrol", "--dir", name), shown.stdout)
        command("agent", "start", "--dir", name)
    finished(command("coordinator", "start", "ward.toml", "--dir", "hub"))
    until(lambda: "model       ward version 1" in log.read_text() or up.poll() is not None)
    with open_store(str(hub / "tacit.db"), create=False) as store:
        (run,) = store.list_runs()
        assert run.status == "finished" and run.rounds_committed == 3
        ledger = read_ledger(store, f"run/{run.run}", "client")
        assert ledger is not None and len(ledger.settled - ledger.voided) >= 3 and not ledger.waiting
        reasons = {
            member.client: member.reason
            for attempt in store.rounds(run.run)
            for member in attempt.participation
            if attempt.number and member.outcome == "refused"
        }
    # The owner who asks for more noise says so, and the others go on without it.
    assert set(reasons) == {NAMES[4]} and reasons[NAMES[4]].startswith("noise-floor")
    privacy = json.loads(next(hub.glob("runs/*/privacy.json")).read_text())
    assert privacy["unit"] == "client" and not privacy["simulated"] and 0 < privacy["epsilon"] < 50
    until(lambda: owners[NAMES[0]].ledger("patients", "client").unanchored <= 1, 30.0)
    for name in NAMES[:4]:
        spent = owners[name].ledger("patients", "client").ledger
        assert spent.epsilon_committed("promised") > 0 == spent.epsilon_committed("assured")
    kinds = {json.loads(line)["kind"] for line in owners[NAMES[4]].account_lines()}
    assert "offer-refused" in kinds and "ledger-reserved" not in kinds
