"""Out of a backup comes a coordinator as a whole or none, and one that never counts less than was spent."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tacit.models.errors import InputError
from tacit.server.backup import back_up
from tacit.server.checkpoints import Checkpoints
from tacit.server.cli.coordinator import coordinator
from tacit.server.coordinator_directory import CoordinatorDirectory, open_directory
from tacit.server.coordinator_lock import held
from tacit.server.population_ledger import read_ledger
from tacit.server.recorder import StoreRecorder
from tacit.server.registry import Registry
from tacit.server.restoring import restore
from tacit.server.store import open_store

from .made_hub import LATER, NOW, contents, entry, ledger_of, make_hub, refused, restored, rows  # noqa: TID252 - tests are no package


@pytest.fixture
def hub(tmp_path: Path) -> CoordinatorDirectory:
    return make_hub(tmp_path / "hub", tmp_path / "artifacts")


def test_where_nothing_was_since_everything_is_as_it_was(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    found, new = restored(hub, tmp_path / "new", nothing_since=True)
    assert (found.failed, found.closed, found.put_aside) == ((), (), ())
    assert rows(new) == rows(hub)
    assert contents(new.path) == contents(hub.path)
    assert new.coordinator.public_key == hub.coordinator.public_key and new.ca_der == hub.ca_der
    with open_store(new.db) as store:
        assert store.get_run("second").directory == str(new.path / "runs/second"), "its files are found where they are"
        resumed = StoreRecorder(store, "second", Checkpoints(new.path / "runs/second/checkpoints")).resume_point()
        assert resumed is not None and resumed.round == 5
        ledger_of(new, store).settle(entry(6).key)
        registry = Registry(store, new.models)
        for version in store.list_versions("ward"):
            registry.verify(version)
        assert store.audit(1)[0].action == "store.restore"


def test_what_may_have_gone_on_since_is_not_gone_on_with(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    before = rows(hub)
    found, new = restored(hub, tmp_path / "new")
    after = rows(new)
    assert found.failed == ("second",) and found.closed == ("wards",) and len(found.put_aside) == 1
    assert after["runs"] == [("second", "failed", 5), ("first", "finished", 0)]
    for kept in ("rounds", "versions", "champion", "ledger"):
        assert after[kept] == before[kept]
    assert before["open"] == ["north"] and after["open"] == []
    assert [path.suffix for path in (new.path / "queue").iterdir()] == [".failed"]
    with open_store(new.db) as store:
        assert "restored from a backup of 2026-11-22 12:00 UTC" in store.get_run("second").reason
        assert "is closed: restored from a backup" in refused(lambda: ledger_of(new, store))
        assert "is closed" in refused(lambda: store.append_ledger("wards", "client", 13, b"more"))
        old = read_ledger(store, "wards", "client")
        assert old is not None and len(old.settled) == 5 and list(old.waiting) == [entry(6).key]


def test_a_coordinator_that_was_up_has_gone_on_whatever_anybody_says(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    with held(hub.path):
        made = back_up(hub, tmp_path / "a.backup", NOW)
    assert made.about.was_up
    message = refused(lambda: restore(made.file, tmp_path / "new", LATER, nothing_since=True))
    assert "was made while the coordinator was up" in message
    assert not (tmp_path / "new").exists()
    assert restore(made.file, tmp_path / "new", LATER).failed == ("second",)


def test_what_is_restored_is_for_its_owner_alone(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        restored(hub, tmp_path / "new")
    finally:
        os.umask(previous)
    for path in (tmp_path / "new").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "hub", "new", "new.backup"]


def test_a_directory_that_exists_is_refused_and_left_alone(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    back_up(hub, tmp_path / "a.backup", NOW)
    before = contents(hub.path)
    assert "exists already" in refused(lambda: restore(tmp_path / "a.backup", hub.path, LATER))
    (tmp_path / "empty").mkdir()
    assert "exists already" in refused(lambda: restore(tmp_path / "a.backup", tmp_path / "empty", LATER))
    assert contents(hub.path) == before


def test_one_flipped_bit_or_a_cut_anywhere_is_found_or_changes_nothing(
    hub: CoordinatorDirectory, tmp_path: Path
) -> None:
    whole = back_up(hub, tmp_path / "a.backup", NOW).file.read_bytes()
    sound = restored(hub, tmp_path / "a", nothing_since=True)[1]
    drawn = random.Random(7)
    # The list of digests and the directory of the archive are at its end.
    places = [drawn.randrange(len(whole)) for _ in range(20)] + [
        len(whole) - drawn.randrange(1, 6000) for _ in range(20)
    ]
    found = 0
    for turn, place in enumerate(places):
        damaged = bytearray(whole)
        if turn % 4 == 3:
            del damaged[place:]
        else:
            damaged[place] ^= 1 << drawn.randrange(8)
        (tmp_path / "b.backup").write_bytes(damaged)
        try:
            restore(tmp_path / "b.backup", tmp_path / "b", LATER, nothing_since=True)
        except InputError as error:
            assert "\n" not in str(error)
            assert not (tmp_path / "b").exists()
            found += 1
        else:
            assert contents(tmp_path / "b") == contents(sound.path)
            shutil.rmtree(tmp_path / "b")
    assert found > len(places) / 2
    assert {path.name for path in tmp_path.iterdir()} == {"a", "a.backup", "b.backup", "artifacts", "hub"}


def rewritten(
    source: Path, target: Path, change: Callable[[dict[str, bytes]], None], *, compress: bool = False
) -> Path:
    """Write an archive anew with changed contents, and digests that fit them."""
    import hashlib

    with zipfile.ZipFile(source) as found:
        files = {name: found.read(name) for name in found.namelist() if name != "MANIFEST.sha256"}
    change(files)
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as made:
        for name, content in (*files.items(), ("MANIFEST.sha256", lines.encode())):
            made.writestr(name, content)
    return target


def swap(files: dict[str, bytes], name: str, change: Callable[[bytes], bytes]) -> None:
    found = next(one for one in files if one.endswith(name))
    files[found] = change(files[found])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: files.update({"../escaped": b"x"}), "is no backup"),
        (lambda files: files.update({"/escaped": b"x"}), "is no backup"),
        (lambda files: files.update({"directory/a\\b": b"x"}), "is no backup"),
        (lambda files: files.update({"directory/runs": b"x"}), "cannot be taken out"),
        (lambda files: files.pop("BACKUP.json"), "this version can read"),
        (lambda files: swap(files, "BACKUP.json", lambda it: it.replace(b'"format": 1', b'"format": 2')), "upgrade"),
        (lambda files: swap(files, "authority.key", lambda it: b""), "authority.key"),
        (lambda files: files.pop("directory/server.key"), "server.key: is missing"),
        (lambda files: swap(files, "model.safetensors", lambda it: it[:-1]), "is not the file that was registered"),
        (lambda files: swap(files, "000005.safetensors", lambda it: it[:-1]), "is not the checkpoint that was written"),
        (lambda files: swap(files, "database.sqlite", lambda it: it[:4096] + bytes(len(it) - 4096)), "cannot be"),
        (lambda files: swap(files, "database.sqlite", lambda it: b"no database"), "cannot be"),
        (lambda files: swap(files, "coordinator.toml", lambda it: it + b'more = "x"\n'), "'more'"),
    ],
)  # fmt: skip
def test_a_backup_that_fits_its_digests_but_makes_no_coordinator_is_refused(
    hub: CoordinatorDirectory, tmp_path: Path, change: Callable[[dict[str, bytes]], None], words: str
) -> None:
    made = back_up(hub, tmp_path / "a.backup", NOW)
    file = rewritten(made.file, tmp_path / "b.backup", change)
    assert words in refused(lambda: restore(file, tmp_path / "new", LATER))
    assert {path.name for path in tmp_path.iterdir()} == {"a.backup", "b.backup", "artifacts", "hub"}


def test_compressed_members_are_refused_before_they_fill_the_disk(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    made = back_up(hub, tmp_path / "a.backup", NOW)
    file = rewritten(made.file, tmp_path / "b.backup", lambda files: None, compress=True)
    assert "is no backup" in refused(lambda: restore(file, tmp_path / "new", LATER))


@pytest.mark.parametrize("way", ["../../{}", "{root}/{}"])
def test_no_database_in_a_backup_moves_or_removes_what_is_not_its_own(
    hub: CoordinatorDirectory, tmp_path: Path, way: str
) -> None:
    """A version's files are where its digest says, and a digest that is a path leads to what lies beside."""
    import sqlite3
    from contextlib import closing

    made = back_up(hub, tmp_path / "a.backup", NOW)
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "one").write_bytes(b"dear to somebody")

    def forge(content: bytes) -> bytes:
        path = tmp_path / "forged.sqlite"
        path.write_bytes(content)
        digest = way.format("photographs", root=tmp_path)
        with closing(sqlite3.connect(path)) as connection, connection:
            last = "(SELECT max(version) FROM model_versions)"
            connection.execute(f"UPDATE model_versions SET digest = ? WHERE version = {last}", (digest,))  # noqa: S608
        return path.read_bytes()

    file = rewritten(made.file, tmp_path / "b.backup", lambda files: swap(files, "database.sqlite", forge))
    assert "is no digest" in refused(lambda: restore(file, tmp_path / "new", LATER))
    assert (tmp_path / "photographs" / "one").read_bytes() == b"dear to somebody"


