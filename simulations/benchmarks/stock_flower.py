"""A message stage of Flower as it comes: its own SuperLink, SuperNodes and apps, each in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 240.0  # for everything
SCRIPTS = Path(sys.executable).parent

APP = """
import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


def content():
    return RecordDict({"content": ConfigRecord({"message": bytes(500)})})


@client.query("nothing")
def nothing(message, context):
    return Message(content(), reply_to=message)


@server.main()
def main(grid, context):
    config, seconds = context.run_config, []
    while len(nodes := list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.2)
    for stage in range(config["stages"]):
        began = time.perf_counter()
        messages = [Message(content(), node, "query.nothing", group_id=str(stage)) for node in nodes]
        if len(list(grid.send_and_receive(messages))) == len(nodes):
            seconds.append(time.perf_counter() - began)
    Path(config["out"]).write_text(json.dumps(seconds))
"""

PROJECT = """
[project]
name = "nothing"
version = "1.0.0"

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "nothing:server"
clientapp = "nothing:client"

[tool.flwr.app.config]
nodes = {nodes}
stages = {stages}
out = "{out}"
"""


class Unmeasured(Exception):
    """Flower did not come to an end here; the text says where."""


def stage_seconds(nodes: int, stages: int) -> list[float]:
    """Return how long each of so many stages took that ask nothing of so many nodes.

    Raises:
        Unmeasured: it did not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), nodes, stages)


def _measure(folder: Path, nodes: int, stages: int) -> list[float]:
    out, link = folder / "seconds.json", _free_port()
    (folder / "app").mkdir()
    (folder / "app" / "nothing.py").write_text(APP)
    (folder / "app" / "pyproject.toml").write_text(PROJECT.format(nodes=nodes, stages=stages, out=out))
    (folder / "flower").mkdir()
    (folder / "flower" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    environment = {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.defpath}",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    until = time.monotonic() + SECONDS
    at = f"127.0.0.1:{link}"
    with _running(environment, folder, "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(link),
                  "--disable-runtime-dependency-installation"):  # fmt: skip
        while socket.socket().connect_ex(("127.0.0.1", link)) != 0:
            _check(until, "the SuperLink did not start")
        with _nodes(environment, folder, at, nodes), _running(environment, folder, "flwr", "run", str(folder / "app")):
            while not out.exists():
                _check(until, "the run did not end")
            time.sleep(0.5)
            measured: list[float] = json.loads(out.read_text())
    if len(measured) < stages:
        raise Unmeasured("stages were not answered")
    return measured


@contextmanager
def _nodes(environment: dict[str, str], folder: Path, link: str, count: int) -> Iterator[None]:
    if count == 0:
        yield
        return
    command = ("flower-supernode", "--insecure", "--superlink", link, "--port", str(_free_port()))
    with _running(environment, folder, *command), _nodes(environment, folder, link, count - 1):
        yield


@contextmanager
def _running(environment: dict[str, str], folder: Path, command: str, *arguments: str) -> Iterator[None]:
    """Run one of Flower's commands, with what it starts, until the context is left."""
    process = subprocess.Popen(  # noqa: S603 - the commands above
        [str(SCRIPTS / command), *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(3)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _check(until: float, why: str) -> None:
    if time.monotonic() > until:
        raise Unmeasured(why)
    time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
