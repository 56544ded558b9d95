"""A client that another process revokes in the middle of a round is refused at its next request, and told why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tacit.__main__ import run as tacit

from .wards import NAMES, Commands, Wards, until  # noqa: TID252 - tests are no package that could be named

VICTIM = NAMES[2]


@pytest.mark.slow
def test_a_client_that_is_revoked_in_the_middle_of_a_round_has_sent_its_last_message(
    tmp_path: Path, seeded_commands: Commands
) -> None:
    wards = Wards(tmp_path, seeded_commands, rounds=40)

    def rounds() -> int:
        return wards.log.count(" of 5 reported") + wards.log.count(" of 4 reported")

    try:
        up = wards.up()
        wards.enrol()
        wards.join()
        wards.begin()
        until(lambda: rounds() >= 2)
        assert tacit(["coordinator", "revoke", VICTIM, "--reason", "a test", "--dir", str(wards.hub.path)]) == 0
        sent = len(wards.account(VICTIM))
        until(lambda: "turned the agent away: this key was revoked" in wards.said(VICTIM))
        # What it had in hand when it was revoked it may have finished; it was given nothing after that.
        assert [entry["kind"] for entry in wards.account(VICTIM)[sent:]].count("message-left") <= 1
        done = rounds()
        until(lambda: rounds() >= done + 4)
    finally:
        up.kill()  # it would train to the end
        wards.close()
    (record,) = wards.runs()
    outcomes = {
        attempt.number: {one.client: (one.outcome, one.reason) for one in attempt.participation}
        for attempt in wards.attempts(record.run)
    }
    last = max(number for number, clients in outcomes.items() if VICTIM in clients)
    assert 2 <= last <= max(outcomes) - 3, "the others go on without it"
    assert all(clients[name][0] == "reported" for clients in outcomes.values() for name in NAMES if name != VICTIM)
