"""Tacit's two apps under stock Flower: real processes on the loopback, started as a plain Flower user starts them."""

import csv
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tacit.models.checkpoint import Predictor, read_artifact
from tacit.models.data import open_source
from tacit.server.registry import Registry
from tacit.server.store import open_store

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named

sklearn_datasets = pytest.importorskip("sklearn.datasets")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
SECONDS = 900  # for everything, which hangs if it takes longer; it takes a minute and a half on two cores
ROUNDS = 2

RECIPE = f"""
name = "wine"
seed = 7

[task]
kind = "tabular-classification"

[data]
source = "csv:what-the-clients-hold"
test = "csv:public.csv"
label = "cultivar"

[population]
clients = 2

[model]
name = "logistic"

[training]
rounds = {ROUNDS}
local_epochs = 10
batch_size = 16
learning_rate = 0.1
deadline_seconds = 300
quorum = 1.0

[secure_aggregation]
enabled = false

[evaluation]
validation = 0.4
"""

# Runs first in every Python process of the test: writes down whom it looks up or connects to.
WATCH = """
import os, socket, sys
_FILE = os.open(os.environ["CONNECTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
def _watch(event, arguments):
    host = None
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
        host = arguments[1][0]
    if host is not None:
        os.write(_FILE, (host if isinstance(host, str) else host.decode()).encode() + b"\\n")
sys.addaudithook(_watch)
"""


class Processes:
    """The processes of one test, each with a log of its own; none outlives it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.connections = directory / "connections.txt"
        self._running: list[subprocess.Popen[bytes]] = []
        (directory / "watch").mkdir()
        (directory / "watch" / "sitecustomize.py").write_text(WATCH)
        self.environment = {
            "PATH": f"{SCRIPTS}{os.pathsep}{os.defpath}",
            "PYTHONPATH": os.pathsep.join((str(directory / "watch"), str(ROOT / "src"))),
            "CONNECTIONS": str(self.connections),
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "FLWR_HOME": str(directory / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, name: str, *command: str) -> None:
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(SCRIPTS / command[0]), *command[1:]],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def wait(self, name: str, until: float) -> int:
        """Wait for the process that was started last, as long as all the others live."""
        *others, process = self._running
        while process.poll() is None:
            assert time.monotonic() < until, f"{name} takes too long:\n{self.log(name)}"
            assert all(other.poll() is None for other in others), "\n".join(map(self.log, ("superlink", "a", "b")))
            time.sleep(0.2)
        return process.returncode

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in reversed(self._running):
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    continue
            until = time.monotonic() + 5
            for process in self._running:
                try:
                    process.wait(max(0.0, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.end()


def write_rows(path: Path, rows: Sequence[int]) -> NDArray[np.int64]:
    """Write rows of the wine data set to a CSV file and return their classes."""
    data = sklearn_datasets.load_wine()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*data.feature_names, "cultivar"])
        writer.writerows([*map(float, data.data[row]), str(data.target_names[data.target[row]])] for row in rows)
    return data.target[list(rows)]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def test_the_two_apps_train_a_model_under_stock_flower(processes: Processes, tmp_path: Path) -> None:
    # Nobody holds the first 50 rows during training, the next 40 are public. Client a has only cultivars 0 and 1 of
    # the rest, client b only 1 and 2.
    classes = sklearn_datasets.load_wine().target
    order = [int(row) for row in np.random.default_rng(0).permutation(len(classes))]
    unseen = write_rows(tmp_path / "unseen.csv", order[:50])
    write_rows(tmp_path / "public.csv", order[50:90])
    own = {
        "a": [row for place, row in enumerate(order[90:]) if classes[row] == 0 or (classes[row] == 1 and place % 2)],
        "b": [
            row for place, row in enumerate(order[90:]) if classes[row] == 2 or (classes[row] == 1 and not place % 2)
        ],
    }
    known = {name: set(write_rows(tmp_path / f"{name}.csv", rows).tolist()) for name, rows in own.items()}
    assert known == {"a": {0, 1}, "b": {1, 2}}
    (tmp_path / "wine.toml").write_text(RECIPE)
    (tmp_path / "app").mkdir()
    for part in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / part, tmp_path / "app")
    link, *nodes = (free_port() for _ in range(3))
    (tmp_path / "flower").mkdir()
    (tmp_path / "flower" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    until = time.monotonic() + SECONDS

    processes.start(
        "superlink",
        *("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(link)),
        "--disable-runtime-dependency-installation",
    )
    while not answers(link):
        assert time.monotonic() < until, processes.log("superlink")
        time.sleep(0.1)
    for name, port in zip(own, nodes, strict=True):
        processes.start(
            name,
            *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}", "--port", str(port)),
            *("--node-config", f'data="csv:{tmp_path / name}.csv" name="{name}"'),
        )
    settings = f'recipe="{tmp_path}/wine.toml" db="{tmp_path}/t.db" models="{tmp_path}/models" out="{tmp_path}/run"'
    processes.start(
        "run", "flwr", "run", str(tmp_path / "app"), "--stream", "--run-config", f"{settings} min_clients=2"
    )
    code = processes.wait("run", until)

    log = processes.log("run")
    assert code == 0, log
    assert "NOTHING IS MASKED under stock Flower: the coordinator sees every single update" in log, log
    for name in own:
        assert "NOTHING IS MASKED under stock Flower" in processes.log(name)
    with open_store(str(tmp_path / "t.db")) as store:
        run = store.get_run("run")
        rounds = store.rounds("run")
        registry = Registry(store, tmp_path / "models")
        version = registry.resolve("wine")
        registry.verify(version)
        artifact = read_artifact(registry.path(version), version.digest)
    assert (run.status, run.rounds_committed) == ("finished", ROUNDS)
    assert [record.number for record in rounds] == [0, *range(1, ROUNDS + 1)]
    for record in rounds:
        assert [member.outcome for member in record.participation] == ["reported", "reported"], record
        assert len({member.client for member in record.participation}) == 2
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["clients"] == 2

    # Whoever has learned from one client alone has never seen the third cultivar and gets at best the others right.
    alone = max(float(np.isin(unseen, list(classes)).mean()) for classes in known.values())
    rows = open_source(f"csv:{tmp_path}/unseen.csv", task="tabular-classification", label="cultivar", environ={})
    predicted = Predictor(artifact).scores(rows.train).argmax(axis=1)
    names = np.array(artifact.features.schema.classes)
    accuracy = float((names[predicted] == np.array(rows.schema.classes)[rows.train.labels]).mean())
    assert accuracy > (1 + alone) / 2, (accuracy, alone)

    hosts = set(processes.connections.read_text().split())
    assert "127.0.0.1" in hosts
    assert {host for host in hosts if not is_loopback(host)} == set()
