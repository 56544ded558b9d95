"""The line that tests hold does what it says: otherwise they would show nothing."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from .wire_proxy import Call, HttpWire, Wire  # noqa: TID252 - tests are no package that could be named


class _Repeats(http.server.BaseHTTPRequestHandler):
    """Answers every request with its body, twice."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = 2 * self.rfile.read(int(self.headers["content-length"]))
        self.server.taken.append(body)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Repeats)
    made.taken = []  # type: ignore[attr-defined]
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(60)


def ask(port: int, body: bytes, path: str = "/a") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_a_wire_carries_every_byte_and_keeps_it_where_asked(server: http.server.HTTPServer) -> None:
    body = bytes(range(256)) * 4096
    with Wire(server.server_port, keep=True) as wire:
        assert ask(wire.port, body) == 2 * body
        (heard,) = wire.heard
        assert heard.up.endswith(body) and heard.up.startswith(b"POST /a") and heard.down.endswith(2 * body)


def test_a_wire_that_is_cut_breaks_what_is_open_and_carries_what_comes_next(server: http.server.HTTPServer) -> None:
    with Wire(server.server_port) as wire:
        with socket.create_connection(("127.0.0.1", wire.port), timeout=60) as one:
            until = time.monotonic() + 60
            while not wire.cut():
                assert time.monotonic() < until
            try:
                assert one.recv(1) == b""
            except ConnectionResetError:
                pass
        assert ask(wire.port, b"again") == b"againagain"
        wire.open = False
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            ask(wire.port, b"closed")


def test_a_delay_holds_every_piece_up(server: http.server.HTTPServer) -> None:
    with Wire(server.server_port) as wire:
        wire.delay_seconds = 0.2
        began = time.monotonic()
        assert ask(wire.port, b"slow") == b"slowslow"
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("answer_is_lost", [False, True])
def test_a_lost_request_never_arrives_and_a_lost_answer_was_given(
    server: http.server.HTTPServer, answer_is_lost: bool
) -> None:
    def loses(call: Call) -> bool:
        return call.path == "/b" and (call.answer is not None) == answer_is_lost

    taken: list[bytes] = server.taken  # type: ignore[attr-defined]
    with HttpWire(server.server_port, loses) as wire:
        assert ask(wire.port, b"1") == b"11"
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            ask(wire.port, b"2", "/b")
        assert ask(wire.port, b"3") == b"33"
    assert taken == ([b"11", b"22", b"33"] if answer_is_lost else [b"11", b"33"])
    assert [(call.path, call.lost) for call in wire.calls] == [("/a", False), ("/b", True), ("/a", False)]
    assert wire.calls[0].status == 200 and wire.calls[0].request.endswith(b"\r\n\r\n1")
