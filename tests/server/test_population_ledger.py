"""What a population has spent is in the database before anybody is asked, and nobody can make it less unseen."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dp_accounting import NeighboringRelation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.models.errors import InputError
from tacit.privacy.errors import BudgetExceeded, LocalProtocolError, PrivacyError
from tacit.privacy.events import SkellamDpEvent
from tacit.privacy.filters import renyi_filter
from tacit.privacy.identity import Identity
from tacit.privacy.ledger import Ledger, LedgerBroken
from tacit.privacy.records import Column, Entry
from tacit.server.population_ledger import PopulationLedger, read_ledger
from tacit.server.store import LedgerConflict, LedgerLine, NewRun, RoundRecord, Store, open_store

IDENTITY = Identity(bytes(range(32)))
BUDGETS = {"promised": renyi_filter(8.0, 1e-5)}
COLUMN: Column = "promised"


def event(noise: float = 10.0) -> SkellamDpEvent:
    return SkellamDpEvent(100.0, 1000.0, (noise * 100.0) ** 2, 1e-30)


def entry(round_number: int = 1, attempt: int = 0, noise: float = 10.0) -> Entry:
    return Entry("run-1", round_number, attempt, bytes(32), "Skellam", event(noise), 1e-5, "promised")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "tacit.db")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url) as opened:
        opened.create_run(NewRun("run-1", "digits", "image-classification", "", "a" * 64, "runs/run-1"))
        yield opened


def opened(store: Store) -> PopulationLedger:
    return PopulationLedger.open(store, "hospitals", "client", BUDGETS, IDENTITY)


def spend(store: Store, ledger: PopulationLedger, round_number: int = 1) -> LedgerLine:
    ledger.reserve(entry(round_number))
    line = ledger.settle(entry(round_number).key, event(12.0))
    store.commit_round("run-1", RoundRecord(round_number, 0, "committed", 1.0), ledger=[line])
    ledger.committed(line)
    return line


# What stays


def test_a_ledger_survives_being_opened_again(store: Store, url: str) -> None:
    ledger = opened(store)
    spend(store, ledger)
    ledger.reserve(entry(2))
    ledger.reserve(entry(3))
    ledger.void(entry(3).key)
    with open_store(url) as again:
        reopened = opened(again).state
    assert reopened == ledger.state
    assert reopened.counter == 6
    assert reopened.epsilon_committed(COLUMN) > 0.0


def test_a_reservation_is_in_the_database_when_reserve_returns(store: Store, url: str) -> None:
    opened(store).reserve(entry())
    with open_store(url) as another:
        found = read_ledger(another, "hospitals", "client")
    assert found is not None and entry().key in found.waiting


def test_a_crash_after_the_reservation_leaves_it_counted_as_spent(store: Store) -> None:
    before = opened(store)
    before.reserve(entry())
    after = opened(store).state
    assert after.committed(COLUMN) == BUDGETS["promised"].spent([event()])
    with pytest.raises(PrivacyError, match="was reserved before"):
        opened(store).reserve(entry())


def test_a_crash_after_the_commit_and_before_it_was_noted_spends_once(store: Store) -> None:
    ledger = opened(store)
    ledger.reserve(entry())
    line = ledger.settle(entry().key)
    store.commit_round("run-1", RoundRecord(1, 0, "committed", 1.0), ledger=[line])
    reopened = opened(store).state
    assert reopened.waiting == {} and reopened.spent(COLUMN) == BUDGETS["promised"].spent([event()])


def test_a_settled_round_costs_what_it_cost_in_the_end(store: Store) -> None:
    ledger = opened(store)
    spend(store, ledger)
    assert ledger.state.spent(COLUMN) == BUDGETS["promised"].spent([event(12.0)])


def test_spending_adds_up_across_runs(store: Store) -> None:
    store.create_run(NewRun("run-2", "digits", "image-classification", "", "a" * 64, "runs/run-2"))
    spend(store, opened(store))
    second = opened(store)
    other = Entry("run-2", 1, 0, bytes(32), "Skellam", event(), 1e-5, "promised")
    second.reserve(other)
    costs = BUDGETS["promised"]
    assert second.state.committed(COLUMN) == costs.spent([event(12.0)]) + costs.spent([event()])
    assert second.state.committed(COLUMN, "run-2") == costs.spent([event()])


# The round and its record


def test_settling_changes_nothing_before_the_round_is_committed(store: Store) -> None:
    ledger = opened(store)
    ledger.reserve(entry())
    before = ledger.state
    line = ledger.settle(entry().key)
    assert ledger.state == before
    assert opened(store).state == before
    with pytest.raises(LedgerConflict):
        store.commit_round(
            "run-1", RoundRecord(1, 0, "committed", 1.0), ledger=[LedgerLine("hospitals", "client", 9, line.line)]
        )
    assert store.rounds("run-1") == [] and opened(store).state == before
    # The round can be settled after all, at another cost too.
    store.commit_round("run-1", RoundRecord(1, 0, "committed", 1.0), ledger=[ledger.settle(entry().key, event(12.0))])
    assert opened(store).state.spent(COLUMN) == BUDGETS["promised"].spent([event(12.0)])


def test_only_the_record_that_was_settled_last_can_be_committed(store: Store) -> None:
    ledger = opened(store)
    ledger.reserve(entry())
    first, second = ledger.settle(entry().key), ledger.settle(entry().key, event(12.0))
    with pytest.raises(LocalProtocolError, match="settled last"):
        ledger.committed(first)
    ledger.committed(second)
    with pytest.raises(LocalProtocolError, match="settled last"):
        ledger.committed(second)


def test_a_record_that_was_settled_before_another_step_fits_nowhere(store: Store) -> None:
    ledger = opened(store)
    ledger.reserve(entry(1))
    line = ledger.settle(entry(1).key)
    ledger.reserve(entry(2))
    with pytest.raises(LedgerConflict):
        store.commit_round("run-1", RoundRecord(1, 0, "committed", 1.0), ledger=[line])
    with pytest.raises(LocalProtocolError):
        ledger.committed(line)


# The budget


def test_a_spent_budget_refuses_the_next_round_and_nothing_is_written(store: Store) -> None:
    ledger = opened(store)
    rounds = 0
    with pytest.raises(BudgetExceeded, match="privacy budget of hospitals"):
        for rounds in range(1, 1000):
            ledger.reserve(entry(rounds))
    assert rounds > 1
    assert len(store.ledger_lines("hospitals", "client")) == rounds == ledger.state.counter
    assert ledger.state.epsilon_committed(COLUMN) <= 8.0


@pytest.mark.parametrize(
    "budgets",
    [
        {"promised": renyi_filter(9.0, 1e-5)},
        {"promised": renyi_filter(8.0, 1e-6)},
        {"assured": renyi_filter(8.0, 1e-5)},
        {},
    ],
)
def test_a_budget_is_granted_once_and_for_all(store: Store, budgets: dict[Column, object]) -> None:
    opened(store)
    with pytest.raises(InputError, match=r"grants epsilon 8 at delta 1e-05 \(promised\), once and for all, not"):
        PopulationLedger.open(store, "hospitals", "client", budgets, IDENTITY)  # type: ignore[arg-type]


def test_an_existing_ledger_is_opened_with_whatever_was_granted(store: Store) -> None:
    opened(store)
    assert PopulationLedger.open(store, "hospitals", "client", None, IDENTITY).state.opening.budgets == BUDGETS
    with pytest.raises(InputError, match="population banks .* is not there"):
        PopulationLedger.open(store, "banks", "client", None, IDENTITY)


def test_a_budget_against_the_wrong_adjacency_opens_nothing(store: Store) -> None:
    wrong = {COLUMN: renyi_filter(8.0, 1e-5, NeighboringRelation.ADD_OR_REMOVE_ONE)}
    with pytest.raises(PrivacyError, match="is against"):
        PopulationLedger.open(store, "hospitals", "client", wrong, IDENTITY)
    assert store.ledger_key("hospitals", "client") is None


# A round that is run again after a crash


def test_a_repeated_round_takes_up_its_reservation_and_pays_once(store: Store) -> None:
    opened(store).reserve(entry())
    ledger = opened(store)
    ledger.reserve(entry(), repeated=True)
    assert ledger.state.counter == 2
    assert ledger.state.committed(COLUMN) == BUDGETS["promised"].spent([event()])


def test_a_repeated_round_at_another_cost_is_refused(store: Store) -> None:
    opened(store).reserve(entry())
    with pytest.raises(PrivacyError, match="at another cost"):
        opened(store).reserve(entry(noise=20.0), repeated=True)


def test_a_repeated_round_may_have_another_offer(store: Store) -> None:
    # An offer names the last receipt, which a process that starts again does not know.
    opened(store).reserve(entry())
    ledger = opened(store)
    ledger.reserve(replace(entry(), offer=bytes([7]) * 32), repeated=True)
    assert ledger.state.counter == 2


def test_a_round_that_was_settled_is_never_repeated(store: Store) -> None:
    spend(store, opened(store))
    with pytest.raises(PrivacyError, match="was reserved before"):
        opened(store).reserve(entry(), repeated=True)


def test_a_round_that_was_never_reserved_is_reserved(store: Store) -> None:
    ledger = opened(store)
    ledger.reserve(entry(), repeated=True)
    assert entry().key in ledger.state.waiting


# Others who write


def test_of_two_that_write_at_once_the_second_is_refused_and_unchanged(store: Store, url: str) -> None:
    with open_store(url) as elsewhere:
        first, second = opened(store), opened(elsewhere)
        first.reserve(entry(1))
        before = second.state
        with pytest.raises(LedgerConflict, match="is written by somebody else"):
            second.reserve(entry(2))
        assert second.state == before
        assert opened(store).state == first.state


def test_only_the_key_that_opened_a_ledger_goes_on_with_it(store: Store) -> None:
    opened(store)
    with pytest.raises(InputError, match="was opened with another key"):
        PopulationLedger.open(store, "hospitals", "client", BUDGETS, Identity(bytes(32)))


DAMAGE: dict[str, tuple[str, int]] = {
    "altered": ("UPDATE ledger_records SET line = replace(line, '\"round\":2', '\"round\":7') WHERE counter = 3", 3),
    "dropped": ("DELETE FROM ledger_records WHERE counter = 3", 3),
    "dropped first": ("DELETE FROM ledger_records WHERE counter = 1", 1),
    "reordered": ("UPDATE ledger_records SET counter = CASE counter WHEN 3 THEN 103 ELSE counter END", 3),
    "all gone": ("DELETE FROM ledger_records", 1),
    "another key": ("UPDATE ledgers SET public_key = zeroblob(32)", 1),
    "another population": (
        "UPDATE ledgers SET population = 'banks'; UPDATE ledger_records SET population = 'banks'",
        1,
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_record_that_was_changed_in_the_database_is_found_when_the_ledger_is_opened(
    kind: str, store: Store, url: str
) -> None:
    ledger = opened(store)
    for number in (1, 2, 3):
        ledger.reserve(entry(number))
    statement, first_wrong = DAMAGE[kind]
    connection = sqlite3.connect(url)
    connection.executescript(statement)
    connection.close()
    population = "banks" if "population" in kind else "hospitals"
    with pytest.raises(LedgerBroken) as caught:
        PopulationLedger.open(store, population, "client", BUDGETS, IDENTITY)
    assert caught.value.counter == first_wrong


def test_a_budget_that_was_raised_in_the_database_is_found(store: Store) -> None:
    opened(store)
    lines = store.ledger_lines("hospitals", "client")
    forged = lines[0].replace(b'"epsilon":8.0', b'"epsilon":9.0')
    store.open_ledger("forged", "client", IDENTITY.public_key, forged)
    with pytest.raises(LedgerBroken, match="not signed by the owner"):
        read_ledger(store, "forged", "client")


steps = st.lists(st.sampled_from(["reserve", "spend", "void", "crash"]), max_size=8)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_no_order_of_steps_and_crashes_makes_what_is_gone_less(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    with open_store(str(tmp_path_factory.mktemp("ledger") / "tacit.db")) as store:
        store.create_run(NewRun("run-1", "digits", "image-classification", "", "a" * 64, "runs/run-1"))
        ledger, number = opened(store), 0
        for step in steps:
            before: Ledger = ledger.state
            if step == "reserve":
                number += 1
                ledger.reserve(entry(number))
            elif step == "crash":
                ledger = opened(store)
                assert ledger.state == before
            elif before.waiting:
                key = next(iter(before.waiting))
                if step == "void":
                    ledger.void(key)
                else:
                    line = ledger.settle(key)
                    store.commit_round("run-1", RoundRecord(key[1], 0, "committed", 1.0), ledger=[line])
                    ledger.committed(line)
            assert ledger.state.spent(COLUMN).divergence >= before.spent(COLUMN).divergence
        assert opened(store).state == ledger.state
