"""The registry keeps models under their digest, and finds out when a file is not what it was."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tacit.models.errors import InputError, Unwritable
from tacit.server.registry import Registry, parse_reference
from tacit.server.store import ModelVersion, NewRun, RoundRecord, open_store

FILES = {"model.safetensors": b"weights" * 1000, "config.json": b"{}", "README.md": b"# A model\n"}


def digest_of(directory: Path) -> str:
    """The sha256 of a listing of the files' sha256, as the real digest is, without its demands on what they hold."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\n" for path in sorted(directory.iterdir())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with open_store(str(tmp_path / "tacit.db")) as store:
        store.create_run(NewRun("run-1", "fashion", "image-classification", "", "a" * 64, "runs/run-1"))
        yield Registry(store, tmp_path / "models-store", digest_of=digest_of)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Path]:
    def make_artifact(weights: str = "weights") -> Path:
        directory = tmp_path / "artifacts" / weights
        directory.mkdir(parents=True)
        for name, content in (FILES | {"model.safetensors": weights.encode()}).items():
            (directory / name).write_bytes(content)
        return directory

    return make_artifact


def register(registry: Registry, directory: Path, name: str = "fashion") -> ModelVersion:
    return registry.register(directory, name, "run-1", 3, {"accuracy": 0.75}, {"recipe_sha256": "a" * 64})


@pytest.fixture
def registered(registry: Registry, make: Callable[[str], Path]) -> ModelVersion:
    return register(registry, make("first"))


