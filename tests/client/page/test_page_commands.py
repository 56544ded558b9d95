"""`tacit agent page` and `start --ui`: a page at a command, and none without."""

from __future__ import annotations

import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tacit.__main__ import run
from tacit.client.directory import AgentDirectory
from tacit.client.page.server import serve_page

from .owned import made
from .test_server import entered, get

Started = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def owner(tmp_path: Path) -> AgentDirectory:
    return made(tmp_path / "ward-7")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    running: list[subprocess.Popen[str]] = []

    def start(*words: str, stderr: int = subprocess.STDOUT) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tacit", "agent", *words], stdout=subprocess.PIPE, stderr=stderr, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=300)


def line_with(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        assert line, "it ended"
        if words in line:
            return line.strip()
    raise AssertionError(f"never: {words}")


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    return process.returncode


def test_the_page_is_served_once_and_each_command_shows_a_link_of_its_own(
    owner: AgentDirectory, started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    serving = started("page", "--port", "0", "--dir", str(owner.path))
    first = line_with(serving, "http://127.0.0.1:")
    assert run(["agent", "page", "--dir", str(owner.path)]) == 0
    second = capsys.readouterr().out.strip()
    assert second != first and urlsplit(second).netloc == urlsplit(first).netloc
    for link in (first, second):
        path, cookie = entered(link)
        assert b"Not running" in get(link, path, Cookie=cookie)[1]
    assert ended(serving) == 0
    with pytest.raises(ConnectionRefusedError):
        get(first, "/")


def test_what_is_no_agents_directory_has_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "page", "--dir", str(tmp_path / "none")]) == 2
    assert "there is no such directory" in capsys.readouterr().err


@pytest.mark.slow
def test_an_agent_serves_its_page_while_it_takes_part_and_is_paused_from_it_for_good(
    owner: AgentDirectory, started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the coordinator is away, and the agent goes on trying
        agent = started("start", "--ui-port", "0", "--dir", str(owner.path))
        shown = line_with(agent, "its page is at ")
        assert "with=" not in shown  # it would stay in a log
        assert run(["agent", "page", "--dir", str(owner.path)]) == 0
        link = capsys.readouterr().out.strip()
        assert urlsplit(link).netloc in shown
        path, cookie = entered(link)
        page = get(link, path, Cookie=cookie)[1].decode()
        if owner.pause():
            assert "Paused" in page  # also after a restart
        else:
            deadline = time.monotonic() + 300
            while "No connection" not in page:
                assert time.monotonic() < deadline
                time.sleep(0.2)
                page = get(link, path, Cookie=cookie)[1].decode()
            word = re.search(r'name="word" value="([^"]*)"', page)
            assert word
            origin = f"http://{urlsplit(link).netloc}"
            assert get(link, f"{path}pause", "POST", f"word={word[1]}".encode(), Cookie=cookie, Origin=origin)[0] == 303
            assert owner.pause()
        assert ended(agent) == 0
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            get(link, path)


@pytest.mark.slow
def test_an_agent_takes_part_though_its_page_is_served_already_or_its_port_is_taken(
    owner: AgentDirectory, started: Started
) -> None:
    with serve_page(owner.path, 0) as (_, link):
        agent = started("start", "--ui", "--dir", str(owner.path))
        assert "is served already" in line_with(agent, "without a page of its own: ")
        path, cookie = entered(link)
        assert b"Taking part" in get(link, path, Cookie=cookie)[1]
        assert ended(agent) == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        agent = started("start", "--ui-port", str(port), "--dir", str(owner.path))
        assert f"port {port} of 127.0.0.1: cannot be had" in line_with(agent, "without a page of its own: ")
        assert owner.is_running and ended(agent) == 0


@pytest.mark.slow
def test_a_link_is_shown_to_a_terminal(owner: AgentDirectory, started: Started) -> None:
    terminal, end = os.openpty()
    agent = started("start", "--ui-port", "0", "--dir", str(owner.path), stderr=end)
    os.close(end)
    said = ""
    deadline = time.monotonic() + 300
    while "with=" not in said:
        ready, _, _ = select.select([terminal], [], [], 1.0)
        assert time.monotonic() < deadline and agent.poll() is None, said
        said += os.read(terminal, 4096).decode() if ready else ""
    found = re.search(r"its page, once: (http://127\.0\.0\.1:\d+/open\?with=[A-Za-z0-9_=-]+)", said)
    assert found and entered(found[1])
    assert ended(agent) == 0
    os.close(terminal)


def test_an_agent_without_a_page_loads_nothing_of_it() -> None:
    code = (
        "import sys, tacit.client.member, tacit.client.cli.start\n"
        "print([name for name in sys.modules if name.startswith('tacit.client.page') or name == 'http.server'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
