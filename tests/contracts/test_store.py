"""The store keeps what it is given, whole or not at all, on every database."""

import math
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.models.errors import InputError
from tacit.server.store import (
    CheckpointRef,
    NewModelVersion,
    NewRun,
    Participation,
    RoundAlreadyCommitted,
    RoundRecord,
    Store,
    open_store,
)
from tacit.server.store.records import PARTICIPATION_OUTCOMES, RUN_STATUSES, PhaseRecord

START = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
RUN = NewRun("run-1", "fashion", "image-classification", "seed = 7\n", "a" * 64, "runs/run-1", {"cpu": "x", "cores": 2})
ROUND = RoundRecord(
    number=1,
    attempt=0,
    outcome="committed",
    seconds=1.25,
    metrics={"train_loss": 0.5, "accuracy": 0.75},
    participation=(Participation("b", "reported"), Participation("a", "refused", "budget exhausted", "fit")),
    checkpoint=CheckpointRef("round-000001.safetensors", "b" * 64),
    extra={"quorum": 0.8, "moments": ["m", "v"]},
)
VERSION = NewModelVersion("fashion", "c" * 64, "run-1", 1)


@pytest.fixture
def run(store: Store) -> str:
    return store.create_run(RUN).run


# Runs


def test_a_new_run_is_running_and_holds_what_it_was_given(store: Store) -> None:
    created = store.create_run(RUN)
    assert created == store.get_run("run-1")
    assert (created.status, created.rounds_committed, created.summary, created.finished_at) == (
        "running",
        0,
        None,
        None,
    )
    assert (created.recipe_toml, created.environment) == ("seed = 7\n", {"cpu": "x", "cores": 2})


def test_a_name_that_is_taken_is_refused_and_the_first_run_stays(store: Store, run: str) -> None:
    before = store.get_run(run)
    with pytest.raises(InputError, match="run run-1: exists already"):
        store.create_run(replace(RUN, task="something else"))
    assert store.get_run(run) == before
    assert [entry.action for entry in store.audit()] == ["run.create"]


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 201])
def test_a_run_needs_a_printable_name(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="printable name"):
        store.create_run(replace(RUN, run=name))


def test_what_is_asked_of_a_run_that_is_not_there_is_refused(store: Store) -> None:
    for call in (
        lambda: store.get_run("nobody"),
        lambda: store.rounds("nobody"),
        lambda: store.last_committed_round("nobody"),
        lambda: store.last_attempt("nobody"),
        lambda: store.next_attempt("nobody", 1),
        lambda: store.set_run_status("nobody", "failed"),
        lambda: store.finish_run("nobody", {}),
        lambda: store.commit_round("nobody", ROUND),
    ):
        with pytest.raises(InputError, match="run 'nobody': there is no such run"):
            call()
    assert store.audit() == []


@pytest.mark.parametrize("status", RUN_STATUSES)
def test_every_status_is_kept_with_its_reason(store: Store, run: str, status: str) -> None:
    store.set_run_status(run, status, "because")  # type: ignore[arg-type]
    record = store.get_run(run)
    assert (record.status, record.reason) == (status, "because")
    assert (record.finished_at is not None) == (status in ("finished", "failed", "stopped"))


def test_an_unknown_status_is_refused(store: Store, run: str) -> None:
    with pytest.raises(InputError, match="one of running, interrupted"):
        store.set_run_status(run, "paused")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one of running, interrupted"):
        store.list_runs(status="paused")  # type: ignore[arg-type]


def test_a_run_that_goes_on_has_not_ended(store: Store, run: str) -> None:
    store.set_run_status(run, "failed", "disk full")
    store.set_run_status(run, "running")
    record = store.get_run(run)
    assert (record.status, record.reason, record.finished_at) == ("running", "", None)


def test_a_finished_run_has_its_summary_also_where_a_figure_is_not_finite(store: Store, run: str) -> None:
    store.finish_run(run, {"metrics": {"auroc": math.nan}, "privacy": {"epsilon": math.inf, "unit": "none"}})
    record = store.get_run(run)
    assert record.status == "finished" and record.summary is not None
    assert math.isnan(record.summary["metrics"]["auroc"])
    assert record.summary["privacy"] == {"epsilon": math.inf, "unit": "none"}