def entries(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_registered_model_lies_under_its_digest_and_has_a_version(
    registry: Registry, make: Callable[[str], Path]
) -> None:
    directory = make("first")
    version = register(registry, directory)
    assert (version.name, version.version, version.run, version.round) == ("fashion", 1, "run-1", 3)
    assert (version.metrics, version.details) == ({"accuracy": 0.75}, {"recipe_sha256": "a" * 64})
    assert version.digest == digest_of(directory)
    stored = registry.root / "sha256" / version.digest[:2] / version.digest
    assert registry.path(version) == stored
    assert entries(registry.root) == sorted(str((stored / name).relative_to(registry.root)) for name in FILES)
    assert all((stored / name).read_bytes() == (directory / name).read_bytes() for name in FILES)
    registry.verify(version)


def test_registering_the_same_files_again_changes_nothing(
    registry: Registry, registered: ModelVersion, make: Callable[[str], Path], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in registry.root.rglob("*") if path.is_file()}
    assert register(registry, tmp_path / "artifacts" / "first") == registered
    assert before == {path: path.stat().st_mtime_ns for path in registry.root.rglob("*") if path.is_file()}
    assert register(registry, make("second")).version == 2


def test_two_names_can_share_the_same_files(registry: Registry, registered: ModelVersion, tmp_path: Path) -> None:
    other = register(registry, tmp_path / "artifacts" / "first", name="other")
    assert (other.name, other.version, other.digest) == ("other", 1, registered.digest)
    assert len(entries(registry.root)) == len(FILES)


def test_the_source_can_be_removed_afterwards(registry: Registry, registered: ModelVersion, tmp_path: Path) -> None:
    for path in (tmp_path / "artifacts" / "first").iterdir():
        path.unlink()
    registry.verify(registered)


@pytest.mark.parametrize("name", FILES)
def test_an_artifact_without_one_of_its_files_is_refused(
    registry: Registry, make: Callable[[str], Path], name: str
) -> None:
    directory = make("first")
    (directory / name).unlink()
    with pytest.raises(InputError, match=f"has no plain file {name}"):
        register(registry, directory)
    assert not registry.root.exists()


def test_a_link_is_not_followed_into_the_registry(
    registry: Registry, make: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = make("first")
    (directory / "README.md").rename(tmp_path / "secret")
    (directory / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"has no plain file README\.md"):
        register(registry, directory)


def test_what_the_digest_would_not_cover_is_refused(
    registry: Registry, make: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = make("first")
    (directory / "extra.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"extra\.bin: is no part of a model"):
        register(registry, directory)
    with pytest.raises(InputError, match="is no directory"):
        register(registry, tmp_path / "nowhere")


def test_a_name_that_is_refused_leaves_no_version(registry: Registry, make: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="is no name for a model"):
        register(registry, make("first"), name="../escape")
    assert registry.store.list_models() == []


def test_files_can_be_placed_first_and_named_with_their_round(registry: Registry, make: Callable[[str], Path]) -> None:
    new = registry.add_files(make("first"), "fashion", "run-1", 1, {}, {})
    assert registry.store.list_models() == []
    assert registry.store.commit_round("run-1", RoundRecord(1, 0, "committed", 1.0), model=new) == 1
    registry.verify(registry.find("fashion@1"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["one bit", "cut short", "removed", "grown"])
def test_a_damaged_file_is_named(registry: Registry, registered: ModelVersion, name: str, damage: str) -> None:
    file = registry.path(registered) / name
    content = file.read_bytes()
    match damage:
        case "one bit":
            file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "cut short":
            file.write_bytes(content[:-1])
        case "removed":
            file.unlink()
        case "grown":
            file.write_bytes(content + b"\0")
    with pytest.raises(InputError) as caught:
        registry.verify(registered)
    text = str(caught.value)
    assert text.startswith(f"{file}: model fashion version 1: ") and "\n" not in text
    # Nothing that is damaged is promoted, exported or taken for a good copy.
    with pytest.raises(InputError, match=name):
        registry.promote("fashion", 1, "champion")
    with pytest.raises(InputError, match=name):
        registry.export("fashion", 1, registry.root / "exported")
    assert registry.store.alias("fashion", "champion") is None
    assert not (registry.root / "exported").exists()


def test_a_file_that_was_added_is_named(registry: Registry, registered: ModelVersion) -> None:
    (registry.path(registered) / "extra.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"extra\.bin: .* was not registered"):
        registry.verify(registered)


def test_a_directory_that_is_gone_is_named(registry: Registry, registered: ModelVersion) -> None:
    registry.path(registered).rename(registry.root / "elsewhere")
    with pytest.raises(InputError, match=registered.digest):
        registry.verify(registered)


def test_a_listing_that_was_forged_to_fit_is_caught_by_the_digest(registry: Registry, registered: ModelVersion) -> None:
    file = registry.path(registered) / "config.json"
    file.write_bytes(b"forged")
    forged = dict(registered.files) | {"config.json": hashlib.sha256(b"forged").hexdigest()}
    with pytest.raises(InputError, match="has another digest"):
        registry.verify(ModelVersion(**(vars(registered) | {"files": forged})))


def test_registering_over_a_damaged_copy_is_refused(
    registry: Registry, registered: ModelVersion, tmp_path: Path
) -> None:
    (registry.path(registered) / "config.json").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"config\.json: .* is not the file that was registered"):
        register(registry, tmp_path / "artifacts" / "first")


@pytest.fixture
def three(registry: Registry, make: Callable[[str], Path]) -> Registry:
    for weights in ("first", "second", "third"):
        register(registry, make(weights))
    return registry


@pytest.mark.parametrize(
    ("text", "parts"),
    [("m", ("m", None)), ("m@3", ("m", "3")), ("m@champion", ("m", "champion")), ("m@latest", ("m", "latest"))],
)
def test_a_reference_is_a_name_and_perhaps_a_selector(text: str, parts: tuple[str, str | None]) -> None:
    assert parse_reference(text) == parts


@pytest.mark.parametrize("text", ["", "@", "@3", "m@"])
def test_a_reference_without_one_of_its_parts_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME, NAME@VERSION or NAME@ALIAS"):
        parse_reference(text)


def test_a_selector_is_a_number_an_alias_or_latest(three: Registry) -> None:
    three.promote("fashion", 2, "candidate-a")
    selected = {selector: three.resolve("fashion", selector).version for selector in (1, "1", "latest", "candidate-a")}
    assert selected == {1: 1, "1": 1, "latest": 3, "candidate-a": 2}
    assert three.find("fashion@candidate-a").version == 2


def test_without_a_selector_the_champion_is_meant_or_else_the_latest(three: Registry) -> None:
    assert three.find("fashion").version == 3
    three.promote("fashion", 1, "champion")
    assert three.find("fashion").version == 1


@pytest.mark.parametrize("selector", [0, -1, 4, "4", "01", "1.0", "champion", "nothing", "", "\0", "9" * 30])
def test_what_selects_nothing_is_refused(three: Registry, selector: int | str) -> None:
    with pytest.raises(InputError, match="^model fashion: "):
        three.resolve("fashion", selector)


def test_the_message_for_an_unknown_alias_names_the_known_ones(three: Registry) -> None:
    three.promote("fashion", 1, "champion")
    with pytest.raises(InputError, match="versions 1 to 3, latest; aliases: champion$"):
        three.find("fashion@champoin")
    with pytest.raises(InputError, match="there is no such model"):
        three.find("fashoin")


def test_a_new_champion_makes_the_old_one_previous(three: Registry) -> None:
    for version in (1, 2, 3):
        three.promote("fashion", version, "champion", actor="ada")
    three.promote("fashion", 3, "champion", actor="ada")
    assert three.find("fashion@previous").version == 2
    # And going back is one promotion.
    three.promote("fashion", "previous", "champion")
    assert (three.find("fashion@champion").version, three.find("fashion@previous").version) == (2, 3)


def test_other_aliases_displace_nothing(three: Registry) -> None:
    three.promote("fashion", 1, "challenger")
    three.promote("fashion", 2, "challenger")
    assert {change.alias for change in three.store.alias_history("fashion")} == {"challenger"}


def test_an_exported_model_is_the_registered_one(three: Registry, tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "exported"
    assert three.export("fashion", "2", destination) == destination
    assert digest_of(destination) == three.resolve("fashion", 2).digest
    assert [path.name for path in destination.parent.iterdir()] == ["exported"]


def test_an_export_never_overwrites(three: Registry, tmp_path: Path) -> None:
    destination = tmp_path / "exported"
    destination.mkdir()
    (destination / "mine").write_text("keep")
    with pytest.raises(InputError, match="exists already"):
        three.export("fashion", 1, destination)
    assert entries(tmp_path / "exported") == ["mine"]


def test_what_a_killed_registration_left_is_removed_a_day_later(
    registry: Registry, make: Callable[[str], Path]
) -> None:
    for name, age_seconds in (("old", 2 * 24 * 3600), ("young", 60)):
        left = registry.root / "sha256" / f".incoming-{name}"
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(b"half")
        then = left.stat().st_mtime - age_seconds
        os.utime(left, (then, then))
    register(registry, make("first"))
    left_over = [path.name for path in (registry.root / "sha256").iterdir() if path.name.startswith(".")]
    assert left_over == [".incoming-young"]


KILLED_BEFORE_THE_ROW = """
import os, signal, sys
from pathlib import Path
import hashlib
from tacit.server.registry import Registry
from tacit.server.store import open_store

def digest_of(directory):
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\\n" for path in sorted(directory.iterdir())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()

store = open_store(sys.argv[1])
store.add_model_version = lambda new: os.kill(os.getpid(), signal.SIGKILL)
Registry(store, Path(sys.argv[2]), digest_of=digest_of).register(Path(sys.argv[3]), "fashion", "run-1", 1, {}, {})
"""


def test_a_kill_between_files_and_row_is_healed_by_registering_again(
    registry: Registry, make: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = make("first")
    arguments = [str(tmp_path / "tacit.db"), str(registry.root), str(directory)]
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_THE_ROW, *arguments], check=False)
    assert killed.returncode == -9
    assert registry.store.list_models() == []
    assert len(entries(registry.root)) == len(FILES), "the files arrived before the row"
    version = register(registry, directory)
    assert version.version == 1
    registry.verify(version)


def test_a_copy_that_fails_leaves_nothing(
    registry: Registry, make: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    directory = make("first")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unwritable, match=r"cannot be stored \(No space left on device\)"):
        register(registry, directory)
    assert entries(registry.root) == []
    assert registry.store.list_models() == []


@pytest.mark.parametrize(
    ("statement", "reason"),
    [({"hypothetical": True}, "hypothetical cohort"), ({"reproducible_noise": True}, "repeat its noise")],
)
@pytest.mark.parametrize("alias", ["champion", "candidate-a"])
def test_a_model_whose_noise_protects_nobody_is_never_promoted(
    registry: Registry, make: Callable[[str], Path], statement: dict[str, bool], reason: str, alias: str
) -> None:
    usual = {"hypothetical": False, "reproducible_noise": False}
    for number, said in enumerate(({}, usual, usual | statement), start=1):
        registry.register(make(f"model-{number}"), "fashion", "run-1", 3, {}, {"privacy": said} if said else {})
    for version in (1, 2):
        assert registry.promote("fashion", version, alias).version == version
    with pytest.raises(InputError, match=f"is never promoted: .*{reason}"):
        registry.promote("fashion", 3, alias)
    assert registry.store.alias("fashion", alias) == 2
