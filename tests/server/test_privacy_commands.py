"""`tacit privacy show` from the outside: exit codes, which statement it is, and that a forged one is never shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tacit.__main__ import run
from tacit.privacy.identity import Identity
from tacit.server.local_identity import local_identity
from tacit.server.signed_statement import SELF_SIGNED, check_statement, sign_statement
from tacit.server.store import NewModelVersion, NewRun, open_store

IDENTITY = Identity(bytes(range(32)))
STATEMENT: dict[str, Any] = {
    "unit": "client",
    "epsilon": 7.5,
    "epsilon_fellow_clients": 7.75,
    "epsilon_outsiders": 7.5,
    "delta": 1e-5,
    "recipe_sha256": "a" * 64,
    "sentence": "Whether any one client took part changes little.",
}

Show = Callable[..., tuple[int, str, str]]


def signed(**changes: Any) -> dict[str, Any]:
    return sign_statement(STATEMENT | changes, IDENTITY, SELF_SIGNED)


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run the command in a directory with a run `first`, a model `fashion` and a model that is called like the run."""
    for name in ("TACIT_DB", "TACIT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with open_store("tacit.db") as store:
        store.create_run(NewRun("first", "fashion", "image-classification", "", "a" * 64, "runs/first"))
        trained = {"training": {"recipe_sha256": "a" * 64}}
        for number, statement in enumerate((signed(epsilon=1.25), signed(epsilon=2.25), STATEMENT), 1):
            details = trained | {"privacy": statement}
            store.add_model_version(NewModelVersion("fashion", f"{number:064x}", "first", number, details=details))
        store.add_model_version(NewModelVersion("bare", "b" * 64, None, None))
        store.set_alias("fashion", "champion", 2, "ada")
    leave(signed())

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["privacy", "show", *arguments])
        return (code, *capsys.readouterr())

    return call


def leave(statement: object) -> Path:
    """Write the statement that the run left."""
    file = Path("runs/first/privacy.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(statement if isinstance(statement, str) else json.dumps(statement))
    return file


def test_the_statement_of_a_run_is_shown_with_its_signature(show: Show) -> None:
    code, page, said = show("first")
    assert code == 0
    assert page.splitlines()[2] == STATEMENT["sentence"] and "| 7.75 |" in page
    assert f"run first: the signature fits; simulated, self-signed, by key {IDENTITY.public_key.hex()}\n" == said


def test_json_is_the_statement_that_was_signed(show: Show) -> None:
    code, text, _ = show("first", "--format", "json")
    assert code == 0
    assert json.loads(text) == signed()
    assert check_statement(json.loads(text)).public_key == IDENTITY.public_key


@pytest.mark.parametrize(
    ("reference", "epsilon"), [("fashion@1", 1.25), ("fashion@champion", 2.25), ("fashion", 2.25), ("fashion@3", 7.5)]
)
def test_the_statement_of_a_model_is_that_of_the_version_that_is_meant(
    show: Show, reference: str, epsilon: float
) -> None:
    code, text, said = show(reference, "--format", "json")
    assert (code, json.loads(text)["epsilon"]) == (0, epsilon)
    assert said.startswith("model fashion version ")


def test_what_is_not_signed_is_shown_and_called_so(show: Show) -> None:
    code, page, said = show("fashion@3")
    assert (code, said) == (0, "model fashion version 3: not signed\n")
    assert page.endswith("## Signature\n\nNot signed.\n")


@pytest.mark.parametrize("output", ["md", "json"])
def test_a_tampered_statement_fails_and_is_not_shown(show: Show, output: str) -> None:
    leave(signed() | {"epsilon": 0.5})
    assert show("first", "--format", output) == (1, "", "error: run first: the statement is not what was signed\n")


def test_a_signature_without_a_signer_fails(show: Show) -> None:
    leave({name: value for name, value in signed().items() if name != "signed_by"})
    code, page, said = show("first")
    assert (code, page) == (1, "") and said == "error: run first: the signature of the statement cannot be read\n"


def test_the_genuine_statement_of_another_recipe_fails(show: Show) -> None:
    leave(signed(recipe_sha256="c" * 64))
    assert show("first") == (1, "", "error: run first: this is the statement of another recipe\n")


def test_the_key_of_this_directory_is_recognised(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(sign_statement(STATEMENT, local_identity(Path("tacit.key")), "coordinator"))
    assert show("first")[2].endswith(", the key in tacit.key\n")
    assert show("fashion@1")[2].endswith(", which is not the key in tacit.key\n")
    monkeypatch.setenv("TACIT_KEY", "elsewhere.key")
    assert show("first")[2].endswith(f"{local_identity(Path('tacit.key')).public_key.hex()}\n")
    assert not Path("elsewhere.key").exists(), "looking makes no key"


def test_a_key_that_cannot_be_used_keeps_nobody_from_reading(show: Show) -> None:
    local_identity(Path("tacit.key"))
    Path("tacit.key").chmod(0o644)
    assert show("first")[0] == 0


def test_a_run_comes_before_a_model_of_the_same_name(show: Show) -> None:
    with open_store("tacit.db") as store:
        store.add_model_version(NewModelVersion("first", "d" * 64, None, None, details={"privacy": STATEMENT}))
    code, _, said = show("first")
    assert code == 0
    assert said.splitlines()[0] == "first is a run and a model; this is the run, first@1 is the model"
    assert said.splitlines()[1].startswith("run first: the signature fits")
    assert show("first@1")[2] == "model first version 1: not signed\n"


def test_an_unfinished_run_has_no_statement_yet(show: Show) -> None:
    Path("runs/first/privacy.json").unlink()
    code, _, said = show("first")
    assert code == 2
    assert said == (
        "error: runs/first/privacy.json: is not there; the run is running; a run has one once it is finished\n"
    )


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', "[" * 100_000, "\x00"])
def test_a_file_that_is_no_statement_is_one_line(show: Show, content: str) -> None:
    leave(content)
    code, page, said = show("first")
    assert (code, page) == (2, "")
    assert said == "error: runs/first/privacy.json: is not what a run leaves; restore it from a copy\n"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nobody", "'nobody': there is no such run or model; `tacit runs list` and `tacit model list` name them"),
        ("fashion@9", "there is no version 9"),
        ("fashion@", "names no model"),
        ("bare", "model bare version 1: has no privacy statement"),
    ],
)
def test_what_is_not_there_is_wrong_input(show: Show, reference: str, message: str) -> None:
    code, page, said = show(reference)
    assert (code, page) == (2, "")
    assert message in said and said.count("\n") == 1


def test_reading_makes_neither_a_database_nor_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TACIT_DB", raising=False)
    assert run(["privacy", "show", "first"]) == 2
    assert "there is no database" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
