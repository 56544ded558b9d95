"""A coordinator's figures, as a monitoring system reads them."""

import asyncio
import socket
import urllib.request
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tacit.server.metrics import FederationCollector, served
from tacit.server.run_queue import Queued
from tacit.server.status import Going, Member, Phase, Spending, Status
from tacit.server.store import Figures, StoreUnavailable
from tacit.server.store.records import PARTICIPATION_OUTCOMES, RUN_STATUSES
from tacit.server.traffic import GONE, Traffic

NOW = datetime(2026, 3, 14, tzinfo=UTC)
QUIET = Status("wards", "https://127.0.0.1:9092", None, (), None, (), (), ())
GOING = Going(
    run="1-ward",
    recipe="ward",
    since=NOW,
    rounds_committed=6,
    rounds=20,
    round=7,
    attempt=1,
    phase=Phase("mask", 3, 4, NOW, ()),
    stopping=False,
    metrics={"accuracy": 0.5},
    privacy=Spending("x", 2.5, 8.0, 1e-5),
    last=None,
)
BUSY = Status(
    federation="wards",
    url="https://127.0.0.1:9092",
    up=None,
    members=(Member("north", True, NOW), Member('so"uth\n', False, None)),
    going=GOING,
    waiting=(Queued("2-ward", "ward", NOW),),
    put_aside=(Queued("0-ward", "ward", NOW), Queued("0-wrong", "", NOW)),
    recent=(),
)
FIGURES = Figures(
    dict.fromkeys(RUN_STATUSES, 0) | {"running": 1, "failed": 2},
    {"committed": 7, "aborted": 2},
    {"committed": 14.0, "aborted": 120.0},
    dict.fromkeys(PARTICIPATION_OUTCOMES, 0) | {"reported": 30, "refused": 3},
)


def collector(status: Status, traffic: Traffic | None = None) -> FederationCollector:
    return FederationCollector(lambda: status, lambda: FIGURES, traffic or Traffic(), "0.1.0")


def samples(found: FederationCollector) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(found)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def of(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_figures_say_what_the_status_and_the_store_say() -> None:
    found = samples(collector(BUSY))
    run = {"run": "1-ward", "recipe": "ward"}
    assert of(found, "tacit_runs", status="running") == 1 and of(found, "tacit_runs", status="finished") == 0
    assert of(found, "tacit_run_round", **run) == 7 and of(found, "tacit_run_rounds", **run) == 20
    assert of(found, "tacit_run_attempt", **run) == 1 and of(found, "tacit_run_rounds_committed", **run) == 6
    assert of(found, "tacit_run_phase_begun_seconds", exchange="mask", **run) == NOW.timestamp()
    assert of(found, "tacit_run_epsilon_committed", **run) == 2.5
    assert of(found, "tacit_run_epsilon_granted", **run) == 8
    assert of(found, "tacit_round_seconds_count", outcome="aborted") == 2
    assert of(found, "tacit_round_seconds_sum", outcome="committed") == 14
    assert of(found, "tacit_participations_total", outcome="refused") == 3
    assert of(found, "tacit_clients_enrolled") == 2 and of(found, "tacit_clients_online") == 1
    assert of(found, "tacit_client_online", client="north") == 1
    assert of(found, "tacit_client_online", client='so"uth\n') == 0
    assert of(found, "tacit_queue_recipes") == 1 and of(found, "tacit_queue_put_aside") == 2
    assert of(found, "tacit_store_up") == 1 and of(found, "tacit_build_info", version="0.1.0") == 1


def test_nothing_is_said_of_a_run_while_there_is_none() -> None:
    assert not [name for name, _ in samples(collector(QUIET)) if name.startswith("tacit_run_")]


def test_what_rounds_hide_of_a_client_is_in_no_figure() -> None:
    per_client = {name for name, labels in samples(collector(BUSY)) if "client" in dict(labels)}
    assert per_client == {"tacit_client_online"}


def test_figures_that_need_no_database_are_there_while_it_is_away() -> None:
    def away() -> Any:
        raise StoreUnavailable("the database is locked")

    found = samples(FederationCollector(away, away, Traffic(), "0.1.0"))
    assert of(found, "tacit_store_up") == 0 and of(found, "tacit_fleet_requests_open") == 0
    assert not [name for name, _ in found if name.startswith("tacit_runs")]


# Traffic


async def drive(traffic: Traffic, path: str, application: Any, bodies: list[bytes]) -> None:
    events = iter([{"type": "http.request", "body": body} for body in bodies])

    async def receive() -> Any:
        return next(events)

    async def send(event: Any) -> None:
        return None

    known = {"/a", "/b"}
    scope = {"type": "http", "path": path}
    await traffic.counted(application, lambda path: path if path in known else "other")(scope, receive, send)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    taken = await receive()
    await send({"type": "http.response.start", "status": 404 if scope["path"] == "/c" else 200})
    await send({"type": "http.response.body", "body": 2 * taken["body"]})


async def silent(scope: Any, receive: Any, send: Any) -> None:
    await receive()


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("x")


def test_requests_and_bytes_are_counted_and_strangers_invent_no_paths() -> None:
    traffic = Traffic()
    for path in ("/a", "/a", "/c", "/d\n{}"):
        asyncio.run(drive(traffic, path, echo, [b"123"]))
    asyncio.run(drive(traffic, "/b", silent, [b"4567"]))
    with pytest.raises(RuntimeError):
        asyncio.run(drive(traffic, "/b", broken, []))
    assert traffic.requests == {("/a", 200): 2, ("other", 404): 1, ("other", 200): 1, ("/b", GONE): 1, ("/b", 500): 1}
    assert (traffic.received, traffic.sent, traffic.open) == (16, 24, 0)
    found = samples(collector(QUIET, traffic))
    assert of(found, "tacit_fleet_requests_total", path="/a", status="200") == 2
    assert of(found, "tacit_fleet_received_bytes_total") == 16 and of(found, "tacit_fleet_sent_bytes_total") == 24


# The port


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
        text: str = answer.read().decode()
        assert answer.headers["content-type"].startswith("text/plain")
    return text


def test_figures_are_served_on_a_port_of_their_own_until_the_end() -> None:
    with served("127.0.0.1:0", collector(BUSY)) as url:
        text = get(url)
        assert 'tacit_run_round{recipe="ward",run="1-ward"} 7.0' in text or (
            'tacit_run_round{run="1-ward",recipe="ward"} 7.0' in text
        )
        assert "process_resident_memory_bytes" in text
    with pytest.raises(OSError):
        get(url)


def test_figures_can_be_left_out() -> None:
    with served("", collector(QUIET)) as url:
        assert url == ""


def test_a_port_that_is_taken_is_told_and_keeps_nobody_from_work(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with served(address, collector(QUIET)) as url:
            assert url == ""
    assert f"metrics are off: {address} cannot be listened on" in caplog.text


def test_an_address_that_others_can_reach_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with served("0.0.0.0:0", collector(QUIET)):
        pass
    assert "can be read by everybody who reaches that address" in caplog.text
