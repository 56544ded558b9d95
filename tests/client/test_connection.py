"""A line that breaks off in the middle of an answer costs a request, wherever it breaks, and no agent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tacit.client.connection import Address, Connection, Unreachable
from tacit.models.wire import framed
from tacit.privacy.identity import Identity

from ..settle import HANGS_SECONDS  # noqa: TID252 - tests are no package that could be named

PAYLOADS = [b"head", b"an object"]
BODY = b"".join(framed(PAYLOADS))
TAKEN = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-type: text/plain\r\n\r\n"
MESSAGE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-type: application/octet-stream\r\n\r\n" % len(BODY) + BODY


@pytest.fixture
def answering() -> Iterator[Callable[..., Connection]]:
    """Make a connection to whoever says these words, each to one caller, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads: list[threading.Thread] = []

        def serve(*answers: bytes) -> None:
            for words in answers:
                asked, _ = listening.accept()
                with asked:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += asked.recv(65536)
                    asked.sendall(words)

        def start(*answers: bytes) -> Connection:
            threads.append(threading.Thread(target=serve, args=answers, daemon=True))
            threads[-1].start()
            address = Address("127.0.0.1", listening.getsockname()[1])
            return Connection(address, Identity(bytes(32)), seconds=HANGS_SECONDS)

        yield start
        for thread in threads:
            thread.join(HANGS_SECONDS)


@pytest.mark.parametrize("length", range(len(MESSAGE)))
def test_a_message_that_broke_off_at_any_byte_is_none_and_comes_whole_the_next_time(
    answering: Callable[..., Connection], length: int
) -> None:
    with answering(MESSAGE[:length], MESSAGE) as connection:
        with pytest.raises(Unreachable):
            connection.pull(0.0)
        assert connection.pull(0.0) == PAYLOADS


@pytest.mark.parametrize("length", range(TAKEN.index(b"length: ") + len(b"length: ")))
def test_a_receipt_that_broke_off_before_it_said_how_long_it_is_is_asked_for_again(
    answering: Callable[..., Connection], length: int
) -> None:
    with answering(TAKEN[:length], TAKEN) as connection:
        with pytest.raises(Unreachable):
            connection.push([])
        connection.push([])


def test_a_message_whose_length_something_on_the_way_took_out_is_whole_only_at_its_end(
    answering: Callable[..., Connection],
) -> None:
    head, body = MESSAGE.split(b"\r\n\r\n", 1)
    head = head.replace(b"content-length: %d" % len(BODY), b"transfer-encoding: chunked")
    chunked = head + b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with answering(chunked[:-7], chunked) as connection:
        with pytest.raises(Unreachable):
            connection.pull(0.0)
        assert connection.pull(0.0) == PAYLOADS


@pytest.mark.parametrize("closed", [b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n", TAKEN])
def test_whoever_hangs_up_after_each_answer_is_asked_over_a_new_line(
    answering: Callable[..., Connection], closed: bytes
) -> None:
    with answering(closed, closed, MESSAGE) as connection:
        connection.alive()
        connection.alive()
        assert connection.pull(0.0) == PAYLOADS
