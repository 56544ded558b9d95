"""A coordinator's process is killed in every phase and started again; nobody else does anything, and no bit differs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tacit.models.messages import MASKED_ACTIONS
from tacit.models.wire import PULL, PUSH
from tacit.server.population_ledger import read_ledger
from tacit.server.store import open_store

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .exchanges import Exchanges  # noqa: TID252 - tests are no package that could be named
from .wards import NAMES, Commands, Running, Wards, is_the_same, tensors, until  # noqa: TID252
from .wire_proxy import Call, HttpWire  # noqa: TID252

ROUNDS = len(MASKED_ACTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["announced", "half-answered"])
def test_a_coordinator_killed_in_every_phase_completes_each_round_at_the_same_attempt(
    tmp_path: Path, seeded_commands: Commands, moment: str
) -> None:
    """In round 1 it dies in the first exchange, in round 2 in the second, and so on."""
    due = {(action, f"{number}.0") for number, action in enumerate(MASKED_ACTIONS, start=1)}
    killed: list[tuple[str, str]] = []
    seen: Counter[tuple[str, str]] = Counter()
    coordinator: list[Running] = []

    def loses(call: Call) -> bool:
        step = known.step(call)
        if step is None or (key := (step.action, step.attempt)) not in due:
            return False
        if moment == "announced":
            dies = call.path == PULL  # somebody is told of the phase, and nobody has heard yet
        else:
            seen[key] += call.path == PUSH and call.answer is not None and call.status == 200
            dies = seen[key] == 2
        if dies:
            due.remove(key)
            killed.append(key)
            coordinator[-1].kill()
        return dies

    port, through = free_port(), free_port()
    wards = Wards(tmp_path, seeded_commands, rounds=ROUNDS, port=port, through=through)
    known = Exchanges.of(wards)
    with HttpWire(port, loses, port=through, ends=wards.ends):
        try:
            coordinator.append(wards.up())
            wards.enrol()
            wards.join()
            wards.begin()
            for kills in range(1, ROUNDS + 1):
                until(lambda kills=kills: len(killed) == kills, why=lambda: wards.log)
                until(lambda: not coordinator[-1].alive)  # and with it its lock and its port
                coordinator.append(wards.up())
            run = wards.finish()
        finally:
            wards.close()
    assert killed == [(action, f"{number}.0") for number, action in enumerate(MASKED_ACTIONS, start=1)]
    attempts = wards.attempts(run)
    assert [(one.number, one.attempt, one.outcome) for one in attempts] == [
        (number, 0, "committed") for number in range(ROUNDS + 1)
    ]
    for attempt in attempts:
        assert {one.client: one.outcome for one in attempt.participation} == dict.fromkeys(NAMES, "reported")
    # Whatever was said twice was said in the same words, and stands in the account once.
    assert {len(said) for said in known.words.values()} == {1}
    for name in NAMES:
        account = wards.account(name)
        left = Counter(
            (entry["details"]["round"], entry["details"]["what"])
            for entry in account
            if entry["kind"] == "message-left"
        )
        assert left == {(number, action): 1 for number in range(ROUNDS + 1) for action in MASKED_ACTIONS}
        assert not [entry for entry in account if entry["kind"].endswith(("refused", "failed"))]
        spent = wards.owners[name].ledger("patients", "client").ledger
        assert len(spent.settled) == ROUNDS and not spent.voided and not spent.waiting
    with open_store(wards.hub.db, create=False) as store:
        ledger = read_ledger(store, f"run/{run}", "client")
    assert ledger is not None and len(ledger.settled) == ROUNDS and not ledger.voided and not ledger.waiting
    assert is_the_same(wards.model(run), tensors(wards.simulated(run).directory))
