"""A coordinator's figures in the text format of Prometheus, on a port of their own.

They say what `tacit coordinator status` says, and counts. Of a client there is its name and whether it is there, which
the operator knows: nothing that the rounds hide.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from tacit.server.coordinator_directory import metrics_address
from tacit.server.status import Going, Status
from tacit.server.store import Figures, StoreUnavailable
from tacit.server.traffic import Traffic

_LOG = logging.getLogger(__name__)


class FederationCollector(Collector):
    """What a coordinator knows, read anew at each request for it.

    Args:
        status: how the federation stands.
        figures: counts over all runs.
        traffic: of the fleet port.
        version: Tacit's.
    """

    def __init__(
        self, status: Callable[[], Status], figures: Callable[[], Figures], traffic: Traffic, version: str
    ) -> None:
        """Read nothing yet."""
        self._status = status
        self._figures = figures
        self._traffic = traffic
        self._version = version

    def describe(self) -> list[Metric]:
        """Return nothing: names are not checked against each other, for which all would have to be read."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every figure; while the database is away, those that need none."""
        yield _gauge("tacit_build_info", "The version that runs.", 1, version=self._version)
        yield from _traffic(self._traffic)
        try:
            status, figures = self._status(), self._figures()
        except StoreUnavailable:
            yield _gauge("tacit_store_up", "Whether the database could be read.", 0)
            return
        yield _gauge("tacit_store_up", "Whether the database could be read.", 1)
        yield from _counts(figures)
        yield from _clients(status)
        yield _gauge("tacit_queue_recipes", "Recipes that wait for their turn.", len(status.waiting))
        yield _gauge("tacit_queue_put_aside", "Recipes that could not be trained.", len(status.put_aside))
        if status.going is not None:
            yield from _going(status.going)


@contextmanager
def served(address: str, collector: Collector) -> Iterator[str]:
    """Serve figures for as long as the block lasts, and give the URL that they are at; empty if they are at none.

    An address that cannot be used is no reason to keep a federation from its work: it is told, and that is all.

    Args:
        address: HOST:PORT; empty for not at all.
        collector: knows the figures.
    """
    if not address:
        yield ""
        return
    host, port = metrics_address(address)
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        _LOG.error("metrics are off: %s cannot be listened on (%s)", address, error.strerror or type(error).__name__)
        yield ""
        return
    if not ip_address(host).is_loopback:
        _LOG.warning("metrics on %s can be read by everybody who reaches that address", address)
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _traffic(traffic: Traffic) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "tacit_fleet_requests", "Requests that the fleet port has answered.", labels=("path", "status")
    )
    for (path, status), count in sorted(dict(traffic.requests).items()):
        requests.add_metric((path, str(status)), count)
    yield requests
    yield _gauge("tacit_fleet_requests_open", "Requests that are not answered yet; most wait.", traffic.open)
    yield CounterMetricFamily(
        "tacit_fleet_received_bytes", "Bytes of bodies that came to the fleet port.", value=traffic.received
    )
    yield CounterMetricFamily("tacit_fleet_sent_bytes", "Bytes of bodies that left the fleet port.", value=traffic.sent)


def _counts(figures: Figures) -> Iterator[Metric]:
    runs = GaugeMetricFamily("tacit_runs", "Runs by how they fare.", labels=("status",))
    for status, count in figures.runs.items():
        runs.add_metric((status,), count)
    yield runs
    seconds = SummaryMetricFamily(
        "tacit_round_seconds", "Attempts at rounds, preparations too, and how long they took.", labels=("outcome",)
    )
    for outcome, count in figures.attempts.items():
        seconds.add_metric((outcome,), count, figures.seconds[outcome])
    yield seconds
    asked = CounterMetricFamily(
        "tacit_participations", "What became of clients that a round has asked.", labels=("outcome",)
    )
    for became, count in figures.asked.items():
        asked.add_metric((became,), count)
    yield asked


def _clients(status: Status) -> Iterator[Metric]:
    yield _gauge("tacit_clients_enrolled", "Clients that may take part.", len(status.members))
    yield _gauge("tacit_clients_online", "Clients that are there.", status.online)
    online = GaugeMetricFamily("tacit_client_online", "Whether a client is there.", labels=("client",))
    for member in status.members:
        online.add_metric((member.name,), bool(member.online))
    yield online


def _going(going: Going) -> Iterator[Metric]:
    named = {"run": going.run, "recipe": going.recipe}
    yield _gauge("tacit_run_round", "The round that the run is in; 0 is its preparation.", going.round, **named)
    yield _gauge("tacit_run_attempt", "Which attempt at that round it is, from 0.", going.attempt, **named)
    yield _gauge("tacit_run_rounds_committed", "Rounds that are part of the model.", going.rounds_committed, **named)
    if going.rounds is not None:
        yield _gauge("tacit_run_rounds", "Rounds that the run is to have.", going.rounds, **named)
    if (phase := going.phase) is not None and phase.since is not None:
        yield _gauge(
            "tacit_run_phase_begun_seconds",
            "When the exchange that is under way was announced, in seconds since 1970.",
            phase.since.timestamp(),
            exchange=phase.exchange,
            **named,
        )
    if going.last is not None:
        yield _gauge("tacit_run_last_attempt_seconds", "How long the newest attempt took.", going.last.seconds, **named)
    if (spent := going.privacy) is not None:
        yield _gauge(
            "tacit_run_epsilon_committed", "Of its ledger, open reservations too.", spent.epsilon_committed, **named
        )
        yield _gauge("tacit_run_epsilon_granted", "What its ledger was granted.", spent.epsilon_granted, **named)


def _gauge(name: str, meaning: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family