def test_runs_are_listed_newest_first_by_status_and_up_to_a_limit(store: Store) -> None:
    for number in range(5):
        store.create_run(replace(RUN, run=f"run-{number}"))
    store.set_run_status("run-1", "failed")
    store.set_run_status("run-3", "failed")
    store.commit_round("run-3", ROUND)
    assert [run.run for run in store.list_runs(None)] == ["run-4", "run-3", "run-2", "run-1", "run-0"]
    assert [run.run for run in store.list_runs(2)] == ["run-4", "run-3"]
    assert [(run.run, run.rounds_committed) for run in store.list_runs(9, "failed")] == [("run-3", 1), ("run-1", 0)]


def test_times_are_utc_whatever_zone_the_clock_is_in(database_url: str) -> None:
    tokyo = START.astimezone(timezone(timedelta(hours=9)))
    with open_store(database_url, now=lambda: tokyo) as store:
        created = store.create_run(RUN).created_at
        read = store.get_run("run-1").created_at
    assert created == read == START
    assert read.utcoffset() == timedelta(0)


# Rounds


def test_a_round_comes_back_as_it_was_committed(store: Store, run: str) -> None:
    store.commit_round(run, ROUND)
    [found] = store.rounds(run)
    assert found == ROUND == store.last_committed_round(run)
    assert list(found.metrics) == ["train_loss", "accuracy"], "in the order given"
    assert found.committed_at is not None and found.committed_at.utcoffset() == timedelta(0)


def test_a_bare_round_comes_back_too(store: Store, run: str) -> None:
    bare = RoundRecord(1, 0, "aborted", 0.0)
    store.commit_round(run, bare)
    assert store.rounds(run) == [bare]


figures = st.floats(allow_nan=True, allow_infinity=True).map(lambda value: value + 0.0)  # SQLite has no -0.0
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | figures | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
participants = st.builds(Participation, words, st.sampled_from(PARTICIPATION_OUTCOMES), words, words)
fresh = count()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seconds=figures,
    metrics=st.dictionaries(words, figures, max_size=4),
    participation=st.lists(participants, max_size=4).map(tuple),
    extra=st.dictionaries(words, json_values, max_size=3),
)
def test_any_figures_names_and_values_come_back(
    store: Store,
    seconds: float,
    metrics: dict[str, float],
    participation: tuple[Participation, ...],
    extra: dict[str, object],
) -> None:
    run = store.create_run(replace(RUN, run=f"any-{next(fresh)}")).run
    given_round = RoundRecord(1, 0, "committed", seconds, metrics, participation, None, extra)
    store.commit_round(run, given_round)
    # repr tells True from 1, and NaN equals itself there.
    assert repr(replace(store.rounds(run)[0], committed_at=None)) == repr(given_round)


def test_text_that_no_database_takes_cannot_make_a_commit_fail(store: Store, run: str) -> None:
    hostile = Participation("a", "refused", "nul \0 and half a pair \ud800", "fit")
    store.commit_round(run, replace(ROUND, participation=(hostile,)))
    [member] = store.rounds(run)[0].participation
    assert member.reason == "nul \ufffd and half a pair ?"


def test_the_same_attempt_is_never_applied_twice(store: Store, run: str) -> None:
    store.commit_round(run, ROUND)
    for again in (ROUND, replace(ROUND, outcome="aborted", participation=()), replace(ROUND, attempt=1)):
        with pytest.raises(RoundAlreadyCommitted) as caught:
            store.commit_round(run, again)
        assert (caught.value.run, caught.value.number, caught.value.attempt) == (run, 1, 0)
    assert store.rounds(run) == [ROUND]


