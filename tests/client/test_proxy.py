"""Which proxy leads to a coordinator, and what an agent says of one that is away or refuses."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tacit.client.connection import Address, Connection, Unreachable
from tacit.client.proxy import proxy_to
from tacit.models.errors import InputError
from tacit.privacy.identity import Identity

HUB = "hub.example"


@pytest.mark.parametrize(
    ("host", "setting", "environ", "expected"),
    [
        (HUB, "", {}, None),
        (HUB, "http://own:1", {}, ("own", 1)),
        (HUB, "http://own:1", {"HTTPS_PROXY": "http://other:2"}, ("own", 1)),
        (HUB, "http://own:1", {"NO_PROXY": "*"}, ("own", 1)),
        (HUB, "none", {"HTTPS_PROXY": "http://other:2"}, None),
        (HUB, "", {"HTTPS_PROXY": "http://other:2"}, ("other", 2)),
        (HUB, "", {"HTTPS_PROXY": "other:2"}, ("other", 2)),
        (HUB, "", {"https_proxy": "http://lower:3/", "HTTPS_PROXY": "http://other:2"}, ("lower", 3)),
        (HUB, "", {"HTTPS_PROXY": ""}, None),
        (HUB, "", {"HTTP_PROXY": "http://other:2"}, None),
        (HUB, "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "a.example, .EXAMPLE"}, None),
        (HUB, "", {"HTTPS_PROXY": "http://other:2", "no_proxy": "hub.example"}, None),
        (HUB, "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "*"}, None),
        (HUB, "", {"HTTPS_PROXY": "http://other:2", "NO_PROXY": "b.example,ub.example, ,."}, ("other", 2)),
        ("127.0.0.1", "", {"HTTPS_PROXY": "http://other:2"}, None),
        ("::1", "", {"HTTPS_PROXY": "http://other:2"}, None),
        ("localhost", "", {"HTTPS_PROXY": "http://other:2"}, None),
        ("127.0.0.1", "http://own:1", {}, ("own", 1)),
    ],
)
def test_the_owners_setting_comes_first_and_then_the_environment(
    host: str, setting: str, environ: dict[str, str], expected: tuple[str, int] | None
) -> None:
    assert proxy_to(host, setting, environ) == expected


@pytest.mark.parametrize("named", ["https://p:1", "socks5://p:1", "http://p", "http://p:x", "http://ada:secret@p:1"])
def test_a_proxy_of_the_environment_that_cannot_be_used_is_named_without_its_password(named: str) -> None:
    with pytest.raises(InputError, match="HTTPS_PROXY: is no proxy") as caught:
        proxy_to(HUB, "", {"HTTPS_PROXY": named})
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


@contextmanager
def answering(words: bytes) -> Iterator[int]:
    """Listen as a proxy that says these words to everybody and hangs up; without words it says nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    asked, _ = listening.accept()
                except OSError:
                    return
                with asked:
                    asked.recv(65536)
                    asked.sendall(words)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def trouble(port: int) -> str:
    address = Address("127.0.0.1", 9, ssl.create_default_context(), ("127.0.0.1", port))
    with Connection(address, Identity(bytes(32)), seconds=60.0) as connection, pytest.raises(Unreachable) as caught:
        connection.alive()
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (b"HTTP/1.1 407 Who are you?\r\n\r\n", "answers 407"),
        (b"HTTP/1.1 502 Bad\x1b[31m Gateway\r\n\r\n", "answers 502"),
        (b"", "the connection was closed"),
        (b"SSH-2.0-server\r\n", "BadStatusLine"),
    ],
)
def test_a_proxy_that_refuses_is_named_with_what_it_answers(words: bytes, told: str) -> None:
    with answering(words) as port:
        assert trouble(port) == f"the proxy 127.0.0.1:{port}{'' if told.startswith('answers') else ':'} {told}"


def test_a_proxy_that_is_away_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert trouble(port) == f"the proxy 127.0.0.1:{port}: Connection refused"


def test_a_name_that_leads_nowhere_is_the_proxys(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*arguments: Any, **more: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    assert trouble(3128) == "the proxy 127.0.0.1:3128: Name or service not known"
