"""A coordinator that is killed at any moment goes on with the round where it was; its members never notice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tacit.models.messages import Instruction, Reply
from tacit.privacy.identity import Identity
from tacit.server.budget import open_budget
from tacit.server.checkpoints import Checkpoints, RunState
from tacit.server.feasibility import check_network
from tacit.server.masking import Masking
from tacit.server.phases import Phases
from tacit.server.population_ledger import read_ledger
from tacit.server.recorder import StoreRecorder
from tacit.server.store import Store, open_store
from tacit.server.store.records import NewRun

from .masked import PHASES as EXCHANGES
from .masked import SCHEMA, Masked

CLIENTS = 6
PLAIN = [
    "training.rounds=2",
    "secure_aggregation.min_cohort=4",
    "training.quorum=0.6",
    "secure_aggregation.dropout=0.3",
]
NOISED = [*PLAIN, "privacy.unit=client", "privacy.noise_multiplier=1.0", "training.broadcast=int8"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing that would clean up is allowed to know it."""


@dataclass
class Deadly:
    """Kills the process at the n-th moment that is worth dying at; counts the moments."""

    at: int = 0
    moments: int = 0

    def __call__(self) -> None:
        self.moments += 1
        if self.moments == self.at:
            raise Killed


class DeadlyPhases(Phases):
    """Phases with a moment before and a moment after everything that they keep."""

    moment: Callable[[], None] = staticmethod(lambda: None)

    def announce(self, *arguments: Any) -> None:
        self.moment()
        super().announce(*arguments)
        self.moment()


class DeadlyRecorder(StoreRecorder):
    """The same for rounds."""

    moment: Callable[[], None] = staticmethod(lambda: None)

    def commit(self, *arguments: Any) -> None:
        self.moment()
        super().commit(*arguments)
        self.moment()


