"""What a federation of commands needs: directories, policies, a recipe, and how long to wait."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tacit.client.directory import AgentDirectory, init
from tacit.client.register import new_data_set

PATIENCE_SECONDS = 600.0  # what takes longer hangs: machines may be slow, and a process may take a minute to start
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
deadline_seconds = 300
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


@contextmanager
def commands(tmp_path: Path) -> Iterator[Command]:
    """Start commands in a directory, and stop them at the end."""
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
        try:
            process.wait(timeout=PATIENCE_SECONDS / 2)
        finally:
            process.kill()
        if process.stdin is not None:
            process.stdin.close()


def finished(process: subprocess.Popen[str], words: str = "") -> None:
    process.communicate(words, timeout=PATIENCE_SECONDS)
    assert process.returncode == 0


def until(
    happened: Callable[[], bool], seconds: float = PATIENCE_SECONDS, *, what: str = "it", poll: float = 0.2
) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(poll)


def enrolled(hub: Path, name: str, command: Command) -> None:
    """Invite an agent whose directory has its name, and enrol it."""
    shown = subprocess.run(
        [sys.executable, "-m", "tacit", "coordinator", "invite", "--name", name, "--dir", str(hub)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    finished(command("agent", "enrol", "--dir", name), shown.stdout)


def agent_directory(path: Path, policy: str) -> AgentDirectory:
    rows = path.parent / f"{path.name}.csv"
    write_rows(rows, 60, seed=len(path.name) + ord(path.name[-1]))
    directory = init(path, path.name)
    directory = directory.add_data("patients", new_data_set(f"csv:{rows}", label="y"), os.environ)
    return directory.write_policy(policy)
