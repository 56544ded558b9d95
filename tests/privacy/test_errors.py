"""What the privacy layer's errors carry."""

import pytest

from tacit.privacy.errors import BudgetExceeded, LocalProtocolError, PrivacyError, RemoteProtocolError


def test_an_exceeded_budget_carries_both_values_and_prints_one_line():
    error = BudgetExceeded(8.5, 8.0, what="ledger of site a")
    assert (error.requested, error.budget) == (8.5, 8.0)
    assert str(error) == "ledger of site a: epsilon 8.5 would exceed the 8 that was granted"


def test_a_remote_error_has_a_reason_for_machines():
    assert RemoteProtocolError("duplicate", "a second masked input").reason == "duplicate"
    assert str(RemoteProtocolError("duplicate", "a second masked input")) == "duplicate: a second masked input"
    assert str(RemoteProtocolError("late")) == "late"


@pytest.mark.parametrize("error", [BudgetExceeded(1, 0), LocalProtocolError("x"), RemoteProtocolError("x")])
def test_every_error_is_a_privacy_error(error):
    assert isinstance(error, PrivacyError)