class Federation:
    """Members that live on, and a coordinator that is made anew each time it has died."""

    def __init__(
        self,
        path: Path,
        overrides: list[str],
        lost: frozenset[tuple[str, int]] = frozenset(),
        strict: frozenset[str] = frozenset(),
    ) -> None:
        self.path, self.lost, self.strict = path, lost, strict
        self.moment: Callable[[], None] = Deadly()
        self.answers: dict[tuple[str, str, int, int], set[bytes]] = defaultdict(set)
        self.members = Masked(overrides, clients=CLIENTS, handler=self._handled, vanish=self._vanish)
        path.mkdir()
        self.store = open_store(str(path / "tacit.db"))
        recipe = self.members.recipe
        self.store.create_run(NewRun("run", "r", "t", recipe.to_toml(), recipe.digest, str(path), {}))

    def _handled(self, client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        self.moment()
        refuses = client in self.strict and instruction.action == "advertise" and instruction.round == 1
        reply = Reply("refused", "noise-floor: too little") if refuses else agent(instruction)
        if instruction.action in EXCHANGES:
            key = (client, instruction.action, instruction.round, instruction.attempt)
            self.answers[key].add(reply.message + b"".join(array.tobytes() for array in reply.arrays.values()))
        self.moment()  # it was handled, and nobody knows
        return reply

    def _vanish(self, client: int, action: str, number: int, attempt: int) -> bool:
        return (action, client) in self.lost and number == 1

    def coordinate(self, at: int = 0, moment: Callable[[], None] | None = None, **changes: Any) -> RunState:
        """Start a coordinator's process, or start it again; it dies at a moment."""
        self.moment = moment = moment or Deadly(at)
        members, kept = self.members, self.members.masking
        assert kept is not None
        masking = Masking(
            kept.identity, kept.authority_keys, kept.settings, kept.randomness, verify=kept.verify, now=kept.now
        )
        members.masking = masking
        phases = DeadlyPhases(self.store, "run", self.path / "phases", masking.memory)
        members.recorder = DeadlyRecorder(self.store, "run", Checkpoints(self.path / "checkpoints"), masking.memory)
        phases.moment = members.recorder.moment = moment  # type: ignore[method-assign]
        changes["phases"] = phases
        if members.recipe.privacy.unit != "none":
            changes["budget"] = self.budget()
        return members.execute(**changes)

    def budget(self) -> Any:
        from tacit.models.plan import Plan

        size = check_network(Plan(self.members.recipe, SCHEMA))
        return open_budget(self.store, self.members.recipe, "run", size, CLIENTS, Identity(bytes(32)))

    def history(self) -> list[Any]:
        return [
            (one.number, one.attempt, one.outcome, one.extra, one.participation, dict(one.metrics))
            for one in self.store.rounds("run")
        ]


@dataclass(frozen=True)
class Uninterrupted:
    """What comes of it if nobody dies."""

    state: RunState
    history: list[Any]
    moments: int
    spent: tuple[int, float]


def spent(store: Store) -> tuple[int, float]:
    """Return how many attempts were paid for, and what they cost."""
    ledger = read_ledger(store, "run/run", "client")
    if ledger is None:
        return 0, 0.0
    assert not ledger.waiting
    return len(ledger.settled - ledger.voided), ledger.epsilon_committed("assured")


def never_offered(store: Store) -> bool:
    """Say whether a reservation was given back of which nobody had heard."""
    ledger = read_ledger(store, "run/run", "client")
    return ledger is not None and bool(ledger.voided)


def uninterrupted(path: Path, overrides: list[str], lost: frozenset[tuple[str, int]]) -> Uninterrupted:
    federation = Federation(path, overrides, lost)
    state = federation.coordinate()
    moment = federation.moment
    assert isinstance(moment, Deadly)
    return Uninterrupted(state, federation.history(), moment.moments, spent(federation.store))


def assert_the_same(federation: Federation, state: RunState, expected: Uninterrupted) -> None:
    # Nobody was asked for a second input, and what was asked for twice came back as it was.
    assert all(len(answers) == 1 for answers in federation.answers.values())
    assert (state.round, state.spent, state.taken) == (
        expected.state.round, expected.state.spent, expected.state.taken
    )  # fmt: skip
    assert spent(federation.store) == expected.spent
    if never_offered(federation.store):
        # It died between the reservation and the announcement, of which nobody heard: the reservation is given back,
        # and the round begins with the next attempt, which has draws of its own.
        assert [(one[0], one[2]) for one in federation.history()] == [(one[0], one[2]) for one in expected.history]
        return
    assert state.vector.tobytes() == expected.state.vector.tobytes()
    one, other = (None if found.carry is None else found.carry.tobytes() for found in (state, expected.state))
    assert one == other
    assert federation.history() == expected.history
    assert {attempt for _, _, _, attempt in federation.answers} == {0}


CASES: Mapping[str, tuple[list[str], frozenset[tuple[str, int]]]] = {
    "plain": (PLAIN, frozenset()),
    "noised": (NOISED, frozenset()),
    "lost": (NOISED, frozenset({("mask", 2)})),
}


@pytest.mark.parametrize("case", CASES)
def test_a_coordinator_killed_at_some_moment_goes_on_as_if_it_had_not_been(tmp_path: Path, case: str) -> None:
    overrides, lost = CASES[case]
    expected = uninterrupted(tmp_path / "whole", overrides, lost)
    assert expected.moments > 100
    for at in range(3, expected.moments + 1, 41):
        federation = Federation(tmp_path / f"killed-{at}", overrides, lost)
        with pytest.raises(Killed):
            federation.coordinate(at)
        assert_the_same(federation, federation.coordinate(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_coordinator_killed_at_any_moment_goes_on_as_if_it_had_not_been(tmp_path: Path, case: str) -> None:
    overrides, lost = CASES[case]
    expected = uninterrupted(tmp_path / "whole", overrides, lost)
    for at in range(1, expected.moments + 1):
        federation = Federation(tmp_path / f"killed-{at}", overrides, lost)
        with pytest.raises(Killed):
            federation.coordinate(at)
        assert_the_same(federation, federation.coordinate(), expected)


def test_a_coordinator_killed_in_an_attempt_without_who_refused_goes_on_without_it(tmp_path: Path) -> None:
    overrides, strict = [*NOISED, "training.quorum=0.9"], frozenset({"c01"})
    whole = Federation(tmp_path / "whole", overrides, strict=strict)
    expected = whole.coordinate()
    assert [one[:3] for one in whole.history()] == [
        (0, 0, "committed"), (1, 0, "aborted"), (1, 1, "committed"), (2, 0, "committed")
    ]  # fmt: skip
    assert isinstance(whole.moment, Deadly)
    for at in range(70, whole.moment.moments - 70, 29):
        federation = Federation(tmp_path / f"killed-{at}", overrides, strict=strict)
        with pytest.raises(Killed):
            federation.coordinate(at)
        state = federation.coordinate()
        assert all(len(answers) == 1 for answers in federation.answers.values())
        assert (state.round, state.spent, state.taken) == (expected.round, expected.spent, expected.taken)
        assert spent(federation.store) == spent(whole.store)
        if never_offered(federation.store) == never_offered(whole.store):
            assert federation.history() == whole.history()
            assert state.vector.tobytes() == expected.vector.tobytes()


def test_a_coordinator_killed_again_and_again_gets_on(tmp_path: Path) -> None:
    expected = uninterrupted(tmp_path / "whole", NOISED, frozenset())
    federation = Federation(tmp_path / "killed", NOISED)
    for _ in range(50):
        try:
            state = federation.coordinate(at=17)  # long enough for one exchange with everybody
            break
        except Killed:
            continue
    assert_the_same(federation, state, expected)


def test_every_exchange_is_announced_before_anybody_is_asked_and_closed_with_its_round(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", PLAIN)
    seen: list[tuple[str, int]] = []
    handled = federation.members.handler

    def watched(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        phase = federation.store.phase("run")
        if instruction.action in EXCHANGES:
            assert phase is not None and (phase.exchange, phase.number) == (instruction.action, instruction.round)
            assert client in phase.progress["asked"]
            seen.append((instruction.action, instruction.round))
        return handled(client, instruction, agent)

    federation.members.handler = watched
    federation.coordinate()
    assert seen == [(exchange, number) for number in range(3) for exchange in EXCHANGES for _ in range(CLIENTS)]
    phase = federation.store.phase("run")
    assert phase is not None and phase.exchange == "" and phase.number == 2
    assert len(list((federation.path / "phases").iterdir())) == 1


def test_what_is_owed_and_known_of_members_survives(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", PLAIN)

    def die_when_the_first_round_was_kept() -> None:
        phase = federation.store.phase("run")
        if phase is not None and phase.number == 1 and not phase.exchange:
            raise Killed

    with pytest.raises(Killed):
        federation.coordinate(moment=die_when_the_first_round_was_kept)
    # Its receipts are owed, and none was delivered.
    phase = federation.store.phase("run")
    assert phase is not None and set(phase.memory["owed"]) == {f"c{at:02d}" for at in range(CLIENTS)}
    federation.coordinate()
    masking = federation.members.masking
    assert masking is not None and masking.acknowledged == 3 * CLIENTS and not masking.owed


def test_a_snapshot_that_was_tampered_with_is_not_gone_on_with(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", PLAIN)
    with pytest.raises(Killed):
        federation.coordinate(60)
    (file,) = (federation.path / "phases").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="is not what was written"):
        federation.coordinate()


def test_a_snapshot_of_another_model_is_not_gone_on_with(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", PLAIN)
    with pytest.raises(Killed):
        federation.coordinate(100)
    phase = federation.store.phase("run")
    assert phase is not None and phase.number == 1
    last = federation.store.last_committed_round("run")
    assert last is not None and last.checkpoint is not None
    federation.members.recorder.resume_point = lambda: None
    state = Checkpoints(federation.path / "checkpoints").read(last.checkpoint)
    changed = replace(state, vector=state.vector + 1)

    class Changed(DeadlyRecorder):
        def resume_point(self) -> RunState | None:
            return changed

    original, DeadlyRecorder.resume_point = DeadlyRecorder.resume_point, Changed.resume_point  # type: ignore[method-assign]
    try:
        with pytest.raises(Exception, match="about another model"):
            federation.coordinate()
    finally:
        DeadlyRecorder.resume_point = original  # type: ignore[method-assign]
