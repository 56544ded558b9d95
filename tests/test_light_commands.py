"""Which commands compute with a model, and that all the others are done without what such work needs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from tacit.__main__ import cli

from .server.made_hub import RECIPE, make_hub  # noqa: TID252 - tests are no package

COMPUTES = {
    "agent outbox",
    "agent policy check",
    "agent start",
    "coordinator up",
    "privacy plan",
    "runs reproduce",
    "serve",
    "simulate",
}

# Types one line after another in a process of its own, and prints the exit codes and what was imported on the way.
TYPED = """
import contextlib, json, sys
from tacit.__main__ import run
told = []
for line in json.load(sys.stdin):
    with contextlib.redirect_stdout(sys.stderr):
        code = run(line)
    told.append([code, sorted({"torch", "opacus", "flwr"} & set(sys.modules))])
print(json.dumps(told))
"""

LIGHT = """
coordinator init other
coordinator invite --name south --dir hub
coordinator clients --dir hub
coordinator revoke north --dir hub
coordinator start ward.toml --dir hub
coordinator status --dir hub
coordinator stop second --dir hub
coordinator stop --dir hub
coordinator backup hub hub.backup
coordinator restore hub.backup again
coordinator rotate-ca --dir hub
agent init ward
agent org-key organisation.key
agent data add visits csv:visits.csv --dir ward
agent data list --dir ward
agent data inspect visits --dir ward
agent data remove visits --dir ward
agent policy show --dir ward
agent policy explain --dir ward
agent policy pin KEY --dir ward
agent status --dir ward
agent ledger --dir ward
agent audit --dir ward
agent audit verify --dir ward
agent audit export account.jsonl --dir ward
agent pause --dir ward
agent resume --dir ward
agent leave --dir ward
model list --db hub/tacit.db
model show ward --db hub/tacit.db
model verify --db hub/tacit.db --models hub/models-store
model promote ward 1 champion --db hub/tacit.db --models hub/models-store
model export ward copied --db hub/tacit.db --models hub/models-store
runs list --db hub/tacit.db
runs show first --db hub/tacit.db
runs compare first second --db hub/tacit.db
serve keys create somebody --scope predict --db hub/tacit.db
serve keys list --db hub/tacit.db
"""

# There is nobody at the other end, or nothing of that name; what they import they import before they say so.
REFUSED = """
agent enrol --token none --dir ward
agent renew --dir ward
agent page --dir nowhere
serve keys revoke none --db hub/tacit.db
predict --url http://127.0.0.1:1 --model ward --input visits.csv
privacy show nothing --db hub/tacit.db --models hub/models-store
"""


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the name of each command that does something."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join((*path, name))
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))


def command_of(line: str, known: set[str]) -> str:
    """Return the name of the command that a line begins with, the longest there is."""
    return max((name for name in known if f"{line} ".startswith(f"{name} ")), key=len)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_hub(tmp_path / "hub", tmp_path / "artifacts", datetime.now(UTC))
    (tmp_path / "ward.toml").write_text(RECIPE.to_toml())
    (tmp_path / "visits.csv").write_text("age,label\n" + "".join(f"{20 + at},{at % 2}\n" for at in range(20)))
    return tmp_path


def test_whoever_computes_nothing_waits_for_no_pytorch(place: Path) -> None:
    known = set(leaves(cli))
    lines = [(line, 0) for line in LIGHT.strip().splitlines()] + [(line, None) for line in REFUSED.strip().splitlines()]
    assert {command_of(line, known) for line, _ in lines} == known - COMPUTES
    assert known >= COMPUTES
    words = [line.replace("KEY", "5d" * 32).split() for line, _ in lines]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TYPED],
        input=json.dumps(words),
        capture_output=True,
        text=True,
        cwd=place,
        timeout=600,  # to end a hang, and no measure of anything
    )
    assert done.returncode == 0, done.stderr
    for (line, expected), (code, loaded) in zip(lines, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert not loaded, f"{line} imports {loaded}"
        assert code == 0 if expected == 0 else code in (1, 2), f"{line}: {code}\n{done.stderr}"