def test_a_ledger_with_a_changed_record_is_refused(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(hub.path / "tacit.db")) as connection, connection:
        connection.execute("UPDATE ledger_records SET line = replace(line, 'second', 'secnod') WHERE counter = 4")
    back_up(hub, tmp_path / "a.backup", NOW)
    assert "record 4" in refused(lambda: restore(tmp_path / "a.backup", tmp_path / "new", LATER))


def test_models_and_database_that_lay_elsewhere_come_into_the_directory(tmp_path: Path) -> None:
    hub = make_hub(tmp_path / "hub", tmp_path / "artifacts", db=str(tmp_path / "elsewhere.db"))
    settings = hub.path / "coordinator.toml"
    (hub.path / "models-store").rename(tmp_path / "store")
    settings.write_text(settings.read_text().replace("models-store", str(tmp_path / "store")))
    hub = open_directory(hub.path, NOW)
    _, new = restored(hub, tmp_path / "new")
    assert (new.settings.db, new.settings.models) == ("tacit.db", "models-store")
    assert rows(new)["versions"] == rows(hub)["versions"]
    with open_store(new.db) as store:
        Registry(store, new.models).verify(store.list_versions("ward")[0])


@pytest.mark.parametrize("db", ["../out.db", "coordinator.key", "sqlite://", "queue"])
def test_a_database_may_be_named_within_the_directory_alone(hub: CoordinatorDirectory, tmp_path: Path, db: str) -> None:
    assert "--db" in refused(lambda: restored(hub, tmp_path / "new", db=db))
    assert not (tmp_path / "new").exists()
    assert restored(hub, tmp_path / "new", db="state/tacit.db")[1].settings.db == "state/tacit.db"


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from made_hub import *
from tacit.server.backup import back_up
from tacit.server.restoring import restore
flushed, left = os.fsync, [int(sys.argv[4])]
def fsync(descriptor):
    flushed(descriptor)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
