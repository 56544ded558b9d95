"""The page's connections: on the loopback alone, few and short, and no link in any log."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tacit.client.directory import AgentDirectory
from tacit.client.page import server as page_server
from tacit.client.page.served import AlreadyServed, link_to
from tacit.client.page.server import LONGEST_FORM, MOST_CONNECTIONS, serve_page
from tacit.models.errors import InputError

from .owned import made


@pytest.fixture
def owner(tmp_path: Path) -> AgentDirectory:
    return made(tmp_path / "ward-7")


@pytest.fixture
def link(owner: AgentDirectory) -> Iterator[str]:
    with serve_page(owner.path, 0) as (_, link):
        yield link


def port_of(link: str) -> int:
    port = urlsplit(link).port
    assert port
    return port


def get(link: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(link), timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Set-Cookie", "")
    finally:
        connection.close()


def entered(link: str) -> tuple[str, str]:
    """Return the page's first path and the cookie."""
    parts = urlsplit(link)
    status, _, cookie = get(link, f"{parts.path}?{parts.query}")
    assert status == 200
    value, path, *_ = cookie.split("; ")
    return path.removeprefix("Path="), value


def raw(link: str, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port_of(link)), timeout=60) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
        return answer


def test_the_page_listens_on_the_loopback_alone(link: str) -> None:
    assert urlsplit(link).hostname == "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; finds out this machine's own address
        except OSError:
            pytest.skip("this machine has no other address")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, port_of(link)), timeout=60)


def test_a_link_leads_to_the_page_over_http(link: str) -> None:
    path, cookie = entered(link)
    status, body, _ = get(link, path, Cookie=cookie)
    assert status == 200 and b"ward-7" in body
    assert get(link, path, "HEAD", Cookie=cookie)[:2] == (200, b"")
    assert get(link, path)[0] == 403


def test_nobody_is_asked_what_this_machine_is_called(owner: AgentDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*unused: object) -> str:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getfqdn", never)
    monkeypatch.setattr(socket, "gethostbyaddr", never)
    with serve_page(owner.path, 0) as (_, link):
        assert entered(link)


def test_the_page_is_gone_when_the_block_ends(owner: AgentDirectory) -> None:
    with serve_page(owner.path, 0) as (_, link):
        assert link_to(owner.path / "page") is not None
        with pytest.raises(AlreadyServed), serve_page(owner.path, 0):
            pass
    assert link_to(owner.path / "page") is None
    with pytest.raises(ConnectionRefusedError):
        get(link, "/")
    assert not [thread for thread in threading.enumerate() if thread.name == "page"]


def test_a_port_that_is_taken_is_named(owner: AgentDirectory) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1: cannot be had"), serve_page(owner.path, port):
            pass
    with serve_page(owner.path, 0):  # the file was let go
        pass


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"BREW / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"501"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n\r\n", b"421"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"413"),
        (b"GET http://[x/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"500"),
    ],
)
def test_what_is_no_request_of_a_browser_is_refused_and_not_repeated(link: str, data: bytes, status: bytes) -> None:
    try:
        answer = raw(link, data)
    except ConnectionResetError:  # what was not read makes the system hang up
        answer = b""
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == status and b"GARBAGE" not in answer and b"Content-Security-Policy" in head
    assert entered(link)


def test_a_form_as_long_as_allowed_is_read(link: str) -> None:
    path, cookie = entered(link)
    body = b"x" * LONGEST_FORM
    origin = f"http://127.0.0.1:{port_of(link)}"
    assert get(link, f"{path}pause", "POST", body, Cookie=cookie, Origin=origin)[0] == 403
    assert get(link, f"{path}pause", "POST", body + b"x", Cookie=cookie, Origin=origin)[0] == 413


def test_connections_that_say_nothing_keep_the_page_busy_for_seconds_only(
    owner: AgentDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_server._Handler, "timeout", 0.5)
    with serve_page(owner.path, 0) as (_, link), ExitStack() as silent:
        for _ in range(MOST_CONNECTIONS + 4):
            silent.enter_context(socket.create_connection(("127.0.0.1", port_of(link)), timeout=60))
        deadline = time.monotonic() + 60
        while True:
            try:
                assert entered(link)
                return
            except (ConnectionError, http.client.HTTPException):
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_no_link_and_no_word_of_a_failure_reaches_a_log(
    link: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cookie = entered(link)

    def fail(*unused: object) -> None:
        raise RuntimeError("a row of data")

    monkeypatch.setattr("tacit.client.page.view.View.overview", fail)
    with caplog.at_level(logging.DEBUG):
        status, body, _ = get(link, path, Cookie=cookie)
    printed = capfd.readouterr()
    said = caplog.text + printed.out + printed.err
    assert status == 500 and b"a row of data" not in body
    assert "RuntimeError" in said and "a row of data" not in said
    assert "with=" not in said and cookie not in said and path not in said


def test_many_at_once_see_the_same_page(link: str) -> None:
    path, cookie = entered(link)
    seen: list[bytes] = []

    def look() -> None:
        seen.append(get(link, path, Cookie=cookie)[1])

    threads = [threading.Thread(target=look) for _ in range(MOST_CONNECTIONS // 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(threads) and len(set(seen)) == 1
