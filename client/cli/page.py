"""`tacit agent page`: what the agent does, in a browser, for whoever the data belong to."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import click

from tacit.client.cli.options import dir_option


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="N", help="The port on the loopback, 0 for any.  [default: 8437]"
)
@dir_option
def page(port: int | None, path: Path) -> None:
    """Show a link to the agent's page, and serve the page until Ctrl-C if no agent does so already.

    A link opens the page once, within ten minutes, in a browser on this machine. Serving the page takes part in nothing
    and opens no connection.

    Example: tacit agent page
    """
    from tacit.client.directory import AgentDirectory
    from tacit.client.page.served import PAGE, link_to
    from tacit.client.page.server import PORT, serve_page

    AgentDirectory.open(path)
    if (link := link_to(path / PAGE)) is not None:
        click.echo(link)
        return
    stopped = threading.Event()
    with serve_page(path, PORT if port is None else port) as (_, link):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: stopped.set())
        click.echo(link)
        stopped.wait()


def show_link(address: str, link: str, path: Path) -> None:
    """Say where the page is; the link, which lets in, only to a terminal: elsewhere it would stay in a log."""
    if sys.stderr.isatty():
        click.echo(f"its page, once: {link}", err=True)
    else:
        click.echo(f"its page is at {address}; `tacit agent page --dir {path}` shows a link that opens it", err=True)
