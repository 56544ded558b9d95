"""`tacit coordinator status`: how a federation stands, for people, once or again and again, and for programs."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tacit.models.errors import InputError
from tacit.printing import Format, cell, format_option, print_json
from tacit.server.cli.directory import dir_option, now, opened
from tacit.server.run_queue import Queued
from tacit.server.status import Attempt, Ended, Going, Ledgers, Missing, Status, read_status
from tacit.server.store import StoreUnavailable

WATCH_SECONDS = 2.0
PLAIN_WIDTH = 1000  # characters: what is no terminal gets its lines unbroken
BAR_WIDTH = 30
MOST_MISSING = 8
STYLES = {"finished": "green", "stopped": "yellow", "interrupted": "yellow", "failed": "red"}


@click.command()
@click.option("--watch", "watching", is_flag=True, help="Show it anew every two seconds until Ctrl-C.")
@dir_option
@format_option
def status(watching: bool, directory: Path, output: Format) -> None:
    """Show whether the coordinator is up, which members are there, the run that is going, the queue and the last runs.

    It is read from the coordinator's directory and database alone, beside a coordinator that is up or without one.

    Example: tacit coordinator status --dir hub --watch
    """
    if watching and output == "json":
        raise click.UsageError("--watch is for people; ask again for JSON", click.get_current_context())
    with opened(directory) as (hub, store):
        ledgers = Ledgers(store)

        def read() -> Status:
            return read_status(hub.path, hub.settings.federation, hub.settings.url, store, now(), ledgers)

        if output == "json":
            print_json(_for_programs(read()))
            return
        console = Console()
        if not watching:
            _print(console, shown(read(), now()))
            return
        try:
            watch(console, read)
        except KeyboardInterrupt:
            return


def watch(console: Console, read: Callable[[], Status]) -> None:
    """Show the status again and again, and while it cannot be read the last one, with the reason."""
    found = read()
    with Live(shown(found, now()), console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            try:
                found, trouble = read(), ""
            except (InputError, StoreUnavailable) as error:
                trouble = cell(str(error))
            page = shown(found, now())
            live.update(Group(page, "", Text(trouble, style="bold red")) if trouble else page, refresh=True)


def shown(found: Status, at: datetime) -> RenderableType:
    """Return how a federation stands, as lines for a terminal.

    Args:
        found: how it stands.
        at: the time.
    """
    parts: list[RenderableType] = [_facts(_coordinator(found, at))]
    if found.going is not None:
        parts += ["", _facts(_run(found.going, at, up=found.up is not None))]
    if found.waiting:
        parts += ["", _queue("waits", _waiting(found), at)]
    if found.put_aside:
        parts += ["", _queue("put aside", found.put_aside, at)]
    if found.recent:
        parts += ["", _ended(found.recent, at)]
    return Group(*parts)


def _coordinator(found: Status, at: datetime) -> Iterator[tuple[str, RenderableType]]:
    up = found.up
    yield "federation", Text(cell(found.federation), style="bold")
    if up is None:
        yield "coordinator", Text("not up", style="bold red")
    else:
        yield (
            "coordinator",
            Text.assemble(("up", "bold green"), f" for {_span(at, up.started_at)}, since {cell(up.started_at)}")
            + Text(f", pid {up.pid}, version {cell(up.version)}"),
        )
        if up.insecure:
            yield "INSECURE", Text("no TLS: whoever can listen on this machine reads along", style="bold white on red")
    yield "url", Text(cell(found.url))
    if up is not None and up.metrics:
        yield "metrics", Text(cell(up.metrics))
    yield "clients", _clients(found, at)


def _clients(found: Status, at: datetime) -> Text:
    if not found.members:
        return Text("nobody is enrolled yet")
    line = Text(f"{len(found.members)} enrolled")
    if found.up is None:
        return line
    line.append(f", {found.online} online", style="green" if found.online == len(found.members) else "yellow")
    away = [
        f"{cell(one.name)} ({_span(at, one.seen)})" if one.seen else cell(one.name)
        for one in found.members
        if not one.online
    ]
    return line.append(f"; away: {_some(away)}") if away else line


def _run(going: Going, at: datetime, *, up: bool) -> Iterator[tuple[str, RenderableType]]:
    title = Text(cell(going.run), style="bold").append(f"  begun {_span(at, going.since)} ago", style="not bold")
    if going.stopping:
        title.append("  ends after this attempt, as was asked", style="yellow")
    elif not up:
        title.append("  was broken off, and goes on when the coordinator is up", style="yellow")
    yield "run", title
    yield "round", _progress(going)
    if (phase := going.phase) is not None:
        since = f" for {_span(at, phase.since)}" if phase.since else ""
        yield "phase", Text(f"{cell(phase.exchange)}{since}, asks {phase.asked} of {phase.cohort}")
        yield from _missing(phase.missing)
    if going.metrics:
        yield "metrics", Text(_figures(going.metrics))
    if (paid := going.privacy) is not None:
        yield (
            "epsilon",
            Text(f"{paid.epsilon_committed:.3f} committed of {paid.epsilon_granted:.3f}, delta {paid.delta:g}")
            + Text(f", ledger {cell(paid.ledger)}", style="dim"),
        )
    if (last := going.last) is not None:
        yield from _last(last, at)


def _progress(going: Going) -> RenderableType:
    attempt = f", attempt {going.attempt + 1}" if going.attempt else ""
    total = going.rounds
    where = "preparation" if going.round == 0 else f"{going.round}" + (f" of {total}" if total else "")
    line = Text(f"{where}{attempt}")
    if not total:
        return line
    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total, going.rounds_committed, width=BAR_WIDTH, complete_style="green"), line)
    return row


def _last(last: Attempt, at: datetime) -> Iterator[tuple[str, RenderableType]]:
    number = "preparation" if last.round == 0 else f"round {last.round}"
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(last.counts.items(), key=_by_outcome))
    when = f", {_span(at, last.ended_at)} ago" if last.ended_at else ""
    line = Text(f"{number}: {counts} in {last.seconds:.1f} s{when}")
    if not last.committed:
        line.append(f"; failed: {cell(last.reason)}", style="red")
    yield "last", line
    yield from _missing(last.missing)


def _missing(clients: Sequence[Missing]) -> Iterator[tuple[str, RenderableType]]:
    for one in clients[:MOST_MISSING]:
        why = f": {cell(one.reason)}" if one.reason else ""
        yield "", Text(f"{cell(one.client)} {one.outcome}{why}", style="yellow")
    if len(clients) > MOST_MISSING:
        yield "", Text(f"and {len(clients) - MOST_MISSING} more", style="yellow")


def _waiting(found: Status) -> Iterator[Queued]:
    """Yield what waits; of the first, what it waits for where that is no other run."""
    for place, one in enumerate(found.waiting):
        here = found.up is not None and found.going is None and place == 0 and found.online < one.members
        yield replace(one, reason=f"{found.online} of {one.members} members are there") if here else one


def _queue(title: str, listed: Iterable[Queued], at: datetime) -> RenderableType:
    rows = [(cell(one.run), cell(one.recipe), _span(at, one.since), cell(one.reason)) for one in listed]
    return _listing((title, "recipe", "for", "why" if any(row[-1] for row in rows) else ""), rows)


def _ended(listed: Iterable[Ended], at: datetime) -> RenderableType:
    rows = (
        (
            cell(one.run),
            Text(one.status, style=STYLES.get(one.status, "")),
            str(one.rounds_committed),
            f"{_span(at, one.ended_at)} ago" if one.ended_at else "",
            cell(one.model),
            "; ".join(filter(None, (_figures(one.metrics), cell(one.reason)))),
        )
        for one in listed
    )
    return _listing(("ended", "how", "rounds", "when", "model", "test, or why"), rows)


def _facts(pairs: Iterable[tuple[str, RenderableType]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=11)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, value)
    return grid


def _listing(columns: tuple[str, ...], rows: Iterable[tuple[str | Text, ...]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        last = name == columns[-1]
        table.add_column(name, no_wrap=not last, overflow="fold", justify="right" if name == "rounds" else "left")
    for row in rows:
        # As Text: square brackets in a name mean nothing.
        table.add_row(*(one if isinstance(one, Text) else Text(one) for one in row))
    return table


def _print(console: Console, content: RenderableType) -> None:
    if console.is_terminal:
        console.print(content)
        return
    plain = Console(
        file=io.StringIO(), width=PLAIN_WIDTH, color_system=None, force_terminal=False, legacy_windows=False
    )
    with plain.capture() as captured:
        plain.print(content)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _for_programs(found: Status) -> dict[str, object]:
    up = found.up
    return {
        "federation": found.federation,
        "url": found.url,
        "up": None
        if up is None
        else {
            "pid": up.pid,
            "started_at": up.started_at,
            "version": up.version,
            "insecure": up.insecure,
            "metrics": up.metrics or None,
        },
        "clients": {"enrolled": len(found.members), "online": found.online if up else None},
        "members": found.members,
        "run": found.going,
        "waiting": found.waiting,
        "put_aside": found.put_aside,
        "recent": found.recent,
    }


def _figures(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{cell(name)} {value:.4g}" for name, value in sorted(metrics.items()))


def _some(names: list[str]) -> str:
    more = len(names) - MOST_MISSING
    return ", ".join(names[:MOST_MISSING]) + (f" and {more} more" if more > 0 else "")


def _by_outcome(pair: tuple[str, int]) -> tuple[bool, str]:
    return pair[0] != "reported", pair[0]


def _span(at: datetime, since: datetime) -> str:
    """Return how long ago something was, in the two largest units that say something."""
    seconds = max(0, int((at - since).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"
