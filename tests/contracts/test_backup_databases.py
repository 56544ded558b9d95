"""A backup of a coordinator that keeps its state in one database makes one that keeps it in another."""

from pathlib import Path

import pytest

from tacit.server.backup import back_up
from tacit.server.coordinator_directory import open_directory
from tacit.server.restoring import restore
from tacit.server.store import open_store

from ..server.made_hub import LATER, NOW, make_hub, refused, rows  # noqa: TID252 - tests are no package


def test_a_coordinator_moves_from_any_database_to_any_other(shared_url: str, postgres_url: str, tmp_path: Path) -> None:
    hub = make_hub(tmp_path / "hub", tmp_path / "artifacts", db="tacit.db" if "sqlite" in shared_url else shared_url)
    made = back_up(hub, tmp_path / "a.backup", NOW)
    restore(made.file, tmp_path / "one", LATER, nothing_since=True, db="tacit.db")
    one = open_directory(tmp_path / "one", LATER)
    again = back_up(one, tmp_path / "b.backup", LATER)
    if "sqlite" in shared_url:
        restore(again.file, tmp_path / "two", LATER, nothing_since=True, db=postgres_url)
        two = open_directory(tmp_path / "two", LATER)
        assert two.db == postgres_url and not list(two.path.glob("*.db"))
        assert rows(two) == rows(hub)
    assert rows(one) == rows(hub)


def test_a_server_that_holds_a_coordinator_already_gets_no_second_one(postgres_url: str, tmp_path: Path) -> None:
    hub = make_hub(tmp_path / "hub", tmp_path / "artifacts", db=postgres_url)
    back_up(hub, tmp_path / "a.backup", NOW)
    before = rows(hub)
    assert "holds a coordinator's data already" in refused(
        lambda: restore(tmp_path / "a.backup", tmp_path / "b", LATER)
    )
    assert rows(hub) == before and not (tmp_path / "b").exists()


def test_a_directory_that_cannot_be_put_in_its_place_leaves_the_server_empty(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tacit.server import restoring

    hub = make_hub(tmp_path / "hub", tmp_path / "artifacts")
    back_up(hub, tmp_path / "a.backup", NOW)
    filled = restoring.snapshot.fill

    def fill(file: Path, url: str) -> None:
        filled(file, url)
        (tmp_path / "b").mkdir()

    monkeypatch.setattr(restoring.snapshot, "fill", fill)
    assert "exists already" in refused(lambda: restore(tmp_path / "a.backup", tmp_path / "b", LATER, db=postgres_url))
    assert list((tmp_path / "b").iterdir()) == []
    with open_store(postgres_url) as store:
        assert store.list_runs() == [] and store.audit() == []
