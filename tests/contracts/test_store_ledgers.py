"""A population's ledger grows in order and in the transaction of its round, or not at all, on every database."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tacit.models.errors import InputError
from tacit.server.store import (
    LedgerConflict,
    LedgerLine,
    NewModelVersion,
    NewRun,
    RoundAlreadyCommitted,
    RoundRecord,
    Store,
)
from tacit.server.store.tables import LedgerRecordRow

KEY = bytes(range(32))
ROUND = RoundRecord(1, 0, "committed", 1.0, {"loss": 0.5})


def line(counter: int, text: bytes = b"spent", unit: str = "client") -> LedgerLine:
    return LedgerLine("hospitals", unit, counter, text)


@pytest.fixture
def ledger(store: Store) -> Store:
    """A store with a run and an open ledger."""
    store.create_run(NewRun("run-1", "fashion", "image-classification", "", "a" * 64, "runs/run-1"))
    store.open_ledger("hospitals", "client", KEY, b"opened")
    return store


def test_a_ledger_that_nobody_opened_has_no_key_and_no_line(store: Store) -> None:
    for population in ("hospitals", "", "nul \0", "half \ud800"):
        assert store.ledger_key(population, "client") is None
        assert store.ledger_lines(population, "client") == []
        assert store.ledger_length(population, "client") == 0


def test_lines_come_back_in_order_with_the_key_that_opened_the_ledger(ledger: Store) -> None:
    ledger.append_ledger("hospitals", "client", 2, b"reserved")
    ledger.append_ledger("hospitals", "client", 3, b"spent")
    assert ledger.ledger_lines("hospitals", "client") == [b"opened", b"reserved", b"spent"]
    assert ledger.ledger_length("hospitals", "client") == 3 and ledger.ledger_length("hospitals", "example") == 0
    assert ledger.ledger_key("hospitals", "client") == KEY


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100))
def test_any_bytes_come_back(ledger: Store, content: bytes) -> None:
    count = len(ledger.ledger_lines("hospitals", "client"))
    ledger.append_ledger("hospitals", "client", count + 1, content)
    assert ledger.ledger_lines("hospitals", "client")[-1] == content


@pytest.mark.parametrize("counter", [-1, 0, 1, 3, 4])
def test_a_counter_that_is_not_the_next_one_is_refused(ledger: Store, counter: int) -> None:
    with pytest.raises(LedgerConflict, match=f"record {counter} is not the next one") as caught:
        ledger.append_ledger("hospitals", "client", counter, b"spent")
    assert (caught.value.population, caught.value.unit, caught.value.counter) == ("hospitals", "client", counter)
    assert ledger.ledger_lines("hospitals", "client") == [b"opened"]


def test_a_ledger_is_opened_once_and_its_key_stays(ledger: Store) -> None:
    with pytest.raises(LedgerConflict):
        ledger.open_ledger("hospitals", "client", bytes(32), b"opened again")
    assert ledger.ledger_key("hospitals", "client") == KEY
    assert ledger.ledger_lines("hospitals", "client") == [b"opened"]
    assert [entry.action for entry in ledger.audit()] == ["ledger.open", "run.create"]


def test_the_two_units_of_a_population_have_a_ledger_each(ledger: Store) -> None:
    ledger.open_ledger("hospitals", "example", bytes(32), b"another")
    ledger.append_ledger("hospitals", "example", 2, b"reserved")
    assert ledger.ledger_lines("hospitals", "client") == [b"opened"]
    assert ledger.ledger_lines("hospitals", "example") == [b"another", b"reserved"]


def test_nothing_is_appended_to_a_ledger_that_is_not_open(store: Store) -> None:
    for population in ("hospitals", "", "nul \0", "half \ud800"):
        with pytest.raises(InputError, match="there is no ledger"):
            store.append_ledger(population, "client", 1, b"spent")


@pytest.mark.parametrize("population", ["", "two\nlines", "x" * 201, "half \ud800"])
def test_a_population_needs_a_printable_name(store: Store, population: str) -> None:
    with pytest.raises(InputError, match="printable name"):
        store.open_ledger(population, "client", KEY, b"opened")


def test_a_unit_is_a_word(store: Store) -> None:
    with pytest.raises(InputError, match="no unit of privacy"):
        store.open_ledger("hospitals", "", KEY, b"opened")


def test_the_database_itself_refuses_a_second_record_of_a_number(ledger: Store) -> None:
    with pytest.raises(IntegrityError), Session(ledger._engine) as session, session.begin():
        session.add(LedgerRecordRow(population="hospitals", unit="client", counter=1, line=b"forged"))


# With a round


def test_a_round_and_what_it_spent_are_committed_together(ledger: Store) -> None:
    model = NewModelVersion("m", "c" * 64, "run-1", 1)
    assert ledger.commit_round("run-1", ROUND, model=model, ledger=[line(2), line(3, b"void")]) == 1
    assert ledger.rounds("run-1") == [ROUND]
    assert ledger.ledger_lines("hospitals", "client") == [b"opened", b"spent", b"void"]


@pytest.mark.parametrize("counters", [[1], [3], [2, 2], [2, 4], [3, 2]])
def test_a_record_that_does_not_fit_takes_its_round_and_the_others_with_it(ledger: Store, counters: list[int]) -> None:
    with pytest.raises(LedgerConflict):
        ledger.commit_round("run-1", ROUND, ledger=[line(counter) for counter in counters])
    assert ledger.rounds("run-1") == []
    assert ledger.ledger_lines("hospitals", "client") == [b"opened"]


def test_a_ledger_that_is_not_there_takes_the_round_with_it(ledger: Store) -> None:
    with pytest.raises(InputError, match="there is no ledger of unit 'example'"):
        ledger.commit_round("run-1", ROUND, ledger=[line(2, unit="example")])
    assert ledger.rounds("run-1") == []


def test_a_round_that_was_committed_before_spends_nothing_again(ledger: Store) -> None:
    ledger.commit_round("run-1", ROUND, ledger=[line(2)])
    with pytest.raises(RoundAlreadyCommitted):
        ledger.commit_round("run-1", replace(ROUND, attempt=1), ledger=[line(3)])
    assert ledger.ledger_lines("hospitals", "client") == [b"opened", b"spent"]


def test_a_model_that_is_refused_takes_round_and_spending_with_it(ledger: Store) -> None:
    with pytest.raises(InputError, match="is no digest"):
        ledger.commit_round("run-1", ROUND, model=NewModelVersion("m", "short", "run-1", 1), ledger=[line(2)])
    assert ledger.rounds("run-1") == []
    assert ledger.ledger_lines("hospitals", "client") == [b"opened"]


@contextmanager
def failing_when_a_record_was_written() -> Iterator[None]:
    def fail(session: Session, _context: object) -> None:
        if any(isinstance(row, LedgerRecordRow) for row in session.new):
            raise OSError("the power went")

    event.listen(Session, "after_flush", fail)
    try:
        yield
    finally:
        event.remove(Session, "after_flush", fail)


def test_a_fault_after_the_record_was_written_leaves_neither_round_nor_spending(ledger: Store) -> None:
    with failing_when_a_record_was_written(), pytest.raises(OSError, match="the power went"):
        ledger.commit_round("run-1", ROUND, ledger=[line(2)])
    assert ledger.rounds("run-1") == []
    assert ledger.ledger_lines("hospitals", "client") == [b"opened"]
    ledger.commit_round("run-1", ROUND, ledger=[line(2)])
    assert ledger.ledger_lines("hospitals", "client") == [b"opened", b"spent"]
