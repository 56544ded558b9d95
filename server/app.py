"""The Flower ServerApp: hands the grid of a run to whoever drives it, and does nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from tacit.server.flower import GridTransport
from tacit.server.transport import Transport

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")


def build_app(drive: Callable[[Grid, Context], None]) -> ServerApp:
    """Return a ServerApp whose run is driven by a function."""
    built = ServerApp()

    @built.main()
    def main(grid: Grid, context: Context) -> None:
        drive(grid, context)

    return built


def _stock(grid: Grid, context: Context) -> None:
    from tacit.server.stock import train

    transport: Transport = GridTransport(grid)
    train(transport, context.run_config)


app = build_app(_stock)
