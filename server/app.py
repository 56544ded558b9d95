"""The Flower ServerApp: hands the grid of a run to whoever drives it, and does nothing else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from tacit.models.errors import InputError
from tacit.server.flower import GridTransport
from tacit.server.transport import Transport


def build_app(drive: Callable[[Grid, Context], None]) -> ServerApp:
    """Return a ServerApp whose run is driven by a function."""
    built = ServerApp()

    @built.main()
    def main(grid: Grid, context: Context) -> None:
        drive(grid, context)

    return built


def _stock(grid: Grid, context: Context) -> None:
    """Train as `flwr run` asks; what is logged goes to standard error, which Flower passes on to its own log."""
    from tacit.server.attempts import RunFailed
    from tacit.server.stock import train

    log = logging.getLogger("tacit")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("tacit %(levelname)-7s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    transport: Transport = GridTransport(grid)
    try:
        train(transport, context.run_config)
    except (InputError, RunFailed) as error:
        log.error("%s", error)  # in one line, before Flower's own trace
        raise


app = build_app(_stock)
