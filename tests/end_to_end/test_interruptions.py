"""Runs that are stopped in the middle: nothing that counted is lost, and what follows is as if nothing had happened."""

import hashlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tacit.server.store import open_store
from tacit.simulations import simulate

from .conftest import Tacit, statuses

pytestmark = pytest.mark.slow

SECONDS = 300
ROUNDS = 60
# Enough rounds to be interrupted in; cohorts are drawn from the secret seed, moments live from round to round.
SETTINGS = (f"training.rounds={ROUNDS}", "training.cohort=2", "strategy.name=fedadam")
PROMISE = (
    f"training.rounds={ROUNDS}",
    "population.clients=6",
    "training.cohort=5",
    "secure_aggregation.enabled=true",
    "secure_aggregation.min_cohort=3",
    "privacy.unit=client",
    "privacy.epsilon=50",
)
# The command, which rests after a round until it is stopped: however late a signal comes, the run is not over.
RESTING = """
import sys, time
from tacit.__main__ import main
from tacit.simulations.cli.progress import Progress

last, shown = int(sys.argv.pop(1)), Progress.round

def round(self, report):
    shown(self, report)
    if report.number == last:
        time.sleep(3600)

Progress.round = round
main()
"""


def committed(db: Path) -> int:
    """Return how many rounds a database in use by another process knows as committed, 0 while it is being made."""
    try:
        with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True, timeout=5)) as connection:
            (number,) = connection.execute("SELECT count(*) FROM rounds WHERE outcome = 'committed'").fetchone()
            return int(number)
    except sqlite3.OperationalError:
        return 0


def begin(out: str, settings: Sequence[str] = SETTINGS, last: int = ROUNDS - 2) -> subprocess.Popen[str]:
    """Start a run in a process of its own, which rests after a round: with two to come unless told otherwise."""
    settings = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-c", RESTING, str(last), "simulate", "tiny.toml", "--out", out, *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def stop(process: subprocess.Popen[str], number: signal.Signals, rounds: int) -> tuple[int, str]:
    """Send a signal once so many rounds are committed and return exit code and standard error."""
    deadline = time.monotonic() + SECONDS
    while committed(Path("tacit.db")) < rounds and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors


def weights(directory: Path) -> str:
    return hashlib.sha256((directory / "model" / "model.safetensors").read_bytes()).hexdigest()


def cohorts(db: str) -> list[list[str]]:
    with closing(open_store(db, create=False)) as store:
        (run,) = store.list_runs(None)
        return [[member.client for member in one.participation] for one in store.rounds(run.run)]


def uninterrupted(
    home: Path, name: str, seed: bytes, monkeypatch: pytest.MonkeyPatch, settings: Sequence[str] = SETTINGS
) -> Path:
    """Run the same from the same secret seed elsewhere, in one go."""
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("tacit.simulations.simulation.secrets.token_bytes", lambda count: seed)
        simulate(
            "tiny.toml",
            settings,
            out=elsewhere / name,
            db=str(elsewhere / "tacit.db"),
            models=elsewhere / "models-store",
        )
    return elsewhere / name


@pytest.fixture
def process(home: Path) -> Iterator[subprocess.Popen[str]]:
    started = begin("runs/stopped")
    yield started
    if started.poll() is None:
        started.kill()
    started.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    tacit: Tacit,
    home: Path,
    process: subprocess.Popen[str],
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, errors = stop(process, number, rounds=7)
    seed = (home / "runs/stopped/.run-seed").read_bytes()
    before = committed(home / "tacit.db")
    assert 7 <= before < ROUNDS

    if number == signal.SIGKILL:
        assert (code, statuses()) == (-signal.SIGKILL, ["running"])
        command = ["simulate", "runs/stopped/recipe.toml", "--out", "runs/stopped", "--resume"]
    else:
        assert (code, statuses()) == (1, ["interrupted"])
        last = errors.splitlines()[-1]
        assert last.startswith("error: interrupted; go on with: tacit ")
        command = shlex.split(last.partition("tacit ")[2])
    resumed = tacit(*command)
    assert resumed.code == 0, resumed.err
    assert statuses() == ["finished"]
    assert committed(home / "tacit.db") == 1 + ROUNDS  # the preparation, and each round once
    assert not (home / "runs/stopped/.run-seed").exists()

    straight = uninterrupted(home, "stopped", seed, monkeypatch)
    assert weights(home / "runs/stopped") == weights(straight)
    assert cohorts("tacit.db") == cohorts(str(home / "elsewhere/tacit.db"))
    reproduced = tacit("runs", "reproduce", "stopped", "--format", "json")
    assert reproduced.code == 0, reproduced.err
    assert json.loads(reproduced.out)["identical"] is True


