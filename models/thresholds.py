"""What a recipe's thresholds come to for a cohort of one size: how many may vanish, how many may collude."""

from __future__ import annotations

import math
from functools import lru_cache

from scipy import stats

from tacit.models.sections import SecureAggregationSection
from tacit.privacy.errors import PrivacyError
from tacit.privacy.secagg.graph import MILLION, check_feasible, graph_of, least_survivors
from tacit.privacy.terms import Cohort

# Sizes of cohorts that are drawn less often than this, at either end, are taken to be impossible.
UNLIKELY = 1e-15


def colluders_in(thresholds: SecureAggregationSection, cohort: int) -> int:
    """Return c, how many of a cohort may collude with the coordinator."""
    return math.floor(thresholds.colluding * cohort)


def dropout_ppm(thresholds: SecureAggregationSection) -> int:
    """Return the fraction of a cohort that may vanish, in millionths, as an offer has it."""
    return int(thresholds.dropout * MILLION + 0.5)


def survivors_of(thresholds: SecureAggregationSection, cohort: int) -> int:
    """Return U_min, the fewest of a cohort that are ever summed."""
    return least_survivors(cohort, thresholds.min_cohort, dropout_ppm(thresholds))


def cohort_terms(thresholds: SecureAggregationSection, cohort: int) -> Cohort:
    """Return what a promise says of a cohort.

    Raises:
        PrivacyError: so few survivors with so many colluders could single a client out.
    """
    return Cohort(survivors_of(thresholds, cohort), colluders_in(thresholds, cohort))


@lru_cache(maxsize=64)
def abort_probability(thresholds: SecureAggregationSection, expected: int, everybody: int) -> float:
    """Return the chance that a poisson cohort is of a size that no round can have.

    Args:
        thresholds: the recipe's; also of rounds without masks, which no clients at all cannot have.
        expected: how many clients are drawn in the mean.
        everybody: how many they are drawn from.
    """
    drawn = stats.binom(everybody, expected / everybody)
    low, high = int(drawn.ppf(UNLIKELY)), int(drawn.isf(UNLIKELY))
    impossible = [size for size in range(low, high + 1) if not _is_possible(thresholds, size)]
    return min(1.0, 2.0 * UNLIKELY + float(drawn.pmf(impossible).sum()))


def _is_possible(thresholds: SecureAggregationSection, size: int) -> bool:
    """Say whether an offer can be made to so many: that of a masked round is checked as `Offer` checks it."""
    if not thresholds.enabled:
        return size > 0
    if size < thresholds.min_cohort:
        return False
    try:
        cohort = cohort_terms(thresholds, size)
        check_feasible(graph_of(size), size, cohort.min_survivors, cohort.colluders, dropout_ppm(thresholds))
    except PrivacyError:
        return False
    return True