def test_an_aborted_attempt_leaves_room_for_the_next(store: Store, run: str) -> None:
    aborted = replace(ROUND, outcome="aborted", metrics={}, checkpoint=None)
    assert store.next_attempt(run, 1) == 0
    store.commit_round(run, aborted)
    assert store.last_committed_round(run) is None
    assert store.next_attempt(run, 1) == 1
    store.commit_round(run, replace(ROUND, attempt=1))
    store.commit_round(run, replace(aborted, attempt=2))
    assert [(one.attempt, one.outcome) for one in store.rounds(run)] == [
        (0, "aborted"),
        (1, "committed"),
        (2, "aborted"),
    ]
    assert store.last_committed_round(run) == replace(ROUND, attempt=1)
    assert store.last_attempt(run) == replace(aborted, attempt=2)


def test_the_last_attempt_is_the_newest_one_however_it_ended(store: Store, run: str) -> None:
    assert store.last_attempt(run) is None
    store.commit_round(run, ROUND)
    assert store.last_attempt(run) == ROUND
    store.commit_round(run, replace(ROUND, number=2, outcome="aborted"))
    assert store.last_attempt(run) == replace(ROUND, number=2, outcome="aborted")


def test_figures_count_over_all_runs_and_name_what_there_is_none_of(store: Store) -> None:
    nothing = store.figures()
    assert nothing.runs == dict.fromkeys(RUN_STATUSES, 0) and nothing.asked == dict.fromkeys(PARTICIPATION_OUTCOMES, 0)
    assert nothing.attempts == {"committed": 0, "aborted": 0} and nothing.seconds == {"committed": 0.0, "aborted": 0.0}
    for name in ("run-1", "run-2"):
        store.create_run(replace(RUN, run=name))
        store.commit_round(name, ROUND)
    store.commit_round("run-2", replace(ROUND, number=2, outcome="aborted", seconds=4.0))
    store.set_run_status("run-1", "failed")
    counted = store.figures()
    assert counted.runs == nothing.runs | {"running": 1, "failed": 1}
    assert counted.attempts == {"committed": 2, "aborted": 1}
    assert counted.seconds == {"committed": 2 * ROUND.seconds, "aborted": 4.0}
    assert counted.asked == nothing.asked | {"reported": 3, "refused": 3}


def test_the_preparation_is_round_zero_and_does_not_count(store: Store, run: str) -> None:
    store.commit_round(run, replace(ROUND, number=0))
    assert store.get_run(run).rounds_committed == 0
    store.commit_round(run, ROUND)
    assert store.get_run(run).rounds_committed == 1


def test_rounds_of_one_run_are_not_those_of_another(store: Store, run: str) -> None:
    store.create_run(replace(RUN, run="run-2"))
    store.commit_round(run, ROUND)
    store.commit_round("run-2", replace(ROUND, metrics={"train_loss": 9.0}))
    assert store.rounds(run) == [ROUND]


def test_rounds_are_ordered_by_number_however_they_were_committed(store: Store, run: str) -> None:
    for number in (2, 10, 1):
        store.commit_round(run, replace(ROUND, number=number))
    assert [one.number for one in store.rounds(run)] == [1, 2, 10]


