from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.models.errors import InputError
from tacit.models.recipe import parse_recipe
from tacit.privacy.identity import Identity
from tacit.server.attempts import RunFailed, RunStopped
from tacit.server.kept_run import KeptRun, new_directory
from tacit.server.registry import Registry
from tacit.server.rounds import RoundProgress
from tacit.server.run_directory import RunDirectory
from tacit.server.store import StoreUnavailable, open_store
from tacit.server.store.records import NewRun

RECIPE = parse_recipe(
    """
    name = "kept"
    task.kind = "tabular-classification"
    data.source = "csv:rows.csv"
    population.clients = 2
    """
)
IDENTITY = Identity(bytes(32))


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[KeptRun]:
    with open_store(str(tmp_path / "t.db")) as store:
        yield KeptRun(store, Registry(store, tmp_path / "models"), RunDirectory(tmp_path / "run"), RECIPE, IDENTITY)


def test_a_begun_run_is_on_the_disk_and_in_the_store_and_its_secrets_are_its_owners(kept: KeptRun) -> None:
    kept.begin({"cores": 2}, {".seed": b"secret"})
    assert kept.store.get_run("run").environment == {"cores": 2}
    assert (kept.directory.path / "recipe.toml").read_text() == RECIPE.to_toml()
    assert (kept.directory.path / ".seed").read_bytes() == b"secret"
    assert (kept.directory.path / ".seed").stat().st_mode & 0o777 == 0o600


def test_a_run_that_the_store_refuses_leaves_no_directory(kept: KeptRun) -> None:
    kept.begin({}, {})
    directory = RunDirectory(kept.directory.path.parent / "more" / "run")
    again = KeptRun(kept.store, kept.registry, directory, RECIPE, IDENTITY)
    with pytest.raises(InputError):
        again.begin({}, {".seed": b"secret"})
    assert not again.directory.path.exists()


def test_a_run_that_the_store_took_without_saying_so_gets_its_directory_back(
    kept: KeptRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = kept.store.create_run

    def taken_and_gone(new: NewRun) -> None:
        create(new)
        raise StoreUnavailable("the connection broke")

    monkeypatch.setattr(kept.store, "create_run", taken_and_gone)
    with pytest.raises(StoreUnavailable):
        kept.begin({"cores": 2}, {})
    assert (record := kept.begun()) is not None
    for _ in range(2):  # the second time it is there
        kept.begin_again(record)
    assert (kept.directory.path / "recipe.toml").read_text() == RECIPE.to_toml()
    assert kept.directory.read_json("environment.json") == {"cores": 2}
    # Without it no phase could be announced, and the coordinator would wait for a disk that has room.
    kept.phases(dict).announce(1, 0, "advertise", RoundProgress(("a",), 1, 0, ("a",)), (b"state",))
    assert kept.phases(dict).broken_off(1) is not None


def test_a_directory_that_is_there_already_is_left_as_it_is(kept: KeptRun) -> None:
    kept.directory.path.mkdir()
    (kept.directory.path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        kept.begin({}, {})
    assert [path.name for path in kept.directory.path.iterdir()] == ["mine.txt"]
    assert kept.store.list_runs() == []


@pytest.mark.parametrize("name", ["a=b", "r" * 65, "_run"])
def test_a_name_that_no_masked_message_can_carry_is_refused_before_anything_is_there(kept: KeptRun, name: str) -> None:
    odd = KeptRun(kept.store, kept.registry, RunDirectory(kept.directory.path.parent / name), RECIPE, IDENTITY)
    with pytest.raises(InputError, match="a name has 1 to 64"):
        odd.begin({}, {})
    assert not odd.directory.path.exists() and kept.store.list_runs() == []


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "stopped by hand"),
        (SystemExit(0), "interrupted", "stopped by hand"),
        (OSError(28, "No space left on device"), "interrupted", "[Errno 28] No space left on device"),
        (RunStopped("stopped by hand"), "stopped", "stopped by hand, before anything was trained"),
        (RunFailed("nobody came"), "failed", "nobody came"),
        (InputError("is full", where="disk"), "failed", "disk: is full"),
        (ValueError("age=93, diagnosis=rare"), "failed", "ValueError"),
    ],
)
def test_a_run_that_an_exception_ends_is_never_left_as_running(
    kept: KeptRun, error: BaseException, status: str, reason: str
) -> None:
    kept.begin({}, {})
    with pytest.raises(type(error)), kept.running():
        assert kept.store.get_run("run").status == "running"
        raise error
    record = kept.store.get_run("run")
    assert (record.status, record.reason) == (status, reason)


def test_two_runs_of_one_second_have_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = set()
    for _ in range(3):
        path = new_directory(RECIPE)
        path.mkdir(parents=True)
        paths.add(path)
    assert len(paths) == 3
    assert all(path.parent == Path("runs") and "-kept" in path.name for path in paths)
