"""Whole runs under a promise, attacked: killed at odd moments, and asked for more than was promised."""

from __future__ import annotations

import dataclasses

import pytest
from dp_accounting import dp_event
from scipy import stats

from tacit.models.spending import spent_costs
from tacit.privacy.accounting import cost, repeated
from tacit.server.statement import Circumstances, privacy_statement

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


def test_a_client_that_takes_part_more_often_than_it_should_is_counted_as_often() -> None:
    # A poisson cohort is drawn from everybody, whatever they have spent.
    settings = [
        "secure_aggregation.enabled=false",
        "privacy.unit=client",
        "privacy.noise=local",
        "privacy.noise_multiplier=4",
        "privacy.max_participations=1",
    ]
    run = Masked(settings)
    state = run.execute()
    often = dataclasses.replace(state, spent=5 * state.spent[:1], taken={"c00": 5, "c01": 1})
    said = privacy_statement(run.recipe, often, Circumstances(run.clients))
    assert said["participations"] == 5
    assert said["epsilon"] == pytest.approx(cost(repeated(dp_event.GaussianDpEvent(4.0), 5), 1e-5).epsilon)


def test_a_statement_of_secret_cohorts_does_not_say_how_many_were_drawn_and_pays_for_those_that_were_empty() -> None:
    settings = [
        *MASKED[:3],
        "privacy.noise=central",
        "privacy.noise_multiplier=1",
        "privacy.delta=1e-2",
        "training.sampling=poisson",
        "training.cohort=16",
        "training.rounds=3",
    ]
    run = Masked(settings, clients=40)
    state = run.execute()
    about = Circumstances(run.clients)
    smaller, larger = (
        privacy_statement(
            run.recipe,
            dataclasses.replace(state, spent=tuple(dataclasses.replace(one, cohort=size) for one in state.spent)),
            about,
        )
        for size in (14, 30)
    )
    assert smaller == larger
    # Of three cohorts that were drawn, two were large enough.
    costs = spent_costs(run.recipe, state.vector.size, 40, state.spent[:2], drawn=3).by_observer["outsiders"]
    event = dp_event.PoissonSampledDpEvent(0.4, dp_event.GaussianDpEvent(1.0))
    missed = 3 * stats.binom.cdf(4, 40, 0.4)  # of four, no three could keep every secret when one vanishes
    assert costs.epsilon == pytest.approx(cost(repeated(event, 2), 1e-2, aborted=missed).epsilon)


@pytest.mark.parametrize(
    ("settings", "words"),
    [(MASKED, "exact sums over all clients"), ((*MASKED, "secure_aggregation.mode=elided"), "client by client")],
)
def test_a_sentence_about_a_table_says_that_no_epsilon_covers_its_statistics(
    settings: tuple[str, ...], words: str
) -> None:
    run = Masked(settings)
    said = privacy_statement(run.recipe, run.execute(), Circumstances(run.clients))
    assert "Not covered: the statistics" in said["sentence"] and words in said["sentence"]
    assert any(words in released for released in said["not_covered"])
