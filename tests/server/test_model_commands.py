"""`tacit model` from the outside."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tacit.models.errors import InputError
from tacit.server.cli.model import model
from tacit.server.registry import Registry
from tacit.server.store import open_store

Invoke = Callable[..., Result]


def digest_of(directory: Path) -> str:
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\n" for path in sorted(directory.iterdir())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command in a directory with three versions of `fashion` under the default names."""
    monkeypatch.delenv("TACIT_DB", raising=False)
    monkeypatch.chdir(tmp_path)
    with open_store("tacit.db") as store:
        for number in (1, 2, 3):
            artifact = tmp_path / f"artifact-{number}"
            artifact.mkdir()
            for name in ("model.safetensors", "config.json", "README.md"):
                (artifact / name).write_text(f"{name} {number}")
            details = {"privacy": {"epsilon": 8.0}}
            Registry(store).register(artifact, "fashion", None, number, {"accuracy": number / 4}, details)
    return lambda *arguments: CliRunner().invoke(model, arguments)


def refused(result: Result) -> str:
    assert isinstance(result.exception, InputError), result
    return str(result.exception)


def test_the_list_shows_versions_and_aliases(invoke: Invoke) -> None:
    invoke("promote", "fashion", "2", "champion")
    result = invoke("list")
    assert result.exit_code == 0
    assert result.output.splitlines()[1].split()[:3] == ["fashion", "3", "champion=2"]
    [found] = json.loads(invoke("list", "--format", "json").output)
    assert (found["name"], found["versions"], found["aliases"]) == ("fashion", 3, {"champion": 2})


def test_an_empty_database_has_an_empty_list(invoke: Invoke, tmp_path: Path) -> None:
    open_store(str(tmp_path / "empty.db")).close()
    assert invoke("list", "--db", "empty.db").output == "no model is registered yet\n"
    assert json.loads(invoke("list", "--db", "empty.db", "--format", "json").output) == []


def test_a_name_alone_shows_every_version(invoke: Invoke) -> None:
    invoke("promote", "fashion", "1", "champion")
    lines = invoke("show", "fashion").output.splitlines()
    assert [line.split()[0] for line in lines] == ["version", "1", "2", "3"]
    assert "champion" in lines[1] and "accuracy=0.25" in lines[1]


def test_a_selected_version_is_shown_in_full(invoke: Invoke) -> None:
    invoke("promote", "fashion", "3", "challenger")
    shown = invoke("show", "fashion@challenger").output
    fields = dict(line.split("  ", 1) for line in shown.splitlines())
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    assert fields["version"] == "3" and fields["aliases"] == "challenger"
    assert fields["metric accuracy"] == "0.75" and fields["privacy"] == "epsilon=8"
    found = json.loads(invoke("show", "fashion@3", "--format", "json").output)
    assert [one["version"] for one in found["versions"]] == [3]
    assert found["versions"][0]["digest"] == fields["digest"]
    assert found["aliases"] == {"3": ["challenger"]}


def test_promotion_says_what_it_did_and_is_in_the_history(invoke: Invoke) -> None:
    result = invoke("promote", "fashion", "latest", "champion")
    assert (result.exit_code, result.output) == (0, "fashion@champion is version 3\n")
    with open_store("tacit.db") as store:
        [change] = store.alias_history("fashion")
        assert (change.alias, change.version) == ("champion", 3)
        assert change.actor.startswith("command")
        assert store.audit(1)[0].actor == change.actor


def test_an_export_is_a_copy(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("export", "fashion@2", "out")
    assert (result.exit_code, result.output) == (0, "fashion version 2 is in out\n")
    assert digest_of(tmp_path / "out") == digest_of(tmp_path / "artifact-2")
    assert "exists already" in refused(invoke("export", "fashion@2", "out"))


def test_verification_looks_at_everything_before_it_fails(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("verify").output.count("intact") == 3
    with open_store("tacit.db") as store:
        registry = Registry(store)
        for version in store.list_versions("fashion")[:2]:
            (registry.path(version) / "config.json").write_text("damaged")
    result = invoke("verify")
    assert "fashion version 3: intact" in result.output
    assert "model fashion version 1: is not the file" in result.stderr
    assert "model fashion version 2: is not the file" in refused(result)
    assert invoke("verify", "fashion@3").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nothing"), "there is no such model"),
        (("show", "fashion@9"), "there is no version 9"),
        (("promote", "fashion", "1", "Champion"), "is no alias"),
        (("promote", "fashion", "9", "champion"), "there is no version 9"),
        (("export", "fashion@nobody", "out"), "has no version or alias 'nobody'"),
        (("verify", "@"), "names no model"),
        (("list", "--db", "absent.db"), "there is no database"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(invoke: Invoke, arguments: tuple[str, ...], message: str) -> None:
    text = refused(invoke(*arguments))
    assert message in text and "\n" not in text


def test_the_database_can_come_from_the_environment(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACIT_DB", "absent.db")
    assert "absent.db" in refused(invoke("list"))


@pytest.mark.parametrize("command", sorted(model.commands))
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(model, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: tacit model {command}" in result.output