def test_a_record_with_an_unknown_outcome_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="none of committed, aborted"):
        RoundRecord(1, 0, "maybe", 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none of reported"):
        Participation("a", "asleep")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        RoundRecord(-1, 0, "committed", 1.0)


def test_a_round_and_its_model_are_committed_together(store: Store, run: str) -> None:
    assert store.commit_round(run, ROUND, model=VERSION) == 1
    assert store.get_model_version("fashion", 1).digest == VERSION.digest


def test_a_model_that_is_refused_takes_its_round_with_it(store: Store, run: str) -> None:
    with pytest.raises(InputError, match="is no digest"):
        store.commit_round(run, ROUND, model=replace(VERSION, digest="short"))
    assert store.rounds(run) == []
    assert store.list_models() == []


def test_what_cannot_be_stored_as_json_leaves_nothing_behind(store: Store, run: str) -> None:
    with pytest.raises(Exception, match="a set cannot be stored as JSON"):
        store.commit_round(run, replace(ROUND, extra={"clients": {1, 2}}))
    assert store.rounds(run) == []


# Audit


def test_what_the_store_changes_it_writes_down(store: Store, run: str) -> None:
    store.add_model_version(VERSION)
    store.add_model_version(VERSION)  # adds nothing, says nothing
    store.set_alias("fashion", "champion", 1, "ada")
    key_id, _ = store.create_key("dashboard", ["read"], actor="ada")
    store.revoke_key(key_id, actor="ada")
    store.finish_run(run, {})
    store.append_audit("bob", "report.read", run, {"pages": 3})
    entries = store.audit()
    assert [(entry.actor, entry.action, entry.subject) for entry in reversed(entries)] == [
        ("coordinator", "run.create", "run-1"),
        ("coordinator", "model.register", "fashion"),
        ("ada", "model.alias", "fashion"),
        ("ada", "key.create", key_id),
        ("ada", "key.revoke", key_id),
        ("coordinator", "run.finished", "run-1"),
        ("bob", "report.read", "run-1"),
    ]
    assert entries[0].details == {"pages": 3}
    assert store.audit(2) == entries[:2]


# Sharing and reopening


def test_threads_share_a_store_without_losing_a_version(store: Store) -> None:
    failures: list[BaseException] = []

    def add(first: int) -> None:
        try:
            for number in range(first, first + 10):
                store.add_model_version(NewModelVersion("m", f"{number:064x}", None, None))
                store.list_models()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(10 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    versions = store.list_versions("m")
    assert [one.version for one in versions] == list(range(1, 41))
    assert {one.digest for one in versions} == {f"{number:064x}" for number in range(40)}


def test_a_store_that_is_opened_again_has_everything(shared_url: str) -> None:
    with open_store(shared_url) as store:
        store.create_run(RUN)
        store.commit_round("run-1", ROUND, model=VERSION)
        run, audit = store.get_run("run-1"), store.audit()
    with open_store(shared_url) as store:
        assert (store.get_run("run-1"), store.rounds("run-1"), store.audit()) == (run, [ROUND], audit)
        assert store.get_model_version("fashion", 1).digest == VERSION.digest


def test_the_phase_that_was_announced_last_is_the_one_that_counts(store: Store, run: str) -> None:
    assert store.phase(run) is None
    first = PhaseRecord(3, 0, "advertise", {"asked": ["a", "b"]}, CheckpointRef("x", "0" * 64), {"owed": {}})
    second = PhaseRecord(3, 0, "share", {"asked": ["a"]}, CheckpointRef("y", "1" * 64), {"owed": {"a": "00"}})
    store.announce_phase(run, first)
    assert store.phase(run) == first
    store.announce_phase(run, second)
    found = store.phase(run)
    assert found == second and found is not None and found.announced_at is not None


def test_a_round_that_is_committed_closes_its_phase_and_keeps_what_is_owed(store: Store, run: str) -> None:
    store.announce_phase(run, PhaseRecord(1, 0, "unmask", {"asked": ["a"]}, CheckpointRef("x", "0" * 64), {}))
    store.commit_round(run, RoundRecord(1, 0, "committed", 1.0), memory={"owed": {"a": "00"}})
    assert store.phase(run) == PhaseRecord(1, 0, "", memory={"owed": {"a": "00"}})


def test_a_round_that_is_refused_leaves_the_phase_as_it_was(store: Store, run: str) -> None:
    store.commit_round(run, RoundRecord(1, 0, "committed", 1.0), memory={})
    open_phase = PhaseRecord(1, 1, "mask", {"asked": ["a"]}, CheckpointRef("x", "0" * 64), {})
    store.announce_phase(run, open_phase)
    with pytest.raises(RoundAlreadyCommitted):
        store.commit_round(run, RoundRecord(1, 1, "committed", 1.0), memory={"owed": {}})
    assert store.phase(run) == open_phase


def test_a_run_that_is_not_there_has_no_phase(store: Store) -> None:
    with pytest.raises(InputError, match="no such run"):
        store.phase("nobody")
    with pytest.raises(InputError, match="no such run"):
        store.announce_phase("nobody", PhaseRecord(1, 0, "mask"))
    assert store.find_run("nobody") is None
