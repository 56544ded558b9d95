"""Flower's SuperLink within this process, behind a gate: the fleet port, who may use it, and runs over it."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import uvicorn
from flwr.common.constant import ISOLATION_MODE_PROCESS, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TRANSPORT_TYPE_GRPC_RERE
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NodeStatus
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from tacit.models.errors import InputError
from tacit.models.wire import PATHS
from tacit.server.fleet_grid import FleetGrid
from tacit.server.fleet_routes import FLOWER_PATHS, FleetRoutes
from tacit.server.flower import GridTransport
from tacit.server.gate import Application, Gate, Limits
from tacit.server.mailbox import Mailbox
from tacit.server.patience import impatient
from tacit.server.traffic import Traffic

START_SECONDS = 30.0
STOP_SECONDS = 5
OWNER = NOOP_FLWR_AID


@dataclass(frozen=True)
class TlsFiles:
    """The server's certificate chain and its key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Presence:
    """Whether an agent is there, and when it last asked for anything: seconds since 1970, None if it never did."""

    online: bool
    seen: float | None


class SuperLink:
    """A SuperLink and its fleet port; use it as a context, or call `start` and `stop`.

    Without TLS it listens on the loopback only, whatever the host.

    Args:
        host: the address to listen on.
        port: 0 for any free one.
        tls: the server's certificate and key; None for no TLS.
        database: a file for Flower's messages in flight; None to keep them in memory, which is faster and loses
            nothing that a round engine would not ask for again.
        enrolment: answers the requests below `enrolment_prefix`.
        enrolment_prefix: begins and ends with a slash.
        refusal: says why the holder of a public key may not take part, None if it may; asked with every request.
        limits: what one request may take.
        spools: a directory for what is large in answers, made if it is not there; None for the system's place for
            temporary files.

    Raises:
        InputError: there is no TLS, and the host is not the loopback; or the directory cannot be made.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: TlsFiles | None = None,
        database: Path | None = None,
        enrolment: Application | None = None,
        enrolment_prefix: str = "/enrol/",
        refusal: Callable[[bytes], str | None] = lambda public_key: None,
        limits: Limits | None = None,
        spools: Path | None = None,
    ) -> None:
        """Build the applications; nothing listens before `start`."""
        if tls is None and host not in ("127.0.0.1", "::1", "localhost"):
            raise InputError(f"{host} is reachable from outside", where="host", right="use TLS, or 127.0.0.1")
        if spools is not None:
            try:
                spools.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot be made ({error.strerror})", where=str(spools)) from None
        self._address = (host, port)
        self._tls = tls
        self._limits = limits or Limits()
        self._mailbox = Mailbox()
        self._names = _Names()
        self._revoked: set[bytes] = set()
        self._left: set[bytes] = set()
        self._refusal = refusal
        logging.getLogger("flwr").setLevel(logging.WARNING)  # it has a line for each request
        flower = create_app(_flower_settings(host, port, database), SuperLinkLifespan)
        self._state = cast(LinkStateFactory, flower.state.linkstate_factory).state()
        self._routes = FleetRoutes(
            cast(Application, flower),
            self._state,
            self._mailbox,
            revoked=self._revoked.__contains__,
            refusal=self._why_not,
            names=self._names,
            limits=self._limits,
            spools=spools,
        )
        gate = Gate(
            self._routes,
            PATHS | FLOWER_PATHS,
            streaming=PATHS,
            admit=self._routes.admit,
            enrolment=enrolment,
            enrolment_prefix=enrolment_prefix,
            limits=self._limits,
        )

        def counts_as(path: str) -> str:
            if path in PATHS or path in FLOWER_PATHS:
                return path
            return enrolment_prefix if path.startswith(enrolment_prefix) else "other"

        self.traffic = Traffic()
        self._application = self.traffic.counted(gate, counts_as)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Return the host and the port that it listens on."""
        return self._address

    @property
    def names(self) -> Mapping[int, str]:
        """Return the names of those who were admitted, by node id; the view follows what changes."""
        return self._names

    def admit(self, public_key: bytes, name: str) -> int:
        """Let the holder of an Ed25519 key take part under a name, and return the node's id.

        The same key keeps its id for as long as the SuperLink lives, and beyond that if it has a database.

        Raises:
            InputError: the key was revoked, or another key has the name.
        """
        revoked = InputError("its key was revoked", where=f"agent {name}", right="enrol it with a new key")
        if public_key in self._revoked:
            raise revoked
        node = self._state.get_node_id_by_public_key(public_key)
        if name in (other for known, other in self._names.items() if known != node):
            raise InputError("another key has this name", where=f"agent {name}", right="choose another name")
        if node is None:
            try:
                node = self._state.create_node(OWNER, NOOP_ACCOUNT_NAME, public_key, 0.0, name=name)
            except ValueError:  # Flower remembers keys of nodes that it removed
                raise InputError(
                    "its key was revoked", where=f"agent {name}", right="enrol it with a new key"
                ) from None
        self._left.discard(public_key)
        self._mailbox.readmit(node)
        self._names.set(node, name)
        return node

    def dismiss(self, public_key: bytes) -> None:
        """Let the holder of a key take part no longer, until it is admitted again; one that waits is sent away now."""
        self._left.add(public_key)
        node = self._state.get_node_id_by_public_key(public_key)
        if node is not None:
            self._names.remove(node)
            self._state.deactivate_node(node)
            self._mailbox.dismiss(node)

    def revoke(self, public_key: bytes) -> None:
        """Let the holder of a key take part no longer, from the next request on; one that waits is sent away now."""
        self._revoked.add(public_key)
        node = self._state.get_node_id_by_public_key(public_key)
        if node is not None:
            self._names.remove(node)
            self._state.delete_node(OWNER, node)
            self._mailbox.dismiss(node)

    def presence(self) -> dict[str, Presence]:
        """Return who was admitted, by name, and whether they are there."""
        names = dict(self._names)
        there = self._state.get_node_info(node_ids=list(names), statuses=[NodeStatus.ONLINE]) if names else ()
        online = {info.node_id for info in there}
        return {name: Presence(node in online, self._routes.seen.get(node)) for node, name in sorted(names.items())}

    def grid(self) -> FleetGrid:
        """Register a run and return its Grid, to be closed when the run is over."""
        return FleetGrid(self._state, self._mailbox)

    def transport(self, grid: FleetGrid, pause: Callable[[float], None] | None = None) -> GridTransport:
        """Return the round engine's way to the agents over a grid; `pause` is called while nothing has arrived."""
        return GridTransport(
            grid,
            names=self._names,
            pause=pause or grid.wait,
            forget=grid.discard,
            expect=grid.expect,
            by_name=True,
            share_memory=True,  # the grid copies what it takes
        )

    def start(self) -> None:
        """Listen, and return when requests are answered.

        Raises:
            InputError: the address cannot be used, or the certificate or key.
        """
        host, port = self._address
        config = self._server_settings()
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"cannot be used ({type(error).__name__})", where="the server's certificate") from None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server((host, port), family=family, backlog=1024)
        except OSError as error:
            reason = (error.strerror or "").partition(" (while")[0]  # Python adds the address, which stands before it
            raise InputError(f"cannot listen ({reason})", where=f"{host}:{port}", right="choose a free port") from None
        self._address = (host, listening.getsockname()[1])
        self._server = uvicorn.Server(config)
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(listening, started), name="superlink", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            started.wait(0.005)
        if not self._server.started:
            self.stop()
            raise RuntimeError("the SuperLink did not start") from self._failure

    def stop(self) -> None:
        """Stop listening and send away whoever waits; a second call does nothing."""
        self._mailbox.close()
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(START_SECONDS)
        self._thread = self._server = None
        self._routes.close()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _why_not(self, public_key: bytes) -> str | None:
        return "this member has left the federation" if public_key in self._left else self._refusal(public_key)

    def _serve(self, listening: socket.socket, started: threading.Event) -> None:
        server = cast(uvicorn.Server, self._server)
        try:
            server.run(sockets=[listening])
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for the start
            self._failure = error
        finally:
            started.set()

    def _server_settings(self) -> uvicorn.Config:
        return uvicorn.Config(
            cast("uvicorn._types.ASGIApplication", self._application),
            http=impatient(self._limits),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=self._limits.connections,
            timeout_keep_alive=int(2 * self._limits.longest_wait_seconds) + 10,
            timeout_graceful_shutdown=STOP_SECONDS,
            ssl_certfile=self._tls.certificate if self._tls else None,
            ssl_keyfile=self._tls.key if self._tls else None,
            ssl_context_factory=_tls_context if self._tls else None,
        )


class _Names(Mapping[int, str]):
    """A view of the names that may be read while another thread admits somebody: every change makes a new mapping."""

    def __init__(self) -> None:
        self._now: dict[int, str] = {}

    def set(self, node: int, name: str) -> None:
        self._now = {**self._now, node: name}

    def remove(self, node: int) -> None:
        self._now = {known: name for known, name in self._now.items() if known != node}

    def __getitem__(self, node: int) -> str:
        return self._now[node]

    def __iter__(self) -> Iterator[int]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)


def _tls_context(config: uvicorn.Config, default: object) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(str(config.ssl_certfile), str(config.ssl_keyfile))
    return context


def _flower_settings(host: str, port: int, database: Path | None) -> SuperLinkLifespanConfig:
    """Return what Flower's application is made with: no process of its own, and no node that registers itself."""
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=host,
        port=port,
        insecure=True,  # its own servers, of which none is started; TLS is the fleet port's
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(database) if database else FLWR_IN_MEMORY_DB_NAME,
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
