"""A coordinator trains what waits, one recipe after another, and no failure of one run keeps it from the next."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tacit.models.errors import InputError, Unwritable
from tacit.models.recipe import Recipe, parse_recipe
from tacit.privacy.errors import BudgetExceeded
from tacit.server.attempts import RunFailed, RunStopped
from tacit.server.coordinator_directory import create
from tacit.server.federation import TRIES, Coordinator
from tacit.server.kept_run import Stopped
from tacit.server.run_queue import FAILED, LONGEST_NAME, QUEUE, WAITS, ask_to_stop, enqueue, is_to_stop
from tacit.server.store import Store, open_store
from tacit.server.store.errors import StoreUnavailable
from tacit.server.store.records import NewRun

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
RECIPE = """
name = "ward"
[task]
kind = "tabular-classification"
[data]
source = "csv:rows.csv"
label = "y"
[population]
clients = 5
"""
SUMMARY = {"model": {"name": "ward", "version": 1}}


class Nobody:
    """A membership that brings nobody, over a port that nobody uses."""

    def bring(self, link: object) -> None:
        return


@dataclass
class Script(Coordinator):
    """A coordinator whose runs end as a test says: with a summary, or by an exception."""

    ends: Callable[[str], Any] = lambda name: SUMMARY
    trained: list[str] = field(default_factory=list)

    def train(self, recipe: Recipe, name: str) -> dict[str, Any]:
        self.trained.append(name)
        found = self.ends(name)
        if isinstance(found, Exception):
            raise found
        return dict(found)


@dataclass
class Hub:
    """A coordinator's directory, its store, and time that passes only in pauses."""

    path: Path
    store: Store
    pauses: list[float] = field(default_factory=list)

    def coordinator(self, ends: Callable[[str], Any], *, pauses: int = 3) -> Script:
        """Return a coordinator that stops after so many pauses."""
        self.pauses.clear()
        directory = create(self.path, NOW) if not self.path.exists() else self.opened()
        membership: Any = Nobody()
        link: Any = None
        made = Script(
            directory, self.store, membership, link, lambda: len(self.pauses) >= pauses, self.pauses.append, ends=ends
        )
        return made

    def opened(self) -> Any:
        from tacit.server.coordinator_directory import open_directory

        return open_directory(self.path, NOW)

    def wait(self, count: int = 1, name: str = "ward") -> list[str]:
        """Put recipes into the queue, and return the names of their runs."""
        recipe = parse_recipe(RECIPE.replace("ward", name))
        return [enqueue(self.path, recipe, NOW + timedelta(seconds=at)).stem for at in range(count)]

    def there(self, ending: str) -> list[str]:
        return sorted(path.stem for path in (self.path / QUEUE).glob(f"*{ending}"))


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    made = Hub(tmp_path / "hub", open_store(":memory:"))
    made.coordinator(lambda name: SUMMARY)
    return made


def test_what_waits_is_trained_in_order_under_the_name_of_its_file(hub: Hub) -> None:
    names = hub.wait(3)
    working = hub.coordinator(lambda name: SUMMARY)
    working.work()
    assert working.trained == names and hub.there(WAITS) == []


def test_the_name_of_a_run_fits_into_a_message_however_long_the_recipes_is(hub: Hub) -> None:
    (name,) = hub.wait(name="w" * 64)
    assert len(name) == LONGEST_NAME


def test_a_budget_that_is_too_large_for_any_model_does_not_even_wait(hub: Hub) -> None:
    promised = ["privacy.unit=client", "privacy.noise_multiplier=2.0", "population.ledger=wards"]
    with pytest.raises(InputError, match=r"^population\.epsilon_budget: 100 .* grows with e\^epsilon; at most 5\d"):
        enqueue(hub.path, parse_recipe(RECIPE, [*promised, "population.epsilon_budget=100"]), NOW)
    assert hub.there(WAITS) == []
    enqueue(hub.path, parse_recipe(RECIPE, [*promised, "population.epsilon_budget=20"]), NOW)
    assert len(hub.there(WAITS)) == 1


