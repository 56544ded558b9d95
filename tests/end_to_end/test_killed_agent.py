"""An agent that is killed comes back by itself, and is missed in no round that it is there for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tacit.models.wire import PUSH

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .exchanges import Exchanges, Step  # noqa: TID252
from .wards import NAMES, Commands, Wards, until  # noqa: TID252
from .wire_proxy import Call, HttpWire  # noqa: TID252

VICTIM = NAMES[1]


def committed(log: str) -> int:
    """Return the newest round that the coordinator has said of."""
    return max((int(number) for number in re.findall(r"round (\d+) +\d of \d reported", log)), default=-1)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["advertise", "mask"])
def test_an_agent_that_is_killed_takes_part_in_the_first_round_that_it_is_there_for_and_keeps_every_countersignature(
    tmp_path: Path, seeded_commands: Commands, action: str
) -> None:
    """It is killed when it has answered, in an exchange of round 3, and its answer has not left."""
    port, through = free_port(), free_port()
    wards = Wards(tmp_path, seeded_commands, rounds=60, port=port, through=through)
    known = Exchanges.of(wards)
    killed: list[Step] = []

    def kinds(after: int) -> list[str]:
        return [entry["kind"] for entry in wards.account(VICTIM)[after:]]

    def accepted(entries: list[dict[str, Any]]) -> list[int]:
        return [entry["details"]["round"] for entry in entries if entry["kind"] == "offer-accepted"]

    def loses(call: Call) -> bool:
        step = known.step(call)
        dies = not killed and step == Step(VICTIM, action, "3.0") and call.path == PUSH
        if dies:
            wards.agents[VICTIM].kill()
            killed.append(step)
        return dies

    wire = HttpWire(port, loses, port=through, ends=wards.ends)
    try:
        up = wards.up()
        wards.enrol()
        wards.join()
        wards.begin()
        until(lambda: bool(killed), why=lambda: wards.log)
        until(lambda: not wards.agents[VICTIM].alive)
        before = len(wards.account(VICTIM))
        # The round that it was in when it was killed is over for it: the offer that it had answered comes once more, as
        # the answer did not leave, and the secrets behind that answer are gone.
        begun = accepted(wards.account(VICTIM))
        wards.join(VICTIM)
        until(lambda: set(accepted(wards.account(VICTIM)[before:])) - set(begun))
        first = next(number for number in accepted(wards.account(VICTIM)[before:]) if number not in begun)
        until(lambda: committed(wards.log) >= first + 2)
    finally:
        up.kill()
        wards.close()
        wire.close()
    since: list[dict[str, Any]] = wards.account(VICTIM)[before:]
    asked = [entry for entry in since if entry["kind"] in ("offer-accepted", "offer-refused")]
    assert {entry["kind"] for entry in asked} == {"offer-accepted"}, "it refused nothing"
    # A receipt of the time before, if one was owed, was checked against its ledger.
    assert "receipt-accepted" in kinds(before) and "receipt-unknown" not in kinds(before)
    (record,) = wards.runs()
    outcomes = {
        attempt.number: member.outcome
        for attempt in wards.attempts(record.run)
        for member in attempt.participation
        if member.client == VICTIM
    }
    assert outcomes[3] != "reported"
    assert outcomes[first] == outcomes[first + 1] == "reported"
    assert wards.owners[VICTIM].ledger("patients", "client").unanchored <= 3
