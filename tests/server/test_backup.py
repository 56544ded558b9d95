"""A backup is whole, of one moment, and for its owner alone, whatever goes on meanwhile."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tacit.models.errors import InputError
from tacit.server import tls_rotation
from tacit.server.backup import back_up
from tacit.server.checkpoints import Checkpoints
from tacit.server.coordinator_directory import CoordinatorDirectory, open_directory
from tacit.server.coordinator_lock import held, holder
from tacit.server.recorder import StoreRecorder
from tacit.server.restoring import restore
from tacit.server.store import StoreUnavailable, open_store

from ..end_to_end.small_disk import small_disks  # noqa: TID252 - tests are no package
from .made_hub import LATER, NOW, make_hub, refused, restored  # noqa: TID252 - tests are no package


@pytest.fixture
def hub(tmp_path: Path) -> CoordinatorDirectory:
    return make_hub(tmp_path / "hub", tmp_path / "artifacts")


def test_a_coordinator_that_is_not_up_cannot_be_started_in_the_middle_of_a_backup(
    hub: CoordinatorDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tacit.server import backup

    seen = []

    def save(url: str, file: Path, hold: Callable[[], None]) -> None:
        seen.append(holder(hub.path))
        with pytest.raises(InputError, match="is being backed up"), held(hub.path):
            raise AssertionError
        original(url, file, hold)

    original = backup.snapshot.save
    monkeypatch.setattr(backup.snapshot, "save", save)
    assert not back_up(hub, tmp_path / "a.backup", NOW).about.was_up
    assert seen == [None], "whoever stops the coordinator must not stop the backup"
    with held(hub.path):
        pass


def test_a_backup_is_for_its_owner_alone_and_any_tool_can_list_it(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    made = back_up(hub, tmp_path / "a.backup", NOW)
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.backup", "artifacts", "hub"]
    with zipfile.ZipFile(made.file) as found:
        names = set(found.namelist())
    assert {"BACKUP.json", "MANIFEST.sha256", "database.sqlite", "directory/coordinator.key"} <= names
    assert not {name for name in names if "models-store" in name or name.endswith((".lock", "-wal", "-shm"))}
    assert (made.files, made.runs, made.versions) == (len(names) - 1, 2, 2)
    assert made.size == made.file.stat().st_size


def test_an_announced_authority_is_kept_too(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    coming = tls_rotation.announce(hub.path, "wards", NOW)
    _, new = restored(hub, tmp_path / "new")
    assert tls_rotation.announced(new.path) == coming


def test_keys_that_are_exchanged_meanwhile_are_taken_both_or_neither(
    hub: CoordinatorDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tacit.server import backup

    tls_rotation.announce(hub.path, "wards", NOW)
    original, turns = backup.snapshot.save, []

    def save(url: str, file: Path, hold: Callable[[], None]) -> None:
        original(url, file, hold)
        if not turns:
            tls_rotation.switch(hub.path)
        turns.append(file)

    monkeypatch.setattr(backup.snapshot, "save", save)
    _, new = restored(hub, tmp_path / "new")
    assert len(turns) == 2
    assert new.ca_der == open_directory(hub.path, NOW).ca_der != hub.ca_der


COMMIT_FOR_EVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from made_hub import *
from tacit.server.coordinator_lock import held
hub = open_directory(Path(sys.argv[1]), NOW)
with open_store(hub.db) as store, held(hub.path):
    recorder = StoreRecorder(store, "second", Checkpoints(hub.path / "runs/second/checkpoints"))
    number = 5
    while True:
        number += 1
        recorder.commit(RoundReport(number, 0, True, "", 1.0, ()), state(number))
        if number % 10 == 0:
            print(number, flush=True)
"""


@pytest.mark.slow
def test_a_backup_of_a_run_that_goes_on_is_of_one_moment(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", COMMIT_FOR_EVER, str(hub.path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as going:
        try:
            assert going.stdout is not None
            seen: list[int] = []
            for turn in range(4):
                while int(going.stdout.readline()) <= max(seen, default=0):
                    continue  # it may have been held up for as long as the last backup took
                _, new = restored(hub, tmp_path / f"new-{turn}")
                with open_store(new.db) as store:
                    last = store.last_committed_round("second")
                    recorder = StoreRecorder(store, "second", Checkpoints(new.path / "runs/second/checkpoints"))
                    point = recorder.resume_point()
                    assert last is not None and point is not None and point.round == last.number
                    assert (
                        recorder.state_of(point.best_round).round == point.best_round == last.number - last.number % 4
                    )
                    seen.append(last.number)
            assert seen == sorted(set(seen)), "rounds went on while the backups were made"
        finally:
            going.kill()


def test_a_checkpoint_that_is_missing_is_named(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    shutil.rmtree(hub.path / "runs/second/checkpoints")
    message = refused(lambda: back_up(hub, tmp_path / "a.backup", NOW))
    assert "round-000005.safetensors: is missing" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "hub"]


@pytest.mark.parametrize(
    "file", ["models-store/sha256/*/*/model.safetensors", "runs/second/checkpoints/round-000005.safetensors"]
)
def test_what_is_damaged_already_is_not_backed_up_as_if_it_were_sound(
    hub: CoordinatorDirectory, tmp_path: Path, file: str
) -> None:
    path = next(hub.path.glob(file))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert str(path) in refused(lambda: back_up(hub, tmp_path / "a.backup", NOW))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["artifacts", "hub"]


def test_a_link_is_refused_and_named(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    (hub.path / "runs/elsewhere").symlink_to(tmp_path)
    assert "runs/elsewhere: is a link" in refused(lambda: back_up(hub, tmp_path / "a.backup", NOW))


@pytest.mark.parametrize("place", ["a.backup", "hub/a.backup", "missing/a.backup"])
def test_a_file_that_exists_or_lies_within_is_refused(hub: CoordinatorDirectory, tmp_path: Path, place: str) -> None:
    (tmp_path / "a.backup").write_text("mine")
    message = refused(lambda: back_up(hub, tmp_path / place, NOW))
    assert "exists already" in message or "is within" in message or "cannot be written" in message
    assert (tmp_path / "a.backup").read_text() == "mine"


@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_disk_that_is_full_at_any_moment_is_one_line_and_leaves_nothing(
    hub: CoordinatorDirectory, tmp_path: Path, what: str
) -> None:
    whole = back_up(hub, tmp_path / "whole.backup", NOW)
    size, done = 8, 0
    while not done:
        with small_disks(tmp_path / f"{what}-{size}", {"disk": size}) as disks:
            if not disks:
                pytest.skip("this machine lets nobody mount a disk")
            target = disks["disk"].path / "made"
            try:
                back_up(hub, target, NOW) if what == "backup" else restore(whole.file, target, LATER)
                done = size
            except (InputError, StoreUnavailable) as error:
                assert "\n" not in str(error) and ("No space left" in str(error) or "full" in str(error))
                assert list(disks["disk"].path.iterdir()) == []
        size += 12 if size > 160 else 76
    assert done > 160
