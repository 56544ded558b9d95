"""Thresholds come to what an offer with the same ones says, and what chance does to cohorts is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tacit.models.sections import SecureAggregationSection
from tacit.models.thresholds import abort_probability, cohort_terms, colluders_in, dropout_ppm, survivors_of
from tacit.privacy.errors import PrivacyError
from tacit.privacy.secagg.layout import Block, Infeasible, Layout
from tacit.privacy.secagg.offer import Offer

LAYOUT = Layout((Block("update", 4, 1.0, 2.0**16),))


@given(
    dropout=st.floats(0.0, 0.999_999),
    colluding=st.floats(0.0, 0.9),
    min_cohort=st.integers(2, 40),
    cohort=st.integers(2, 200),
)
def test_an_offer_with_these_thresholds_says_the_same(
    dropout: float, colluding: float, min_cohort: int, cohort: int
) -> None:
    thresholds = SecureAggregationSection(dropout=dropout, colluding=colluding, min_cohort=min_cohort)
    try:
        offer = Offer.plan(
            run="run", round=1, attempt=0, model_digest=bytes(32), recipe_digest=bytes(32), layout=LAYOUT,
            rotation_seed=bytes(32), cohort=cohort, min_cohort=min_cohort,
            colluders=colluders_in(thresholds, cohort), dropout=dropout,
        )  # fmt: skip
    except Infeasible:
        return
    assert offer.dropout_ppm == dropout_ppm(thresholds)
    assert offer.min_survivors == survivors_of(thresholds, cohort)
    terms = cohort_terms(thresholds, cohort)
    assert (terms.min_survivors, terms.colluders) == (offer.min_survivors, offer.colluders)


def test_a_cohort_in_which_a_sum_could_be_one_clients_own_has_no_terms() -> None:
    # Of ten, nine may collude and five may vanish.
    with pytest.raises(PrivacyError, match="can single a client out"):
        cohort_terms(SecureAggregationSection(dropout=0.5, colluding=0.9, min_cohort=2), 10)


def test_without_masks_a_cohort_of_nobody_alone_is_impossible() -> None:
    plain = SecureAggregationSection(enabled=False)
    assert abort_probability(plain, 4, 40) == pytest.approx(0.9**40)


def test_with_masks_a_cohort_below_the_least_is_impossible() -> None:
    masked = SecureAggregationSection(min_cohort=12, dropout=0.0, colluding=0.0)
    assert abort_probability(masked, 20, 100) == pytest.approx(stats.binom.cdf(11, 100, 0.2))
