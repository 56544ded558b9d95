"""Over the wire and in a simulation the same code runs: with the same draws, ten private rounds agree in every bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tacit.server.store import open_store

from .wards import Commands, Wards, is_the_same, tensors  # noqa: TID252 - tests are no package that could be named

ROUNDS = 10


@pytest.mark.slow
def test_ten_private_masked_rounds_of_five_agents_over_tls_are_bit_for_bit_those_of_a_simulation(
    tmp_path: Path,
    seeded_commands: Commands,
) -> None:
    wards = Wards(tmp_path, seeded_commands, rounds=ROUNDS, overrides=["training.cohort=4", "training.broadcast=int8"])
    try:
        wards.up()
        wards.enrol()
        wards.join()
        wards.begin()
        run = wards.finish()
    finally:
        wards.close()
    simulation = wards.simulated(run)
    assert is_the_same(wards.model(run), tensors(simulation.directory))
    asked = [{one.client for one in attempt.participation} for attempt in wards.attempts(run)]
    assert [len(cohort) for cohort in asked] == [5] + [4] * ROUNDS  # the draw left somebody out each time
    with open_store(str(tmp_path / "simulated.db"), create=False) as store:
        assert asked == [{one.client for one in attempt.participation} for attempt in store.rounds(run)]