def test_a_killed_run_with_a_promise_masks_and_noises_on_as_if_nothing_had_happened(
    tacit: Tacit, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = begin("runs/private", PROMISE)
    stop(process, signal.SIGKILL, rounds=7)
    seed = (home / "runs/private/.run-seed").read_bytes()
    resumed = tacit("simulate", "runs/private/recipe.toml", "--out", "runs/private", "--resume")
    assert resumed.code == 0, resumed.err
    straight = uninterrupted(home, "private", seed, monkeypatch, PROMISE)
    assert weights(home / "runs/private") == weights(straight)
    statements = [json.loads((run / "privacy.json").read_text()) for run in (home / "runs/private", straight)]
    # Each is signed with a key of its own, and so is its ledger.
    for statement in statements:
        del statement["signature"], statement["signed_by"], statement["population_ledger"]["head"]
    assert statements[0] == statements[1]
    assert 0 < statements[0]["epsilon"] <= 50
    assert statements[0]["participations"] == ROUNDS


def test_ctrl_c_before_the_first_round_leaves_a_run_that_can_go_on(tacit: Tacit, home: Path) -> None:
    process = begin("runs/early", last=0)
    deadline = time.monotonic() + SECONDS
    while not (home / "runs/early/.run-seed").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert "running" not in statuses()
    if statuses():
        assert tacit("simulate", "runs/early/recipe.toml", "--out", "runs/early", "--resume").code == 0
    else:
        assert not (home / "runs/early").exists()


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A file system of one megabyte; making one takes root."""
    place = home / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_during_a_checkpoint_loses_nothing(
    tacit: Tacit, home: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    full = small_disk / "ballast"

    def fill_up_after(report: object) -> None:
        if getattr(report, "number", 0) == 5:
            with full.open("wb", buffering=0) as ballast:
                try:
                    while ballast.write(b"\0" * 4096):
                        pass
                except OSError:
                    return

    with monkeypatch.context() as patched:
        patched.setattr("tacit.simulations.cli.progress.Progress.round", lambda self, report: fill_up_after(report))
        stopped = tacit("simulate", "tiny.toml", "--out", "small/full", *settings)
    assert stopped.code == 2
    assert stopped.err.splitlines()[-1].startswith("error: small/full/checkpoints/round-000006.safetensors: cannot be")
    assert statuses() == ["interrupted"]  # it can go on when there is room
    assert committed(home / "tacit.db") == 1 + 5
    seed = (small_disk / "full/.run-seed").read_bytes()
    assert not list(small_disk.rglob("*.tmp"))

    full.unlink()
    assert tacit("simulate", "small/full/recipe.toml", "--out", "small/full", "--resume").code == 0
    assert weights(small_disk / "full") == weights(uninterrupted(home, "full", seed, monkeypatch))


def test_a_damaged_checkpoint_is_not_resumed_from(tacit: Tacit, home: Path, process: subprocess.Popen[str]) -> None:
    stop(process, signal.SIGKILL, rounds=4)
    newest = max((home / "runs/stopped/checkpoints").glob("round-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-8])
    rounds = committed(home / "tacit.db")
    outcome = tacit("simulate", "runs/stopped/recipe.toml", "--out", "runs/stopped", "--resume", "--format", "json")
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert newest.name in line
    assert statuses() == ["failed"]
    assert committed(home / "tacit.db") == rounds
