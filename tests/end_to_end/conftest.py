"""The command line as a person uses it: a directory of one's own, arguments in, exit code and two streams out."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tacit.__main__ import run
from tacit.server.store import open_store

from .federation import Command, commands
from .wards import Commands

RECIPE = """\
name = "tiny"
seed = 5

[task]
kind = "tabular-classification"

[data]
source = "csv:rows.csv"
label = "kind"
minimum_count = 1

[population]
clients = 4

[training]
rounds = 2
learning_rate = 0.5

[privacy]
unit = "none"

[secure_aggregation]
enabled = false
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Tacit = Callable[..., Outcome]


def table(count: int = 60, kinds: Sequence[str] = ("yes", "no")) -> list[list[str]]:
    """Return rows of age, colour, a constant and the kind, which follows from the age."""
    drawn = random.Random(1)
    ages = {kind: 30 + 10 * index for index, kind in enumerate(("no", "yes"))}
    return [
        [f"{drawn.gauss(ages[kind], 2):.2f}", ("red", "green", "blue")[row % 3], "7", kind]
        for row, kind in enumerate((list(kinds) * count)[:count])
    ]


def write_csv(path: str, rows: Sequence[Sequence[str]]) -> None:
    """Write rows under their header, the first of them on line 2."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lines = ["age,colour,constant,kind", *(",".join(row) for row in rows)]
    Path(path).write_text("\n".join(lines) + "\n")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `tiny.toml` and the table that it trains on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TACIT_DB", raising=False)
    monkeypatch.delenv("TACIT_DEBUG", raising=False)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    write_csv("rows.csv", table())
    return tmp_path


@pytest.fixture
def tacit(home: Path, capsys: pytest.CaptureFixture[str]) -> Tacit:
    """Run a command in this process, as the console script does."""

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = run(arguments)
        streams = capsys.readouterr()
        return Outcome(code, streams.out, streams.err)

    return call


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """Start commands as processes in a directory of their own."""
    with commands(tmp_path) as started:
        yield started


def statuses(db: str = "tacit.db") -> list[str]:
    """Return the states of all runs that a database knows; none where there is no database."""
    if not Path(db).exists():
        return []
    with closing(open_store(db, create=False)) as store:
        return [record.status for record in store.list_runs(None)]


def refused(outcome: Outcome, *words: str) -> None:
    """Check that a command was refused in one line that holds these words."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.fixture(scope="session")
def seeded_commands() -> Iterator[Commands]:
    """Commands as processes with draws that a test knows; what they need is imported once."""
    made = Commands()
    yield made
    made.close()
