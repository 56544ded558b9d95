"""Runs with a promise that are killed and go on: nothing that left is forgotten, and no draw serves two inputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tacit.client.journal import read_ledger as read_dataset_ledger
from tacit.models.recipe import parse_recipe
from tacit.privacy.ledger import Ledger
from tacit.privacy.terms import Unit
from tacit.server.checkpoints import RunState
from tacit.server.population_ledger import read_ledger
from tacit.server.reports import RoundReport
from tacit.server.store import LedgerLine, Store, open_store

from .conftest import RECIPE as TABULAR
from .conftest import table, write_csv
from .masked import Masked, Memory

LOCAL = (
    "secure_aggregation.enabled=false",
    "privacy.unit=client",
    "privacy.noise=local",
    "privacy.noise_multiplier=4",
    "training.rounds=2",
    "training.quorum=0.8",
)


class Killed(BaseException):
    """The process is gone."""


class Dying(Memory):
    """A recorder whose process dies at an attempt, before it is kept."""

    def __init__(self, number: int, attempt: int) -> None:
        super().__init__()
        self.at: tuple[int, int] | None = (number, attempt)

    def commit(self, report: RoundReport, state: RunState | None, ledger: Sequence[LedgerLine] = ()) -> None:
        if (report.number, report.attempt) == self.at:
            self.at = None
            raise Killed
        super().commit(report, state, ledger)


def test_an_attempt_that_was_given_back_and_never_kept_does_not_hold_the_run_up() -> None:
    def nobody_answers_at_first(client: int, action: str, number: int, attempt: int) -> bool:
        return (number, attempt, action) == (1, 0, "advertise")

    real = ["privacy.unit=client", "privacy.epsilon=8", "secure_aggregation.min_cohort=4"]
    dying = Masked(real, vanish=nobody_answers_at_first, recorder=Dying(1, 0))
    with pytest.raises(Killed):
        dying.execute()
    resumed = Masked(real, recorder=dying.recorder)
    resumed.store = dying.recorder.store = dying.store
    assert len(resumed.execute().spent) == 2


def half_silent_at_first(client: int, action: str, number: int, attempt: int) -> bool:
    return (number, attempt) == (1, 0) and client < 5


def test_an_attempt_that_ended_without_a_sum_is_not_forgotten_by_a_crash_in_the_next_one() -> None:
    straight = Masked(LOCAL, vanish=half_silent_at_first).execute()
    assert len(straight.spent) == 3  # the attempt that half of the clients answered, and two rounds
    recorder = Dying(1, 1)
    dying = Masked(LOCAL, vanish=half_silent_at_first, recorder=recorder)
    with pytest.raises(Killed):
        dying.execute()
    resumed = Masked(LOCAL, vanish=half_silent_at_first, recorder=recorder)
    resumed.store = recorder.store = dying.store
    state = resumed.execute()
    assert state.spent == straight.spent
    # Who answered the attempt is gone with the process, so everybody counts.
    assert all(state.taken[client] >= times for client, times in straight.taken.items())


# Killed processes -----------------------------------------------------------------------------------------------------

ROUNDS = 4
PRIVATE = {
    "training.rounds": ROUNDS,
    "population.clients": 5,
    "training.quorum": 0.6,
    "secure_aggregation.enabled": "true",
    "secure_aggregation.mode": "elided",
    "secure_aggregation.min_cohort": 3,
    "privacy.unit": "client",
    "privacy.noise_multiplier": 3.0,
    "evaluation.validation": 0.0,
}
POPULATION: tuple[str, Unit] = ("run/run", "client")


@dataclass(frozen=True)
class Killing:
    """A simulation that was killed and resumed."""

    directory: Path
    ends: tuple[str, ...]

    def store(self, name: str = "tacit.db") -> Store:
        return open_store(str(self.directory / name), create=False)

    def rounds(self, name: str = "tacit.db") -> list[tuple[int, int, str]]:
        if not (self.directory / name).exists():
            return []
        with self.store(name) as store:
            known = [record.run for record in store.list_runs(None)]
            return [(r.number, r.attempt, r.outcome) for run in known for r in store.rounds(run)]

    def lines(self, name: str) -> list[bytes]:
        if not (self.directory / name).exists():
            return []
        with self.store(name) as store:
            return store.ledger_lines(*POPULATION) if store.ledger_key(*POPULATION) else []

    def ledger(self, name: str = "tacit.db") -> Ledger | None:
        if not self.lines(name):
            return None
        with self.store(name) as store:
            return read_ledger(store, *POPULATION)

    def left(self) -> list[tuple[str, int, int, str, str]]:
        lines = (self.directory / "left.jsonl").read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines]


def kill(path: Path, clients: str, points: Sequence[str]) -> list[Killing]:
    values = [f"{key}={value}" for key, value in PRIVATE.items()]
    (path / "recipe.toml").write_text(parse_recipe(TABULAR, values).to_toml())
    write_csv(str(path / "rows.csv"), table())
    # Python imports a script's neighbours first, and none of these tests is a module of anybody's.
    script = Path(__file__).with_name("killed_simulation.py")
    command = [sys.executable, "-P", str(script), str(path), clients, *points]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    killings = [Killing(Path(one["directory"]), tuple(one["ends"])) for one in found]
    assert len(killings) == len(points)
    assert all(killing.ends[-1] == "finished" for killing in killings), done.stderr
    return killings


def check_rounds(killing: Killing) -> None:
    before, after = killing.rounds("killed.db"), killing.rounds()
    assert after[: len(before)] == before  # nothing that was kept is lost
    committed = [number for number, _, outcome in after if outcome == "committed"]
    assert committed == list(range(ROUNDS + 1))  # and nothing is there twice


def check_population(killing: Killing) -> None:
    before, after = killing.ledger("killed.db"), killing.ledger()
    assert after is not None  # every record was verified
    lines = killing.lines("killed.db")
    assert killing.lines("tacit.db")[: len(lines)] == lines
    if before is not None:
        # An open reservation is at the fewest survivors, and may be spent at less; what is spent stays spent.
        assert after.spent("assured").divergence >= before.spent("assured").divergence
        assert set(before.waiting) <= after.settled - after.voided
    paid = after.settled - after.voided
    for number, attempt, outcome in killing.rounds():
        if outcome == "committed" and number:
            assert ("run", number, attempt, "assured") in paid
    assert not after.waiting
    with killing.store() as store:
        statement = json.loads((killing.directory / "run" / "privacy.json").read_text())
        assert store.get_run("run").status == "finished"
    assert statement["participations"] == len(paid) >= ROUNDS
    assert statement["epsilon"] > 0


def check_draws(killing: Killing) -> None:
    """No draw serves two inputs: what left twice under one label are the very same bytes."""
    inputs: dict[tuple[str, int, int, str], set[str]] = {}
    for *label, digest in killing.left():
        inputs.setdefault(tuple(label), set()).add(digest)  # type: ignore[arg-type]
    assert all(len(digests) == 1 for digests in inputs.values())
    everything = [digest for digests in inputs.values() for digest in digests]
    assert len(set(everything)) == len(everything)
    after = killing.ledger()
    assert after is not None
    assert {("run", number, attempt, "assured") for _, number, attempt, _ in inputs} <= after.settled - after.voided


def check_owners(killing: Killing) -> None:
    """Whatever left a client is paid for in its own ledger, and none is asked for the same attempt twice."""
    left = killing.left()
    assert len({tuple(label) for *label, _ in left}) == len(left)
    for directory in (killing.directory / "clients").iterdir():
        public_key = (directory / "public.key").read_bytes()
        ledger = read_dataset_ledger(directory, directory.name, "client", public_key).ledger
        paid = (ledger.settled | set(ledger.waiting)) - ledger.voided
        mine = {tuple(label) for *label, client, _ in left if client == directory.name}
        assert mine and mine <= {key[:3] for key in paid}


def check(killings: Sequence[Killing], *, owned: bool) -> None:
    for killing in killings:
        check_rounds(killing)
        check_population(killing)
        check_draws(killing)
        if owned:
            check_owners(killing)


def points(last: int, step: int = 1) -> list[str]:
    """Return kill points; killed after one write is killed before the next."""
    return [f"{number}-before" for number in range(1, last + 1, step)]


@pytest.mark.slow
def test_a_killed_simulation_forgets_nothing_that_left(tmp_path: Path) -> None:
    killings = kill(tmp_path, "forgetful", ["9-after", "22-before"])
    assert all(killing.ends == ("killed", "finished") for killing in killings)
    check(killings, owned=False)


@pytest.mark.slow
def test_a_simulation_that_is_killed_at_any_durable_write_forgets_nothing_that_left(tmp_path: Path) -> None:
    killings = kill(tmp_path, "forgetful", points(90))
    ends = [killing.ends for killing in killings]
    assert ends[0] == ("killed", "finished") and ends[-1] == ("finished",)  # every moment was tried
    check(killings, owned=False)


@pytest.mark.slow
def test_clients_with_journals_are_asked_for_no_attempt_twice_whenever_the_simulation_is_killed(tmp_path: Path) -> None:
    killings = kill(tmp_path, "owned", points(153, 9))
    assert sum(killing.ends[0] == "killed" for killing in killings) > 12
    check(killings, owned=True)


@pytest.mark.slow
@pytest.mark.parametrize("clients", ["forgetful", "owned"])
def test_a_simulation_that_is_killed_again_and_again_gets_to_its_end(tmp_path: Path, clients: str) -> None:
    # Of owners, who have the rounds and a tenth to spare, few may be killed with a reservation open: it stays spent.
    killings = kill(tmp_path, clients, {"forgetful": ["14-before-often"], "owned": ["50-before-often"]}[clients])
    assert all(killing.ends == (*4 * ("killed",), "finished") for killing in killings)
    check(killings, owned=clients == "owned")
