"""Strangers that send garbage, too much or too slowly, and members that do not fit: the others train on."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tacit.models.wire import ALIVE, PULL, PUSH, sealed_headers
from tacit.privacy.identity import Identity
from tacit.server.coordinator_directory import create

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .federation import PATIENCE_SECONDS  # noqa: TID252
from .wards import POLICY, Commands, Wards, until  # noqa: TID252 - tests are no package that could be named
from .wire_proxy import Ends, HttpWire  # noqa: TID252

GOOD = tuple(f"good-{at}" for at in range(4))
STRICT, OLDER, LATE, MISLED = "strict", "older", "late", "misled"
NAMES = (*GOOD, STRICT, OLDER, LATE, MISLED)
MB = 1 << 20


def peak(pid: int) -> int:
    """Return how many bytes of memory a process had at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


@contextlib.contextmanager
def line_to(wards: Wards) -> Iterator[ssl.SSLSocket]:
    context = wards.ends.client()
    with (
        socket.create_connection(("127.0.0.1", wards.port), timeout=PATIENCE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        yield line


def said_to(wards: Wards, *pieces: bytes) -> bytes:
    """Send bytes over TLS and return what comes back until the other side closes."""
    answer = b""
    with line_to(wards) as line:
        try:
            for piece in pieces:
                line.sendall(piece)
            while received := line.recv(65536):
                answer += received
        except (OSError, ssl.SSLError):
            pass
    return answer


def head(path: str, identity: Identity, *lines: str) -> bytes:
    signed = [f"{name}: {value}" for name, value in sealed_headers(identity, path, time.time()).items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: x", *signed, *lines, "", ""]).encode()


def garbage(wards: Wards) -> None:
    """Send what is no TLS, and over TLS what is no request."""
    for piece in (os.urandom(4096), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01" + os.urandom(600)):
        with socket.create_connection(("127.0.0.1", wards.port), timeout=PATIENCE_SECONDS) as plain:
            with contextlib.suppress(OSError):
                plain.sendall(piece)
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(65536):
                    continue
    assert said_to(wards, os.urandom(4096))[:12] in (b"", b"HTTP/1.1 400")
    assert said_to(wards, b"POST /v1/control/start-run HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 404")


def too_much(wards: Wards, member: Identity) -> None:
    """Send bodies without an end: announced, not announced, and in frames that would have to be held."""
    stranger = Identity(os.urandom(32))
    assert said_to(wards, head(PUSH, stranger, f"content-length: {2 << 30}")).startswith(b"HTTP/1.1 413")
    assert said_to(wards, head(PUSH, stranger, f"content-length: {1 << 29}")).startswith(b"HTTP/1.1 401")
    assert said_to(wards, head(PUSH, member, f"content-length: {2 << 30}")).startswith(b"HTTP/1.1 413")
    piece = b"%x\r\n" % MB + bytes(MB) + b"\r\n"
    endless = [head(PUSH, member, "transfer-encoding: chunked"), *[piece] * 64]
    assert said_to(wards, *endless)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 413")
    frame = (6 * MB).to_bytes(4, "big") + bytes(6 * MB)  # no message, and larger than the head of one may be
    body = [frame] * 10
    answer = said_to(wards, head(PUSH, member, f"content-length: {sum(map(len, body))}"), *body)
    assert answer[:12] in (b"", b"HTTP/1.1 413")
    long = (
        b"POST " + PULL.encode() + b" HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (at, b"y" * 9000) for at in range(99))
    )
    assert said_to(wards, long)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431")
    enrolment = b"POST /v1/enrol/member HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n"
    assert said_to(wards, enrolment)[:12] in (b"HTTP/1.1 413", b"HTTP/1.1 404")


class Slow:
    """Connections on which a byte comes now and then, for as long as the other side bears it."""

    def __init__(self, wards: Wards, count: int) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._drip, args=(wards,), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _drip(self, wards: Wards) -> None:
        with contextlib.suppress(OSError, ssl.SSLError), line_to(wards) as line:
            for byte in b"POST " + PULL.encode() + b" HTTP/1.1\r\nhost: x\r\n" + 1000 * b"x":
                line.sendall(bytes([byte]))
                if self._stop.wait(1.0):
                    break

    @property
    def open(self) -> int:
        """Return how many are still borne."""
        return sum(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def replayed(wards: Wards, request: bytes) -> int:
    """Send a request again, byte for byte, and return the status."""
    return int(said_to(wards, request.replace(b"Host:", b"connection: close\r\nHost:", 1)).split(b" ", 2)[1])


@pytest.mark.slow
def test_the_good_members_train_on_and_everybody_is_told_what_is_wrong(
    tmp_path: Path, seeded_commands: Commands
) -> None:
    stricter = POLICY.replace("min_noise_multiplier = 1.0", "min_noise_multiplier = 9.0")
    port, through = free_port(), free_port()
    overrides = ["population.partition=iid", "population.clients=5", "training.quorum=0.8"]
    wards = Wards(tmp_path, seeded_commands, 2, port, through, {STRICT: stricter}, NAMES, overrides)
    other = create(tmp_path / "impostor", datetime.now(UTC), federation="wards", port=through)
    slow = None
    try:
        with HttpWire(port, port=through, ends=wards.ends) as wire:
            hub = wards.up()
            wards.enrol()
            requests = [call.request for call in wire.calls]
        # From here on somebody else answers at the address that everybody knows, and only some find the way around.
        impostor = HttpWire(
            port, port=through, ends=Ends(other.server_certificate, other.server_key, wards.hub.path / "ca.pem")
        )
        with impostor:
            wards.join(MISLED)
            until(
                lambda: "certificate is not the pinned authority's" in wards.said(MISLED),
                why=lambda: wards.said(MISLED),
            )
            assert impostor.calls == []  # not a word was said to it
        with HttpWire(port, port=through, ends=wards.ends) as wire:
            wards.agents[MISLED].kill()
            before = peak(hub.pid)
            garbage(wards)
            too_much(wards, wards.owners[STRICT].identity)
            assert peak(hub.pid) - before < 48 * MB
            slow = Slow(wards, 40)
            wards.join(OLDER, odd="older")
            wards.join(LATE, odd="late")
            wards.join(*GOOD, STRICT)
            wards.begin()
            until(lambda: f"client {STRICT}: refused" in wards.log, why=lambda: wards.log)
            run = wards.finish()
            # Members' own requests of a while ago, from somebody who has read along: none is so old that this is why.
            pushes = [call.request for call in wire.calls if call.path == PUSH and call.status == 200]
            assert {replayed(wards, request) for request in pushes[-3:]} <= {200, 410}
            forged = pushes[-1].replace(PUSH.encode(), ALIVE.encode(), 1)
            assert replayed(wards, forged) == http.client.UNAUTHORIZED
            enrolments = [request for request in requests if request.startswith(b"POST")]
            assert len(enrolments) >= len(NAMES)
            members = len(wards.members())
            assert {replayed(wards, request) for request in enrolments} <= {200, 403, 409}
            assert len(wards.members()) == members == len(NAMES)
            until(lambda: not slow.open)  # all were cut off meanwhile, or are soon
    finally:
        wards.close()
        if slow is not None:
            slow.close()
    committed = [attempt for attempt in wards.attempts(run) if attempt.outcome == "committed"]
    assert [attempt.number for attempt in committed] == [0, 1, 2]
    for attempt in committed:
        outcomes = {one.client: one.outcome for one in attempt.participation}
        assert outcomes == dict.fromkeys(GOOD, "reported") | (
            {STRICT: "refused"} if attempt.number else {STRICT: "reported"}
        )
    # The coordinator knows why, and so does each member.
    refused = [one.reason for attempt in committed for one in attempt.participation if one.outcome == "refused"]
    assert refused and all(reason.startswith("noise-floor") for reason in refused)
    account = wards.account(STRICT)
    assert "noise-floor" in {entry["details"].get("code") for entry in account if entry["kind"] == "offer-refused"}
    assert "this coordinator speaks version 1 of the protocol, the agent version 0" in wards.said(OLDER)
    assert wards.log.count(f"{OLDER} is turned away: it speaks version 0 of the protocol, not version 1") == 1
    assert re.search(r"the agent's clock is 10\d\d s behind the coordinator's", wards.said(LATE))
    assert wards.log.count(f"{LATE} is turned away: its clock is ") == 1
    assert "Traceback" not in wards.log
