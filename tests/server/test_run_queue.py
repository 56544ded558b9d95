"""The queue of a coordinator is files that appear and go whole."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tacit.models.errors import InputError
from tacit.server.run_queue import (
    FAILED,
    QUEUE,
    ask_to_stop,
    forget_idle_stops,
    forget_stop,
    is_to_stop,
    put_aside,
    queued,
    withdraw,
)


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    (tmp_path / QUEUE).mkdir()
    return tmp_path / QUEUE


def test_recipes_wait_in_the_order_of_their_names(queue: Path, tmp_path: Path) -> None:
    for name in ("2-b", "1-c", "3-a"):
        (queue / f"{name}.toml").write_text(f'name = "{name[2:]}"\n')
    (queue / "0-x.failed").write_text('name = "x"\n')
    assert [(one.run, one.recipe) for one in queued(tmp_path)] == [("1-c", "c"), ("2-b", "b"), ("3-a", "a")]
    assert [one.run for one in queued(tmp_path, FAILED)] == ["0-x"]
    assert abs((queued(tmp_path)[0].since - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize(
    ("settings", "members"),
    [
        ("[population]\nclients = 8", 8),
        ("[population]\nclients = 3", 5),  # never fewer than a sum may hold
        ("[population]\nclients = 8\n[training]\ncohort = 6", 6),
        ("[population]\nclients = 0", 0),  # no recipe, as whoever trains it will say
    ],
)
def test_a_recipe_says_how_many_members_it_waits_for(settings: str, members: int, queue: Path, tmp_path: Path) -> None:
    (queue / "1-a.toml").write_text(
        f'name = "a"\n[task]\nkind = "tabular-classification"\n[data]\nsource = "csv:a.csv"\n{settings}\n'
    )
    assert [one.members for one in queued(tmp_path)] == [members]


def test_there_is_no_queue_before_the_first_recipe(tmp_path: Path) -> None:
    assert queued(tmp_path) == () and not withdraw(tmp_path, "1-a")


@pytest.mark.parametrize("content", [b"no toml", b"\xff", b"x = 1"])
def test_a_recipe_that_cannot_be_read_waits_all_the_same(content: bytes, queue: Path, tmp_path: Path) -> None:
    (queue / "1-a.toml").write_bytes(content)
    assert [(one.run, one.recipe) for one in queued(tmp_path)] == [("1-a", "")]


def test_a_recipe_is_put_aside_with_the_reason_and_is_still_one(queue: Path, tmp_path: Path) -> None:
    (queue / "1-a.toml").write_text('name = "a"\n')
    put_aside(tmp_path, "1-a", "3 of 4\nclients\x1b came")
    put_aside(tmp_path, "1-a", "it is gone already")
    assert queued(tmp_path) == ()
    assert [(one.recipe, one.reason) for one in queued(tmp_path, FAILED)] == [("a", "3 of 4 clients  came")]
    (queue / "1-a.failed").rename(queue / "1-a.toml")
    assert [one.recipe for one in queued(tmp_path)] == ["a"]


def test_a_recipe_is_put_aside_on_a_full_disk_too(queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tacit.server.run_queue.write_file", full)
    (queue / "1-a.toml").write_text('name = "a"\n')
    put_aside(tmp_path, "1-a", "x")
    assert [(one.recipe, one.reason) for one in queued(tmp_path, FAILED)] == [("a", "")] and queued(tmp_path) == ()


def test_a_recipe_is_withdrawn_once(queue: Path, tmp_path: Path) -> None:
    (queue / "1-a.toml").touch()
    assert withdraw(tmp_path, "1-a") and not withdraw(tmp_path, "1-a")
    assert queued(tmp_path) == ()


def test_a_wish_to_stop_is_a_file_until_it_is_forgotten(tmp_path: Path) -> None:
    assert not is_to_stop(tmp_path, "1-a")
    ask_to_stop(tmp_path, "1-a")
    ask_to_stop(tmp_path, "1-a")
    assert is_to_stop(tmp_path, "1-a") and not is_to_stop(tmp_path, "1-b")
    assert queued(tmp_path) == ()
    forget_stop(tmp_path, "1-a")
    forget_stop(tmp_path, "1-a")
    assert not is_to_stop(tmp_path, "1-a")


def test_a_wish_about_a_run_that_is_not_there_is_forgotten(queue: Path, tmp_path: Path) -> None:
    (queue / "1-a.toml").touch()
    ask_to_stop(tmp_path, "1-a")
    ask_to_stop(tmp_path, "1-b")
    forget_idle_stops(tmp_path)
    assert is_to_stop(tmp_path, "1-a") and not is_to_stop(tmp_path, "1-b")


def test_what_cannot_be_written_or_removed_is_told_in_one_line(queue: Path, tmp_path: Path) -> None:
    (queue / "1-a.toml").mkdir()
    with pytest.raises(InputError, match="cannot be removed"):
        withdraw(tmp_path, "1-a")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        ask_to_stop(tmp_path / "file", "1-a")