@pytest.mark.parametrize("reason", [InputError("no such label"), RunFailed("nobody came"), BudgetExceeded(9.0, 8.0)])
def test_a_run_that_fails_is_put_aside_and_the_next_has_its_turn(
    hub: Hub, reason: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = hub.wait(2)
    working = hub.coordinator(lambda name: reason if name == first else SUMMARY)
    working.work()
    assert working.trained == [first, second]
    assert (hub.there(FAILED), hub.there(WAITS)) == ([first], [])
    assert f"{first} was not trained: {reason}" in caplog.text


@pytest.mark.parametrize(
    "reason",
    [StoreUnavailable("the database is locked"), Unwritable("no space left"), OSError(28, "No space left on device")],
)
def test_what_will_pass_is_waited_for_and_said_once(
    hub: Hub, reason: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = hub.wait(2)
    left = [reason, reason, SUMMARY, SUMMARY]
    working = hub.coordinator(lambda name: left.pop(0), pauses=4)
    working.work()
    assert working.trained == [first, first, first, second] and hub.there(WAITS) == hub.there(FAILED) == []
    assert caplog.text.count("trying again") == 1


def test_a_database_that_is_away_while_nothing_is_trained_ends_nothing(hub: Hub) -> None:
    (name,) = hub.wait()
    working = hub.coordinator(lambda name: SUMMARY, pauses=4)
    found, away = hub.store.list_runs, [StoreUnavailable("gone"), StoreUnavailable("gone")]

    def list_runs(*arguments: Any) -> Any:
        if away:
            raise away.pop()
        return found(*arguments)

    hub.store.list_runs = list_runs  # type: ignore[method-assign]
    working.work()
    assert working.trained == [name]


def test_what_nobody_foresaw_is_tried_again_a_few_times_and_says_nothing_of_what_it_held(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = hub.wait(2)
    working = hub.coordinator(lambda name: KeyError("age=93") if name == first else SUMMARY, pauses=9)
    with caplog.at_level(logging.INFO):
        working.work()
    assert working.trained == [*[first] * TRIES, second] and hub.there(FAILED) == [first]
    assert "KeyError" in caplog.text and "age=93" not in caplog.text


def test_a_run_that_is_broken_off_by_a_stop_waits_for_the_next_start(hub: Hub) -> None:
    (name,) = hub.wait()

    def ends(name: str) -> Any:
        hub.pauses.extend([0.0] * 9)  # it is to stop from now on
        return Stopped()

    hub.coordinator(ends).work()
    assert hub.there(WAITS) == [name]
    again = hub.coordinator(lambda name: SUMMARY)
    again.work()
    assert again.trained == [name]


def test_the_wish_that_a_run_ends_is_gone_when_it_has(hub: Hub) -> None:
    first, second = hub.wait(2)
    for name in (first, second):
        ask_to_stop(hub.path, name)
    hub.coordinator(lambda name: RunFailed("nobody came") if name == first else SUMMARY).work()
    assert not is_to_stop(hub.path, first) and not is_to_stop(hub.path, second)


def test_a_run_that_was_ended_before_anything_was_trained_is_neither_put_aside_nor_tried_again(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = hub.wait(2)
    ask_to_stop(hub.path, first)
    working = hub.coordinator(lambda name: RunStopped("stopped by hand") if name == first else SUMMARY)
    with caplog.at_level(logging.INFO):
        working.work()
    assert working.trained == [first, second] and hub.there(WAITS) == hub.there(FAILED) == []
    assert f"{first} was ended before anything was trained: stopped by hand" in caplog.text
    assert not is_to_stop(hub.path, first)


def test_a_file_whose_name_leads_elsewhere_is_put_aside_and_nothing_is_removed(hub: Hub) -> None:
    working = Coordinator.train
    recipe = parse_recipe(RECIPE)
    before = sorted(path.name for path in hub.path.iterdir())
    for name in ("..", ".", "a/b", ""):
        with pytest.raises(InputError, match="a name has"):
            working(hub.coordinator(lambda name: SUMMARY), recipe, name)
    assert sorted(path.name for path in hub.path.iterdir()) == before


def test_runs_that_nobody_goes_on_with_are_marked_and_others_are_left_alone(hub: Hub, tmp_path: Path) -> None:
    (waits,) = hub.wait()

    def begin(name: str, directory: Path) -> None:
        hub.store.create_run(NewRun(name, "ward", "t", "", "a" * 64, str(directory / name), {}))

    begin(waits, hub.path / "runs")
    begin("lost", hub.path / "runs")
    begin("simulated", tmp_path)
    seen: dict[str, str] = {}

    def ends(name: str) -> Any:
        seen.update({record.run: record.status for record in hub.store.list_runs()})
        return SUMMARY

    hub.coordinator(ends).work()
    assert seen == {waits: "running", "lost": "interrupted", "simulated": "running"}
