"""Whole runs under a promise, attacked: killed at odd moments, and asked for more than was promised."""

from __future__ import annotations

import pytest

from .masked import Masked
from .test_private_resume import Dying, Killed

MASKED = (
    "secure_aggregation.min_cohort=4",
    "secure_aggregation.dropout=0.3",
    "privacy.unit=client",
    "privacy.epsilon=8",
)


def test_a_masked_run_that_dies_in_its_second_round_goes_on_though_its_offers_name_another_receipt() -> None:
    recorder = Dying(2, 0)
    dying = Masked(MASKED, recorder=recorder)
    with pytest.raises(Killed):
        dying.execute()
    resumed = Masked(MASKED, recorder=recorder)
    resumed.store = recorder.store = dying.store
    state = resumed.execute()
    assert (state.round, len(state.spent)) == (2, 2)
    assert state.vector.tobytes() == Masked(MASKED).execute().vector.tobytes()