os.fsync = fsync
source, target = Path(sys.argv[1]), Path(sys.argv[2])
if source.is_dir():
    back_up(open_directory(source, NOW), target, NOW)
else:
    restore(source, target, LATER)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["backup", "restore"])
def test_a_kill_at_any_flush_leaves_everything_or_nothing(hub: CoordinatorDirectory, tmp_path: Path, what: str) -> None:
    whole = back_up(hub, tmp_path / "whole.backup", NOW)
    moment, survived = 1, False
    while not survived:
        target = tmp_path / f"{what}-{moment}"
        source = hub.path if what == "backup" else whole.file
        command = [sys.executable, "-W", "ignore", "-c", KILLED, str(source), str(target), str(Path(__file__).parent)]
        done = subprocess.run([*command, str(moment)], capture_output=True, text=True)
        survived = done.returncode == 0
        assert survived or done.returncode == -signal.SIGKILL, done.stderr
        if target.exists():
            if what == "backup":
                restore(target, tmp_path / f"checked-{moment}", LATER)
            else:
                assert rows(open_directory(target, LATER))["ledger"] == rows(hub)["ledger"]
        else:
            assert not survived
        moment += 1 if what == "backup" else 9
    assert rows(hub)["runs"] == [("second", "running", 5), ("first", "finished", 0)]


def test_the_commands_say_what_they_did_and_what_is_left_to_do(hub: CoordinatorDirectory, tmp_path: Path) -> None:
    made = CliRunner().invoke(coordinator, ["backup", str(hub.path), str(tmp_path / "a.backup"), "--format", "json"])
    told = json.loads(made.output)
    assert (told["runs"], told["models"], told["was_up"]) == (2, 2, False)
    found = CliRunner().invoke(coordinator, ["restore", str(tmp_path / "a.backup"), str(tmp_path / "new")])
    assert found.exit_code == 0, found
    assert "second" in found.stdout and "wards" in found.stdout
    assert "revoked after" in found.stderr
    shown = CliRunner().invoke(
        coordinator,
        ["restore", str(tmp_path / "a.backup"), str(tmp_path / "other"), "--nothing-since", "--format", "json"],
    )
    assert json.loads(shown.stdout)["ledgers_closed"] == [] and shown.stderr == ""
