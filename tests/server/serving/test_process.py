"""`tacit serve` as a process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tacit.__main__ import run
from tacit.server.registry import Registry


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `tacit serve` on a free port over the registry in `directory`; yield the process and its URL."""
    command = [
        sys.executable,
        "-m",
        "tacit",
        "serve",
        "--db",
        "tacit.db",
        "--models",
        "models",
        "--port",
        "0",
        *options,
    ]
    process = subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), process.communicate()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.wait()


def head_from(connection: socket.socket) -> str:
    """Return the head of the next answer, and leave the rest."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        assert piece, head
        head += piece
    return head.decode()


def is_listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def stopped(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end and return the exit code and what was logged."""
    _, log = process.communicate(timeout=120)
    return process.returncode, log


def test_a_process_serves_with_keys_and_goes_on_while_it_drains(registry: Registry) -> None:
    _, secret = registry.store.create_key("test", ["predict"])
    with (
        serving(registry.root.parent, "--drain-seconds", "600") as (process, url),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert client.get("/readyz").status_code == 200
        path, body = "/api/v1/models/price/predict", {"inputs": [{"rooms": 4}]}
        assert client.post(path, json=body).status_code == 401
        answer = client.post(path, json=body, headers={"Authorization": f"Bearer {secret}"})
        assert answer.json()["predictions"] == [{"value": 400.0}]
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while client.get("/readyz").status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.01)
        # Readiness is off, and requests are still served.
        assert client.get("/readyz").json() == {"status": "draining"}
        assert client.post(path, json=body, headers={"Authorization": f"Bearer {secret}"}).status_code == 200
        process.send_signal(signal.SIGTERM)  # the second one ends it at once
        code, log = stopped(process)
    assert code == 0
    assert secret not in log
    assert "POST /api/v1/models/{model}/predict 200" in log


@pytest.mark.slow
def test_a_request_in_progress_is_finished_after_sigterm(registry: Registry) -> None:
    with serving(registry.root.parent, "--insecure-no-auth", "--drain-seconds", "0.3") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        body = b'{"inputs": [{"rooms": 4}]}'
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST /api/v1/models/price/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert head_from(connection).startswith("HTTP/1.1 100 ")  # it is in progress
            connection.sendall(body[:5])
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 60
            while is_listening(host, int(port)) and time.monotonic() < deadline:
                time.sleep(0.01)
            connection.sendall(body[5:])
            assert head_from(connection).startswith("HTTP/1.1 200 ")
        code, log = stopped(process)
    assert code == 0
    assert "WARNING: --insecure-no-auth" in log


@pytest.mark.slow
def test_ctrl_c_ends_the_process_with_0(registry: Registry) -> None:
    with serving(registry.root.parent, "--insecure-no-auth") as (process, _):
        process.send_signal(signal.SIGINT)
        assert stopped(process)[0] == 0


Failing = Callable[..., str]


@pytest.fixture
def failing(registry: Registry, capsys: pytest.CaptureFixture[str]) -> Failing:
    """Run `tacit serve`, which must end with exit code 2 and one line; return the line."""

    def serve(*options: str) -> str:
        directory = registry.root.parent
        defaults = ["--db", str(directory / "tacit.db"), "--models", str(directory / "models"), "--port", "0"]
        assert run(["serve", *defaults, *options]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    return serve


def test_a_port_in_use_is_one_line_and_exit_code_2(failing: Failing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen (Address already in use)" in failing("--port", str(taken.getsockname()[1]))


def test_a_missing_database_or_directory_is_one_line_and_exit_code_2(failing: Failing, tmp_path: Path) -> None:
    assert "there is no such directory" in failing("--models", str(tmp_path / "nothing"))
    assert "nothing.db" in failing("--db", str(tmp_path / "nothing.db"))
    assert not (tmp_path / "nothing.db").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_auth_is_refused_on_any_address_but_loopback(failing: Failing, host: str) -> None:
    assert "--insecure-no-auth" in failing("--insecure-no-auth", "--host", host)


def test_an_unknown_host_is_refused(failing: Failing) -> None:
    assert "is no address to listen on" in failing("--host", "no.such.host.invalid")


def test_threads_are_gone_when_the_application_is_closed(registry: Registry) -> None:
    from tacit.server.serving.registered import RegisteredModels
    from tacit.server.serving.service import Service
    from tacit.server.serving.settings import ServingSettings

    before = threading.active_count()
    service = Service(RegisteredModels(registry), ServingSettings())
    service.close()
    assert threading.active_count() == before
